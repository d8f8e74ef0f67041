# SPDX-License-Identifier: Apache-2.0
"""The pool of frames against a set."""

from __future__ import annotations

import random

import pytest
from el2 import FRAMES, PAGE, Machine

import gz.core.frames as frames
from gz.metal.jit import Panic


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(frames.allocate, frames.allocate_run, frames.free, frames.free_run)


def test_hands_out_every_frame_once_zeroed(machine: Machine) -> None:
    machine.reset(frame_count=130)
    machine.memory.fill(FRAMES, 130 * PAGE, 0xA5)
    allocate = machine.fn(frames.allocate)
    got = [allocate() for _ in range(130)]
    assert sorted(got) == [FRAMES + i * PAGE for i in range(130)]
    assert all(machine.memory.read(frame, PAGE) == bytes(PAGE) for frame in got)
    assert allocate() == 0
    assert machine.free_frames == 0
    machine.fn(frames.free)(got[77])
    assert allocate() == got[77]


@pytest.mark.parametrize("seed", range(5))
def test_random_runs_against_a_set(machine: Machine, seed: int) -> None:
    chance = random.Random(seed)
    machine.reset(frame_count=200)
    allocate, allocate_run, free_run = map(machine.fn, (frames.allocate, frames.allocate_run, frames.free_run))
    held: dict[int, int] = {}
    taken: set[int] = set()
    for _ in range(3000):
        if held and chance.random() < 0.5:
            base = chance.choice(list(held))
            count = held.pop(base)
            free_run(base, count)
            taken -= {base + i * PAGE for i in range(count)}
        else:
            count = chance.choice([1, 1, 1, 2, 3, 4, 7, 8, 64, 65])
            base = allocate() if count == 1 else allocate_run(count)
            align = PAGE << (count - 1).bit_length()
            run = {base + i * PAGE for i in range(count)}
            if base == 0:
                starts = range(-(-FRAMES // align) * align, FRAMES + (200 - count) * PAGE + 1, align)
                assert all(any(s + i * PAGE in taken for i in range(count)) for s in starts), "there was room"
                continue
            assert base % align == 0
            assert not run & taken
            assert base >= FRAMES and base + count * PAGE <= FRAMES + 200 * PAGE
            taken |= run
            held[base] = count
        assert machine.free_frames == 200 - len(taken)


def test_freeing_what_is_not_taken_is_our_own_fault(machine: Machine) -> None:
    machine.reset(frame_count=10)
    frame = machine.fn(frames.allocate)()
    free = machine.fn(frames.free)
    free(frame)
    with pytest.raises(Panic, match="freed twice"):
        free(frame)
    for wrong in (FRAMES - PAGE, FRAMES + 10 * PAGE, FRAMES + 8):
        with pytest.raises(Panic, match="not of the pool"):
            machine.reset(frame_count=10)
            free(wrong)
