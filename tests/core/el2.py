# SPDX-License-Identifier: Apache-2.0
"""The core's functions in this process, above a machine that pretends: RAM at its physical addresses behind the window.

0x4000_0000  host RAM, 128 MiB; the last 16 MiB are the core's: ownership table, frames
0x4800_0000  a hole
0x8000_0000  host RAM, 16 MiB
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gz.core.frames as frames
import gz.core.memory as memory
import gz.core.pages as pages
from gz.core.memory import RAM_WINDOW
from gz.metal.buffer import map_at
from gz.metal.program import Program

PAGE = 4096
MIB = 1 << 20
BLOCK = 2 * MIB
GIB = 1 << 30

LOW, LOW_SIZE = 0x4000_0000, 128 * MIB
HIGH, HIGH_SIZE = 0x8000_0000, 16 * MIB
CORE = LOW + LOW_SIZE - 16 * MIB
TABLE_BYTES = 2 * (LOW_SIZE + HIGH_SIZE) // PAGE
FRAMES = CORE + MIB
FRAME_COUNT = 15 * MIB // PAGE
HOST_LOW_PAGES = (CORE - LOW) // PAGE

PA_RANGE_40 = 2

_mapped = False


def map_ram() -> None:
    global _mapped
    if not _mapped:
        map_at(RAM_WINDOW + LOW, LOW_SIZE)
        map_at(RAM_WINDOW + HIGH, HIGH_SIZE)
        _mapped = True


class Memory:
    """Physical memory in words."""

    def read64(self, pa: int) -> int:
        return ctypes.c_uint64.from_address(RAM_WINDOW + pa).value

    def write64(self, pa: int, value: int) -> None:
        ctypes.c_uint64.from_address(RAM_WINDOW + pa).value = value

    def write_words(self, pa: int, values: Sequence[int]) -> None:
        (ctypes.c_uint64 * len(values)).from_address(RAM_WINDOW + pa)[:] = values

    def read32(self, pa: int) -> int:
        return ctypes.c_uint32.from_address(RAM_WINDOW + pa).value

    def write32(self, pa: int, value: int) -> None:
        ctypes.c_uint32.from_address(RAM_WINDOW + pa).value = value

    def read(self, pa: int, size: int) -> bytes:
        return ctypes.string_at(RAM_WINDOW + pa, size)

    def fill(self, pa: int, size: int, byte: int) -> None:
        ctypes.memset(RAM_WINDOW + pa, byte, size)


class Machine:
    """Roots compiled once; `reset` before each test. `externs` stand for assembly, where the roots reach it."""

    def __init__(self, *roots: Callable[..., Any], externs: Mapping[Any, Callable[..., Any]] | None = None) -> None:
        map_ram()
        self._boot = (frames.add, pages.add, pages.keep)
        self.program = Program(roots=[*roots, *self._boot, memory.clean])
        outside = {name for name, function in self.program.functions.items() if function.body is None}
        self.jit = self.program.jit(externs={n: f for n, f in (externs or {}).items() if n in outside})
        self.memory = Memory()

    def fn(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.jit.fn(function)

    def storage(self, name: str) -> Any:
        return self.jit.storage(name)

    def reset(self, *, frame_count: int = FRAME_COUNT, pa_range: int = PA_RANGE_40) -> None:
        """As after boot: all pages the host's but those of the core."""
        self.jit.reset()
        self.jit.sysregs.ID_AA64MMFR0_EL1 = pa_range
        platform = self.jit.storage("gz.core.platform.machine")
        platform.cache_line = PAGE
        self.memory.fill(CORE, TABLE_BYTES, 0)
        add_frames, add_bank, keep = map(self.jit.fn, self._boot)
        add_frames(FRAMES, frame_count)
        add_bank(LOW, LOW_SIZE // PAGE, RAM_WINDOW + CORE)
        add_bank(HIGH, HIGH_SIZE // PAGE, RAM_WINDOW + CORE + 2 * LOW_SIZE // PAGE)
        assert keep(CORE, 16 * MIB // PAGE)

    @property
    def free_frames(self) -> int:
        return self.jit.storage("gz.core.frames.pool").free_count

    def entry(self, pa: int) -> int:
        """A page's raw entry in the ownership table."""
        index = (pa - LOW) // PAGE if pa < HIGH else (LOW_SIZE + pa - HIGH) // PAGE
        return ctypes.c_uint16.from_address(RAM_WINDOW + CORE + 2 * index).value

    def entries(self) -> memoryview:
        """All of them, bank after bank."""
        raw = (ctypes.c_uint16 * (TABLE_BYTES // 2)).from_address(RAM_WINDOW + CORE)
        return memoryview(raw).cast("B").cast("H")
