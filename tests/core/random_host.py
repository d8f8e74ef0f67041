# SPDX-License-Identifier: Apache-2.0
"""A host that makes calls whose arguments are often right, so that they get somewhere, and compares the core with the
oracle. The core is compiled into this process, or runs on the emulated board.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from caller import GUEST_BASE, GUEST_RAM, WORD
from el2 import BLOCK, CORE, HIGH, HIGH_SIZE, LOW, LOW_SIZE, PAGE
from oracle import BUSY, NO_MEMORY, OK, Oracle, entry_of

from gz.abi.calls import Call, smc32, smc64
from gz.abi.errors import Error

#: With so few frames left a call may be refused for want of them, without effect.
FEW = 16


class Bytes(Protocol):
    """Physical memory."""

    def read32(self, pa: int) -> int: ...
    def read64(self, pa: int) -> int: ...
    def write32(self, pa: int, value: int) -> None: ...
    def write64(self, pa: int, value: int) -> None: ...
    def write_words(self, pa: int, values: Sequence[int]) -> None: ...


class Words(Protocol):
    def __getitem__(self, index: int, /) -> int: ...


class Side(Protocol):
    """A host's side of the calls, and a look into the core."""

    @property
    def memory(self) -> Bytes: ...
    @property
    def x(self) -> Words:
        """Results of the last call."""
        ...

    @property
    def free_frames(self) -> int:
        """Of the core's pool."""
        ...

    def call(self, *arguments: int) -> int:
        """The status."""
        ...

    def entry(self, pa: int) -> int:
        """A page's entry in the table of owners."""
        ...

    def owners(self) -> dict[int, tuple[str, int]]:
        """Page frames of the host's that are not the host's alone."""
        ...

    def missing(self) -> set[int]:
        """Page frames of the host's that it cannot reach."""
        ...

    def mapped(self, vmid: int) -> dict[int, int]:
        """A guest's pages: gfn → pfn."""
        ...


@dataclass(frozen=True)
class Place:
    """Where the host has memory for buffers (32 pages at `low`) and guests, and what lies elsewhere."""

    low: int
    guest_ram: int
    odd: tuple[int, ...]
    is_ram: Callable[[int], bool]


def in_fake_ram(pfn: int) -> bool:
    return LOW <= pfn * PAGE < CORE or HIGH <= pfn * PAGE < HIGH + HIGH_SIZE


FAKE_MACHINE = Place(
    LOW,
    GUEST_RAM,
    (0, CORE, CORE - PAGE, LOW + LOW_SIZE, HIGH, HIGH + HIGH_SIZE - PAGE, LOW + 1, 1 << 48, WORD - 4095, WORD),
    in_fake_ram,
)


class RandomHost:
    """Arguments that are often right, so that the calls get somewhere."""

    def __init__(self, host: Side, seed: int, place: Place = FAKE_MACHINE) -> None:
        self.host, self.place, self.chance = host, place, random.Random(seed)
        self.oracle = Oracle(host.memory.read32, host.memory.read64, place.is_ram)

    def page(self) -> int:
        """A physical address: kernel buffers, guest memory, and now and then nonsense."""
        r = self.chance.random()
        if r < 0.5:
            return self.place.low + self.chance.randrange(24) * PAGE
        if r < 0.8:
            return self.place.guest_ram + self.chance.randrange(3) * BLOCK + self.chance.randrange(6) * PAGE
        if r < 0.9:
            return self.place.guest_ram + self.chance.randrange(3) * BLOCK
        return self.chance.choice(self.place.odd)

    def gpa(self) -> int:
        r = self.chance.random()
        if r < 0.9:
            return self.chance.choice((0, GUEST_BASE)) + self.chance.randrange(4) * self.chance.choice((PAGE, BLOCK))
        return self.chance.choice(((1 << 40) - PAGE, 1 << 40, 1, WORD - 4095, self.chance.getrandbits(64)))

    def size(self) -> int:
        return self.chance.choice((PAGE, 4 * PAGE, BLOCK, BLOCK, 2 * BLOCK, 4 * BLOCK, 0, 5, 1 << 40, WORD))

    def vmid(self) -> int:
        return self.chance.choice((1, 1, 1, 2, 2, 3, 4, 0, 65, 0xFFFF, self.chance.getrandbits(64)))

    def vcpu(self) -> int:
        return self.vmid() << 16 & WORD | self.chance.choice((0, 0, 1, 2, 7, 8, 0xFFFF))

    def window(self, vmid: int) -> tuple[int, int]:
        """A slot's number and a gfn, mostly of a block in one that is declared."""
        vm, chance = self.oracle.vms.get(vmid), self.chance
        if vm is None or not vm.slots or chance.random() < 0.2:
            return chance.choice((0, 1, 9, 10)), self.gpa() // PAGE
        number = chance.choice(list(vm.slots))
        first, count = vm.slots[number]
        inside = chance.randrange(count) // 512 * 512 if count > 512 else 0
        return number, first + inside + (chance.randrange(4) if chance.random() < 0.5 else 0)

    def write_buffer(self, pa: int, vmid: int) -> None:
        """A SET_MEMREGION buffer, if that is memory we may write to."""
        if not self.place.is_ram(pa // PAGE) or not self.place.is_ram(pa // PAGE + 1) or pa % 8:
            return
        vm = self.oracle.vms.get(vmid)
        if vm is not None and vm.announced is not None and self.chance.random() < 0.7:
            gpa, size, _ = vm.announced
            self.host.memory.write32(pa, self.chance.choice((0, 1, 9)))
            self.host.memory.write64(pa + 8, size // PAGE)
            self.host.memory.write64(pa + 16, gpa)
            return
        memory, chance = self.host.memory, self.chance
        runs = [
            (self.page(), chance.choice((1, 1, 2, 3, 512, 0, 1 << 31) if chance.random() < 0.3 else (1, 2, 3)))
            for _ in range(chance.choice((1, 1, 2, 4)))
        ]
        total = sum(count for _, count in runs)
        memory.write32(pa, chance.choice((0, 0, 1, 2, 9, 10, 1 << 31)))
        memory.write32(pa + 4, chance.choice((len(runs), len(runs), len(runs), 0, 511, 0xFFFF_FFFF)))
        memory.write64(pa + 8, chance.choice((total, total, 512, 1024, self.size() // PAGE, 0, 1 << 52)))
        memory.write64(pa + 16, self.gpa())
        for i, (address, count) in enumerate(runs):
            memory.write64(pa + 24 + 16 * i, address)
            memory.write32(pa + 32 + 16 * i, count)

    def write_mailbox(self) -> None:
        chance, memory = self.chance, self.host.memory
        first = self.place.guest_ram // PAGE + chance.randrange(3) * 512
        pfns = [first + i for i in range(512)]
        for _ in range(chance.choice((0, 0, 1, 3))):
            pfns[chance.randrange(chance.choice((4, 512)))] = self.page() // PAGE
        for vm in self.oracle.vms.values():
            if vm.mailbox is not None and chance.random() < 0.7:
                memory.write_words(vm.mailbox * PAGE, pfns)

    def arguments(self, call: Call) -> list[int]:
        chance = self.chance
        vm, vcpu = self.vmid(), self.vcpu()
        match call:
            case Call.CREATE_VM:
                return [chance.choice((0, 0, 0, 0, 1))]
            case Call.DESTROY_VM:
                return [vm, chance.choice((0, 1, 128, 512, 1 << 40))]
            case Call.CREATE_VCPU:
                return [vcpu, self.page()]
            case Call.SET_MEMREGION:
                buffer = self.page()
                self.write_buffer(buffer, vm)
                return [vm, chance.choice((8192, 8192, 8192, 8192, 4096, 0)), buffer]
            case Call.MEMREGION_PURPOSE:
                return [vm, self.gpa(), self.size(), chance.choice((0, 1, 1, 2, 3, 4, 8))]
            case Call.SET_ONE_REG | Call.GET_ONE_REG:
                register = 0x6030_0000_0010_0000 + chance.choice((0, 2, 4, 60, 60, 1, 0x3000_0000))
                return [vcpu, register, chance.getrandbits(64)]
            case Call.ENABLE_CAP:
                cap = chance.choice((0x9201, 0x9201, 0x9202, 0x9203, 0x9204, 0x9205, 0xFFBADAB1, 0xA5, 0))
                return [vm, cap, chance.choice((0x20_0000, 0x20_0000, 0, 1, 2)), self.page()]
            case Call.MAP_GUEST:
                slot, gfn = self.window(vm)
                return [vm, slot, self.page() // PAGE, gfn, chance.choice((1, 1, 1, 2, 5, 512, 0, 513, WORD))]
            case Call.MAP_GUEST_BLOCK:
                self.write_mailbox()
                slot, gfn = self.window(vm)
                return [vm, slot, gfn, chance.choice((512, 512, 1, 4, 0, 513))]
            case Call.INFORM_EXIT | Call.GET_STATISTICS | Call.SET_DTB_CONFIG:
                return [vm, self.gpa(), self.size()]
            case _:
                return [vcpu, chance.getrandbits(64), chance.getrandbits(1)]

    def step(self, call: Call) -> int:
        x = [self.chance.choice((smc32, smc64))(call), *self.arguments(call)]
        x += [0] * (8 - len(x))
        if call == Call.DESTROY_VM and x[2] != 0:
            return self.destroy_partly(x)
        return self.make(x)

    def make(self, x: list[int]) -> int:
        """A call of x0 to x7 to both."""
        said = self.host.call(*x)
        if said == NO_MEMORY and self.host.free_frames <= FEW:
            return said
        status, results = self.oracle.call(x)
        assert said == status, [hex(word) for word in x]
        for i, result in enumerate(results):
            assert result is None or self.host.x[1 + i] == result, [hex(word) for word in x]
        return status

    def destroy_partly(self, x: list[int]) -> int:
        """Which pages go in a batch is the core's choice, hardly more than asked for; `finish` sees that it ends."""
        vm = self.oracle.vms.get(x[1])
        status = self.host.call(*x)
        if vm is None:
            assert status == Error.INVALID_ARGS
            return status
        self.oracle.destroy_vm(vm, x[1], x[2])
        entries = self.host.entry
        gone = [gfn for gfn, pfn in vm.mapped.items() if entry_of(entries(pfn * PAGE)) != self.oracle.pages[pfn]]
        left = len(vm.mapped) - len(gone)
        assert status == BUSY or (status == OK and left == 0)
        assert len(gone) <= x[2] + 511
        for gfn in gone:
            assert self.oracle.pages.pop(vm.mapped.pop(gfn))[1] == x[1]
        if status == OK:
            self.oracle.gone(x[1])
        return status

    def compare(self) -> None:
        """Ownership, what the host reaches and what each VM has."""
        pages = self.host.owners()
        assert pages == self.oracle.pages
        hidden = {pfn for pfn, entry in pages.items() if entry[0] == "private"}
        assert self.host.missing() == hidden
        for vmid, vm in self.oracle.vms.items():
            assert self.host.mapped(vmid) == vm.mapped
