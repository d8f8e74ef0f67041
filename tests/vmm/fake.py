# SPDX-License-Identifier: Apache-2.0
"""A hypervisor without hardware: its guests are Python generators that yield what they do.

def guest(vm):
    flags = yield Load(0x0900_0018, 4)
    yield Store(0x0900_0000, 4, ord("!"))
    yield PowerOff()
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from gz.abi.capabilities import ProtectedVm
from gz.abi.devices import DeviceType
from gz.abi.exits import ExitReason, SystemEvent
from gz.abi.memory import Access, Purpose
from gz.abi.run import PAGE_SIZE, RunPage
from gz.driver.interface import INTERRUPTED


@dataclass(frozen=True)
class Load:
    address: int
    size: int


@dataclass(frozen=True)
class Store:
    address: int
    size: int
    value: int


@dataclass(frozen=True)
class Event:
    """A SYSTEM_EVENT exit."""

    type: int


@dataclass(frozen=True)
class Exit:
    """Any other exit; `fill` writes its record."""

    reason: int
    fill: Callable[[RunPage], None] = lambda page: None


@dataclass(frozen=True)
class WaitForInterrupt:
    """Sleeps until the SPI is raised; the value of the yield is its number."""

    spi: int | None = None


Step = Load | Store | Event | Exit | WaitForInterrupt
Guest = Generator[Step, int, None]

POWER_OFF = Event(SystemEvent.SHUTDOWN)
RESET = Event(SystemEvent.RESET)


class FakeVcpu:
    def __init__(self, vm: FakeVm, index: int, guest: Guest) -> None:
        self.index = index
        self.page = memoryview(bytearray(PAGE_SIZE))
        self.registers: dict[int, int] = {}
        self.entries = 0
        self._record = RunPage.view(self.page, 0)
        self._vm = vm
        self._guest = guest
        self._kicked = False
        self._begun = False
        self._reading = 0
        self.again = self.enter

    def settle(self, reason: int) -> int:
        return reason

    def enter(self) -> int:
        self.entries += 1
        while True:
            if self._kicked:
                self._kicked = False
                return INTERRUPTED
            record = self._record
            value = record.mmio.data & ((1 << 8 * self._reading) - 1)
            self._reading = 0
            step = self._guest.send(value) if self._begun else next(self._guest)
            self._begun = True
            reason = self._leave(step, record)
            if reason is not None:
                record.exit_reason = reason
                return reason

    def _leave(self, step: Step, record: RunPage) -> int | None:
        match step:
            case Load(address, size):
                record.mmio.phys_addr, record.mmio.length, record.mmio.is_write = address, size, 0
                record.mmio.data = 0xDEAD_BEEF_DEAD_BEEF
                self._reading = size
                return ExitReason.MMIO
            case Store(address, size, value):
                fd = self._vm.ioeventfds.get((address, size))
                if fd is not None:
                    os.eventfd_write(fd, 1)
                    return None
                record.mmio.phys_addr, record.mmio.length, record.mmio.is_write = address, size, 1
                # What lies beyond the access is not the guest's.
                record.mmio.data = value & ((1 << 8 * size) - 1) | (0xA5A5_A5A5_A5A5_A5A5 << 8 * size) % 2**64
                return ExitReason.MMIO
            case Event(kind):
                record.system_event.type = kind
                return ExitReason.SYSTEM_EVENT
            case Exit(reason, fill):
                fill(record)
                return reason
            case WaitForInterrupt(spi):
                self._vm.wait(spi, lambda: self._kicked)
                return None

    def set_register(self, register: int, value: int) -> None:
        self.registers[register] = value

    def get_register(self, register: int) -> int:
        return self.registers[register]

    def kick(self) -> None:
        self._kicked = True
        with self._vm.changed:
            self._vm.changed.notify_all()


@dataclass
class FakeVm:
    """`guests`: what vCPU 0, 1, … do."""

    guests: list[Callable[[FakeVm], Guest]]
    memory: dict[int, memoryview] = field(default_factory=dict[int, memoryview])
    devices: list[tuple[DeviceType, int, int]] = field(default_factory=list[tuple[DeviceType, int, int]])
    vcpus: list[FakeVcpu] = field(default_factory=list[FakeVcpu])
    dtb: tuple[int, int] | None = None
    lines: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    ioeventfds: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    capabilities: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    firmware_size: int = 0
    accesses: list[tuple[int, Access]] = field(default_factory=list[tuple[int, Access]])
    writable_only: bool = False
    purposes: dict[int, Purpose] = field(default_factory=dict[int, Purpose])
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add_memory(self, slot: int, gpa: int, size: int, purpose: Purpose) -> memoryview:
        self.memory[gpa] = memoryview(bytearray(size))
        self.purposes[gpa] = purpose
        return self.memory[gpa]

    def set_access(self, slot: int, access: Access) -> bool:
        self.accesses.append((slot, access))
        return not self.writable_only or access == Access.READ_WRITE

    def create_device(self, kind: DeviceType, base: int, size: int) -> None:
        self.devices.append((kind, base, size))

    def create_vcpu(self, index: int) -> FakeVcpu:
        vcpu = FakeVcpu(self, index, self.guests[index](self))
        self.vcpus.append(vcpu)
        return vcpu

    def enable_capability(self, capability: int, *arguments: int) -> int:
        assert not self.vcpus, "protection comes before the vCPUs"
        self.capabilities.append((capability, *arguments))
        return self.firmware_size if arguments == (ProtectedVm.GET_FIRMWARE_SIZE,) else 0

    def set_dtb(self, gpa: int, size: int) -> None:
        self.dtb = gpa, size

    def irq_line(self, spi: int, level: int) -> None:
        assert self.devices and self.vcpus, "the core takes no interrupts before"
        with self.changed:
            self.lines.append((spi, level))
            self.changed.notify_all()

    def irqfd(self, fd: int, spi: int) -> None:
        raise NotImplementedError("no device of the VMM asks for one")

    def ioeventfd(self, address: int, size: int, fd: int, data: int | None = None) -> None:
        self.ioeventfds[address, size] = fd

    def close(self) -> None:
        self.closed = True

    def wait(self, spi: int | None, given_up: Callable[[], bool]) -> None:
        with self.changed:
            while not given_up():
                raised = next((n for n, line in enumerate(self.lines) if line == (spi, 1)), None)
                if raised is not None:
                    del self.lines[raised]
                    return
                self.changed.wait(5)
