# SPDX-License-Identifier: Apache-2.0
"""A program for Linux, in metal: counts cycles through perf_event_open(2), then lets the counter overflow.

Its output are the words of `Counted`, as they lie in memory.
"""

from __future__ import annotations

from typing import NoReturn

from gz.arm64.insn import svc
from gz.bits import Struct, storage, u32, u64
from gz.metal import address, export, read_once, write_once

#: System calls (Linux, asm-generic/unistd.h).
IOCTL, READ, WRITE, EXIT, PERF_EVENT_OPEN = 29, 63, 64, 93, 241
#: linux/perf_event.h
TYPE_HARDWARE, COUNT_CPU_CYCLES = 0, 0
IOC_DISABLE = 0x2401
ANY_CPU, NO_GROUP = (1 << 64) - 1, (1 << 64) - 1
_TURNS = 200_000
_PERIOD = 1_000_000
_TURNS_OF_SAMPLING = 50 * _TURNS
_STANDARD_OUTPUT = 1
_WORD = 8


class Attributes(Struct):
    """perf_event_attr in its first version, PERF_ATTR_SIZE_VER0."""

    type: u32
    size: u32
    config: u64
    sample_period: u64
    sample_type: u64
    read_format: u64
    flags: u64
    wakeup_events: u32
    breakpoint_type: u32
    breakpoint_address: u64


class Counted(Struct):
    opened: u64
    """A file descriptor, or an error below 0."""
    first: u64
    second: u64
    """After as much again."""
    stopped: u64
    later: u64
    """After as much again that does not count."""
    sampling: u64
    """A file descriptor, or an error below 0."""


ATTRIBUTES = storage(Attributes)
COUNTED = storage(Counted)
WORK = storage(u64, 1)
COUNT = storage(u64, 1)


def work(turns: u64) -> None:
    for i in range(turns):
        write_once(WORK[0], i)


def count_cycles(period: u64) -> u64:
    """Of this thread, from now on."""
    ATTRIBUTES.type = TYPE_HARDWARE
    ATTRIBUTES.size = Attributes.size
    ATTRIBUTES.config = COUNT_CPU_CYCLES
    ATTRIBUTES.sample_period = period
    file, _, _, _ = svc(PERF_EVENT_OPEN, u64(address(ATTRIBUTES)), 0, ANY_CPU, NO_GROUP, 0)
    return file


def read(file: u64) -> u64:
    svc(READ, file, u64(address(COUNT[0])), _WORD)
    return read_once(COUNT[0])


@export
def start() -> NoReturn:
    """Where the process begins."""
    file = count_cycles(0)
    COUNTED.opened = file
    work(_TURNS)
    COUNTED.first = read(file)
    work(_TURNS)
    COUNTED.second = read(file)
    svc(IOCTL, file, IOC_DISABLE, 0)
    COUNTED.stopped = read(file)
    work(_TURNS)
    COUNTED.later = read(file)
    COUNTED.sampling = count_cycles(_PERIOD)
    work(_TURNS_OF_SAMPLING)
    svc(WRITE, _STANDARD_OUTPUT, u64(address(COUNTED)), Counted.size)
    while True:
        svc(EXIT, 0)
