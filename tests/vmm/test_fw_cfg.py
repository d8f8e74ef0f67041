# SPDX-License-Identifier: Apache-2.0
"""fw_cfg as firmware uses it (QEMU, docs/specs/fw_cfg), and guests that ask for what is not there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gz.vmm.devices.fw_cfg import Bytes, File, FwCfg, Item
from gz.vmm.memory import GuestMemory

RAM, SIZE = 0x4000_0000, 0x20_0000
DATA, SELECTOR, DMA = 0, 8, 16
CMDLINE, KERNEL = 0x15, 0x11
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
ACCESS = RAM + 0x100


class Guest:
    """Everything big-endian but the data register, which keeps the order of bytes."""

    def __init__(self, items: dict[int, Item] | None = None, files: dict[str, Item] | None = None) -> None:
        self.ram = bytearray(SIZE)
        self.memory = GuestMemory([(RAM, memoryview(self.ram))])
        self.device = FwCfg(self.memory, items or {}, files or {})

    def select(self, key: int) -> None:
        self.device.write(SELECTOR, 2, int.from_bytes(key.to_bytes(2, "big"), "little"))

    def load(self, size: int) -> bytes:
        return self.device.read(DATA, size).to_bytes(size, "little")

    def item(self, key: int, length: int) -> bytes:
        self.select(key)
        return b"".join(self.load(1) for _ in range(length))

    def dma(self, control: int, length: int = 0, address: int = 0, *, at: int = ACCESS, halves: bool = False) -> int:
        """The control field afterwards."""
        if RAM <= at <= RAM + SIZE - 16:
            self.ram[at - RAM : at - RAM + 16] = struct.pack(">IIQ", control, length, address)
        words = [at.to_bytes(8, "big")] if not halves else [at.to_bytes(8, "big")[:4], at.to_bytes(8, "big")[4:]]
        for index, word in enumerate(words):
            self.device.write(DMA + 4 * index, len(word), int.from_bytes(word, "little"))
        return int.from_bytes(self.ram[at - RAM :][:4], "big") if RAM <= at < RAM + SIZE else -1


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    path = tmp_path / "kernel"
    path.write_bytes(bytes(range(256)) * 0x3000)
    fd = os.open(path, os.O_RDONLY)
    files: dict[str, Item] = {"etc/one": Bytes(b"1"), "opt/org.test/two": Bytes(b"two")}
    yield Guest({CMDLINE: Bytes(b"quiet\0"), KERNEL: File(fd)}, files)
    os.close(fd)


def test_it_says_what_it_is(guest: Guest) -> None:
    assert guest.load(4) == b"QEMU", "without a selection, as after a reset"
    assert guest.item(0, 6) == b"QEMU\0\0"
    assert guest.item(1, 4) == struct.pack("<I", 3), "registers and DMA"
    assert guest.device.read(DMA, 8).to_bytes(8, "little") == b"QEMU CFG"
    assert guest.device.read(DMA + 4, 4).to_bytes(4, "little") == b" CFG"


def test_the_directory(guest: Guest) -> None:
    head = guest.item(0x19, 4 + 2 * 64)
    assert head[:4] == (2).to_bytes(4, "big")
    rows = [struct.unpack(">IHH56s", head[4 + 64 * index :][:64]) for index in range(2)]
    assert [(size, key, name.rstrip(b"\0")) for size, key, _, name in rows] == [
        (1, 0x20, b"etc/one"),
        (3, 0x21, b"opt/org.test/two"),
    ]
    assert guest.item(0x20, 1) == b"1" and guest.item(0x21, 4) == b"two\0"


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_the_data_register_goes_on(guest: Guest, width: int) -> None:
    guest.select(KERNEL)
    assert b"".join(guest.load(width) for _ in range(256 // width)) == bytes(range(256))
    guest.select(CMDLINE | 0x4000)
    assert b"".join(guest.load(width) for _ in range(8 // width)) == b"quiet\0\0\0"
    guest.device.write(DATA, width, 1)
    assert guest.item(CMDLINE, 6) == b"quiet\0", "nothing is written"


@pytest.mark.parametrize("halves", [False, True])
def test_dma(guest: Guest, halves: bool) -> None:
    assert guest.dma(KERNEL << 16 | SELECT | READ, 0x18_0000, RAM + 0x1000, halves=halves) == 0
    assert guest.ram[0x1000:0x18_1000] == bytes(range(256)) * 0x1800
    assert guest.dma(SKIP, 0x10, halves=halves) == 0
    assert guest.dma(READ, 0x20, RAM + 0x100_000, halves=halves) == 0
    assert guest.ram[0x10_0000:0x10_0020] == bytes(range(0x10, 0x30))
    assert guest.dma(CMDLINE << 16 | SELECT, halves=halves) == 0 and guest.load(8) == b"quiet\0\0\0"
    assert guest.dma(CMDLINE << 16 | SELECT | READ, 16, RAM, halves=halves) == 0
    assert guest.ram[:16] == b"quiet".ljust(16, b"\0")
    guest.ram[:16] = b"x" * 16
    assert guest.dma(0x1234 << 16 | SELECT | READ, 16, RAM) == 0 and guest.ram[:16] == bytes(16), "no such item"


def test_dma_of_what_is_not_memory(guest: Guest) -> None:
    for length, address in (
        (1, RAM - 1),
        (2, RAM + SIZE - 1),
        (0xFFFF_FFFF, RAM),
        (1, 2**64 - 1),
        (0xFFFF_FFFF, 2**64 - 0xFFFF_FFFF),
        (0, RAM - 1),
    ):
        before = bytes(guest.ram[0x200:])
        assert guest.dma(KERNEL << 16 | SELECT | READ, length, address) == ERROR
        assert guest.ram[0x200:] == before
    assert guest.dma(KERNEL << 16 | SELECT | WRITE, 4, RAM) == ERROR
    for at in (0, RAM - 8, RAM + SIZE - 8, RAM + SIZE, 2**64 - 16):
        before = bytes(guest.ram)
        guest.dma(KERNEL << 16 | SELECT | READ, 4, RAM, at=at)
        assert guest.ram == before


def test_dma_over_itself(guest: Guest) -> None:
    """The answer is written last."""
    assert guest.dma(KERNEL << 16 | SELECT | READ, 0x1000, RAM) == 0
    assert guest.ram[0x104:0x1000] == (bytes(range(256)) * 16)[0x104:]


def test_skipping_is_not_a_way_back(guest: Guest) -> None:
    guest.select(KERNEL)
    for _ in range(5):
        assert guest.dma(SKIP, 0xFFFF_FFFF) == 0
    assert guest.load(8) == bytes(8)


def test_a_file_that_became_shorter(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"short")
    assert guest.dma(KERNEL << 16 | SELECT | READ, 0x1000, RAM + 0x1000) == ERROR
    assert guest.item(KERNEL, 4) == b"shor"
    guest.dma(SKIP, 0x1000)
    assert guest.load(8) == bytes(8)


NUMBERS = st.one_of(
    st.sampled_from((0, 1, 2, 4, 8, 0x11_000A, 0x15_000A, RAM, ACCESS, RAM + SIZE - 1)), st.integers(0, 2**64 - 1)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=64),
    st.lists(
        st.tuples(st.integers(0, 0x17), st.sampled_from((1, 2, 4, 8)), st.one_of(st.none(), NUMBERS)), max_size=40
    ),
)
def test_any_accesses(guest: Guest, access: bytes, accesses: list[tuple[int, int, int | None]]) -> None:
    guest.ram[0x100 : 0x100 + len(access)] = access
    for offset, size, value in accesses:
        if value is None:
            assert 0 <= guest.device.read(offset, size) < 1 << 8 * size
        else:
            guest.device.write(offset, size, value & (1 << 8 * size) - 1)
    assert len(guest.ram) == SIZE
