# SPDX-License-Identifier: Apache-2.0
"""Secure boot below stock Debian: the VMM in the host VM starts what the user named, or nothing (B1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hosts import BOOT_TIMEOUT, GUEST_TIMEOUT

from gz.board.board import Board
from gz.board.qemu import Disk
from gz.board.vmm import Guest, start_console
from gz.board.wire import Kind
from gz.cli import firmware, products

GUEST = Guest(cpus=2, memory=64, params="", protected=True, pvmfw=True)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """Its core has firmware for one kernel."""
    directory = tmp_path_factory.mktemp("verified")
    kernel = Disk(products.payload("hello").flat, firmware.KERNEL, True)
    core = firmware.carried(products.core(), firmware.promise(GUEST, [kernel], False, directory), directory)
    with Board(core=core, compiled=products.libraries(), disks=[kernel], boot_timeout=BOOT_TIMEOUT) as board:
        yield board


def printed(board: Board, kernel: str, **changed: Any) -> str:
    process = start_console(board.host, replace(GUEST, kernel=kernel, **changed))
    text = b"".join(data for kind, data in process.events(GUEST_TIMEOUT) if kind is Kind.OUTPUT)
    return text.decode().replace("\r", "")


def test_the_promised_kernel_runs(board: Board) -> None:
    lines = printed(board, board.disk(firmware.KERNEL)).splitlines()
    assert lines == ["firmware: verified", "hello from a guest, device tree at 0x40000000"]


@pytest.mark.parametrize("changed", ["kernel", "params", "cpus", "disks"])
def test_another_one_does_not(board: Board, changed: str) -> None:
    """Nor the same with another command line or other devices."""
    path = board.disk(firmware.KERNEL)
    if changed == "kernel":
        board.host.put("/run/test/other", products.payload("hidden").flat.read_bytes())
        text = printed(board, "/run/test/other")
    elif changed == "disks":
        board.host.put("/run/test/disk", bytes(512))
        text = printed(board, path, disks=["/run/test/disk,ro"])
    else:
        text = printed(board, path, **{"params": "more"} if changed == "params" else {"cpus": 1})
    place = 0x4020_0000 if changed == "kernel" else 0x4000_0000
    assert text == f"firmware: what lies at {place:#x} is not what may run here\n"
