# SPDX-License-Identifier: Apache-2.0
"""A VM through the doorbell: what the kernel's gzvm driver (version 13) does, in user space."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from gz.abi.calls import VCPUS_MAX, Call, VcpuTuple
from gz.abi.capabilities import Capability
from gz.abi.devices import DeviceRequest, DeviceType
from gz.abi.errors import status
from gz.abi.memory import (
    BLOCK_PAGES,
    BLOCK_SIZE,
    MAILBOX_SIZE,
    REGION_BUFFER_SIZE,
    SLOTS_MAX,
    Access,
    MemoryRegion,
    Purpose,
)
from gz.abi.run import PAGE_SIZE
from gz.driver.custodian import Custodian
from gz.driver.doorbell import Core, Doorbell, Results
from gz.driver.eventfds import IrqFds, watch
from gz.driver.interface import CallError
from gz.driver.pages import Arena, Block, HugePages, Pages, prepare_huge_pages
from gz.driver.shared import Shared
from gz.driver.vcpu import DoorbellVcpu, install_kick


@dataclass
class Slot:
    """A declared memory slot and the block behind it."""

    number: int
    gpa: int
    size: int
    block: Block
    access: Access = Access.READ_WRITE


class DoorbellVm:
    """`vmid` was given by CREATE_VM. `end` undoes that and gives the pages back; see `open_vm`."""

    def __init__(
        self, core: Core, vmid: int, pages: Pages, end: Callable[[], None], log: Callable[[str], object]
    ) -> None:
        self.core = core
        self.vmid = vmid
        self.log = log
        self._pages = pages
        self._end = end
        self._slots: list[Slot] = []
        self._vcpus: dict[int, DoorbellVcpu] = {}
        self._vcpu_0 = int(VcpuTuple(VMID=vmid, VCPU=0))
        self._irqfds = IrqFds(lambda spi: self.irq_line(spi, 1))
        self._mapping = threading.Lock()
        self._setup = threading.Lock()
        self._arena = Arena(pages.allocate("arena", BLOCK_SIZE))
        self._region, _, self._region_at = self._arena.take(REGION_BUFFER_SIZE)
        self._request, _, self._request_at = self._arena.take(PAGE_SIZE)
        self._shared, self._shared_address, _ = self._arena.take(Shared.size)
        mailbox, _, mailbox_at = self._arena.take(MAILBOX_SIZE)
        self._mailbox = mailbox.cast("Q")
        self.enable_capability(Capability.DEMAND_PAGING)
        self.enable_capability(Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, mailbox_at)
        self.enable_capability(Capability.IDLE)
        # Asked without a VM, as the kernel's driver does at probe; who does not know it takes whole blocks.
        x0, batch, _, _ = core.call(Call.ENABLE_CAP, 0, Capability.QUERY_BLOCK_BATCH)
        self._batch = batch if x0 == 0 and batch and BLOCK_PAGES % batch == 0 else BLOCK_PAGES

    def call(self, call: Call, *arguments: int) -> Results:
        """CallError if x0 says so."""
        results = self.core.call(call, *arguments)
        if status(results[0]):
            raise CallError(call, results[0])
        return results

    def add_memory(self, slot: int, gpa: int, size: int, purpose: Purpose) -> memoryview:
        if not 0 <= slot < SLOTS_MAX or slot in [row.number for row in self._slots]:
            raise ValueError(f"memory slot {slot} does not exist or is taken")
        if gpa % BLOCK_SIZE or size % BLOCK_SIZE or size <= 0:
            raise ValueError(f"{size:#x} bytes at {gpa:#x} are not made of 2 MiB blocks")
        block = self._pages.allocate(f"slot{slot}", size)
        with self._setup:
            self.call(Call.MEMREGION_PURPOSE, self.vmid, gpa, size, purpose)
            declaration = MemoryRegion.view(self._region, 0)
            declaration.slot = slot
            declaration.constituent_count = 0
            declaration.total_pages = size // PAGE_SIZE
            declaration.gpa = gpa
            self.call(Call.SET_MEMREGION, self.vmid, REGION_BUFFER_SIZE, self._region_at)
        self._slots.append(Slot(slot, gpa, size, block))
        return block.view

    def set_access(self, slot: int, access: Access) -> bool:
        row = next(row for row in self._slots if row.number == slot)
        pages = row.size // PAGE_SIZE
        with self._mapping:
            at = 0
            while at < pages:
                at = self.enable_capability(Capability.MEMORY_ACCESS, slot, access, at)
            row.access = access
        return True

    def create_device(self, kind: DeviceType, base: int, size: int) -> None:
        with self._setup:
            request = DeviceRequest.view(self._request, 0)
            request.type = kind
            request.id = 0
            request.flags = 0
            request.base = base
            request.window_size = size
            request.attr_addr = 0
            request.attr_size = 0
            self.call(Call.CREATE_DEVICE, self.vmid, self._request_at)

    def create_vcpu(self, index: int) -> DoorbellVcpu:
        if not 0 <= index < VCPUS_MAX or index in self._vcpus:
            raise ValueError(f"vCPU {index} does not exist or is taken")
        pages, address, physical = self._arena.take(2 * PAGE_SIZE)
        self.call(Call.CREATE_VCPU, int(VcpuTuple(VMID=self.vmid, VCPU=index)), physical)
        vcpu = self._vcpus[index] = DoorbellVcpu(self, index, pages, address, self._shared_address)
        return vcpu

    def enable_capability(self, capability: int, *arguments: int) -> int:
        return self.call(Call.ENABLE_CAP, self.vmid, capability, *arguments)[1]

    def set_dtb(self, gpa: int, size: int) -> None:
        self.call(Call.SET_DTB_CONFIG, self.vmid, gpa, size)

    def irq_line(self, spi: int, level: int) -> None:
        x0 = self.core.irq_line(self._vcpu_0, spi, level)
        if x0:
            raise CallError(Call.IRQ_LINE, x0)
        if level:
            self.wake()

    def irqfd(self, fd: int, spi: int) -> None:
        self._irqfds.add(fd, spi)

    def ioeventfd(self, address: int, size: int, fd: int, data: int | None = None) -> None:
        watch(Shared.view(self._shared, 0), address, size, fd, data)

    def close(self) -> None:
        """Who still has bytes that `add_memory` gave keeps them mapped in this process."""
        self._irqfds.close()
        self._vcpus.clear()
        del self._region, self._request, self._mailbox, self._shared
        self._end()
        for slot in self._slots:
            slot.block.close()
        self._slots.clear()
        self._arena.close()

    def wake(self) -> None:
        """Ends the sleep of every vCPU that sleeps."""
        self.core.wake(self._shared_address)

    def map_block(self, gpa: int) -> bool:
        """Maps the 2 MiB block around a faulting address, unless the guest may not reach it now; False if no slot has
        it. CallError if refused."""
        slot = next((row for row in self._slots if row.gpa <= gpa < row.gpa + row.size), None)
        if slot is None:
            return False
        start = gpa - gpa % BLOCK_SIZE
        with self._mapping:
            if slot.access == Access.NONE:
                return True
            for at in range(start, start + BLOCK_SIZE, self._batch * PAGE_SIZE):
                frame = slot.block.physical(at - slot.gpa) // PAGE_SIZE
                self._mailbox[: self._batch] = array("Q", range(frame, frame + self._batch))
                self.call(Call.MAP_GUEST_BLOCK, self.vmid, slot.number, at // PAGE_SIZE, self._batch)
        return True


def open_vm(log: Callable[[str], object]) -> DoorbellVm:
    """A new, empty VM on this host. `log` takes one line for people. DriverError if there cannot be one."""
    install_kick()
    core = Doorbell()
    custodian = Custodian(core, prepare_huge_pages())
    try:
        return DoorbellVm(core, custodian.vmid, HugePages(custodian.pages), custodian.close, log)
    except BaseException:
        custodian.close()
        raise
