# SPDX-License-Identifier: Apache-2.0
"""Memory with an address: what compiled code under test takes for RAM.

Addresses are handed out upwards from 64 GiB, where nothing of a Python process lies: they fit 39-bit address
spaces and the same test sees the same addresses.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

BASE, LIMIT = 0x10_0000_0000, 0x7F_0000_0000

MAP_FIXED_NOREPLACE = 0x100000  # linux/mman.h; the mmap module lacks it

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_next = BASE
_live = 0


class Buffer:
    """Zeroed memory: `address` is where compiled code finds it, `memory` the same bytes for Python.

    Unmapped when neither the buffer nor a view of `memory` is left."""

    def __init__(self, size: int, align: int = mmap.PAGESIZE) -> None:
        if size <= 0 or align <= 0 or align & (align - 1):
            raise ValueError(f"a buffer of {size} bytes at a multiple of {align}")
        self.size = size
        self.address = _map(size, max(align, mmap.PAGESIZE))
        block = (ctypes.c_ubyte * size).from_address(self.address)
        weakref.finalize(block, _unmap, self.address, size).atexit = False
        self.memory = memoryview(block).cast("B")

    def __len__(self) -> int:
        return self.size


def map_at(address: int, size: int) -> None:
    """Zeroed pages at an address; OSError EEXIST if something lies there, ENOMEM."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if _libc.mmap(address, size, protection, flags | MAP_FIXED_NOREPLACE, -1, 0) != address:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _map(size: int, align: int) -> int:
    """Zeroed pages at the next free address; OSError or MemoryError if there are none."""
    global _next, _live
    if _live == 0:
        _next = BASE
    start = -(-_next // align) * align
    while True:
        if start + size > LIMIT:
            if _next == BASE:
                raise MemoryError(f"no room for {size} bytes")
            _next = start = BASE
        try:
            map_at(start, size)
        except FileExistsError:
            start += max(align, -(-size // align) * align)
            continue
        # The page behind stays free, so that running past the end is a fault.
        _next = (start + size + 2 * mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        _live += 1
        return start


def _unmap(address: int, size: int) -> None:
    global _live
    _libc.munmap(address, size)
    _live -= 1
