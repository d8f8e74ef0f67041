# SPDX-License-Identifier: Apache-2.0
"""Root file systems in memory: cpio archives in the "newc" format (Linux, buffer-format.rst), made without
root.

Everything belongs to uid 0, times are zero and names are sorted, so the same content gives the same bytes."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gz.board import deb

ALIGNMENT = 512
"""Archives are padded to this, so that they can be concatenated and put on a block device."""


@dataclass(frozen=True)
class Node:
    """`mode` with its type bits; `device` is (major, minor) of a device node."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def record(name: str, inode: int, node: Node) -> bytes:
    """One newc record: 110 bytes of header in hexadecimal, name and content each padded to 4."""
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    numbers = (inode, node.mode, 0, 0, links, 0, len(node.content), 0, 0, *node.device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
    return pad(header, 4) + pad(node.content, 4)


def pad(data: bytes, to: int) -> bytes:
    """`data` with zeros up to a multiple of `to`."""
    return data + bytes(-len(data) % to)


@dataclass
class Tree:
    """A file tree under construction: parents come by themselves, later files replace earlier ones."""

    nodes: dict[str, Node] = field(default_factory=dict[str, "Node"])

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._put(name, Node(stat.S_IFDIR | mode))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._put(name, Node(stat.S_IFREG | mode, content))

    def link(self, name: str, target: str) -> None:
        self._put(name, Node(stat.S_IFLNK | 0o777, target.encode()))

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._put(name, Node(stat.S_IFCHR | mode, device=(major, minor)))

    def package(self, path: Path, keep: Callable[[str], bool]) -> None:
        """Unpack what `keep` chooses by name of a .deb."""
        for entry in deb.entries(path):
            if not keep(entry.name):
                continue
            if entry.target is not None:
                self.link(entry.name, entry.target)
            elif entry.content is None:
                self.directory(entry.name, entry.mode)
            else:
                self.file(entry.name, entry.content, entry.mode)

    def archive(self) -> bytes:
        """The tree as an uncompressed newc archive."""
        parts = [
            record(name, number, self.nodes[name])
            for number, name in enumerate(sorted(self.nodes, key=lambda name: name.split("/")), 1)
        ]
        parts.append(record("TRAILER!!!", 0, Node(0)))
        return pad(b"".join(parts), ALIGNMENT)

    def _put(self, name: str, node: Node) -> None:
        name = self._resolve(name.strip("/"))
        existing = self.nodes.get(name)
        if existing is not None and stat.S_ISDIR(node.mode) and not stat.S_ISREG(existing.mode):
            return  # a directory that is there already, perhaps by a link
        self.nodes[name] = node
        parent = name.rpartition("/")[0]
        if parent and parent not in self.nodes:
            self.directory(parent)

    def _resolve(self, name: str) -> str:
        """`name` with directory links on its way followed: with a merged /usr, lib/x is usr/lib/x."""
        parent, slash, last = name.rpartition("/")
        if not parent:
            return name
        parent = self._resolve(parent)
        node = self.nodes.get(parent)
        if node is not None and stat.S_ISLNK(node.mode):
            parent = node.content.decode().strip("/")
        return f"{parent}{slash}{last}"
