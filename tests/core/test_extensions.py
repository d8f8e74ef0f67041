# SPDX-License-Identifier: Apache-2.0
"""What EL2 grants the host of extensions guests are not told about is taken away while one runs, and comes back."""

from __future__ import annotations

import functools

import pytest
from caller import Host, finish, make_vm

import gz.core.extensions as extensions
from gz.abi.calls import Call, smc64

FGT, HCX, SME, MPAM, LS64, MOPS, TCRX = 1 << 56, 1 << 40, 1 << 24, 1 << 40, 1 << 60, 1 << 16, 1
TRAPS = ("HFGRTR_EL2", "HFGWTR_EL2", "HFGITR_EL2", "HDFGRTR_EL2", "HDFGWTR_EL2")
TRAPS_2 = ("HFGRTR2_EL2", "HFGWTR2_EL2", "HFGITR2_EL2", "HDFGRTR2_EL2", "HDFGWTR2_EL2")


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(extensions.survey, extensions.host_hcrx, extensions.grant)


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


def prepare(host: Host, **features: int) -> None:
    """The CPU as core/host.py prepares it."""
    for name, value in features.items():
        setattr(host.jit.sysregs, name, value)
    cpu = host.jit.storage("gz.core.cpu.CPUS")[0]
    cpu.extensions = host.jit.fn(extensions.survey)(cpu)
    cpu.host.hcrx = host.jit.fn(extensions.host_hcrx)()
    host.jit.fn(extensions.grant)(cpu.extensions, cpu.host)


def enter_guest(host: Host, vmid: int) -> int:
    host.x[0], host.x[1] = smc64(Call.RUN), vmid << 16
    return host.jit.raw("gz.core.calls.hypercall")(host.context, 0)


def leave_guest(host: Host, below: int) -> None:
    assert host.jit.raw("gz.core.enter.lower_irq")(below) == host.context


def values(host: Host, names: tuple[str, ...]) -> list[int]:
    return [getattr(host.jit.sysregs, name) for name in names]


def test_a_cpu_without_any_touches_none(host: Host) -> None:
    for name in (*TRAPS, *TRAPS_2, "HCRX_EL2", "MPAM2_EL2", "TPIDR2_EL0", "SMPRI_EL1"):
        setattr(host.jit.sysregs, name, 0xA5)
    prepare(host)
    vmid = make_vm(host)
    leave_guest(host, enter_guest(host, vmid))
    assert set(values(host, (*TRAPS, *TRAPS_2, "HCRX_EL2", "MPAM2_EL2", "TPIDR2_EL0", "SMPRI_EL1"))) == {0xA5}
    finish(host)


@pytest.mark.parametrize("version", [1, 2])
def test_fine_grained_traps(host: Host, version: int) -> None:
    """In a guest no field lets anything through, and none traps what it has."""
    prepare(host, ID_AA64MMFR0_EL1=2 | version * FGT)
    names = TRAPS if version == 1 else (*TRAPS, *TRAPS_2)
    granted = values(host, names)
    assert all(granted)
    vmid = make_vm(host)
    below = enter_guest(host, vmid)
    assert not any(values(host, names))
    leave_guest(host, below)
    assert values(host, names) == granted
    finish(host)


def test_extended_configuration(host: Host) -> None:
    prepare(host, ID_AA64MMFR1_EL1=HCX, ID_AA64ISAR1_EL1=LS64, ID_AA64ISAR2_EL1=MOPS, ID_AA64MMFR3_EL1=TCRX)
    assert host.jit.sysregs.HCRX_EL2 == 0b111 | 1 << 11 | 1 << 14
    vmid = make_vm(host)
    below = enter_guest(host, vmid)
    assert host.jit.sysregs.HCRX_EL2 == 0
    leave_guest(host, below)
    assert host.jit.sysregs.HCRX_EL2 == 0b111 | 1 << 11 | 1 << 14
    finish(host)


def test_partitions(host: Host) -> None:
    prepare(host, ID_AA64PFR0_EL1=MPAM)
    vmid = make_vm(host)
    below = enter_guest(host, vmid)
    assert host.jit.sysregs.MPAM2_EL2 == 1 << 58 | 3 << 48
    leave_guest(host, below)
    assert host.jit.sysregs.MPAM2_EL2 == 0
    finish(host)


def test_streaming_registers_are_each_ones_own(host: Host) -> None:
    prepare(host, ID_AA64PFR1_EL1=SME)
    regs = host.jit.sysregs
    regs.TPIDR2_EL0, regs.SMPRI_EL1 = 0x4057, 3
    vmid = make_vm(host)
    below = enter_guest(host, vmid)
    assert (regs.TPIDR2_EL0, regs.SMPRI_EL1) == (0, 0), "nothing of the host's"
    regs.TPIDR2_EL0, regs.SMPRI_EL1 = 0x6E57, 5
    leave_guest(host, below)
    assert (regs.TPIDR2_EL0, regs.SMPRI_EL1) == (0x4057, 3)
    below = enter_guest(host, vmid)
    assert (regs.TPIDR2_EL0, regs.SMPRI_EL1) == (0x6E57, 5)
    leave_guest(host, below)
    finish(host)


PROFILING, FILTERS, TRACE, BRANCHES = 1 << 32, 1 << 40, 1 << 44, 1 << 52
CONTROLS = ("PMSCR_EL1", "PMBLIMITR_EL1", "TRFCR_EL1", "TRBLIMITR_EL1", "BRBCR_EL1")
OWNED = 1 << 4  # PMBIDR_EL1.P, TRBIDR_EL1.P


def watch(host: Host) -> list[tuple[str, int, int, list[str]]]:
    """Writes of the recorders' registers from now on: name, value, VTTBR_EL2 then, barriers since the last."""
    written: list[tuple[str, int, int, list[str]]] = []

    def note(name: str, value: int) -> None:
        events = [event.name for event in host.jit.events if event.name != "isb"]
        written.append((name, value, host.jit.sysregs.VTTBR_EL2, events))
        host.jit.clear_events()

    for name in CONTROLS:
        host.jit.on_write(name, functools.partial(note, name))
    host.jit.clear_events()
    return written


@pytest.mark.parametrize(
    "features, has",
    [
        (PROFILING, {"PMSCR_EL1", "PMBLIMITR_EL1"}),
        (FILTERS, {"TRFCR_EL1"}),
        (FILTERS | TRACE, {"TRFCR_EL1", "TRBLIMITR_EL1"}),
        (BRANCHES, {"BRBCR_EL1"}),
        (PROFILING | FILTERS | TRACE | BRANCHES, {*CONTROLS}),
        (0, set[str]()),
    ],
)
def test_nothing_of_the_hosts_records_a_guest(host: Host, features: int, has: set[str]) -> None:
    """C4: sampling, trace and branch records stop before stage 2 changes, what is under way is written, and go on."""
    registers = host.jit.sysregs
    for number, name in enumerate(CONTROLS):
        setattr(registers, name, 0x11 + number)
    registers.PMSCR_EL2 = registers.BRBCR_EL2 = 3
    prepare(host, ID_AA64DFR0_EL1=features)
    assert (0 if features & PROFILING else 3) == registers.PMSCR_EL2
    assert (0 if features & BRANCHES else 3) == registers.BRBCR_EL2
    vmid = make_vm(host)
    registers.VTTBR_EL2 = 0x1234_5000
    written = watch(host)
    below = enter_guest(host, vmid)
    stops = {name: (value, vttbr, events) for name, value, vttbr, events in written}
    assert len(written) == len(has) and set(stops) == has
    assert all((value, vttbr) == (0, 0x1234_5000) for value, vttbr, _ in stops.values()), "while stage 2 is the host's"
    for name, barrier in (("PMBLIMITR_EL1", "hint psb csync"), ("TRBLIMITR_EL1", "hint tsb csync")):
        if name in has:
            _, _, events = stops[name]
            assert events[-2:] == [barrier, "dsb nsh"], "drained before the buffer is off"
    written.clear()
    leave_guest(host, below)
    assert {name: value for name, value, _, _ in written} == {name: 0x11 + CONTROLS.index(name) for name in has}
    own = host.jit.storage("gz.core.cpu.CPUS")[0].host.vttbr
    assert all(vttbr == own for _, _, vttbr, _ in written), "stage 2 is the host's again"
    if "PMSCR_EL1" in has:
        order = [name for name, *_ in written]
        assert order.index("PMBLIMITR_EL1") < order.index("PMSCR_EL1"), "the buffer before what fills it"
    finish(host)


def test_buffers_of_a_higher_level_are_not_touched(host: Host) -> None:
    """Their registers would trap there."""
    registers = host.jit.sysregs
    registers.PMBIDR_EL1 = registers.TRBIDR_EL1 = OWNED
    registers.PMSCR_EL2 = 0xA5
    prepare(host, ID_AA64DFR0_EL1=PROFILING | TRACE)
    vmid = make_vm(host)
    written = watch(host)
    leave_guest(host, enter_guest(host, vmid))
    assert not written and registers.PMSCR_EL2 == 0xA5
    finish(host)
