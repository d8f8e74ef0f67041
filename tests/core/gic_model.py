# SPDX-License-Identifier: Apache-2.0
"""A GICv3 written from the architecture (IHI 0069) alone, interrupt by interrupt: what a guest must see.

No list registers, no banks, no locks.  Beside it the virtual CPU interface as the hardware does it (IHI 0069, 4.2 to
4.4), which works on the list registers of the fake CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SPURIOUS = 1023
SPI_END = 1020
IDLE_PRIORITY = 0xFF
DISTRIBUTOR_ID = {
    0xFFD0: 0x44,
    0xFFE0: 0x92,
    0xFFE4: 0xB4,
    0xFFE8: 0x3B,
    0xFFF0: 0x0D,
    0xFFF4: 0xF0,
    0xFFF8: 0x05,
    0xFFFC: 0xB1,
}
IIDR = ord("G") << 24 | 0x43B


@dataclass
class Interrupt:
    intid: int
    enabled: bool = False
    group1: bool = False
    edge: bool = False
    latch: bool = False
    line: bool = False
    tracked: bool = False
    priority: int = 0
    route: int = 0
    active_on: int | None = None

    @property
    def pending(self) -> bool:
        return self.latch or (not self.edge and self.tracked and self.line)


@dataclass
class Model:
    """A VM with `count` vCPUs."""

    count: int
    control: int = 0
    spis: dict[int, Interrupt] = field(init=False)
    private: list[dict[int, Interrupt]] = field(init=False)
    sleep: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self.spis = {n: Interrupt(n) for n in range(32, SPI_END)}
        self.private = [{n: Interrupt(n, edge=n < 16, tracked=n >= 16) for n in range(32)} for _ in range(self.count)]
        self.sleep = [True] * self.count

    # What a vCPU may take.

    def of(self, vcpu: int, intid: int) -> Interrupt:
        return self.private[vcpu][intid] if intid < 32 else self.spis[intid]

    def waiting(self, vcpu: int) -> list[Interrupt]:
        """Pending, enabled, not active, for this vCPU."""
        mine = [*self.private[vcpu].values()]
        mine += [i for i in self.spis.values() if i.route == vcpu or i.route >> 31]
        return [
            i for i in mine if i.pending and i.enabled and i.active_on is None and self.control >> int(i.group1) & 1
        ]

    def acknowledge(self, vcpu: int, intid: int) -> None:
        interrupt = self.of(vcpu, intid)
        interrupt.active_on = vcpu
        interrupt.latch = False

    def end(self, vcpu: int, intid: int) -> None:
        assert self.of(vcpu, intid).active_on == vcpu
        self.of(vcpu, intid).active_on = None

    # Sources.

    def irq_line(self, intid: int, level: int) -> None:
        i = self.spis[intid]
        if level:
            if not i.tracked or (i.edge and not i.line):
                i.latch = True
            i.line = True
        else:
            i.line, i.tracked = False, True
            if not i.edge:
                i.latch = False

    def sgi(self, sender: int, value: int, group1: bool) -> None:
        intid = value >> 24 & 15
        if value >> 40 & 1:
            targets = [v for v in range(self.count) if v != sender]
        elif value & (0xFF << 16 | 0xFF << 32 | 0xF << 44 | 0xFF << 48):
            targets = []
        else:
            targets = [v for v in range(self.count) if value >> v & 1]
        for v in targets:
            if group1 or not self.private[v][intid].group1:
                self.private[v][intid].latch = True

    # Registers.

    def distributor(self, offset: int, size: int, write: int | None) -> int:
        if size == 4 and offset % 4 == 0:
            if offset == 0:
                if write is not None:
                    self.control = write & 3
                return self.control | 1 << 4 | 1 << 6
            if offset == 4:
                return 31 | 9 << 19
            if offset == 8:
                return IIDR
            if offset in DISTRIBUTOR_ID:
                return DISTRIBUTOR_ID[offset]
        if 0x6000 <= offset < 0x6000 + 8 * SPI_END:
            return self._router(offset, size, write)
        if offset < 0x1000:
            return self._interrupts(self.spis, offset, size, write, adopter=0)
        return 0

    def _router(self, offset: int, size: int, write: int | None) -> int:
        intid = (offset - 0x6000) // 8
        if intid < 32 or size not in (4, 8) or offset % 8:
            return 0
        if write is not None:
            self.spis[intid].route = write & 0x80FF_FFFF
        return self.spis[intid].route

    def redistributor(self, offset: int, size: int, write: int | None) -> int:
        owner, offset = divmod(offset, 0x2_0000)
        if offset >= 0x1_0000:
            offset -= 0x1_0000
            if offset >= 0x1000:
                return 0
            return self._interrupts(self.private[owner], offset, size, write, adopter=owner)
        typer = owner << 32 | owner << 8 | (owner == self.count - 1) << 4
        if size == 8 and offset == 8:
            return typer
        if size != 4 or offset % 4:
            return 0
        if offset == 0x14:
            if write is not None:
                self.sleep[owner] = bool(write & 2)
            return 6 if self.sleep[owner] else 0
        if offset == 4:
            return IIDR
        if offset == 8:
            return typer & 0xFFFF_FFFF
        if offset == 12:
            return typer >> 32
        return DISTRIBUTOR_ID.get(offset, 0)

    def _interrupts(
        self, interrupts: dict[int, Interrupt], offset: int, size: int, write: int | None, adopter: int
    ) -> int:
        if 0x400 <= offset < 0x800 and size in (1, 4) and offset % size == 0:
            result = 0
            for byte in range(size):
                i = interrupts.get(offset - 0x400 + byte)
                if i is not None:
                    if write is not None:
                        i.priority = write >> 8 * byte & 0xF8
                    result |= i.priority << 8 * byte
            return result
        if size != 4 or offset % 4:
            return 0
        if 0xC00 <= offset < 0xD00:
            result = 0
            for n in range(16):
                i = interrupts.get((offset - 0xC00) * 4 + n)
                if i is not None:
                    if write is not None and i.intid >= 32:
                        i.edge = bool(write >> 2 * n & 2)
                    result |= i.edge << 2 * n + 1
            return result
        if not 0x80 <= offset < 0x400:
            return 0
        kind, word = divmod(offset, 0x80)
        result = 0
        for n in range(32):
            i = interrupts.get(word * 8 + n)
            if i is not None:
                if write is not None:
                    self._write_bit(i, kind, bool(write >> n & 1), adopter)
                result |= self._read_bit(i, kind) << n
        return result

    @staticmethod
    def _read_bit(i: Interrupt, kind: int) -> bool:
        if kind == 1:
            return i.group1
        if kind in (2, 3):
            return i.enabled
        if kind in (4, 5):
            return i.pending
        return i.active_on is not None

    def _write_bit(self, i: Interrupt, kind: int, bit: bool, adopter: int) -> None:
        if kind == 1:
            i.group1 = bit
        elif not bit:
            return
        elif kind in (2, 3):
            i.enabled = kind == 2
        elif kind in (4, 5):
            i.latch = kind == 4
        elif kind == 7:
            i.active_on = None
        elif i.active_on is None:
            i.active_on = i.route if i.intid >= 32 and i.route < self.count else adopter


class Interface:
    """The virtual CPU interface of the fake CPU: its list registers, priorities and maintenance conditions."""

    LR_EOI = 1 << 41
    HW = 1 << 61
    UNDERFLOW, LRENP, NPIE = 1 << 1, 1 << 2, 1 << 3

    def __init__(self, jit: Any, registers: int = 4) -> None:
        self.jit, self.registers = jit, registers
        self.deactivated: list[int] = []  # physical interrupts
        jit.sysregs.ICH_VTR_EL2 = (registers - 1) | 4 << 26 | 4 << 29
        jit.on_read("ICH_ELRSR_EL2", self._empty)
        jit.on_read("ICH_MISR_EL2", self.maintenance)

    def lr(self, n: int) -> int:
        return getattr(self.jit.sysregs, f"ICH_LR{n}_EL2")

    def set_lr(self, n: int, value: int) -> None:
        setattr(self.jit.sysregs, f"ICH_LR{n}_EL2", value)

    def _empty(self) -> int:
        empty = 0
        for n in range(self.registers):
            lr = self.lr(n)
            if lr >> 62 == 0 and (lr & self.HW or not lr & self.LR_EOI):
                empty |= 1 << n
        return empty

    def contents(self) -> list[int]:
        """Not invalid ones; no INTID may be twice among them."""
        found = [self.lr(n) for n in range(self.registers) if self.lr(n) >> 62]
        assert len({lr & 0xFFFF_FFFF for lr in found}) == len(found)
        assert not any(lr >> 62 == 3 and lr & self.HW for lr in found)
        return found

    def running_priority(self) -> int:
        bits = self.jit.sysregs.ICH_AP0R0_EL2 | self.jit.sysregs.ICH_AP1R0_EL2
        return (bits & -bits).bit_length() - 1 << 3 if bits else IDLE_PRIORITY

    def highest(self) -> int | None:
        """Number of the list register that would be signalled."""
        sysregs = self.jit.sysregs
        vmcr = sysregs.ICH_VMCR_EL2
        assert sysregs.ICH_HCR_EL2 & 1
        limit = min(vmcr >> 24 & 0xFF, self.running_priority())
        pending = [n for n in range(self.registers) if self.lr(n) >> 62 == 1 and vmcr >> (self.lr(n) >> 60 & 1) & 1]
        best = min(pending, key=lambda n: self.lr(n) >> 48 & 0xFF, default=None)
        return best if best is not None and self.lr(best) >> 48 & 0xFF < limit else None

    def acknowledge(self) -> int:
        n = self.highest()
        if n is None:
            return SPURIOUS
        lr = self.lr(n)
        self.set_lr(n, lr & ~(3 << 62) | 2 << 62)
        name = f"ICH_AP{lr >> 60 & 1}R0_EL2"
        setattr(self.jit.sysregs, name, getattr(self.jit.sysregs, name) | 1 << (lr >> 51 & 0x1F))
        return lr & 0xFFFF_FFFF

    def end(self, intid: int) -> None:
        """EOIR with EOImode 0."""
        sysregs = self.jit.sysregs
        bits = [(sysregs.ICH_AP0R0_EL2, "ICH_AP0R0_EL2"), (sysregs.ICH_AP1R0_EL2, "ICH_AP1R0_EL2")]
        value, name = min(((v & -v, n) for v, n in bits if v), default=(0, ""))
        if name:
            setattr(sysregs, name, getattr(sysregs, name) & ~value)
        for n in range(self.registers):
            lr = self.lr(n)
            if lr & 0xFFFF_FFFF == intid and lr >> 63:
                self.set_lr(n, lr & ~(1 << 63))
                if lr & self.HW:
                    self.deactivated.append(lr >> 32 & 0x3FF)
                return
        sysregs.ICH_HCR_EL2 += 1 << 27

    def maintenance(self) -> int:
        """ICH_MISR_EL2: is the maintenance interrupt asserted, and what for?"""
        hcr, vmcr = self.jit.sysregs.ICH_HCR_EL2, self.jit.sysregs.ICH_VMCR_EL2
        enabled = vmcr & 1, vmcr >> 1 & 1
        states = [self.lr(n) >> 62 for n in range(self.registers)]
        ended = any(
            self.lr(n) >> 62 == 0 and self.lr(n) & self.LR_EOI and not self.lr(n) & self.HW
            for n in range(self.registers)
        )
        conditions = (
            ended,
            hcr & self.UNDERFLOW and sum(map(bool, states)) <= 1,
            hcr & self.LRENP and hcr >> 27 & 0x1F,
            hcr & self.NPIE and 1 not in states,
            hcr >> 4 & 1 and enabled[0],
            hcr >> 5 & 1 and not enabled[0],
            hcr >> 6 & 1 and enabled[1],
            hcr >> 7 & 1 and not enabled[1],
        )
        return sum(bool(asserted) << n for n, asserted in enumerate(conditions)) if hcr & 1 else 0
