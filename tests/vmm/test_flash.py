# SPDX-License-Identifier: Apache-2.0
"""CFI flash as drivers use it: JESD68.01 and Intel's command set, with a driver of our own, and any accesses at all."""

from __future__ import annotations

import errno
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gz.vmm.devices.flash import Flash

FRONT, BANK = 0x8_0000, 0x400_0000
SECTOR = 0x4_0000
READY = 0x0080_0080


class Bank:
    """A bank and what became of it: `shown`, whether the guest has it as memory, and `kept`, the file."""

    def __init__(self, *, writable: bool = True, fill: int = 0xFF, rest: int = 0xFF) -> None:
        self.front = bytearray([fill]) * FRONT
        self.kept = bytearray(self.front)
        self.shown: list[bool] = []
        self.failing = False
        self.flash = Flash(memoryview(self.front), BANK, self.shown.append, self._keep if writable else None, rest)

    def _keep(self, offset: int, data: bytes) -> None:
        if self.failing:
            raise OSError(errno.ENOSPC, "full")
        self.kept[offset : offset + len(data)] = data

    def command(self, offset: int, value: int) -> None:
        """For both chips."""
        self.flash.write(offset, 4, value << 16 | value)

    def load(self, offset: int, size: int = 4) -> int:
        return self.flash.read(offset, size)

    def status(self) -> int:
        self.command(0, 0x70)
        return self.load(0)

    def program(self, offset: int, value: int) -> int:
        self.command(offset, 0x40)
        self.flash.write(offset, 4, value)
        status = self.load(offset)
        self.command(offset, 0xFF)
        return status

    def write_buffer(self, offset: int, words: list[int], count: int | None = None, confirm: int = 0xD0) -> int:
        self.command(offset, 0xE8)
        assert self.load(offset) == READY
        self.command(offset, (len(words) if count is None else count) - 1)
        for index, word in enumerate(words):
            self.flash.write(offset + 4 * index, 4, word)
        self.command(offset, confirm)
        status = self.load(offset)
        self.command(offset, 0xFF)
        return status

    def erase(self, offset: int, confirm: int = 0xD0) -> int:
        self.command(offset, 0x20)
        self.command(offset, confirm)
        status = self.load(offset)
        self.command(offset, 0xFF)
        return status


def test_a_probe_finds_two_chips_side_by_side() -> None:
    """As Linux looks (drivers/mtd/chips/cfi_probe.c): QUERY at 0x55, each chip 16 bits wide."""
    bank = Bank()
    bank.command(0x55 * 4, 0x98)
    table = [bank.load(4 * index) for index in range(0x100)]
    assert all(word >> 16 == word & 0xFFFF for word in table)
    chip = [word & 0xFFFF for word in table]
    assert bytes(chip[0x10:0x13]) == b"QRY" and chip[0x13] == 1
    assert bytes(chip[chip[0x15] :][:3]) == b"PRI"
    assert 2 << chip[0x27] - 1 << 1 == BANK
    assert chip[0x2C] == 1
    sectors, size = (chip[0x2D] | chip[0x2E] << 8) + 1, (chip[0x2F] | chip[0x30] << 8) * 256
    assert (2 * size, 2 * size * sectors) == (SECTOR, BANK)
    assert 2 << chip[0x2A] == 0x1000, "of the buffers"
    assert bank.load(SECTOR + 4 * 0x10) == chip[0x10] * 0x1_0001, "the same in every sector"
    bank.command(0, 0x90)
    assert [bank.load(4 * index) for index in range(3)] == [0x0089_0089, 0x0018_0018, 0]
    bank.command(0, 0xFF)
    assert bank.load(0) == 0xFFFF_FFFF and bank.shown == [False, True]


def test_bits_go_from_one_to_zero_and_back_by_sectors() -> None:
    bank = Bank()
    assert bank.program(0x104, 0x1234_FFFF) == READY
    assert bank.load(0x104) == 0x1234_FFFF
    assert bank.program(0x104, 0xFFFF_5678) == READY
    assert bank.load(0x104) == 0x1234_5678
    assert bank.program(SECTOR, 0) == READY
    assert bank.kept == bank.front
    assert bank.erase(0x1_2340) == READY
    assert bank.front == b"\xff" * SECTOR + bytes(4) + b"\xff" * (SECTOR - 4) == bank.kept


def test_a_buffered_write() -> None:
    bank = Bank()
    words = [0x0101_0101 * index for index in range(32)]
    assert bank.write_buffer(0x80, words) == READY
    assert [bank.load(0x80 + 4 * index) for index in range(32)] == words
    assert bank.kept == bank.front
    words = [0x7777_0000 | index for index in range(1024)]
    assert bank.write_buffer(0x2000, words) == READY, "the longest"
    assert bank.load(0x2FFC) == words[-1]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_all_widths(size: int) -> None:
    bank = Bank()
    assert bank.program(8, 0x0403_0201) == bank.program(12, 0x0807_0605) == READY
    for offset in range(8, 16, size):
        expected = 0x0807_0605_0403_0201 >> 8 * (offset - 8) & (1 << 8 * size) - 1
        assert bank.load(offset, size) == expected
    bank.command(0, 0x70)
    for offset in range(0, 8, size):
        assert bank.load(offset, size) == 0x0080_0080_0080_0080 >> 8 * offset & (1 << 8 * size) - 1
    bank.command(0, 0xFF)
    bank.flash.write(0x40, size, 0x40)
    bank.flash.write(0x40, size, 0)
    bank.flash.write(0x40, size, 0xFF)
    assert bank.front[0x40:0x50] == bytes(size) + b"\xff" * (16 - size)


def test_what_goes_wrong_is_in_the_status_until_it_is_cleared() -> None:
    sequence = 0x00B0_00B0
    bank = Bank()
    assert bank.erase(0, confirm=0x70) == sequence
    assert bank.status() == sequence
    bank.command(0, 0x50)
    assert bank.status() == READY
    assert bank.write_buffer(0, [1, 2], confirm=0) == sequence
    bank.command(0, 0x50)
    assert bank.write_buffer(0xFF8, [1, 2, 3]) == sequence, "beyond what a buffer reaches"
    bank.command(0, 0x50)
    bank.command(0, 0xE8)
    bank.command(0, 1024)  # one more word than fits
    assert bank.load(0) == sequence
    bank.command(0, 0x50)
    bank.command(0, 0xFF)
    bank.failing = True
    assert bank.program(0, 0) == 0x0090_0090 and bank.erase(0) & 0x20
    assert bank.front == b"\xff" * FRONT == bank.kept


def test_a_bank_that_cannot_be_written() -> None:
    bank = Bank(writable=False, fill=0x11)
    assert bank.program(0, 0) == 0x0092_0092
    bank.command(0, 0x50)
    assert bank.erase(0) == 0x00A2_00A2
    bank.command(0, 0x90)
    assert bank.load(8) == 0x0001_0001
    bank.command(0, 0xFF)
    assert bank.front == b"\x11" * FRONT


def test_the_rest_of_the_bank_is_what_it_was() -> None:
    bank = Bank(rest=0)
    for offset in (FRONT, BANK - 4):
        assert bank.load(offset) == 0
        assert bank.program(offset, 0) == 0x0092_0092
        bank.command(0, 0x50)
        assert bank.erase(offset) == 0x00A2_00A2
        bank.command(0, 0x50)
    assert bank.load(FRONT - 4, 8) == 0xFFFF_FFFF


def test_the_guest_has_memory_while_it_reads_an_array() -> None:
    bank = Bank()
    bank.flash.write(0x1_CB20, 4, 0x1_7384)  # EDK2 writes to a variable of its own, in its code
    bank.command(0, 0x50)
    bank.command(0, 0xF0)
    assert bank.shown == []
    bank.command(0, 0x70)
    bank.command(0, 0x90)
    assert bank.shown == [False]
    bank.command(0, 0xFF)
    bank.command(0, 0xFF)
    assert bank.shown == [False, True]
    bank.command(0, 0x60)
    bank.command(0, 0xD0)
    assert bank.load(0) == READY
    bank.command(0, 0x20)
    bank.command(0, 0xFF)
    assert bank.shown == [False, True] * 2 and bank.front == b"\xff" * FRONT


ACCESSES = st.tuples(
    st.one_of(st.integers(0, 64), st.integers(0, BANK - 8), st.integers(FRONT - 8, FRONT + 8)),
    st.sampled_from((1, 2, 4, 8)),
    st.one_of(
        st.none(),
        st.sampled_from((0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xFF, 0, 1, 2)),
        st.integers(0, 2**64 - 1),
    ),
)


@given(st.lists(ACCESSES, max_size=80))
def test_any_accesses(accesses: list[tuple[int, int, int | None]]) -> None:
    """File and memory stay the same, of their size, and erasing brings everything back."""
    bank = Bank()
    for offset, size, value in accesses:
        if value is None:
            assert 0 <= bank.load(offset, size) < 1 << 8 * size
        else:
            bank.flash.write(offset, size, value & (1 << 8 * size) - 1)
    assert bank.kept == bank.front and len(bank.front) == FRONT
    assert bank.shown == [index % 2 == 1 for index in range(len(bank.shown))]


def test_two_vcpus_at_once() -> None:
    bank = Bank()

    def work(first: int) -> None:
        for index in range(2000):
            bank.flash.write(4 * (first + index), 4, (0x40, 0, 0xE8, 3, 0xD0, 0xFF, 0x20)[(first + index) % 7])
            bank.load(4 * index)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bank.kept == bank.front
