# SPDX-License-Identifier: Apache-2.0
"""The block device against a plain file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring import BASE, SIZE, Driver, Ring, make_memory, settles, wait_used

from gz.vmm.virtio.block import F_RO, SECTOR, Answer, Block, Disk, DiskError, Request
from gz.vmm.virtio.mmio import CONFIG, Reg

SECTORS = 64


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a long name for a disk.img"
    path.write_bytes(os.urandom(SECTORS * SECTOR))
    return path


def start(path: Path, read_only: bool = False) -> Driver:
    memory = make_memory()
    return Driver(memory, Block(memory, Disk(str(path), read_only)))


@pytest.fixture
def driver(image: Path) -> Iterator[Driver]:
    driver = start(image)
    yield driver
    driver.device.stop()


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def ask(driver: Driver, ring: Ring, out: list[bytes], room: list[int]) -> tuple[int, bytes, int]:
    """One request: (bytes written, data, status)."""
    head, empty = ring.add(out, [*room, 1])
    driver.notify()
    ((used, written),) = wait_used(ring, 1)
    assert used == head
    data = b"".join(bytes(driver.memory.at(at, length)) for at, length in zip(empty[:-1], room, strict=True))
    return written, data, driver.memory.at(empty[-1], 1)[0]


def test_capacity(driver: Driver) -> None:
    assert driver.transport.read(CONFIG, 4) == SECTORS and driver.transport.read(CONFIG + 4, 4) == 0
    assert not driver.features() & F_RO


def test_read_into_several_buffers(driver: Driver, image: Path) -> None:
    (ring,) = driver.bring_up(1)
    written, data, status = ask(driver, ring, [header(Request.IN, 3)], [1024, 512])
    assert (written, status) == (1537, Answer.OK)
    assert data == image.read_bytes()[3 * SECTOR : 6 * SECTOR]


def test_write_from_several_buffers_and_flush(driver: Driver, image: Path) -> None:
    (ring,) = driver.bring_up(1)
    before, data = image.read_bytes(), os.urandom(3 * SECTOR)
    assert ask(driver, ring, [header(Request.OUT, 2), data[:100], data[100:]], []) == (1, b"", Answer.OK)
    assert ask(driver, ring, [header(Request.FLUSH)], []) == (1, b"", Answer.OK)
    assert image.read_bytes() == before[: 2 * SECTOR] + data + before[5 * SECTOR :]


def test_the_header_may_come_in_pieces(driver: Driver, image: Path) -> None:
    (ring,) = driver.bring_up(1)
    whole = header(Request.IN, 1)
    _, data, status = ask(driver, ring, [whole[:5], whole[5:]], [512])
    assert status == Answer.OK and data == image.read_bytes()[SECTOR : 2 * SECTOR]


@pytest.mark.parametrize(
    ("out", "room"),
    [
        ([header(Request.IN, SECTORS)], [512]),
        ([header(Request.IN, SECTORS - 1)], [1024]),
        ([header(Request.IN, 2**64 - 1)], [512]),
        ([header(Request.IN)], [100]),
        ([header(Request.OUT, SECTORS), bytes(512)], []),
        ([header(Request.OUT), bytes(511)], []),
    ],
)
def test_outside_the_disk_is_an_error(driver: Driver, image: Path, out: list[bytes], room: list[int]) -> None:
    (ring,) = driver.bring_up(1)
    before = image.read_bytes()
    written, _, status = ask(driver, ring, out, room)
    assert (written, status) == (1, Answer.IOERR)
    assert image.read_bytes() == before


def test_identity_and_the_unknown(driver: Driver) -> None:
    (ring,) = driver.bring_up(1)
    assert ask(driver, ring, [header(Request.GET_ID)], [20]) == (21, b"a long name for a di", Answer.OK)
    assert ask(driver, ring, [header(77)], [20])[2] == Answer.UNSUPP


def test_a_request_without_status_breaks_the_device(driver: Driver) -> None:
    (ring,) = driver.bring_up(1)
    ring.add([header(Request.FLUSH)], [])
    driver.notify()
    assert settles(driver.broken)
    assert "without header or status byte" in driver.lines[0]


def test_read_only(image: Path) -> None:
    driver = start(image, read_only=True)
    try:
        assert driver.features() & F_RO
        (ring,) = driver.bring_up(1)
        before = image.read_bytes()
        assert ask(driver, ring, [header(Request.OUT), bytes(512)], [])[2] == Answer.IOERR
        assert image.read_bytes() == before
        assert ask(driver, ring, [header(Request.IN)], [512])[1] == before[:512]
    finally:
        driver.device.stop()


def test_many_requests_in_flight(driver: Driver, image: Path) -> None:
    (ring,) = driver.bring_up(1)
    places = [ring.add([header(Request.IN, n)], [512, 1])[1][0] for n in range(5)]
    driver.notify()
    wait_used(ring, 5)
    data = image.read_bytes()
    for n, at in enumerate(places):
        assert bytes(driver.memory.at(at, 512)) == data[n * SECTOR : (n + 1) * SECTOR]


def test_stopping_serves_what_was_offered(image: Path) -> None:
    driver = start(image)
    (ring,) = driver.bring_up(1)
    ring.add([header(Request.OUT, 0), b"z" * 512], [1])
    driver.device.stop()
    assert len(ring.used()) == 1 and image.read_bytes()[:512] == b"z" * 512


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=600), st.integers(0, 2000)), max_size=4),
    st.integers(0, 2**64 - 1),
)
def test_any_request_is_survived(image: Path, requests: list[tuple[int, bytes, int]], sector: int) -> None:
    driver = start(image)
    try:
        (ring,) = driver.bring_up(1)
        for kind, data, room in requests:
            ring.add([struct.pack("<IIQ", kind, 0, sector % (SECTORS + 2)), data], [room] if room else [])
        driver.notify()
        assert settles(lambda: driver.broken() or not driver.device.queues[0].pending)
        assert image.stat().st_size == SECTORS * SECTOR
        assert driver.get(Reg.MAGIC_VALUE)
    finally:
        driver.device.stop()


def test_disks_that_cannot_be(tmp_path: Path, image: Path) -> None:
    with pytest.raises(DiskError, match=r"disk .*/none: No such file"):
        Disk(str(tmp_path / "none"), False)
    with pytest.raises(DiskError, match="Is a directory"):
        Disk(str(tmp_path), False)
    with pytest.raises(DiskError, match="neither a file nor a block device"):
        Disk("/dev/null", False)
    (tmp_path / "small").write_bytes(b"x" * 511)
    with pytest.raises(DiskError, match="smaller than one sector"):
        Disk(str(tmp_path / "small"), False)
    first = Disk(str(image), False)
    with pytest.raises(DiskError, match="in use by another guest"):
        Disk(str(image), True)
    first.close()
    readers = [Disk(str(image), True), Disk(str(image), True)]
    for reader in readers:
        reader.close()


def test_no_request_moves_more_than_the_disk(driver: Driver) -> None:
    """Descriptors may name the same memory again and again: a request is as long as the guest likes."""
    (ring,) = driver.bring_up(1)
    ring.poke(ring.data_at, "IIQ", Request.IN, 0, 0)
    rows = [(ring.data_at, 16, 1)] + [(BASE, SIZE, 3)] * 14 + [(BASE + SIZE - 1, 1, 2)]
    for index, (at, length, flags) in enumerate(rows):
        ring.descriptor(index, at, length, flags, index + 1)
    ring.offer(0)
    driver.notify()
    assert wait_used(ring, 1)[0][1] == 1 and driver.memory.at(BASE + SIZE - 1, 1)[0] == Answer.IOERR
