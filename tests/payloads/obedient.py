# SPDX-License-Identifier: Apache-2.0
"""Guests on the board that make the calls they are told to; the oracle knows what has to come of them."""

from __future__ import annotations

from collections import Counter

from core.oracle import MISSING, OK
from core.random_host import RandomHost
from outside import PAGE, Outside

from gz.abi.calls import Call, smc64
from gz.abi.exits import ExceptionCode, ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import RunPage

#: Slots: guest-physical address, pages, purpose.
SLOTS = (
    (0x8000_0000, 2 * BLOCK_PAGES, Purpose.GUEST_MEMORY),
    (0x9000_0000, BLOCK_PAGES, Purpose.NONE),
    (0xA000_0000, 1, Purpose.GUEST_MEMORY),
)
CODE = SLOTS[2][0]
SPARE = 0xB000_0000
"""Where no slot is."""

TRANSFERS = (VendorCall.MEM_SHARE, VendorCall.MEM_UNSHARE)
OTHERS = (
    VendorCall.MEM_RELINQUISH,
    VendorCall.MMIO_GUARD_MAP,
    VendorCall.MMIO_GUARD_UNMAP,
    VendorCall.MEM_PRIVATE,
)

#: Tells in x1 what the last call gave, x0 in the upper half; the call that the host answers is the next one.
_PROGRAM = (
    0xAA0A_8161,  # orr x1, x11, x10, lsl #32
    0xD280_0000 | (VendorCall.PTP & 0xFFFF) << 5,  # movz x0
    0xF2A0_0000 | (VendorCall.PTP >> 16) << 5,  # movk x0
    0xD400_0002,  # hvc #0
    0xD400_0002,  # hvc #0
    0xAA00_03EA,  # mov x10, x0
    0x2A01_03EB,  # mov w11, w1
    0x17FF_FFF9,  # b .-28
)
_ARGUMENTS = RunPage.offset("hypercall")
_FAULT = RunPage.offset("exception")
_JUNK = 0x1E57_0FA1_1DA7_A000


class Obedient:
    """A VM with one vCPU. The host has its program, the run page and a buffer from `at` on."""

    def __init__(self, host: RandomHost, board: Outside, at: int, protected: bool) -> None:
        self.host, self.board, self.chance = host, board, host.chance
        self.run_page, buffer, code = at, at + 2 * PAGE, at + 4 * PAGE
        self.pending: tuple[int, int, int] | None = None
        self.tally = Counter[tuple[int, int | str]]()
        """By function and status."""
        self._good(Call.CREATE_VM)
        self.vmid = board.x[1] & 0xFFFF
        self.vm = host.oracle.vms[self.vmid]
        memory = board.memory
        for number, (gpa, pages, purpose) in enumerate(SLOTS):
            self._good(Call.MEMREGION_PURPOSE, self.vmid, gpa, pages * PAGE, purpose)
            memory.write32(buffer + MemoryRegion.offset("slot"), number)
            memory.write32(buffer + MemoryRegion.offset("constituent_count"), 0)
            memory.write64(buffer + MemoryRegion.offset("total_pages"), pages)
            memory.write64(buffer + MemoryRegion.offset("gpa"), gpa)
            self._good(Call.SET_MEMREGION, self.vmid, 2 * PAGE, buffer)
        if protected:
            self._good(Call.ENABLE_CAP, self.vmid, 0xFFBADAB1, 2)
        self._good(Call.CREATE_VCPU, self.vmid << 16, self.run_page)
        for number, word in enumerate(_PROGRAM):
            memory.write32(code + 4 * number, word)
        self._good(Call.MAP_GUEST, self.vmid, 2, code // PAGE, CODE // PAGE, 1)
        for register, value in ((PC, CODE), (PSTATE, BOOT_PSTATE)):
            assert board.call(smc64(Call.SET_ONE_REG), self.vmid << 16, register, value) == OK
        self._run()

    def _good(self, call: Call, *arguments: int) -> None:
        x = [smc64(call), *arguments]
        assert self.host.make(x + [0] * (8 - len(x))) == OK

    def step(self) -> None:
        """Its host supplies a page or its guest makes a call, of which nothing else comes than the oracle says."""
        if self.chance.random() < 0.4:
            self._supply()
            return
        if self.pending is None:
            self.pending = self._order()
            x = [*self.pending, 0]
            self.board.memory.write_words(self.run_page + _ARGUMENTS, x)
        function, gpa, count = self.pending
        page = self.vm.mapped.get(gpa // PAGE)
        said, expected = self._run(), self._expected(function, gpa, count)
        assert said == expected, [hex(word) for word in self.pending]
        self.tally[function, said[0]] += 1
        if said[0] != MISSING:
            self.pending = None
        if function == VendorCall.MEM_RELINQUISH and said[0] == OK:
            assert page is not None and not any(self.board.memory.read(page * PAGE, PAGE))

    def _supply(self) -> None:
        chance, number = self.chance, self.chance.randrange(2)
        first, pages, _ = SLOTS[number]
        gpa = first + chance.choice((chance.randrange(16), chance.randrange(pages))) * PAGE
        if self.pending is not None and chance.random() < 0.9:
            gpa, number = self.pending[1], 0  # what it waits for
        pa = self.host.page() & -PAGE
        if chance.random() < 0.8:  # mostly free
            pa = self.host.place.guest_ram + chance.randrange(3 * BLOCK_PAGES) * PAGE
        if self.host.place.is_ram(pa // PAGE) and pa // PAGE not in self.host.oracle.pages:
            self.board.memory.write_words(pa, [_JUNK] * (PAGE // 8))
        x = [smc64(Call.MAP_GUEST), self.vmid, number, pa // PAGE, gpa // PAGE, chance.choice((1, 1, 2, 4)), 0, 0]
        self.host.make(x)

    def _order(self) -> tuple[int, int, int]:
        chance = self.chance
        mapped = [gfn * PAGE for gfn in self.vm.mapped if gfn * PAGE != CODE] or [SLOTS[0][0]]
        gpa = chance.choice(mapped)
        if chance.random() < 0.3:
            gpa = chance.choice((SLOTS[0][0], SLOTS[1][0], SPARE)) + chance.randrange(32) * PAGE
        if chance.random() < 0.1:
            gpa = chance.choice((gpa + 1, 1 << 40, (1 << 40) - PAGE, (1 << 64) - PAGE))
        count = chance.choice((0, 1, 1, 3, 40, 512))
        function = chance.choice((*TRANSFERS, *TRANSFERS, *OTHERS))
        return int(function), gpa, count if function in (*TRANSFERS, VendorCall.MEM_PRIVATE) else 0

    def _expected(self, function: int, gpa: int, count: int) -> tuple[int | str, int]:
        """The status, and the pages of what takes ranges."""
        oracle = self.host.oracle
        match function:
            case _ if function in TRANSFERS:
                return oracle.transfer(self.vmid, gpa, count, function == VendorCall.MEM_SHARE)
            case VendorCall.MEM_RELINQUISH:
                return oracle.relinquish(self.vmid, gpa), 0
            case VendorCall.MEM_PRIVATE:
                return oracle.all_private(self.vmid, gpa, count), 0
            case _:
                return oracle.guard(self.vmid, gpa), 0

    def _run(self) -> tuple[int | str, int]:
        """To the end of a call."""
        board, memory = self.board, self.board.memory
        while True:
            assert board.call(smc64(Call.RUN), self.vmid << 16) == OK
            reason = board.x[1]
            if reason == ExitReason.HYPERCALL:
                function, result = (memory.read64(self.run_page + _ARGUMENTS + 8 * i) for i in range(2))
                if function == VendorCall.PTP:
                    status = result >> 32
                    counts = status == OK and self.pending is not None and self.pending[0] in TRANSFERS
                    return status - (1 << 32) if status >> 31 else status, result & 0xFFFF_FFFF if counts else 0
                assert function == VendorCall.MEM_RELINQUISH
            elif reason == ExitReason.EXCEPTION:
                assert memory.read32(self.run_page + _FAULT) == ExceptionCode.PAGE_FAULT
                return MISSING, 0
            else:
                assert reason in (ExitReason.IRQ, ExitReason.GZ), hex(reason)
