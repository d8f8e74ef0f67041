# SPDX-License-Identifier: Apache-2.0
"""Puts an initrd and the tree into guest memory (Linux, arm64/booting.rst); kernels: gz.vmm.kernel."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

from gz.vmm.memory import GuestMemory

BLOCK = 0x20_0000
"""Kernels go to a 2 MiB boundary plus their text_offset."""
PAGE = 0x1000


class LoadError(Exception):
    """A file that cannot be booted; the text says which, why and what to do."""


@dataclass(frozen=True)
class Layout:
    """Where things lie, guest-physical. An Image finds the tree at the start of RAM, where U-Boot looks for one
    too; what has no header that says how much memory it needs has it in the last 2 MiB."""

    entry: int
    tree: int
    kernel_end: int


def load_initrd(memory: GuestMemory, path: str, layout: Layout) -> tuple[int, int]:
    """Loads a file behind the kernel, or below the tree if that is at the end; gives its start and end."""
    base, size = memory.regions()[0]
    start = -(-layout.kernel_end // BLOCK) * BLOCK
    with open_file(path, "initrd") as source:
        length = source.seek(0, os.SEEK_END)
        if length == 0:
            raise LoadError(f"initrd {path}: the file is empty")
        end = layout.tree if layout.tree > start else base + size
        check_room(path, "initrd", length, end - start)
        if layout.tree > start:
            start = (end - length) // PAGE * PAGE
        source.seek(0)
        read_into(source, memory.at(start, length), path)
    return start, start + length


def load_tree(memory: GuestMemory, blob: bytes, layout: Layout) -> None:
    """Stores the finished tree, in 2 MiB that nothing else lies in."""
    if len(blob) > BLOCK:
        raise LoadError(f"the device tree has {len(blob)} bytes, more than 2 MiB")
    memory.at(layout.tree, len(blob))[:] = blob


def open_file(path: str, what: str) -> io.FileIO:
    try:
        source = io.FileIO(path)
    except OSError as error:
        raise LoadError(f"{what} {path}: {error.strerror}") from None
    if not source.seekable():
        source.close()
        raise LoadError(f"{what} {path}: not a regular file")
    return source


def check_room(path: str, what: str, needed: int, room: int) -> None:
    if needed > room:
        missing = -(-(needed - room) // 0x10_0000)
        raise LoadError(
            f"{what} {path} does not fit: it needs {-(-needed // 0x10_0000)} MiB and {max(room, 0) >> 20} MiB"
            f" are left; give the guest at least {missing} MiB more memory"
        )


def read_into(source: io.FileIO, target: memoryview, path: str) -> None:
    while target:
        count = source.readinto(target)
        if not count:
            raise LoadError(f"{path}: the file became shorter while it was read")
        target = target[count:]
