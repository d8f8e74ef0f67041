# SPDX-License-Identifier: Apache-2.0
"""What the host's calls have to do, in plain Python, from gzvm ABI 1.3 to 1.7 and 2.2; it shares no code with the core.

`Oracle.call` takes x0 to x7 and gives the status and the results that matter, None for "anything".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

OK, NO_MEMORY, INVALID, NOT_SUPPORTED, NOT_IMPLEMENTED, BUSY = 0, -5, -8, -24, -27, -33
UNOFFERED, WRONG = -1, -3  # to guests
MISSING = "missing"
"""The guest's call waits for a page."""
UNKNOWN = -1  # SMCCC
PAGE = 4096
GPA_LIMIT = (1 << 40) - 0x1_0000  # the records of stolen time lie behind it
PFN_LIMIT = 1 << 36

FAIL_ENTRY, GZ, IDLE = 0x92920006, 0x9292000A, 0x9292000B

Ownership = dict[int, tuple[str, int]]  # pfn → ("lent", vmid), ("private", vmid), ("shared", users)


def entry_of(raw: int) -> tuple[str, int] | None:
    """An entry of the table as the oracle has it; None: the host's alone, or the core's."""
    return {1: ("lent", raw >> 8), 2: ("shared", raw >> 4 & 15), 4: ("private", raw >> 8)}.get(raw & 15)


@dataclass
class Vm:
    smc64: bool
    announced: tuple[int, int, int] | None = None
    announces: bool = False
    slots: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])  # number → first gfn, pages
    purposes: dict[int, int] = field(default_factory=dict[int, int])
    protected: bool = False
    mapped: dict[int, int] = field(default_factory=dict[int, int])  # gfn → pfn
    vcpus: dict[int, int] = field(default_factory=dict[int, int])  # index → pfn of the run page
    registers: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    mailbox: int | None = None
    idle: bool = False
    ending: bool = False


class Oracle:
    def __init__(self, read32: Callable[[int], int], read64: Callable[[int], int], is_ram: Callable[[int], bool]):
        self.read32, self.read64, self.is_ram = read32, read64, is_ram
        self.vms: dict[int, Vm] = {}
        self.pages: Ownership = {}

    # --- pages

    def share(self, pa: int, count: int) -> bool:
        if pa % PAGE or pa + count * PAGE > 1 << 64:
            return False
        run = range(pa // PAGE, pa // PAGE + count)
        if not self.adjacent(run):
            return False
        if any(self.pages.get(pfn, ("shared", 0))[0] != "shared" for pfn in run):
            return False
        if any(self.pages.get(pfn, ("shared", 0))[1] == 15 for pfn in run):
            return False
        for pfn in run:
            self.pages[pfn] = ("shared", self.pages.get(pfn, ("shared", 0))[1] + 1)
        return True

    def unshare(self, pfn: int, count: int) -> None:
        for page in range(pfn, pfn + count):
            _, users = self.pages.pop(page)
            if users > 1:
                self.pages[page] = ("shared", users - 1)

    def adjacent(self, run: range) -> bool:
        return len(run) > 0 and len(run) <= 1 << 20 and all(self.is_ram(pfn) for pfn in run)

    def insert(self, vm: Vm, vmid: int, slot: int, pages: list[tuple[int, int]]) -> int:
        """All of (gfn, pfn) or none."""
        private = vm.protected and vm.purposes.get(slot, 0) in (1, 2)
        new: dict[int, int] = {}
        for gfn, pfn in pages:
            if vm.mapped.get(gfn) == pfn:
                continue
            if gfn in vm.mapped or pfn >= PFN_LIMIT or not self.is_ram(pfn):
                return INVALID
            if pfn in self.pages or pfn in new.values():
                return INVALID
            new[gfn] = pfn
        vm.mapped |= new
        self.pages |= dict.fromkeys(new.values(), ("private" if private else "lent", vmid))
        return OK

    # --- calls

    def call(self, x: list[int]) -> tuple[int, list[int | None]]:
        function = x[0] & 0xFFFF_FFFF
        index = (function & ~(1 << 30)) - 0xBB00_1000
        if not 0 <= index < 20:
            return UNKNOWN, []
        smc64 = bool(function & 1 << 30)
        match index:
            case 0:
                return self.create_vm(x[1], smc64)
            case 6 | 7:
                return NOT_IMPLEMENTED, []
            case 12:
                return OK, [16, 0, 0]
            case 13 if x[1] == 0:
                return (OK, [512]) if x[2] in (0x9204, 0x9205) else (INVALID, [])
            case _:
                return self.vm_call(index, x)

    def vm_call(self, index: int, x: list[int]) -> tuple[int, list[int | None]]:
        """A call about a VM or a vCPU."""
        vcpu_call = index in (2, 3, 5, 8, 9, 10)
        vmid = x[1] >> 16 if vcpu_call else x[1]
        vm = self.vms.get(vmid)
        if vm is None or (vm.ending and index != 1):
            return (INVALID, [FAIL_ENTRY]) if index == 5 else (INVALID, [])
        vcpu = x[1] & 0xFFFF
        match index:
            case 1:
                return self.destroy_vm(vm, vmid, x[2]), []
            case 2:
                return self.create_vcpu(vm, vcpu, x[2]), []
            case 3:
                return self.destroy_vcpu(vm, vcpu), []
            case 4:
                return self.set_memregion(vm, vmid, x[2], x[3]), []
            case 8 | 9:
                return self.one_reg(vm, vcpu, index == 9, x[2], x[3])
            case 13:
                return self.enable_cap(vm, x[2], x[3], x[4])
            case 14:
                return OK, []
            case 15:
                return self.purpose(vm, x[2], x[3], x[4]), []
            case 16:
                return OK, []
            case 17:
                return self.map_guest(vm, vmid, x[2], x[3], x[4], x[5]), []
            case 18:
                return self.map_guest_block(vm, vmid, x[2], x[3], x[4]), []
            case 19:
                return OK, [None, sum(self.pages[pfn][0] == "lent" for pfn in vm.mapped.values()) * PAGE]
            case _:
                raise LookupError(index)

    def create_vm(self, type: int, smc64: bool) -> tuple[int, list[int | None]]:
        if type != 0:
            return INVALID, []
        vmid = next((n for n in range(1, 65) if n not in self.vms), None)
        if vmid is None:
            return NO_MEMORY, []
        self.vms[vmid] = Vm(smc64)
        return OK, [vmid]

    def destroy_vm(self, vm: Vm, vmid: int, budget: int) -> int:
        """None runs here. A budget may be exceeded by the rest of a block, so a model of it follows the core."""
        if not vm.ending:
            vm.ending = True
            for run_page in vm.vcpus.values():
                self.unshare(run_page, 2)
            vm.vcpus.clear()
            if vm.mailbox is not None:
                self.unshare(vm.mailbox, 1)
        if budget == 0:
            self.gone(vmid)
        return OK if budget == 0 else BUSY

    def gone(self, vmid: int) -> None:
        for pfn in self.vms.pop(vmid).mapped.values():
            assert self.pages.pop(pfn) in (("lent", vmid), ("private", vmid))

    def create_vcpu(self, vm: Vm, vcpu: int, page: int) -> int:
        if vcpu >= 8 or vcpu in vm.vcpus or not self.share(page, 2):
            return INVALID
        vm.vcpus[vcpu] = page // PAGE
        vm.registers = {k: v for k, v in vm.registers.items() if k[0] != vcpu}
        return OK

    def destroy_vcpu(self, vm: Vm, vcpu: int) -> int:
        if vcpu not in vm.vcpus:
            return INVALID
        self.unshare(vm.vcpus.pop(vcpu), 2)
        return OK

    def purpose(self, vm: Vm, gpa: int, size: int, flags: int) -> int:
        if gpa % PAGE or size % PAGE or size == 0 or gpa + size > GPA_LIMIT or flags not in (0, 1, 2, 4):
            return INVALID
        vm.announced, vm.announces = (gpa, size, flags), True
        return OK

    def set_memregion(self, vm: Vm, vmid: int, size: int, buffer: int) -> int:
        if size != 8192 or not self.share(buffer, 2):
            return INVALID
        status = self.set_region(vm, vmid, buffer)  # the buffer itself can't become the guest's meanwhile
        self.unshare(buffer // PAGE, 2)
        return status

    def set_region(self, vm: Vm, vmid: int, buffer: int) -> int:
        slot, count = self.read32(buffer), self.read32(buffer + 4)
        total, gpa = self.read64(buffer + 8), self.read64(buffer + 16)
        if slot >= 10 or gpa % PAGE or total == 0 or gpa + total * PAGE > GPA_LIMIT:
            return INVALID
        gfn = gpa // PAGE
        if vm.announced is not None and vm.announced[0] == gpa:
            if total * PAGE != vm.announced[1] or not self.declare(vm, slot, gfn, total, vm.announced[2]):
                return INVALID
            vm.announced = None
            return OK
        if not 1 <= count <= 510 or total > 1 << 18:
            return INVALID
        if vm.protected and not vm.announces:
            return INVALID
        pages: list[tuple[int, int]] = []
        for i in range(count):
            address, run = self.read64(buffer + 24 + 16 * i), self.read32(buffer + 32 + 16 * i)
            if address % PAGE or run == 0 or len(pages) + run > total:
                return INVALID
            pages += [(gfn + len(pages) + k, address // PAGE + k) for k in range(run)]
        if len(pages) != total:
            return INVALID
        grown = vm.slots.get(slot)
        if grown is None or not (grown[0] <= gfn and gfn + total <= grown[0] + grown[1]):
            if vm.announces:
                return INVALID
            if grown is not None and gfn != grown[0] + grown[1]:
                return INVALID
            grown = (gfn, total) if grown is None else (grown[0], grown[1] + total)
            if self.overlaps(vm, slot, *grown):
                return INVALID
        status = self.insert(vm, vmid, slot, pages)
        if status == OK:
            vm.slots[slot] = grown
        return status

    def declare(self, vm: Vm, slot: int, gfn: int, total: int, purpose: int) -> bool:
        old = vm.slots.get(slot)
        if old is not None and vm.protected and vm.purposes.get(slot, 0) != purpose:
            return False
        if old == (gfn, total):
            vm.purposes[slot] = purpose
            return True
        if old is not None and any(old[0] <= g < old[0] + old[1] for g in vm.mapped):
            return False
        if self.overlaps(vm, slot, gfn, total):
            return False
        vm.slots[slot] = (gfn, total)
        vm.purposes[slot] = purpose
        return True

    def overlaps(self, vm: Vm, slot: int, gfn: int, total: int) -> bool:
        return any(
            number != slot and gfn < first + count and first < gfn + total
            for number, (first, count) in vm.slots.items()
        )

    def window(self, vm: Vm, slot: int, gfn: int, count: int) -> bool:
        if slot not in vm.slots or not 1 <= count <= 512:
            return False
        first, size = vm.slots[slot]
        return first <= gfn and gfn + count <= first + size

    def map_guest(self, vm: Vm, vmid: int, slot: int, pfn: int, gfn: int, count: int) -> int:
        if not self.window(vm, slot, gfn, count):
            return INVALID
        return self.insert(vm, vmid, slot, [(gfn + i, pfn + i) for i in range(count)])

    def map_guest_block(self, vm: Vm, vmid: int, slot: int, gfn: int, count: int) -> int:
        if vm.mailbox is None or not self.window(vm, slot, gfn, count):
            return INVALID
        mailbox = vm.mailbox * PAGE
        return self.insert(vm, vmid, slot, [(gfn + i, self.read64(mailbox + 8 * i)) for i in range(count)])

    def enable_cap(self, vm: Vm, cap: int, x3: int, x4: int) -> tuple[int, list[int | None]]:
        match cap:
            case 0x9202:
                return OK, [0]
            case 0x9203:
                vm.idle = True
                return OK, [0]
            case 0x9204 | 0x9205:
                return OK, [512]
            case 0x9201:
                if x3 != 0x200000 or not self.share(x4, 1):
                    return INVALID, []
                if vm.mailbox is not None:
                    self.unshare(vm.mailbox, 1)
                vm.mailbox = x4 // PAGE
                return OK, []
            case 0xFFBADAB1:
                return self.protect(vm) if x3 == 2 else (OK, [0]) if x3 == 1 else (NOT_SUPPORTED, [])
            case _:
                return NOT_SUPPORTED, []

    def protect(self, vm: Vm) -> tuple[int, list[int | None]]:
        """The tests never run a vCPU. Of what was set, x0 to x7 of the boot vCPU stay."""
        if vm.mapped and not vm.protected:
            return INVALID, []
        if not vm.protected:
            vm.registers = {k: v for k, v in vm.registers.items() if k[0] == 0 and k[1] < 16}
        vm.protected = True
        return OK, [0]

    def one_reg(self, vm: Vm, vcpu: int, write: bool, id: int, value: int) -> tuple[int, list[int | None]]:
        if vcpu not in vm.vcpus:
            return INVALID, []
        base = 0x6030_0000_0010_0000
        register = id - base
        if register % 2 or not 0 <= register <= 60:  # the tests use x0 to x30 and malformed ids
            return INVALID, []
        if vm.protected and (vcpu != 0 or register >= 16):
            return NOT_SUPPORTED, []
        if write:
            vm.registers[vcpu, register] = value
            return OK, []
        return OK, [vm.registers.get((vcpu, register), 0)]

    # --- guests' calls

    def is_private(self, vm: Vm, gfn: int) -> bool:
        """Memory that is the guest's alone if it does not show it, there or not."""
        return any(
            first <= gfn < first + count and vm.purposes.get(number, 0) in (1, 2)
            for number, (first, count) in vm.slots.items()
        )

    def transfer(self, vmid: int, gpa: int, count: int, shown: bool) -> tuple[int | str, int]:
        """MEM_SHARE and MEM_UNSHARE: the status and how many pages."""
        vm, count = self.vms[vmid], max(count, 1)
        if not vm.protected:
            return UNOFFERED, 0
        if gpa % PAGE or gpa >= 1 << 40 or count > ((1 << 40) - gpa) // PAGE:
            return WRONG, 0
        before, after = ("private", "lent") if shown else ("lent", "private")
        done = 0
        for gfn in range(gpa // PAGE, gpa // PAGE + min(count, 512)):
            pfn = vm.mapped.get(gfn)
            if self.is_private(vm, gfn) and pfn is None and done == 0:
                return MISSING, 0
            if not self.is_private(vm, gfn) or pfn is None or self.pages[pfn] != (before, vmid):
                break
            self.pages[pfn] = after, vmid
            done += 1
        return (OK, done) if done else (WRONG, 0)

    def relinquish(self, vmid: int, gpa: int) -> int:
        vm = self.vms[vmid]
        if gpa % PAGE or gpa // PAGE not in vm.mapped:
            return WRONG
        del self.pages[vm.mapped.pop(gpa // PAGE)]
        return OK

    def all_private(self, vmid: int, gpa: int, count: int) -> int:
        """MEM_PRIVATE."""
        vm = self.vms[vmid]
        if not vm.protected:
            return UNOFFERED
        gfns = range(gpa // PAGE, gpa // PAGE + count)
        return OK if gpa % PAGE == 0 and gfns and all(self.is_private(vm, gfn) for gfn in gfns) else WRONG

    def guard(self, vmid: int, gpa: int) -> int:
        """MMIO_GUARD_MAP and UNMAP of few pages."""
        vm = self.vms[vmid]
        if not vm.protected:
            return UNOFFERED
        declared = any(first <= gpa // PAGE < first + count for first, count in vm.slots.values())
        return WRONG if declared or gpa % PAGE or gpa >= 1 << 40 else OK
