# SPDX-License-Identifier: Apache-2.0
"""The compiled ring against the model, and against a driver that changes everything while it is read."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
from queue_model import Broken, QueueModel, Request
from ring import BASE, SIZE, Ring, make_memory

from gz.bits.view import address_of
from gz.driver.interface import DriverError
from gz.vmm.memory import GuestMemory
from gz.vmm.virtio import queue as module
from gz.vmm.virtio.queue import Chain, Queue, QueueBroken
from gz.vmm.virtio.ring import INDIRECT, NEXT, WRITE
from gz.vmm.virtio.shared import INDIRECT_MAX, INTERRUPT, MORE

FLASH, FLASH_SIZE = 0x0200_0000, 0x1000
TABLES = BASE + 0x1_0000
SECONDS = 2.0
SEEDS = int(os.environ.get("GZ_RING_SEEDS", "400"))


def regions() -> list[tuple[int, memoryview]]:
    return [(BASE, memoryview(bytearray(SIZE))), (FLASH, memoryview(bytearray(FLASH_SIZE)))]


def enabled(ring: Ring, indirect: bool = True, event_index: bool = True) -> Queue:
    queue = Queue(ring.memory, 256)
    queue.size = ring.size
    queue.descriptors_at, queue.available_at, queue.used_at = ring.descriptors_at, ring.available_at, ring.used_at
    queue.enable(indirect, event_index)
    return queue


def places(memory: GuestMemory, parts: list[memoryview]) -> list[tuple[int, int]]:
    """(guest-physical address, length) of buffers."""
    starts = [(base, address_of(view)) for (base, _), view in zip(memory.regions(), memory.views, strict=True)]
    sizes = [size for _, size in memory.regions()]
    result: list[tuple[int, int]] = []
    for part in parts:
        at = address_of(part)
        found = [base + at - start for (base, start), size in zip(starts, sizes, strict=True) if 0 <= at - start < size]
        result.append((found[0], len(part)))
    return result


def described(memory: GuestMemory, chain: Chain | None) -> Request | None:
    if chain is None:
        return None
    assert chain.room == sum(map(len, chain.writable))
    return chain.head, places(memory, chain.readable), places(memory, chain.writable)


class Dice:
    """Descriptors of which most make sense."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def address(self) -> int:
        if self.chance(90):
            return self.random.choice((BASE + 0x10_0000, FLASH)) + self.random.randrange(0x800)
        edges = (0, FLASH + FLASH_SIZE, BASE, BASE + SIZE, 1 << 32, (1 << 64) - 1)
        return (self.random.choice(edges) + self.random.randrange(-20, 20)) % (1 << 64)

    def length(self) -> int:
        return self.random.choice((0, 1, 16, 512, 0x7FF)) if self.chance(95) else self.random.randrange(1 << 32)

    def descriptors(self, count: int, indirect: bool) -> list[tuple[int, int, int, int]]:
        """A table whose chains mostly go forward, first to what is read and then to what is written."""
        rows: list[tuple[int, int, int, int]] = []
        for index in range(count):
            flags = NEXT if self.chance(60) else 0
            flags |= WRITE if index > count // 2 or self.chance(3) else 0
            following = index + 1 if self.chance(95) else self.random.randrange(count + 2)
            if indirect and self.chance(15):
                length = 16 * self.random.choice((1, 2, 5)) if self.chance(90) else self.random.randrange(20_000)
                rows.append((TABLES + 16 * self.random.randrange(64), length, INDIRECT, 0))
            else:
                rows.append((self.address(), self.length(), flags, following % (1 << 16)))
        return rows


@pytest.mark.parametrize("part", range(4))
def test_any_ring_is_what_the_model_says(part: int) -> None:
    found = {Broken: 0, Request: 0}
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        dice = Dice(seed)
        size, indirect, event_index = 1 << dice.random.randrange(6), dice.chance(80), dice.chance(50)
        ours, models = (Ring(GuestMemory(regions()), BASE, size) for _ in range(2))
        table, more = dice.descriptors(size, True), dice.descriptors(64, dice.chance(10))
        for ring in (ours, models):
            for index, row in enumerate(table):
                ring.descriptor(index, *row)
            for index, row in enumerate(more):
                ring.poke(TABLES + 16 * index, "QIHH", *row)
        queue, model = enabled(ours, indirect, event_index), QueueModel(models, indirect, event_index)
        for _ in range(dice.random.randrange(3 * size + 1)):
            heads = [dice.random.randrange(size + dice.chance(1)) for _ in range(dice.random.randrange(3))]
            event = dice.random.randrange(8) if dice.chance(90) else dice.random.randrange(1 << 16)
            for ring in (ours, models):
                for head in heads:
                    ring.offer(head)
                ring.poke(ring.available_at + 4 + 2 * size, "H", event)
                ring.poke(ring.available_at, "H", event & 1)
            try:
                expected = model.pop()
            except Broken as broken:
                found[Broken] += 1
                with pytest.raises(QueueBroken) as raised:
                    queue.pop()
                assert str(raised.value) == str(broken), seed
                break
            chain = queue.pop()
            assert described(ours.memory, chain) == expected, seed
            if chain is not None:
                found[Request] += 1
                written = dice.random.randrange(1 << 32)
                queue.push(chain, written)
                model.push(chain.head, written)
            if dice.chance(70):
                wanted, waiting = model.settle()
                assert queue.settle() == (INTERRUPT if wanted else 0) | (MORE if waiting else 0), seed
                assert queue.pending == waiting
        queue.publish()
        model.publish()
        length = 6 + 8 * size
        assert ours.memory.at(ours.used_at, length) == models.memory.at(models.used_at, length), seed
    assert min(found.values()) > SEEDS // 4, found


def test_a_chain_has_a_bounded_number_of_buffers() -> None:
    """Descriptors before the indirect one count too."""
    ring = Ring(make_memory(), BASE, 8)
    for count, sound in ((INDIRECT_MAX - 1, True), (INDIRECT_MAX, False)):
        queue, model = enabled(ring), QueueModel(ring, True, True)
        ring.descriptor(0, BASE, 1, NEXT, 1)
        ring.descriptor(1, TABLES, 16 * count, INDIRECT)
        for index in range(count):
            ring.poke(TABLES + 16 * index, "QIHH", BASE, 1, NEXT if index < count - 1 else 0, index + 1)
        ring.poke(ring.available_at + 2, "HH", 1, 0)
        if sound:
            assert described(ring.memory, queue.pop()) == model.pop()
            continue
        with pytest.raises(QueueBroken, match="does not end"):
            queue.pop()
        with pytest.raises(Broken, match="does not end"):
            model.pop()


def test_an_indirect_table_need_not_be_aligned() -> None:
    ring = Ring(make_memory(), BASE, 8)
    queue = enabled(ring)
    ring.add([b"ab"], [3], indirect_at=TABLES + 5)
    chain = queue.pop()
    assert chain is not None and chain.read(9) == b"ab" and chain.room == 3


def test_memory_that_was_let_go_is_none() -> None:
    ring = Ring(make_memory(), BASE, 8)
    queue = enabled(ring)
    ring.add([b"ab"], [])
    ring.memory.release()
    with pytest.raises(QueueBroken, match="not guest memory"):
        queue.pop()
    queue.disable()
    assert queue.pop() is None and not queue.pending and not queue.publish()


def test_without_its_library_there_is_no_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARY", tmp_path / "_ring.so")
    with pytest.raises(DriverError, match=r"_ring.so is missing: the installation is incomplete"):
        Queue(make_memory(), 8)


# Each value alone is sound with some of the others: what was checked and then read again would not be.
ADDRESSES = (BASE + SIZE - 16, BASE, (1 << 64) - 8, BASE + SIZE)
LENGTHS = (16, 1, SIZE, 0xFFFF_FFFF)
FLAGS = (0, NEXT, WRITE, INDIRECT, WRITE | NEXT)


def change_for_ever(memory: GuestMemory, tables: tuple[int, ...]) -> None:
    """A driver that rewrites the first descriptors of some tables, field by field."""
    dice = random.Random(1)
    rows = [memory.at(table + 16 * index, 16) for table in tables for index in range(4)]
    fields = [(row[:8].cast("Q"), row[8:12].cast("I"), row[12:].cast("H")) for row in rows]
    while True:
        for address, length, rest in fields:
            address[0], length[0] = dice.choice(ADDRESSES), dice.choice(LENGTHS)
            rest[0], rest[1] = dice.choice(FLAGS), dice.randrange(5)


def test_a_driver_that_changes_descriptors_meanwhile() -> None:
    """Whatever the moment: buffers lie in guest memory and are bounded in number, or the queue is broken."""
    memory = GuestMemory([(BASE, memoryview(mmap.mmap(-1, SIZE)))])  # shared with the other process
    ring = Ring(memory, BASE, 4)
    queue = enabled(ring)
    context = multiprocessing.get_context("fork")
    tables = ring.descriptors_at, BASE, BASE + SIZE - 16 * 4
    driver = context.Process(target=change_for_ever, args=(memory, tables), daemon=True)
    driver.start()
    sound = broken = 0
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end or not (sound and broken):
            if not queue.pending:
                ring.offer(sound % 4)
            try:
                chain = queue.pop()
            except QueueBroken:
                broken += 1
                continue
            assert chain is not None
            sound += 1
            assert len(chain.readable) + len(chain.writable) <= INDIRECT_MAX
            for at, length in places(memory, chain.readable + chain.writable):
                assert at >= BASE and at + length <= BASE + SIZE
    finally:
        driver.terminate()
        driver.join()
    assert sound > 100 and broken > 100, (sound, broken)
