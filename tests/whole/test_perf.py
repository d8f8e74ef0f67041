# SPDX-License-Identifier: Apache-2.0
"""The performance monitors as stock Debian's driver has them in a guest."""

from __future__ import annotations

from io import BytesIO

import perf_events
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hosts import Host
from perf_events import Counted

from gz.cli import products

SCRIPT = """\
dmesg | grep -q 'armv8_pmuv3 PMU driver' || exit 1
cat > /tmp/count
chmod +x /tmp/count
/tmp/count
awk '/arm-pmu/ { print $2 + $3 }' /proc/interrupts
"""
ENTRY = 24  # e_entry in an ELF64 header


def program() -> bytes:
    """The library with an entry: Linux runs that by itself, where it has no interpreter."""
    library = products.library("perf-events", [perf_events])
    symbols = ELFFile(BytesIO(library)).get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    (start,) = symbols.get_symbol_by_name("start") or [None]
    assert start is not None
    return library[:ENTRY] + start["st_value"].to_bytes(8, "little") + library[ENTRY + 8 :]


def test_debian_counts_cycles(host: Host) -> None:
    """The driver binds, counts go on while they are enabled and only then, and overflows interrupt."""
    done = host.guest("sh", "-c", SCRIPT, cpus=2, stdin=program())
    assert done.status == 0, done
    counted = Counted.view(bytearray(done.stdout[: Counted.size]))
    assert counted.opened < 1 << 31 and counted.sampling < 1 << 31, done
    assert 0 < counted.first < counted.second <= counted.stopped == counted.later
    assert int(done.stdout[Counted.size :]) > 0, "no overflow interrupted"
