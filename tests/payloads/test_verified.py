# SPDX-License-Identifier: Apache-2.0
"""Secure boot on the emulated machine: the core's firmware starts what its manifest names and nothing else, whatever
the host does (B1, B2, H7, M1)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator import host, image

from gz.abi.run import PAGE_SIZE
from gz.cli.firmware import Verdict, carry, verifier
from gz.vmm.maps import VIRT
from payloads.verified import KERNEL, RAM_BLOCKS, REGION, SHARE_SOME

BLOCK = 2 << 20
RAM = (VIRT.ram, RAM_BLOCKS * BLOCK)
REFUSED = "host: 8 refused, 128 touched, 128 aborts, "
Start = Callable[..., list[str]]
Parts = tuple[bytes, bytes]  # tree and kernel


def firmware(tree: bytes, kernel: bytes) -> bytes:
    verdict = Verdict(KERNEL, VIRT.ram, VIRT.uart, RAM, [(VIRT.ram, tree), (KERNEL, kernel)])
    return verifier(image("payloads.firmware").read_bytes(), verdict)


def tree_of(size: int, flags: int = 0) -> bytes:
    """A page for the guest's tree: where its secrets will be."""
    return (REGION + size).to_bytes(8, "little") + flags.to_bytes(8, "little").ljust(PAGE_SIZE - 8, b"\0")


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def run(promised: Parts, given: Parts, cpu: str = "cortex-a76", cpus: int = 1) -> list[str]:
        (tmp_path / "core").write_bytes(carry(image("gz.core").read_bytes(), firmware(*promised)))
        (tmp_path / "initrd").write_bytes(b"".join(given))
        return host("verified", tmp_path / "initrd", cpu, cpus, core=tmp_path / "core")

    return run


def whole() -> tuple[bytes, bytes]:
    """Tree and kernel as they should be."""
    kernel = image("payloads.attested").read_bytes()
    return tree_of(len(firmware(tree_of(0), kernel))), kernel


def secrets(line: str) -> tuple[int, int]:
    match = re.fullmatch(r"kernel: runs, attest (0x[0-9a-f]+), seal (0x[0-9a-f]+)", line)
    assert match is not None, line
    return int(match[1], 16), int(match[2], 16)


@pytest.mark.parametrize("cpu, cpus", [("cortex-a72", 1), ("cortex-a76", 2), ("max", 4)])
def test_what_was_promised_runs(start: Start, cpu: str, cpus: int) -> None:
    first, second, last = start(whole(), whole(), cpu, cpus)
    assert first == "firmware: verified"
    attest, seal = secrets(second)
    assert attest and seal and attest != seal
    assert last == REFUSED + "0 words left"


def test_another_kernel_gets_other_secrets(start: Start) -> None:
    """Although it is as good as the first one; what seals is the same, for nobody signs either."""
    tree, kernel = whole()
    other = kernel + b"another"
    first, second = (secrets(start(parts, parts)[1]) for parts in ((tree, kernel), (tree, other)))
    assert first[0] != second[0]
    assert first[1] == second[1]


@pytest.mark.parametrize("where", ["the tree's end", "the kernel's first bit", "somewhere in the kernel"])
def test_a_flipped_bit_is_refused(start: Start, where: str) -> None:
    tree, kernel = (bytearray(part) for part in whole())
    match where:
        case "the tree's end":
            tree[-1] ^= 0x80
            wrong = VIRT.ram
        case "the kernel's first bit":
            kernel[0] ^= 1
            wrong = KERNEL
        case _:
            kernel[random.Random(3).randrange(len(kernel))] ^= 4
            wrong = KERNEL
    line, last = start(whole(), (bytes(tree), bytes(kernel)))
    assert line == f"firmware: what lies at {wrong:#x} is not what may run here"
    assert last.startswith(REFUSED)


def test_memory_that_the_host_kept_for_itself_is_refused(start: Start) -> None:
    """Or it would change what was verified, and read what the kernel works with."""
    _, kernel = whole()
    parts = tree_of(len(firmware(tree_of(0), kernel)), SHARE_SOME), kernel
    line, _ = start(parts, parts)
    assert line == "firmware: some of this memory is not private"


def test_a_core_without_firmware_says_so(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"".join(whole()))
    lines = host("verified", tmp_path / "initrd")
    assert any("the core has no firmware" in line for line in lines)
