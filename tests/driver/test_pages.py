# SPDX-License-Identifier: Apache-2.0
"""Arenas, and where the doorbell is."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_core import FakePages

from gz.abi.memory import BLOCK_SIZE
from gz.driver import pages
from gz.driver.doorbell import Doorbell, find
from gz.driver.interface import DriverError
from gz.driver.pages import AnonymousBlock, Arena


def test_arena_gives_whole_pages() -> None:
    block = FakePages().allocate("arena", BLOCK_SIZE)
    arena = Arena(block)
    first, address, physical = arena.take(1)
    second, second_address, second_physical = arena.take(0x2000)
    assert len(first) == 1 and len(second) == 0x2000
    assert second_address - address == second_physical - physical == 0x1000
    second[0] = 7
    assert block.view[0x1000] == 7
    arena.take(BLOCK_SIZE - 0x3000)
    with pytest.raises(AssertionError, match="one huge page"):
        arena.take(1)


def test_a_host_without_the_memory_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal:       99999999 kB\nMemFree:  1 kB\nMemAvailable:       3072 kB\n"
        "SwapFree:           1024 kB\nHugePages_Total:       0\n"
    )
    monkeypatch.setattr(pages, "MEMINFO", meminfo)
    block = AnonymousBlock(2 * BLOCK_SIZE)
    assert block.address % BLOCK_SIZE == 0 and len(block.view) == 2 * BLOCK_SIZE and not any(block.view[:4096])
    block.close()
    with pytest.raises(DriverError, match=r"^the host has 4 MiB to spare, the guest wants 6; give"):
        AnonymousBlock(3 * BLOCK_SIZE)


def make_tree(path: Path, compatible: bytes, doorbell: bytes | None) -> Path:
    node = path / "hypervisor"
    node.mkdir()
    (node / "compatible").write_bytes(compatible)
    if doorbell is not None:
        (node / "gz,doorbell").write_bytes(doorbell)
    return path


BOTH = b"mediatek,geniezone\0mediatek,geniezone-hyp\0"
AT = (0x1234_5000).to_bytes(8, "big") + (0x1000).to_bytes(8, "big")


def test_the_doorbell_is_found(tmp_path: Path) -> None:
    assert find(make_tree(tmp_path, BOTH, AT)) == (0x1234_5000, 0x1000)


@pytest.mark.parametrize(
    ("compatible", "doorbell", "message"),
    [(BOTH, None, "no hypervisor below"), (b"xen,xen\0", AT, "not one of a core"), (BOTH, AT[:8], "not one of a core")],
)
def test_other_trees_are_refused(tmp_path: Path, compatible: bytes, doorbell: bytes | None, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        find(make_tree(tmp_path, compatible, doorbell))


def test_hosts_without_core(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="no hypervisor below this kernel"):
        Doorbell(tree=tmp_path)
    make_tree(tmp_path, BOTH, AT)
    with pytest.raises(DriverError, match="is missing: the installation is incomplete"):
        Doorbell(tree=tmp_path, library=tmp_path / "_doorbell.so")
