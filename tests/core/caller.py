# SPDX-License-Identifier: Apache-2.0
"""The host's side of the calls: CPUs that make them, the driver's usual sequences, and the end of it all."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from el2 import BLOCK, CORE, FRAME_COUNT, FRAMES, HIGH, HIGH_SIZE, LOW, LOW_SIZE, PAGE, Machine, Memory
from oracle import entry_of
from walker import leaves

import gz.core.calls as calls
import gz.core.enter as enter
import gz.core.host as host
import gz.core.reclaim as reclaim
import gz.core.sharing as sharing
import gz.core.stage2 as stage2
from gz.abi.calls import Call, smc64
from gz.abi.errors import Error
from gz.core.context import Context
from gz.metal.values import address_of

WORD = (1 << 64) - 1
SPURIOUS = 1023
HOST_FRAMES = 4  # of the host's stage 2: two roots, the core's GiB, the doorbell's 2 MiB


_CALL = 0x1000  # where it stands


def nothing(*_: int) -> None:
    """In place of the instructions that save and load what no test looks at."""


class Host:
    """CPU 0 with the host on it: makes calls as HVC or doorbell and comes back from guests by an interrupt."""

    def __init__(self, *roots: Callable[..., Any]) -> None:
        externs = dict.fromkeys(("fp_save", "fp_load", "sve_save", "sve_load", "sve_vector_length"), nothing)
        functions = (
            calls.hypercall,
            enter.lower_irq,
            reclaim.relinquish,
            sharing.show,
            sharing.hide,
            stage2.vttbr,
            stage2.vtcr,
            host.create_stage2,
            *roots,
        )
        self.machine = Machine(*functions, externs=externs)
        self.jit = self.machine.jit
        self.redistributor = self.jit.buffer(0x2_0000)

    def reset(self, frame_count: int = FRAME_COUNT - HOST_FRAMES) -> None:
        """With so many frames for VMs."""
        self.machine.reset(frame_count=frame_count + HOST_FRAMES)
        platform = self.jit.storage("gz.core.platform.machine")
        platform.image.base, platform.image.size = CORE, FRAMES - CORE
        platform.pool.base, platform.pool.size = FRAMES, LOW + LOW_SIZE - FRAMES
        platform.doorbell = LOW + LOW_SIZE
        self.machine.fn(host.create_stage2)()
        assert self.machine.free_frames == frame_count
        self.frame_count = frame_count
        self.jit.sysregs.ICC_HPPIR1_EL1 = SPURIOUS
        self.jit.sysregs.CNTFRQ_EL0 = 62_500_000
        (self.context,) = self.start_cpus(1)
        self.x = (ctypes.c_uint64 * 31).from_address(self.context + Context.offset("x"))
        self.hypercall = self.jit.raw("gz.core.calls.hypercall")
        self.interrupt = self.jit.raw("gz.core.enter.lower_irq")

    def start_cpus(self, count: int) -> list[int]:
        """The addresses of the host's contexts on the first CPUs."""
        contexts: list[int] = []
        for index in range(count):
            cpu = self.jit.storage("gz.core.cpu.CPUS")[index]
            contexts.append(address_of(cpu))
            cpu.host.cpu = contexts[-1]
            cpu.index = cpu.mpidr = index
            cpu.kick_ready = 1
            cpu.redistributor = self.redistributor.address
        return contexts

    def call(self, *arguments: int, doorbell: bool = False) -> int:
        """Status as a signed number; results are in `x`. A guest that runs is interrupted at once."""
        for i in range(8):
            self.x[i] = arguments[i] & WORD if i < len(arguments) else 0
        while not self.piece(doorbell):
            pass
        return ctypes.c_int64(self.x[0]).value

    def piece(self, doorbell: bool = False) -> bool:
        """The call whose arguments are in `x`, or what can be done of it at once. False: it goes on."""
        self.jit.sysregs.ELR_EL2 = at = _CALL if doorbell else _CALL + 4
        before = list(self.x[1:18])
        function = self.x[0] & 0xFFFF_FFFF
        below = self.hypercall(self.context, int(doorbell))
        if below != self.context:
            assert self.interrupt(below) == self.context
            return True  # of the doorbell's RUN the test sees the interrupt
        if self.jit.sysregs.ELR_EL2 == _CALL + 4:
            return True
        assert self.jit.sysregs.ELR_EL2 == _CALL and at in (_CALL, _CALL + 4)
        assert self.x[0] & 0xFFFF_FFFF == function and list(self.x[1:18]) == before
        return False

    def good(self, call: Call, *arguments: int) -> int:
        """x1 of a call that has to succeed."""
        assert self.call(smc64(call), *arguments) == 0
        return self.x[1]

    def vm(self, vmid: int) -> Any:
        return self.jit.storage("gz.core.vm.VMS")[vmid - 1]

    def mapped(self, vmid: int) -> dict[int, int]:
        """The guest's pages: gfn → pfn."""
        return self.translations(self.vm(vmid).stage2)

    def seen(self) -> set[int]:
        """Page frames of host RAM that the host can reach, each at its own address."""
        s = self.jit.storage("gz.core.host_memory.HOST")
        vtcr, vttbr = self.machine.fn(stage2.vtcr)(), self.machine.fn(stage2.vttbr)(s)
        pages: set[int] = set()
        for ipa, pa, size, _ in leaves(self.machine.memory.read64, vtcr, vttbr):
            assert ipa == pa
            for base, bank_size in ((LOW, LOW_SIZE), (HIGH, HIGH_SIZE)):
                pages.update(range(max(ipa, base) // PAGE, min(ipa + size, base + bank_size) // PAGE))
        return pages

    @property
    def memory(self) -> Memory:
        return self.machine.memory

    @property
    def free_frames(self) -> int:
        return self.machine.free_frames

    def entry(self, pa: int) -> int:
        return self.machine.entry(pa)

    def owners(self) -> dict[int, tuple[str, int]]:
        low = LOW_SIZE // PAGE
        pages = {
            LOW // PAGE + index if index < low else HIGH // PAGE + index - low: entry_of(raw)
            for index, raw in enumerate(self.machine.entries())
            if raw
        }
        return {pfn: entry for pfn, entry in pages.items() if entry}

    def missing(self) -> set[int]:
        every = {*range(LOW // PAGE, CORE // PAGE), *range(HIGH // PAGE, (HIGH + HIGH_SIZE) // PAGE)}
        return every - self.seen()

    def translations(self, s: Any) -> dict[int, int]:
        vtcr, vttbr = self.machine.fn(stage2.vtcr)(), self.machine.fn(stage2.vttbr)(s)
        return {
            (ipa + at) // PAGE: (pa + at) // PAGE
            for ipa, pa, size, _ in leaves(self.machine.memory.read64, vtcr, vttbr)
            for at in range(0, size, PAGE)
        }


RUN_PAGE, MAILBOX, BUFFER = LOW, LOW + 4 * PAGE, LOW + 6 * PAGE
GUEST_RAM, GUEST_BASE = LOW + 16 * BLOCK, 0x8000_0000


def declare(host: Host, vmid: int, slot: int, gpa: int, size: int, purpose: int = 1) -> int:
    assert host.call(smc64(Call.MEMREGION_PURPOSE), vmid, gpa, size, purpose) == 0
    memory = host.machine.memory
    memory.fill(BUFFER, 2 * PAGE, 0xCC)  # the list of a declaration is whatever lay there
    memory.write32(BUFFER, slot)
    memory.write64(BUFFER + 8, size // PAGE)
    memory.write64(BUFFER + 16, gpa)
    return host.call(smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, BUFFER)


def populate(
    host: Host, vmid: int, slot: int, gpa: int, runs: list[tuple[int, int]], column: Callable[[Call], int] = smc64
) -> int:
    memory = host.machine.memory
    memory.write32(BUFFER, slot)
    memory.write32(BUFFER + 4, len(runs))
    memory.write64(BUFFER + 8, sum(count for _, count in runs))
    memory.write64(BUFFER + 16, gpa)
    for i, (address, count) in enumerate(runs):
        memory.write64(BUFFER + 24 + 16 * i, address)
        memory.write32(BUFFER + 32 + 16 * i, count)
        memory.write32(BUFFER + 36 + 16 * i, 0xDEAD)
    return host.call(column(Call.SET_MEMREGION), vmid, 2 * PAGE, BUFFER)


def make_vm(host: Host, size: int = 4 * BLOCK, *, protected: bool = False) -> int:
    """As driver version 13 begins: batches asked for, both kinds of demand paging, idle, one slot, two vCPUs."""
    assert host.good(Call.ENABLE_CAP, 0, 0x9204) == 512
    assert host.good(Call.ENABLE_CAP, 0, 0x9205) & (host.x[1] - 1) == 0
    vmid = host.good(Call.CREATE_VM)
    host.good(Call.ENABLE_CAP, vmid, 0x9202)
    host.good(Call.ENABLE_CAP, vmid, 0x9201, 0x20_0000, MAILBOX)
    host.good(Call.ENABLE_CAP, vmid, 0x9203)
    assert declare(host, vmid, 0, GUEST_BASE, size) == 0
    if protected:
        host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)
    for vcpu in range(2):
        host.good(Call.CREATE_VCPU, vmid << 16 | vcpu, RUN_PAGE + 2 * vcpu * PAGE)
    return vmid


def mail(host: Host, pfns: list[int]) -> None:
    host.machine.memory.write_words(MAILBOX, pfns)


def finish(host: Host) -> None:
    """Nothing is left once all VMs are gone."""
    for vmid in range(1, 65):
        while host.call(smc64(Call.DESTROY_VM), vmid, 512) == Error.BUSY:
            pass
    assert not any(host.machine.entries()[: (CORE - LOW) // PAGE])
    assert host.machine.free_frames == host.frame_count
    assert host.machine.storage("gz.core.host_memory.HOST").frames == HOST_FRAMES
    assert not any(vm.users for vm in host.jit.storage("gz.core.vm.VMS"))
