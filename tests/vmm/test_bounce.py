# SPDX-License-Identifier: Apache-2.0
"""Devices of a guest that hides its memory while they use it (M15): nothing touches it but system calls."""

from __future__ import annotations

import mmap
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ring import BASE, SIZE, Driver, Ring, hide, make_private, settles, wait_used

from gz.vmm.memory import GuestMemory
from gz.vmm.streams import Output
from gz.vmm.virtio.block import SECTOR, Block, Disk, Request
from gz.vmm.virtio.bounce import REQUEST_MAX
from gz.vmm.virtio.console import Console, Port
from gz.vmm.virtio.device import RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1, VirtioDevice
from gz.vmm.virtio.mmio import Reg
from gz.vmm.virtio.rng import Entropy

PAGE = mmap.PAGESIZE
SECTORS = 64


@dataclass
class Guest:
    driver: Driver
    vmm: GuestMemory

    def queue(self, number: int, at: int = BASE + 0x1_0000) -> Ring:
        """A queue whose three parts and buffers are pages of their own."""
        ring = Ring(self.driver.memory, at, 64)
        ring.available_at, ring.used_at, ring.data_at = at + PAGE, at + 2 * PAGE, at + 3 * PAGE
        self.driver.memory.at(at, 4 * PAGE)[:] = bytes(4 * PAGE)
        return self.driver.connect(number, ring)

    def bring_up(self) -> Ring:
        """Up to the last step."""
        assert self.driver.accept(VERSION_1)
        return self.queue(0)


def start(make: Callable[[GuestMemory], VirtioDevice]) -> Guest:
    memory, vmm = make_private()
    return Guest(Driver(memory, make(vmm)), vmm)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(SECTORS * SECTOR))
    return path


@pytest.fixture
def guest(image: Path) -> Iterator[Guest]:
    guest = start(lambda memory: Block(memory, Disk(str(image), False)))
    yield guest
    guest.driver.device.stop()


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


@pytest.mark.parametrize("drop", [0, RING_EVENT_IDX])
def test_requests_are_served_as_ever(guest: Guest, image: Path, drop: int) -> None:
    """Many times around the ring."""
    driver, memory = guest.driver, guest.driver.memory
    assert not driver.features() & RING_INDIRECT_DESC
    (ring,) = driver.bring_up(1, drop)
    chance = random.Random(drop)
    data = bytearray(image.read_bytes())
    for number in range(200):
        ring.data_at = BASE + 0x8_0000
        sector, length = chance.randrange(SECTORS - 4), SECTOR * chance.randrange(1, 5)
        at = slice(sector * SECTOR, sector * SECTOR + length)
        if drop == 0:
            ring.poke(ring.available_at + 4 + 2 * ring.size, "H", number)  # it waits for this one
        if chance.randrange(2):
            new = chance.randbytes(length)
            data[at] = new
            ring.add([header(Request.OUT, sector)[:7], header(Request.OUT, sector)[7:], new], [1])
        else:
            ring.add([header(Request.IN, sector)], [100, length - 100, 1])
        driver.notify()
        ((_, written),) = wait_used(ring, 1)
        if written > 1:  # the buffers lie behind the header, at multiples of 16
            begin = BASE + 0x8_0010
            assert bytes(memory.at(begin, 100)) + bytes(memory.at(begin + 112, length - 100)) == data[at]
        assert settles(lambda number=number: len(driver.interrupts) > number)
        driver.set(Reg.INTERRUPT_ACK, 1)
    assert image.read_bytes() == data and not driver.lines


PARTS: dict[str, Callable[[Ring], int]] = {
    "descriptor table": lambda ring: ring.descriptors_at,
    "available ring": lambda ring: ring.available_at,
    "used ring": lambda ring: ring.used_at,
    "buffer": lambda ring: ring.data_at,
}
"""What a device uses, and the page it lies in."""


@pytest.mark.parametrize("hidden", PARTS)
def test_hidden_memory_breaks_the_device(guest: Guest, hidden: str) -> None:
    """M15: nobody dies, and after a reset it works again."""
    driver = guest.driver
    for _ in range(2):
        ring = guest.bring_up()
        page = PARTS[hidden](ring)
        ring.add([header(Request.IN)], [2 * SECTOR, 1])
        hide(guest.vmm, page)
        driver.go()
        assert settles(driver.broken) and ring.used() == []
        assert f"{hidden} is out of reach: Bad address" in driver.lines.pop() and not driver.lines
        hide(guest.vmm, page, hidden=False)
        ring = guest.bring_up()
        ring.add([header(Request.FLUSH)], [1])
        driver.go()
        wait_used(ring, 1)


def test_a_buffer_that_is_hidden_in_part(image: Path) -> None:
    """M15: nothing is written behind the hidden page, now or later."""
    guest = start(lambda memory: Block(memory, Disk(str(image), False)))
    driver, memory = guest.driver, guest.driver.memory
    ring = guest.bring_up()
    ring.data_at += PAGE - 16
    _, (data, _) = ring.add([header(Request.IN)], [24 * SECTOR, 1])
    hide(guest.vmm, data + PAGE)
    driver.go()
    assert settles(driver.broken)
    assert f"the buffer is out of reach from byte {PAGE} on" in driver.lines[0]
    hide(guest.vmm, data + PAGE, hidden=False)
    driver.notify()
    driver.device.stop()
    assert any(memory.at(data, PAGE)) and not any(memory.at(data + PAGE, 24 * SECTOR - PAGE + 16)) and not ring.used()


def test_another_cpu_hides_and_shows_all_the_time(guest: Guest) -> None:
    """M15."""
    driver = guest.driver
    over = threading.Event()
    pages = [place(guest.bring_up()) for place in PARTS.values()]

    def hide_and_show() -> None:
        chance = random.Random(15)
        while not over.is_set():
            page = chance.choice(pages)
            hide(guest.vmm, page)
            hide(guest.vmm, page, hidden=False)

    thread = threading.Thread(target=hide_and_show)
    thread.start()
    broken = served = 0
    try:
        while broken + served < 2000 and min(broken, served) < 20:
            ring = guest.bring_up()
            ring.add([header(Request.IN, served % SECTORS)], [SECTOR, 1])
            driver.go()
            assert settles(lambda ring=ring: driver.broken() or ring.used())
            if driver.broken():
                broken += 1
            else:
                served += 1
    finally:
        over.set()
        thread.join()
    assert broken >= 20 and served >= 20
    assert len(driver.lines) >= broken and all("is out of reach" in line for line in driver.lines)


def test_a_console_looks_at_a_ring_to_know_whether_to_read() -> None:
    """M15."""
    reader, writer = os.pipe()
    typed, typing = os.pipe()
    guest = start(lambda memory: Console(memory, [Port("hvc0", typed, Output(writer, "test"))]))
    driver, memory = guest.driver, guest.driver.memory
    assert driver.accept(VERSION_1)
    receive, transmit = guest.queue(0), guest.queue(1, BASE + 0x2_0000)
    driver.go()
    transmit.add([b"out"], [])
    driver.notify(1)
    assert os.read(reader, 10) == b"out"
    _, (at,) = receive.add([], [100])
    driver.notify()
    os.write(typing, b"in")
    assert wait_used(receive, 1) == [(0, 2)] and bytes(memory.at(at, 3)) == b"in\0"
    hide(guest.vmm, receive.available_at)
    driver.notify()
    assert settles(driver.broken) and "available ring is out of reach" in driver.lines[0]
    driver.device.stop()
    for file in (typing, typed, reader):
        os.close(file)


def test_random_numbers_fill_what_is_asked_for() -> None:
    guest = start(Entropy)
    ring = guest.bring_up()
    _, (at,) = ring.add([], [0x1_0000 + PAGE])
    guest.driver.go()
    assert wait_used(ring, 1) == [(0, 0x1_0000)]
    assert any(guest.driver.memory.at(at + 0xFFF0, 16)) and not any(guest.driver.memory.at(at + 0x1_0000, PAGE))
    guest.driver.device.stop()


def test_no_more_is_copied_than_fits(guest: Guest) -> None:
    """Descriptors may name the same memory again and again."""
    ring = guest.bring_up()
    ring.poke(ring.data_at, "IIQ", Request.IN, 0, 0)
    rows = [(ring.data_at, 16, 1)] + [(BASE, SIZE, 3)] * (REQUEST_MAX // SIZE) + [(BASE + SIZE - 1, 1, 2)]
    for index, (at, length, flags) in enumerate(rows):
        ring.descriptor(index, at, length, flags, index + 1)
    ring.offer(0)
    guest.driver.go()
    assert settles(guest.driver.broken) and "a request of 4194321 bytes" in guest.driver.lines[0]
