# SPDX-License-Identifier: Apache-2.0
"""The newc writer against cpio(5) as Linux reads it (buffer-format.rst)."""

from __future__ import annotations

import stat

from gz.board.initramfs import ALIGNMENT, Tree


def read_newc(archive: bytes) -> list[tuple[str, list[int], bytes]]:
    """An independent reader: name, header numbers, content."""
    entries: list[tuple[str, list[int], bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = numbers[6], numbers[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        assert archive[at + 110 + name_size - 1] == 0
        start = at + -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            assert not any(archive[start:])
            return entries
        entries.append((name, numbers, archive[start : start + size]))
        at = start + -(-size // 4) * 4


def sample() -> Tree:
    tree = Tree()
    tree.link("lib", "usr/lib")
    tree.file("usr/bin/tool", b"#!/bin/sh\n", 0o755)
    tree.file("lib/module.ko", b"12345")
    tree.directory("lib")
    tree.character_device("dev/console", 5, 1)
    return tree


def test_every_field_reads_back():
    entries = {name: (numbers, content) for name, numbers, content in read_newc(sample().archive())}
    assert set(entries) == {
        "lib",
        "usr",
        "usr/bin",
        "usr/bin/tool",
        "usr/lib",
        "usr/lib/module.ko",
        "dev",
        "dev/console",
    }
    numbers, content = entries["usr/bin/tool"]
    assert (numbers[1], numbers[2], numbers[3], numbers[5], content) == (
        stat.S_IFREG | 0o755,
        0,
        0,
        0,
        b"#!/bin/sh\n",
    )
    assert entries["lib"][0][1] == stat.S_IFLNK | 0o777 and entries["lib"][1] == b"usr/lib"
    numbers, _ = entries["dev/console"]
    assert stat.S_ISCHR(numbers[1]) and numbers[9:11] == [5, 1]
    inodes = [numbers[0] for numbers, _ in entries.values()]
    assert len(set(inodes)) == len(inodes)


def test_parents_come_before_their_children():
    names = [name for name, _, _ in read_newc(sample().archive())]
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or names.index(parent) < names.index(name)


def test_the_same_content_gives_the_same_bytes():
    first, second = sample().archive(), Tree()
    second.character_device("dev/console", 5, 1)
    second.link("lib", "usr/lib")
    second.file("lib/module.ko", b"12345")
    second.file("usr/bin/tool", b"#!/bin/sh\n", 0o755)
    assert first == second.archive() and len(first) % ALIGNMENT == 0


def test_a_directory_link_is_followed_and_not_replaced():
    tree = sample()
    assert "lib/module.ko" not in tree.nodes
    assert stat.S_ISLNK(tree.nodes["lib"].mode)


def test_later_files_replace_earlier_ones():
    tree = sample()
    tree.file("usr/bin/tool", b"new")
    assert tree.nodes["usr/bin/tool"].content == b"new"
