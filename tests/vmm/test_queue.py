# SPDX-License-Identifier: Apache-2.0
"""The split ring with drivers that keep the rules and drivers that don't."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring import BASE, SIZE, Ring, make_memory

from gz.vmm.memory import BadAddress
from gz.vmm.virtio.queue import Chain, Queue, QueueBroken, cut
from gz.vmm.virtio.ring import INDIRECT, NEXT, WRITE
from gz.vmm.virtio.shared import MORE

RING_SIZE = 8


def make(indirect: bool = True, event_index: bool = False, size: int = RING_SIZE) -> tuple[Queue, Ring]:
    memory = make_memory()
    ring = Ring(memory, BASE, size)
    queue = Queue(memory, 256)
    queue.size = size
    queue.descriptors_at, queue.available_at, queue.used_at = ring.descriptors_at, ring.available_at, ring.used_at
    queue.enable(indirect, event_index)
    return queue, ring


def test_a_chain_goes_there_and_back() -> None:
    queue, ring = make()
    head, (first, second) = ring.add([b"abc", b"defg"], [2, 100])
    chain = queue.pop()
    assert chain is not None and chain.head == head
    assert [bytes(part) for part in chain.readable] == [b"abc", b"defg"]
    assert chain.read(5) == b"abcde" and chain.room == 102
    assert chain.write(b"0123456789") == 10
    queue.push(chain, 10)
    assert ring.used() == []
    assert queue.publish()
    assert ring.used() == [(head, 10)]
    assert bytes(ring.memory.at(first, 2)) == b"01" and bytes(ring.memory.at(second, 8)) == b"23456789"
    assert queue.pop() is None and not queue.publish()


def test_indices_wrap() -> None:
    queue, ring = make()
    for round in range(0x1_0000 // RING_SIZE + 3):
        for _ in range(RING_SIZE):
            ring.data_at = BASE + 0x1000
            ring.add([b"x"], [])
        heads: list[int] = []
        while (chain := queue.pop()) is not None:
            heads.append(chain.head)
            queue.push(chain, 0)
        queue.publish()
        assert [head for head, _ in ring.used()] == heads and len(heads) == RING_SIZE, round


def test_an_indirect_table_is_followed() -> None:
    queue, ring = make()
    ring.add([b"one", b"two"], [16, 16], indirect_at=BASE + 0x8000)
    chain = queue.pop()
    assert chain is not None and chain.read(100) == b"onetwo" and chain.room == 32


def test_indirect_may_be_longer_than_the_ring() -> None:
    queue, ring = make()
    ring.add([b"x"] * 40, [1], indirect_at=BASE + 0x8000)
    chain = queue.pop()
    assert chain is not None and len(chain.readable) == 40


def test_undo_gives_the_same_chain_again() -> None:
    queue, ring = make()
    ring.add([b"a"], [])
    first = queue.pop()
    queue.undo_pop()
    again = queue.pop()
    assert first is not None and again is not None and first.head == again.head


def test_interrupts_without_event_index() -> None:
    queue, ring = make()
    ring.poke(ring.available_at, "H", 1)
    ring.add([b"a"], [])
    queue.push(queue.pop(), 0)  # type: ignore[arg-type]
    assert not queue.publish()
    ring.poke(ring.available_at, "H", 0)
    ring.add([b"a"], [])
    queue.push(queue.pop(), 0)  # type: ignore[arg-type]
    assert queue.publish()


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(1, RING_SIZE))
def test_event_index_is_the_specification(start: int, event: int, count: int) -> None:
    """An interrupt exactly if one of the entries just used has the index the driver named (2.7.7.2)."""
    queue, ring = make(event_index=True)
    ring.poke(ring.available_at + 4 + 2 * RING_SIZE, "H", event)
    chain = Chain(0, [], [], 0)
    state = queue._ring  # pyright: ignore[reportPrivateUsage]
    state.filled = state.published = start
    for _ in range(count):
        queue.push(chain, 0)
    assert queue.publish() == any((start + i) & 0xFFFF == event for i in range(count))


def test_listening_looks_once_more() -> None:
    for event_index in (False, True):
        queue, ring = make(event_index=event_index)
        assert not queue.settle()
        ring.add([b"a"], [])
        assert queue.settle() == MORE
        queue.pop()
        assert not queue.settle()
        if event_index:
            assert ring.peek(ring.used_at + 4 + 8 * RING_SIZE, "H") == (1,)


def test_no_notification_while_looking() -> None:
    queue, ring = make()
    queue.quiet()
    assert ring.peek(ring.used_at, "H") == (1,)
    queue.settle()
    assert ring.peek(ring.used_at, "H") == (0,)


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ([(BASE, 1, NEXT, 0)], 0, "does not end"),
        ([(BASE, 1, NEXT, 1), (BASE, 1, NEXT, 0)], 0, "does not end"),
        ([(BASE, 1, NEXT, 99)], 0, "descriptor 99 of a table of 8"),
        ([(BASE, 1, 0, 0)], 8, "descriptor 8 of a table of 8"),
        ([(0, 1, 0, 0)], 0, "1 bytes at 0x0 are not guest memory"),
        ([(BASE + SIZE - 1, 2, 0, 0)], 0, "not guest memory"),
        ([(2**64 - 1, 2, 0, 0)], 0, "not guest memory"),
        ([(BASE, 1, WRITE | NEXT, 1), (BASE, 1, 0, 0)], 0, "for reading behind one for writing"),
        ([(BASE, 15, INDIRECT, 0)], 0, "indirect table of 15 bytes"),
        ([(BASE, 0, INDIRECT, 0)], 0, "indirect table of 0 bytes"),
        ([(BASE, 16 * 1025, INDIRECT, 0)], 0, "indirect table of 16400 bytes"),
        ([(BASE, 16, INDIRECT, 0)], 0, "indirect descriptor 0 where none may be"),  # nested: it names itself
        ([(BASE, 16, INDIRECT | NEXT, 1)], 0, "indirect descriptor 0 where none may be"),
    ],
)
def test_a_broken_chain_says_why(rows: list[tuple[int, int, int, int]], head: int, message: str) -> None:
    queue, ring = make()
    for index, row in enumerate(rows):
        ring.descriptor(index, *row)
    ring.offer(head)
    with pytest.raises(QueueBroken, match=message):
        queue.pop()


def test_indirect_needs_its_feature() -> None:
    queue, ring = make(indirect=False)
    ring.add([b"x"], [], indirect_at=BASE + 0x8000)
    with pytest.raises(QueueBroken, match="indirect"):
        queue.pop()


def test_an_index_too_far_ahead() -> None:
    queue, ring = make()
    ring.poke(ring.available_at + 2, "H", RING_SIZE + 1)
    with pytest.raises(QueueBroken, match="9 ahead in a queue of 8"):
        queue.pop()


@pytest.mark.parametrize("size", [0, 3, 512, 2**32 - 1])
def test_sizes_that_cannot_be(size: int) -> None:
    queue = Queue(make_memory(), 256)
    queue.size = size
    queue.descriptors_at = queue.available_at = queue.used_at = BASE
    with pytest.raises(QueueBroken, match="power of two"):
        queue.enable(True, True)


@given(
    st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from([1, 2, 64, 256])
)
def test_ring_addresses_are_checked(descriptors: int, available: int, used: int, size: int) -> None:
    queue = Queue(make_memory(), 256)
    queue.size = size
    queue.descriptors_at, queue.available_at, queue.used_at = descriptors, available, used
    try:
        queue.enable(True, True)
    except QueueBroken:
        assert not queue.ready
    else:
        assert all(BASE <= at < BASE + SIZE for at in (descriptors, available, used))


near = st.integers(BASE - 64, BASE + SIZE + 64)
descriptor = st.tuples(
    st.one_of(near, st.integers(0, 2**64 - 1)),
    st.one_of(st.integers(0, 600), st.integers(0, 2**32 - 1)),
    st.integers(0, 7),
    st.integers(0, RING_SIZE + 1),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(descriptor, min_size=RING_SIZE, max_size=RING_SIZE),
    st.lists(st.integers(0, RING_SIZE + 1), max_size=6),
    st.booleans(),
)
def test_any_ring_gives_sound_chains_or_breaks(
    rows: list[tuple[int, int, int, int]], heads: list[int], event_index: bool
) -> None:
    """Whatever the guest wrote: chains lie in guest memory and are bounded, or the queue is broken."""
    queue, ring = make(event_index=event_index)
    for index, row in enumerate(rows):
        ring.descriptor(index, *row)
    for head in heads:
        ring.offer(head)
    try:
        for _ in range(len(heads) + 1):
            chain = queue.pop()
            if chain is None:
                break
            assert len(chain.readable) + len(chain.writable) <= 1024
            assert all(0 < len(part) <= SIZE for part in chain.readable + chain.writable)
            queue.push(chain, 0)
            queue.publish()
    except QueueBroken as error:
        assert str(error)


@given(st.lists(st.binary(max_size=7), max_size=5), st.integers(0, 40), st.integers(0, 40))
def test_cut_is_slicing(parts: list[bytes], start: int, length: int) -> None:
    pieces = cut([memoryview(part) for part in parts], start, length)
    assert b"".join(pieces) == b"".join(parts)[start : start + length]


@given(st.integers(-10, 2**64), st.integers(0, 2**33))
def test_memory_is_bounded(gpa: int, length: int) -> None:
    memory = make_memory()
    inside = gpa >= BASE and gpa + length <= BASE + SIZE
    try:
        assert len(memory.at(gpa, length)) == length and inside
    except BadAddress:
        assert not inside
