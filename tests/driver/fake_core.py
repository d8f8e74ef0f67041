# SPDX-License-Identifier: Apache-2.0
"""The core's side of the calls, for one VM: it reads what it is given by physical address and checks it."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from gz.abi.calls import Call, VcpuTuple
from gz.abi.capabilities import Capability
from gz.abi.devices import DeviceRequest
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, MAILBOX_SIZE, REGION_BUFFER_SIZE, Access, MemoryRegion
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, HwState, RunPage
from gz.driver.interface import INTERRUPTED

VMID = 7
OK = (0, 0, 0, 0)


def refuse(error: Error) -> tuple[int, int, int, int]:
    return int(error) & (1 << 64) - 1, 0, 0, 0


class FakeBlock:
    """Anonymous memory at a pretended physical address; each 2 MiB lie elsewhere, backwards."""

    def __init__(self, physical: int, size: int) -> None:
        self._mapping = mmap.mmap(-1, size)
        self.view = memoryview(self._mapping)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self.base, self.size = physical, size

    def physical(self, offset: int) -> int:
        block = offset // BLOCK_SIZE
        return self.base + (self.size // BLOCK_SIZE - 1 - block) * BLOCK_SIZE + offset % BLOCK_SIZE

    def close(self) -> None:
        self.view.release()


class FakePages:
    def __init__(self) -> None:
        self.blocks: dict[str, FakeBlock] = {}
        self._next = 0x8000_0000

    def allocate(self, name: str, size: int) -> FakeBlock:
        assert size % BLOCK_SIZE == 0 and name not in self.blocks
        block = self.blocks[name] = FakeBlock(self._next, size)
        self._next += size
        return block

    def at(self, physical: int, length: int) -> memoryview:
        """The bytes behind a physical address, which have to be contiguous."""
        for block in self.blocks.values():
            if block.base <= physical < block.base + block.size:
                index, within = divmod(physical - block.base, BLOCK_SIZE)
                assert within + length <= BLOCK_SIZE
                start = (block.size // BLOCK_SIZE - 1 - index) * BLOCK_SIZE + within
                return block.view[start : start + length]
        raise AssertionError(f"{physical:#x} is nobody's memory")


Step = Callable[[RunPage, HwState], int]


@dataclass
class FakeCore:
    """`script`: what RUN does for each vCPU; a row fills the two pages and gives the exit reason."""

    pages: FakePages
    script: dict[int, list[Step]] = field(default_factory=dict[int, list[Step]])
    frequency: int = 1_000_000
    calls: list[tuple[Call, tuple[int, ...]]] = field(default_factory=list[tuple[Call, tuple[int, ...]]])
    refused: dict[Call, Error] = field(default_factory=dict[Call, Error])
    block_batch: int = 0
    slots: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    mapped: dict[int, int] = field(default_factory=dict[int, int])
    """gfn to pfn."""
    access: dict[int, int] = field(default_factory=dict[int, int])
    devices: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    registers: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    lines: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    wakes: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._run_pages: dict[int, int] = {}
        self._announced: tuple[int, int] | None = None
        self._mailbox = 0

    def call(self, call: Call, *arguments: int) -> tuple[int, int, int, int]:
        assert len(arguments) <= 7 and all(0 <= value < 1 << 64 for value in arguments)
        self.calls.append((call, arguments))
        if call in self.refused:
            return refuse(self.refused[call])
        handler = getattr(self, call.name.lower(), None)
        assert handler is not None, f"nobody should make the call {call.name}"
        return handler(*arguments) or OK

    def enable_cap(self, vmid: int, capability: int, *arguments: int):
        match capability:
            case Capability.QUERY_BLOCK_BATCH:
                assert vmid == 0
                return (0, self.block_batch, 0, 0) if self.block_batch else refuse(Error.INVALID_ARGS)
            case Capability.DEMAND_PAGING | Capability.IDLE:
                assert vmid == VMID and not any(arguments)
            case Capability.BLOCK_DEMAND_PAGING:
                granule, self._mailbox = arguments
                assert granule == BLOCK_SIZE and self._mailbox % PAGE_SIZE == 0
                self.pages.at(self._mailbox, MAILBOX_SIZE)
            case Capability.MEMORY_ACCESS:
                return self._change_access(*arguments)
            case _:
                return refuse(Error.NOT_SUPPORTED)

    def _change_access(self, slot: int, access: int, first: int) -> tuple[int, int, int, int]:
        """In steps of a block."""
        gpa, size = self.slots[slot]
        assert 0 <= first < size // PAGE_SIZE and first % BLOCK_PAGES == 0
        self.access[slot] = access
        for gfn in range(gpa // PAGE_SIZE + first, gpa // PAGE_SIZE + first + BLOCK_PAGES):
            self.mapped.pop(gfn, None)
        return 0, first + BLOCK_PAGES, 0, 0

    def memregion_purpose(self, vmid: int, gpa: int, size: int, purpose: int) -> None:
        assert vmid == VMID and purpose == 1
        self._announced = gpa, size

    def set_memregion(self, vmid: int, size: int, buffer: int) -> None:
        assert vmid == VMID and size == REGION_BUFFER_SIZE
        region = MemoryRegion.view(self.pages.at(buffer, size), 0)
        declared = region.gpa, region.total_pages * PAGE_SIZE
        assert self._announced == declared, "declared as announced"
        self.slots[region.slot], self._announced = declared, None

    def create_device(self, vmid: int, page: int) -> None:
        request = DeviceRequest.view(self.pages.at(page, PAGE_SIZE), 0)
        assert vmid == VMID and request.flags == request.id == request.attr_addr == request.attr_size == 0
        self.devices.append((request.type, request.base, request.window_size))

    def create_vcpu(self, vcpu: int, page: int) -> None:
        assert vcpu >> 16 == VMID and page % PAGE_SIZE == 0
        assert not any(self.pages.at(page, 2 * PAGE_SIZE)), "two zeroed pages"
        self._run_pages[vcpu & 0xFFFF] = page

    def set_one_reg(self, vcpu: int, register: int, value: int) -> None:
        self.registers[vcpu & 0xFFFF, register] = value

    def get_one_reg(self, vcpu: int, register: int) -> tuple[int, int, int, int]:
        return 0, self.registers[vcpu & 0xFFFF, register], 0, 0

    def set_dtb_config(self, vmid: int, gpa: int, size: int) -> None:
        assert vmid == VMID

    def map_guest_block(self, vmid: int, slot: int, gfn: int, count: int) -> None:
        assert vmid == VMID and 0 < count <= (self.block_batch or BLOCK_PAGES)
        assert self.access.get(slot) != Access.NONE
        gpa, size = self.slots[slot]
        assert gpa <= gfn * PAGE_SIZE and (gfn + count) * PAGE_SIZE <= gpa + size
        frames = self.pages.at(self._mailbox, MAILBOX_SIZE).cast("Q")
        for index in range(count):
            self.mapped[gfn + index] = frames[index]

    def runner(self, vcpu: int, page_address: int, shared_address: int) -> Callable[[], int]:
        pages = self.pages.at(self._run_pages[VcpuTuple(vcpu).VCPU], 2 * PAGE_SIZE)
        assert page_address == ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert shared_address % PAGE_SIZE == 0
        return lambda: self._run(vcpu, RunPage.view(pages, 0), HwState.view(pages, HWSTATE_OFFSET))

    def _run(self, vcpu: int, record: RunPage, state: HwState) -> int:
        while True:
            if record.immediate_exit:
                record.immediate_exit = 0
                return INTERRUPTED
            self.calls.append((Call.RUN, (vcpu,)))
            steps = self.script[VcpuTuple(vcpu).VCPU]
            reason = steps.pop(0)(record, state) if steps else ExitReason.SHUTDOWN
            if reason not in (ExitReason.IRQ, ExitReason.GZ):
                return reason

    def wake(self, shared_address: int) -> None:
        self.wakes += 1

    def irq_line(self, vcpu: int, number: int, level: int) -> int:
        self.lines.append((vcpu, number, level))
        return 0 if number < 988 else int(Error.INVALID_ARGS) & (1 << 64) - 1

    def counter(self, physical: bool) -> int:
        return 0x9_0000_0000 if physical else 0x5_0000_0010

    def end(self) -> None:
        self.ended.set()
