# SPDX-License-Identifier: Apache-2.0
"""Stage 2 against a dictionary of pages, seen through the architecture's own walk (walker.py)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from el2 import BLOCK, FRAMES, GIB, LOW, PAGE, Machine
from walker import Translation, leaves, regime, walk

import gz.core.stage2 as stage2
from gz.abi.errors import Error
from gz.core.stage2 import Stage2

DEVICE = 0b0001 << 2 | 3 << 6 | 1 << 10 | 2 << 53  # nGnRE, read-write, AF, never executed
NORMAL = 0b1111 << 2 | 3 << 6 | 3 << 8 | 1 << 10  # write-back, read-write, inner shareable, AF

#: Bits of input address by PARange: never more than 40.
IPA_BITS = {0: 32, 1: 36, 2: 40, 3: 40, 4: 40, 5: 40, 6: 40}


@pytest.fixture(scope="module")
def compiled() -> Machine:
    return Machine(
        stage2.create,
        stage2.destroy,
        stage2.map,
        stage2.unmap,
        stage2.walk,
        stage2.vttbr,
        stage2.vtcr,
        stage2.limit,
        stage2.flush,
        stage2.reserve,
        stage2.commit,
        stage2.cancel,
    )


class Tables:
    """One set of tables with its model: page → (output, attributes)."""

    def __init__(self, machine: Machine, vmid: int) -> None:
        self.machine = machine
        self.buffer = machine.jit.buffer(Stage2.size)
        self.s = Stage2.view(self.buffer.memory, 0)
        assert machine.fn(stage2.create)(self.s, vmid)
        self.model: dict[int, tuple[int, int]] = {}
        self.vttbr = machine.fn(stage2.vttbr)(self.s)
        self.vtcr = machine.fn(stage2.vtcr)()

    def map(self, ipa: int, pa: int, size: int, attributes: int) -> int:
        return self.machine.fn(stage2.map)(self.s, ipa, pa, size, attributes)

    def unmap(self, ipa: int, size: int) -> int:
        return self.machine.fn(stage2.unmap)(self.s, ipa, size)

    def walk(self, ipa: int) -> Translation | None:
        return walk(self.machine.memory.read64, self.vtcr, self.vttbr, ipa)

    def leaves(self) -> Iterator[tuple[int, int, int, int]]:
        return leaves(self.machine.memory.read64, self.vtcr, self.vttbr)

    def expected_map(self, ipa: int, pa: int, size: int, attributes: int) -> bool:
        pages = {ipa + at: (pa + at, attributes) for at in range(0, size, PAGE)}
        if any(self.model.get(page, value) != value for page, value in pages.items()):
            return False
        self.model |= pages
        return True

    def expected_unmap(self, ipa: int, size: int) -> None:
        for at in range(0, size, PAGE):
            self.model.pop(ipa + at, None)

    def pages(self) -> dict[int, tuple[int, int]]:
        return {
            ipa + at: (pa + at, attributes)
            for ipa, pa, size, attributes in self.leaves()
            for at in range(0, size, PAGE)
        }

    def table_count(self) -> int:
        """Frames that the walk can reach."""
        bits, level, base = regime(self.vtcr, self.vttbr)
        read64 = self.machine.memory.read64
        roots = max(1, (8 << bits - 30) // PAGE)
        assert level == 1
        count = roots
        for index in range(1 << bits - 30):
            upper = read64(base + 8 * index)
            if upper & 3 == 3:
                count += 1
                table = upper & 0xFFFF_FFFF_F000
                count += sum(read64(table + 8 * k) & 3 == 3 for k in range(512))
        return count


@pytest.fixture
def tables(compiled: Machine) -> Tables:
    compiled.reset()
    return Tables(compiled, 7)


@pytest.mark.parametrize("pa_range", IPA_BITS)
def test_geometry(compiled: Machine, pa_range: int) -> None:
    compiled.reset(pa_range=pa_range)
    tables = Tables(compiled, 3)
    bits, level, base = regime(tables.vtcr, tables.vttbr)
    assert bits == IPA_BITS[pa_range] and level == 1
    assert tables.vttbr >> 48 == 3
    assert tables.vtcr >> 16 & 7 == min(pa_range, 5)
    assert base == tables.s.root >= FRAMES
    assert compiled.fn(stage2.limit)() == 1 << bits
    top = (1 << bits) - PAGE
    assert tables.map(top, LOW, PAGE, NORMAL) == 0
    assert tables.walk(top + 5) == Translation(LOW + 5, PAGE, NORMAL)
    assert tables.map(top, LOW, 2 * PAGE, NORMAL) == Error.INVALID_ARGS
    assert tables.map(1 << bits, LOW, PAGE, NORMAL) == Error.INVALID_ARGS


def test_attributes(tables: Tables) -> None:
    assert (stage2.NORMAL, stage2.DEVICE) == (NORMAL, DEVICE)


BAD = [
    (0, LOW, 0),
    (1, LOW, PAGE),
    (0, LOW + 1, PAGE),
    (0, LOW, PAGE + 1),
    (1 << 40, LOW, PAGE),
    ((1 << 40) - PAGE, LOW, 2 * PAGE),
    (PAGE, LOW, (1 << 64) - PAGE),
    ((1 << 64) - PAGE, LOW, 2 * PAGE),
]


@pytest.mark.parametrize("ipa, pa, size", BAD)
def test_bad_ranges_are_refused_without_effect(tables: Tables, ipa: int, pa: int, size: int) -> None:
    frames = tables.machine.free_frames
    assert tables.map(ipa, pa, size, NORMAL) == Error.INVALID_ARGS
    if pa == LOW:
        assert tables.unmap(ipa, size) == Error.INVALID_ARGS
    assert tables.pages() == {} and tables.machine.free_frames == frames


def _range(chance: random.Random) -> tuple[int, int]:
    """A start and a size that often touch the borders of leaves."""
    start = chance.choice((0, GIB - BLOCK, 5 * GIB + 3 * BLOCK)) + chance.choice((0, 1, 2)) * BLOCK
    start += chance.choice((0, 0, 0, 1, 2, 255, 510, 511)) * PAGE
    size = chance.choice((PAGE, PAGE, 2 * PAGE, 7 * PAGE, 511 * PAGE, BLOCK, BLOCK, BLOCK + PAGE, 2 * BLOCK))
    return start, size


@pytest.mark.parametrize("vmid", [0, 9])
@pytest.mark.parametrize("seed", range(4))
def test_random_histories(compiled: Machine, seed: int, vmid: int) -> None:
    compiled.reset()
    free = compiled.free_frames
    tables = Tables(compiled, vmid)
    chance = random.Random(seed)
    refused = 0
    for step in range(250):
        ipa, size = _range(chance)
        if chance.random() < 0.55:
            pa = LOW + ipa % (8 * BLOCK) + chance.choice((0, 0, 0, 0, PAGE, BLOCK, 4 * GIB))
            attributes = chance.choice((NORMAL, NORMAL, NORMAL, DEVICE))
            allowed = tables.expected_map(ipa, pa, size, attributes)
            refused += not allowed
            assert tables.map(ipa, pa, size, attributes) == (0 if allowed else Error.INVALID_ARGS)
        else:
            tables.expected_unmap(ipa, size)
            assert tables.unmap(ipa, size) == 0
        if step % 10 == 0:
            assert tables.pages() == tables.model
            assert tables.table_count() == tables.s.frames == free - compiled.free_frames
    assert tables.pages() == tables.model
    assert refused > 10
    while not tables.machine.fn(stage2.destroy)(tables.s, 10):
        pass
    assert compiled.free_frames == free


def test_nothing_is_left_when_all_is_unmapped(tables: Tables) -> None:
    frames = tables.machine.free_frames
    for ipa in (0, 3 * PAGE, BLOCK, GIB - PAGE, 7 * GIB):
        assert tables.map(ipa, LOW + ipa % BLOCK, 3 * PAGE, NORMAL) == 0
    assert tables.unmap(0, 8 * GIB) == 0
    assert tables.pages() == {} and tables.machine.free_frames == frames


def test_largest_leaves(compiled: Machine) -> None:
    compiled.reset()
    host, guest = Tables(compiled, 0), Tables(compiled, 1)
    for tables, largest in ((host, GIB), (guest, BLOCK)):
        assert tables.map(GIB - BLOCK - PAGE, 3 * GIB - BLOCK - PAGE, GIB + BLOCK + 2 * PAGE, NORMAL) == 0
        sizes = [size for _, _, size, _ in tables.leaves()]
        blocks = GIB // largest
        assert sizes == [PAGE, BLOCK] + [largest] * blocks + [PAGE] * 1
    # A whole GiB for the host costs no table at all.
    frames = host.s.frames
    assert host.map(8 * GIB, 8 * GIB, 4 * GIB, NORMAL) == 0 and host.s.frames == frames


def test_mapping_again_changes_nothing(tables: Tables) -> None:
    assert tables.map(BLOCK, LOW, BLOCK, NORMAL) == 0
    before = list(tables.leaves())
    for ipa, size in ((BLOCK, BLOCK), (BLOCK + 5 * PAGE, PAGE), (2 * BLOCK - PAGE, PAGE)):
        assert tables.map(ipa, LOW + ipa - BLOCK, size, NORMAL) == 0
        assert tables.map(ipa, LOW + ipa - BLOCK, size, DEVICE) == Error.INVALID_ARGS
        assert tables.map(ipa, LOW + ipa, size, NORMAL) == Error.INVALID_ARGS
    assert list(tables.leaves()) == before


def test_512_pages_become_a_block(tables: Tables) -> None:
    frames = tables.s.frames
    order = list(range(512))
    random.Random(3).shuffle(order)
    for index in order:
        assert tables.map(BLOCK + index * PAGE, LOW + 4 * BLOCK + index * PAGE, PAGE, NORMAL) == 0
    assert list(tables.leaves()) == [(BLOCK, LOW + 4 * BLOCK, BLOCK, NORMAL)]
    assert tables.s.frames == frames + 1  # the table of level 2


def test_pages_that_are_no_block_stay_pages(tables: Tables) -> None:
    for first in (LOW + PAGE, LOW + 4 * BLOCK - PAGE):
        for index in range(512):
            assert tables.map(index * PAGE, first + index * PAGE, PAGE, NORMAL) == 0
        assert [size for _, _, size, _ in tables.leaves()] == [PAGE] * 512
        assert tables.unmap(0, BLOCK) == 0


def test_a_table_is_forgotten_before_its_frame_is_free(tables: Tables) -> None:
    """What walks cache of tables goes only with all of the VMID."""
    assert tables.map(0, LOW, PAGE, NORMAL) == 0
    machine = tables.machine
    free: list[int] = []
    machine.jit.on_write("TCR_EL1", lambda value: free.append(machine.free_frames))
    before = machine.free_frames
    machine.jit.clear_events()
    assert tables.unmap(0, PAGE) == 0
    assert machine.free_frames == before + 2
    assert "tlbi vmalls12e1is" in [event.name for event in machine.jit.events]
    assert free and set(free) == {before}  # the last write ends the maintenance


def test_errors_for_want_of_frames_have_no_effect(compiled: Machine) -> None:
    for count in range(2, 12):
        compiled.reset(frame_count=count)
        tables = Tables(compiled, 1)
        for ipa in (0, GIB, GIB + BLOCK, 2 * GIB, 3 * GIB):
            before, frames = tables.pages(), compiled.free_frames
            error = tables.map(ipa + PAGE, LOW, BLOCK, NORMAL)
            assert error in (0, Error.NO_MEMORY)
            if error:
                assert tables.pages() == before and compiled.free_frames == frames
        # A block that cannot be split stays.
        assert compiled.free_frames == 0 or tables.map(9 * GIB, LOW, BLOCK, NORMAL) in (0, Error.NO_MEMORY)
        if tables.walk(9 * GIB) and compiled.free_frames == 0:
            before = tables.pages()
            assert tables.unmap(9 * GIB + PAGE, PAGE) == Error.NO_MEMORY
            assert tables.pages() == before


def test_broken_before_made(compiled: Machine) -> None:
    """At each TLB maintenance, no entry that will look different afterwards is valid (DDI 0487 D8.14.1).

    Maintenance for another VMID than the current one is framed by two writes of VTTBR_EL2: they are our windows.
    """
    compiled.reset()
    tables = Tables(compiled, 4)
    seen: list[Leaves] = []
    compiled.jit.on_write("VTTBR_EL2", lambda value: seen.append(_by_page(tables)))
    chance = random.Random(11)
    changed = 0
    for _ in range(150):
        ipa, size = _range(chance)
        before = _by_page(tables)
        seen.clear()
        if chance.random() < 0.6:
            tables.map(ipa, LOW + ipa % (8 * BLOCK), size, NORMAL)
        else:
            tables.unmap(ipa, size)
        for page, leaf in _by_page(tables).items():
            if before.get(page, leaf) != leaf:
                changed += 1
                assert any(page not in view for view in seen)
    assert changed > 1000


Leaves = dict[int, tuple[int, int, int, int]]


def _by_page(tables: Tables) -> Leaves:
    """The leaf that maps each page."""
    return {leaf[0] + at: leaf for leaf in tables.leaves() for at in range(0, leaf[2], PAGE)}


def test_maintenance_sequence_for_a_page(tables: Tables) -> None:
    assert tables.map(5 * BLOCK, LOW, 3 * PAGE, NORMAL) == 0
    jit = tables.machine.jit
    jit.sysregs.VTTBR_EL2 = 0x1234_5000
    jit.sysregs.TCR_EL1 = 0x0000_0035_B519_3519
    jit.clear_events()
    assert tables.unmap(5 * BLOCK + PAGE, PAGE) == 0
    names = [event.name for event in jit.events]
    first = names.index("tlbi ipas2e1is")
    assert names[first - 1 : first + 5] == [
        "dsb ishst",
        "tlbi ipas2e1is",
        "dsb ish",
        "tlbi vmalle1is",
        "dsb ish",
        "isb",
    ]
    assert jit.events[first].value == (5 * BLOCK + PAGE) >> 12
    assert jit.sysregs.VTTBR_EL2 == 0x1234_5000 and jit.sysregs.TCR_EL1 == 0x0000_0035_B519_3519


def test_maintenance_runs_under_the_tables_vmid_with_walks_off(tables: Tables) -> None:
    jit = tables.machine.jit
    states: list[tuple[int, int]] = []
    jit.on_write("VTTBR_EL2", lambda value: states.append((value, jit.sysregs.TCR_EL1)))
    jit.sysregs.VTTBR_EL2 = 0xABC000
    tables.machine.fn(stage2.flush)(tables.s)
    (value, tcr), (back, _) = states
    assert value == tables.vttbr and back == 0xABC000
    assert tcr >> 7 & 1 and tcr >> 23 & 1  # EPD0, EPD1


def test_a_walker_finds_what_is_written(tables: Tables) -> None:
    """A new table is zeros before an entry leads to it, and new leaves are there when the call returns."""
    jit = tables.machine.jit
    assert tables.map(3 * BLOCK, LOW, PAGE, NORMAL) == 0
    names = [event.name for event in jit.events]
    assert names.count("dmb ishst") == 2, "tables of level 2 and 3"
    assert names[-2:] == ["dsb ishst", "isb"]
    jit.clear_events()
    assert tables.map(3 * BLOCK + PAGE, LOW + PAGE, PAGE, NORMAL) == 0
    assert [event.name for event in jit.events] == ["dsb ishst", "isb"]


def test_unmapping_much_flushes_once(tables: Tables) -> None:
    assert tables.map(0, LOW, BLOCK - PAGE, NORMAL) == 0
    tables.machine.jit.clear_events()
    assert tables.unmap(0, BLOCK) == 0
    names = [event.name for event in tables.machine.jit.events]
    assert names.count("tlbi vmalls12e1is") == 1 and names.count("tlbi ipas2e1is") <= 32


def test_reserved_is_invisible_until_commit(tables: Tables) -> None:
    machine, s = tables.machine, tables.s
    frames = machine.free_frames
    reserve, commit, cancel = map(machine.fn, (stage2.reserve, stage2.commit, stage2.cancel))
    assert reserve(s, 0, LOW, 3 * PAGE, NORMAL) == (0, PAGE, True)
    assert reserve(s, 0, LOW, PAGE, NORMAL) == (0, PAGE, False)
    assert reserve(s, 0, LOW + PAGE, PAGE, NORMAL)[0] == Error.INVALID_ARGS
    assert tables.pages() == {}
    cancel(s, 0, PAGE)
    assert machine.free_frames == frames
    assert reserve(s, BLOCK, LOW, BLOCK + PAGE, NORMAL) == (0, BLOCK, True)
    assert commit(s, BLOCK, BLOCK) == BLOCK
    assert tables.pages() == {BLOCK + at: (LOW + at, NORMAL) for at in range(0, BLOCK, PAGE)}
    assert reserve(s, BLOCK + PAGE, LOW + PAGE, 8 * BLOCK, NORMAL) == (0, BLOCK - PAGE, False)


def test_a_host_of_many_gigabytes_takes_one_frame_per_split(compiled: Machine) -> None:
    compiled.reset()
    host = Tables(compiled, 0)
    assert host.map(0, 0, 1 << 40, NORMAL) == 0
    assert host.s.frames == 2
    assert host.unmap(LOW + 5 * BLOCK + PAGE, PAGE) == 0
    assert host.s.frames == 4
    assert host.walk(LOW + 5 * BLOCK) == Translation(LOW + 5 * BLOCK, PAGE, NORMAL)
    assert host.walk(LOW + 5 * BLOCK + PAGE) is None
    assert host.walk(LOW + 7 * BLOCK) == Translation(LOW + 7 * BLOCK, BLOCK, NORMAL)
    assert host.walk(7 * GIB) == Translation(7 * GIB, GIB, NORMAL)
