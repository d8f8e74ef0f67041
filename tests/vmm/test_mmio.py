# SPDX-License-Identifier: Apache-2.0
"""The registers of virtio-mmio, driven as Linux drives them and as nobody should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring import BASE, SIZE, Driver, make_memory, settles, wait_used

from gz.vmm.virtio.device import RING_EVENT_IDX, VERSION_1
from gz.vmm.virtio.mmio import Reg, Status
from gz.vmm.virtio.rng import Entropy


@pytest.fixture
def driver() -> Iterator[Driver]:
    memory = make_memory()
    driver = Driver(memory, Entropy(memory))
    yield driver
    driver.device.stop()


def test_identity(driver: Driver) -> None:
    assert driver.get(Reg.MAGIC_VALUE) == 0x74726976
    assert driver.get(Reg.VERSION) == 2
    assert driver.get(Reg.DEVICE_ID) == 4
    assert driver.get(Reg.QUEUE_NUM_MAX) == 64
    assert driver.get(Reg.SHM_LEN_LOW) == driver.get(Reg.SHM_LEN_HIGH) == 0xFFFF_FFFF
    driver.set(Reg.QUEUE_SEL, 1)
    assert driver.get(Reg.QUEUE_NUM_MAX) == 0


def test_random_bytes_arrive(driver: Driver) -> None:
    (ring,) = driver.bring_up(1)
    assert driver.get(Reg.QUEUE_READY) == 1
    head, (at,) = ring.add([], [64])
    driver.notify()
    assert wait_used(ring, 1) == [(head, 64)]
    assert bytes(driver.memory.at(at, 64)) != bytes(64)
    assert settles(lambda: driver.interrupts == [16])
    assert driver.get(Reg.INTERRUPT_STATUS) == 1
    driver.set(Reg.INTERRUPT_ACK, 1)
    assert driver.get(Reg.INTERRUPT_STATUS) == 0


def test_the_line_rises_once_until_it_is_acknowledged(driver: Driver) -> None:
    (ring,) = driver.bring_up(1, drop=RING_EVENT_IDX)
    for _ in range(3):
        ring.add([], [8])
        driver.notify()
        wait_used(ring, 1)
    assert settles(lambda: driver.interrupts == [16])
    driver.set(Reg.INTERRUPT_ACK, 1)
    ring.add([], [8])
    driver.notify()
    wait_used(ring, 1)
    assert settles(lambda: driver.interrupts == [16, 16])


def test_buffers_offered_before_driver_ok_are_served_after(driver: Driver) -> None:
    assert driver.accept(driver.features())
    ring = driver.add_queue(0)
    ring.add([], [8])
    driver.notify()
    assert not settles(ring.used, 0.05)
    driver.go()
    wait_used(ring, 1)


def test_features_have_to_be_offered_and_modern(driver: Driver) -> None:
    assert not driver.accept(driver.features() & ~VERSION_1)
    assert not driver.accept(driver.features() | 1 << 40)
    driver.go()
    assert not driver.get(Reg.STATUS) & Status.DRIVER_OK
    assert driver.accept(VERSION_1)


def test_status_takes_its_steps_in_order(driver: Driver) -> None:
    driver.set(Reg.STATUS, Status.DRIVER_OK)
    assert driver.get(Reg.STATUS) == 0
    driver.set(Reg.STATUS, Status.ACKNOWLEDGE)
    driver.set(Reg.STATUS, Status.ACKNOWLEDGE | Status.FEATURES_OK)
    assert driver.get(Reg.STATUS) == Status.ACKNOWLEDGE
    driver.set(Reg.STATUS, Status.FAILED)
    assert driver.get(Reg.STATUS) == Status.ACKNOWLEDGE | Status.FAILED
    driver.set(Reg.STATUS, 0)
    driver.set(Reg.STATUS, Status.DRIVER)
    assert driver.get(Reg.STATUS) == Status.DRIVER, "U-Boot's second step comes without the first"


def test_reset_forgets_everything(driver: Driver) -> None:
    driver.bring_up(1)
    driver.set(Reg.STATUS, 0)
    assert driver.get(Reg.STATUS) == driver.get(Reg.QUEUE_READY) == driver.get(Reg.INTERRUPT_STATUS) == 0
    (ring,) = driver.bring_up(1)
    ring.add([], [8])
    driver.notify()
    wait_used(ring, 1)


def test_a_broken_ring_stops_the_device_and_says_so(driver: Driver) -> None:
    (ring,) = driver.bring_up(1)
    ring.descriptor(0, 0xDEAD_0000, 8, 2)
    ring.offer(0)
    driver.notify()
    assert settles(driver.broken)
    assert driver.lines == [
        "virtio entropy device: descriptor 0: 8 bytes at 0xdead0000 are not guest memory;"
        " the device is stopped until the guest resets it"
    ]
    assert driver.get(Reg.INTERRUPT_STATUS) == 2
    driver.set(Reg.QUEUE_READY, 0)
    (ring,) = driver.bring_up(1)
    ring.add([], [8])
    driver.notify()
    wait_used(ring, 1)


def test_a_queue_outside_memory_stops_the_device(driver: Driver) -> None:
    assert driver.accept(driver.features())
    driver.set(Reg.QUEUE_SEL, 0)
    driver.set(Reg.QUEUE_NUM, 64)
    driver.set(Reg.QUEUE_DESC_HIGH, 1)
    driver.set(Reg.QUEUE_READY, 1)
    assert driver.get(Reg.QUEUE_READY) == 0 and driver.broken()
    assert "descriptor table" in driver.lines[0]


def test_a_live_queue_keeps_its_addresses(driver: Driver) -> None:
    (ring,) = driver.bring_up(1)
    driver.set(Reg.QUEUE_NUM, 32)
    driver.set(Reg.QUEUE_DESC_LOW, 0)
    assert driver.device.queues[0].size == 16
    assert driver.device.queues[0].descriptors_at == ring.descriptors_at


register = st.sampled_from([*Reg, 0x1FC, 0x003, 0x2C])
access = st.tuples(
    register,
    st.sampled_from([1, 2, 4, 8]),
    st.one_of(
        st.none(),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 1, 3, 11, 15, 16, BASE, BASE + 0x1000, BASE + SIZE - 4]),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(access, max_size=40), st.binary(min_size=256, max_size=256))
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None]], garbage: bytes) -> None:
    memory = make_memory()
    memory.at(BASE, 256)[:] = memory.at(BASE + 0x1000, 256)[:] = garbage
    driver = Driver(memory, Entropy(memory))
    try:
        for offset, size, value in accesses:
            if value is None:
                assert driver.transport.read(offset, size) >= 0
            else:
                driver.transport.write(offset, size, value & ((1 << 8 * size) - 1))
        # And then it is a device like any other.
        (ring,) = driver.bring_up(1)
        head, _ = ring.add([], [8])
        driver.notify()
        assert wait_used(ring, 1) == [(head, 8)]
    finally:
        driver.device.stop()
