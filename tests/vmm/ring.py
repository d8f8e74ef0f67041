# SPDX-License-Identifier: Apache-2.0
"""The guest's side of virtio, for tests: memory, a ring, and a driver that talks to the registers only."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable

from gz.bits.view import address_of
from gz.vmm.irq import EdgeLine
from gz.vmm.memory import GuestMemory
from gz.vmm.virtio.device import VirtioDevice
from gz.vmm.virtio.mmio import MmioTransport, Reg, Status
from gz.vmm.virtio.ring import INDIRECT, NEXT, WRITE

BASE = 0x4000_0000
SIZE = 0x20_0000


def make_memory(size: int = SIZE) -> GuestMemory:
    return GuestMemory([(BASE, memoryview(bytearray(size)))])


def make_private() -> tuple[GuestMemory, GuestMemory]:
    """The same memory as a protected guest has it, and as its VMM."""
    file = os.memfd_create("guest")
    os.ftruncate(file, SIZE)
    guest, vmm = (memoryview(mmap.mmap(file, SIZE)) for _ in range(2))
    os.close(file)
    return GuestMemory([(BASE, guest)]), GuestMemory([(BASE, vmm)], private=True)


def hide(memory: GuestMemory, gpa: int, hidden: bool = True) -> None:
    """Takes the page at `gpa` from the VMM, or gives it back: a load or store there ends the process, a system call
    that copies gives EFAULT."""
    at = address_of(memory.at(gpa, mmap.PAGESIZE))
    protection = 0 if hidden else mmap.PROT_READ | mmap.PROT_WRITE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), ctypes.c_size_t(mmap.PAGESIZE), protection) == 0


class Ring:
    """A queue's three parts in guest memory, written as a driver would."""

    def __init__(self, memory: GuestMemory, at: int, size: int) -> None:
        self.memory = memory
        self.size = size
        self.descriptors_at = at
        self.available_at = at + 16 * size
        self.used_at = (self.available_at + 6 + 2 * size + 3) & ~3
        self.data_at = (self.used_at + 6 + 8 * size + 0xFFF) & ~0xFFF
        self._free = 0
        self._available = 0
        self._seen = 0

    def poke(self, at: int, layout: str, *values: int) -> None:
        data = struct.pack("<" + layout, *values)
        self.memory.at(at, len(data))[:] = data

    def peek(self, at: int, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.memory.at(at, struct.calcsize("<" + layout)))

    def descriptor(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        self.poke(self.descriptors_at + 16 * index, "QIHH", address, length, flags, following)

    def offer(self, head: int) -> None:
        """Makes the chain at `head` available."""
        self.poke(self.available_at + 4 + 2 * (self._available % self.size), "H", head)
        self._available = (self._available + 1) & 0xFFFF
        self.poke(self.available_at + 2, "H", self._available)

    def add(self, out: list[bytes], room: list[int], indirect_at: int | None = None) -> tuple[int, list[int]]:
        """A chain of filled buffers and empty ones; gives its head and the addresses of the empty ones."""
        buffers = [(len(data), 0, data) for data in out] + [(length, WRITE, b"") for length in room]
        rows: list[tuple[int, int, int]] = []
        empty: list[int] = []
        for length, flags, data in buffers:
            address = self.data_at
            self.data_at += (length + 15) & ~15
            if data:
                self.memory.at(address, length)[:] = data
            if flags:
                empty.append(address)
            rows.append((address, length, flags))
        head = self._free
        for number, (address, length, flags) in enumerate(rows):
            last = number == len(rows) - 1
            index = number if indirect_at is not None else (head + number) % self.size
            following = 0 if last else (index + 1) % (len(rows) if indirect_at is not None else self.size)
            flags |= 0 if last else NEXT
            if indirect_at is None:
                self.descriptor(index, address, length, flags, following)
            else:
                self.poke(indirect_at + 16 * index, "QIHH", address, length, flags, following)
        if indirect_at is not None:
            self.descriptor(head, indirect_at, 16 * len(rows), INDIRECT)
        self._free = (head + (1 if indirect_at is not None else len(rows))) % self.size
        self.offer(head)
        return head, empty

    def used(self) -> list[tuple[int, int]]:
        """(head, length written) of what came back since the last call."""
        (index,) = self.peek(self.used_at + 2, "H")
        result: list[tuple[int, int]] = []
        while self._seen != index:
            head, length = self.peek(self.used_at + 4 + 8 * (self._seen % self.size), "II")
            result.append((head, length))
            self._seen = (self._seen + 1) & 0xFFFF
        return result


class Driver:
    """Brings a device up through its registers, as VIRTIO 1.3, 3.1.1 says, and counts its interrupts."""

    def __init__(self, memory: GuestMemory, device: VirtioDevice) -> None:
        self.memory = memory
        self.device = device
        self.interrupts: list[int] = []
        self.lines: list[str] = []
        line = EdgeLine(lambda spi, level: self.interrupts.append(spi), 16)
        self.transport = MmioTransport(device, line, self.lines.append)
        self.rings: list[Ring] = []
        device.start()

    def get(self, register: Reg) -> int:
        return self.transport.read(register, 4)

    def set(self, register: Reg, value: int) -> None:
        self.transport.write(register, 4, value)

    def features(self) -> int:
        self.set(Reg.DEVICE_FEATURES_SEL, 0)
        low = self.get(Reg.DEVICE_FEATURES)
        self.set(Reg.DEVICE_FEATURES_SEL, 1)
        return low | self.get(Reg.DEVICE_FEATURES) << 32

    def accept(self, features: int) -> bool:
        self.set(Reg.STATUS, 0)
        self.set(Reg.STATUS, Status.ACKNOWLEDGE)
        self.set(Reg.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for half in (0, 1):
            self.set(Reg.DRIVER_FEATURES_SEL, half)
            self.set(Reg.DRIVER_FEATURES, features >> 32 * half & 0xFFFF_FFFF)
        self.set(Reg.STATUS, self.get(Reg.STATUS) | Status.FEATURES_OK)
        return bool(self.get(Reg.STATUS) & Status.FEATURES_OK)

    def add_queue(self, number: int, size: int = 16, at: int | None = None) -> Ring:
        return self.connect(number, Ring(self.memory, BASE + 0x1_0000 * (number + 1) if at is None else at, size))

    def connect(self, number: int, ring: Ring) -> Ring:
        self.set(Reg.QUEUE_SEL, number)
        self.set(Reg.QUEUE_NUM, ring.size)
        for register, address in (
            (Reg.QUEUE_DESC_LOW, ring.descriptors_at),
            (Reg.QUEUE_DRIVER_LOW, ring.available_at),
            (Reg.QUEUE_DEVICE_LOW, ring.used_at),
        ):
            self.set(register, address & 0xFFFF_FFFF)
            self.set(Reg(register + 4), address >> 32)
        self.set(Reg.QUEUE_READY, 1)
        self.rings.append(ring)
        return ring

    def go(self) -> None:
        self.set(Reg.STATUS, self.get(Reg.STATUS) | Status.DRIVER_OK)

    def bring_up(self, queues: int, drop: int = 0) -> list[Ring]:
        assert self.accept(self.features() & ~drop)
        rings = [self.add_queue(number) for number in range(queues)]
        self.go()
        return rings

    def notify(self, queue: int = 0) -> None:
        self.set(Reg.QUEUE_NOTIFY, queue)

    def broken(self) -> bool:
        return bool(self.get(Reg.STATUS) & Status.NEEDS_RESET)


def settles(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether a condition that other threads bring about becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def wait_used(ring: Ring, count: int) -> list[tuple[int, int]]:
    """The next `count` chains that come back."""
    found: list[tuple[int, int]] = []

    def enough() -> bool:
        found.extend(ring.used())
        return len(found) >= count

    assert settles(enough), f"{len(found)} of {count} chains came back"
    assert len(found) == count
    return found
