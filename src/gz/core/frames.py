# SPDX-License-Identifier: Apache-2.0
"""The pool of 4 KiB frames that the core keeps for translation tables and vCPUs: one bit per frame."""

from __future__ import annotations

import gz.core.lock as lock
import gz.core.memory as memory
from gz.bits import Array, Held, Pa, Struct, array, storage, u64
from gz.core.lock import Lock
from gz.metal import count_trailing_zeros, held, inline, releases

FRAME_SIZE = 4096
FRAME_COUNT_MAX = 16384  # 64 MiB: enough for 64 GiB of RAM at the share that the core may keep
_WORD_BITS = 64
_WORD_COUNT = FRAME_COUNT_MAX // _WORD_BITS


class FramePool(Struct):
    lock: Lock
    base: Pa
    count: u64
    free_count: u64
    hint: u64  # no word below this one has a free frame
    used: Array[u64] = array(_WORD_COUNT)  # bit set: taken, or not in the pool


pool = storage(FramePool)


@inline
def _acquire() -> Held[FramePool]:
    lock.acquire(pool.lock)
    return held(pool)


@inline
@releases
def _release(frames: Held[FramePool]) -> None:
    lock.release(frames.lock)


def add(base: Pa, count: u64) -> None:
    """Once, at boot: `count` frames from `base` on are the pool; what exceeds FRAME_COUNT_MAX stays unused."""
    assert pool.count == 0, "the pool of frames is one stretch"
    assert u64(base) % FRAME_SIZE == 0, "a frame is not aligned"
    pool.base = base
    pool.count = min(count, FRAME_COUNT_MAX)
    pool.free_count = pool.count
    for i in range(_WORD_COUNT):
        pool.used[i] = ~u64(0)
    frames = _acquire()
    for i in range(pool.count):
        _mark(frames, i, False)
    _release(frames)


def allocate() -> Pa:
    """A frame of zeros; Pa(0) if none is left."""
    frames = _acquire()
    word = pool.hint
    while word < _WORD_COUNT and pool.used[word] == ~u64(0):
        word += 1
    pool.hint = word
    if word == _WORD_COUNT:
        _release(frames)
        return Pa(0)
    index = word * _WORD_BITS + count_trailing_zeros(~pool.used[word])
    _mark(frames, index, True)
    pool.free_count -= 1
    _release(frames)
    frame = pool.base + index * FRAME_SIZE
    memory.zero(frame, FRAME_SIZE)
    return frame


def allocate_run(count: u64) -> Pa:
    """`count` contiguous frames of zeros, aligned to their size rounded up to a power of two; Pa(0): none
    such.
    """
    step: u64 = 1
    while step < count:
        step <<= 1
    frames = _acquire()
    origin = u64(pool.base) // FRAME_SIZE  # it is the address that has to be aligned, not the index
    index = (0 - origin) & (step - 1)
    while index + count <= pool.count and not _free(frames, index, count):
        index += step
    if count == 0 or index + count > pool.count:
        _release(frames)
        return Pa(0)
    for i in range(count):
        _mark(frames, index + i, True)
    pool.free_count -= count
    _release(frames)
    run = pool.base + index * FRAME_SIZE
    memory.zero(run, count * FRAME_SIZE)
    return run


def free(frame: Pa) -> None:
    free_run(frame, 1)


def free_run(run: Pa, count: u64) -> None:
    """Frames of one or of several allocations; those of one may come back in parts."""
    index = (run - pool.base) // FRAME_SIZE
    assert u64(run) % FRAME_SIZE == 0 and index < pool.count and count <= pool.count - index, "not of the pool"
    frames = _acquire()
    for i in range(count):
        assert not _free(frames, index + i, 1), "a frame was freed twice"
        _mark(frames, index + i, False)
    pool.free_count += count
    pool.hint = min(pool.hint, index // _WORD_BITS)
    _release(frames)


def _mark(frames: Held[FramePool], index: u64, taken: bool) -> None:
    bit = u64(1) << (index % _WORD_BITS)
    word = index // _WORD_BITS
    if taken:
        frames.used[word] |= bit
    else:
        frames.used[word] &= ~bit


def _free(frames: Held[FramePool], index: u64, count: u64) -> bool:
    for i in range(index, index + count):
        if frames.used[i // _WORD_BITS] >> (i % _WORD_BITS) & 1 != 0:
            return False
    return True
