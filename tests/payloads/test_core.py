# SPDX-License-Identifier: Apache-2.0
"""The payloads above the core, as host and as guest: it lives through everything they do."""

from __future__ import annotations

import re

import pytest
from emulator import bare, counts, guest, host

from gz.abi.calls import CALL_COUNT, SMC32_BASE, SMC64_BASE
from gz.abi.guest import VendorCall
from gz.arm64.psci import VERSION_1_1, Psci
from gz.arm64.smccc import VERSION_1_2, Smccc

CPUS = ["cortex-a72", "cortex-a76", "neoverse-n1", "max"]

#: Instructions of one round trip: no more than this.
TARGETS = {"hvc_psci_version": 120, "id_register": 120, "mmio_read_vgic": 200, "eoi": 21, "ipi_self": 700, "timer": 700}
IPI_OTHER = 1800  # of both CPUs

HOST_CALLS = {base + index for base in (SMC32_BASE, SMC64_BASE) for index in range(CALL_COUNT)}


def answers(lines: list[str]) -> dict[int, int]:
    """Function id to x0 of the calls that are known."""
    found = (re.fullmatch(r"function (0x[0-9a-f]+) answers (0x[0-9a-f]+)", line) for line in lines)
    return {int(match[1], 16): int(match[2], 16) for match in found if match}


@pytest.mark.parametrize("cpu", CPUS)
def test_hello_host(cpu: str) -> None:
    (line,) = host("hello", cpu=cpu)
    assert line.startswith("hello from a guest")


@pytest.mark.parametrize("cpu", CPUS)
def test_hello_guest(cpu: str) -> None:
    assert guest("hello", cpu) == ["hello from a guest, device tree at 0x0"]


def test_exits() -> None:
    lines = guest("exits")
    measured = {name: int(count) for name, count in (line.split() for line in lines)}
    assert list(measured) == [
        "hvc_psci_version",
        "id_register",
        "mmio_read_vgic",
        "mmio_read_user",
        "eoi",
        "ipi_self",
        "timer",
    ]
    assert all(measured[name] <= most for name, most in TARGETS.items()), measured
    assert guest("exits") == lines


def test_exits_on_two_cpus() -> None:
    """The same, and what an interrupt for the other one costs."""
    measured = {name: int(count) for name, count in (line.split() for line in guest("exits", cpus=2))}
    assert measured.pop("ipi_other") <= IPI_OTHER
    assert all(measured[name] <= most for name, most in TARGETS.items()), measured


def test_host_interrupts_cost_nothing() -> None:
    """The host's own interrupts, timer and GIC are the hardware's."""
    names = ("eoi", "ipi_self", "timer", "mmio_read_vgic")
    ours, theirs = (dict(line.split() for line in lines) for lines in (host("exits"), bare("exits")))
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


@pytest.mark.parametrize("cpu", CPUS)
def test_registers_of_a_host(cpu: str) -> None:
    lines = [counts(line.partition(": ")[2]) for line in host("registers", cpu=cpu)]
    assert [sum(kinds.values()) for kinds in lines] == [1 << 14] * 3


@pytest.mark.parametrize("cpu", CPUS)
def test_registers_of_a_guest(cpu: str) -> None:
    """What the bare CPU does not know no guest knows, and it gets no exception that the bare CPU would not give."""
    ours, theirs = (
        [counts(line.partition(": ")[2]) for line in lines]
        for lines in (guest("registers", cpu), bare("registers", cpu))
    )
    assert [sum(kinds.values()) for kinds in ours] == [1 << 14] * 3
    for guests, machines in zip(ours, theirs, strict=True):
        assert guests["other"] <= machines["other"]
        assert guests["undefined"] >= machines["undefined"]
    assert ours[1]["read"] > 100


@pytest.mark.parametrize("cpu", CPUS)
def test_debugging_of_a_guest(cpu: str) -> None:
    """Also what this emulator's own CPU doesn't do: the OS lock."""
    checks = guest("debugging", cpu)
    assert len(checks) == 11
    assert [line for line in checks if not line.startswith("PASS ")] == []


@pytest.mark.parametrize("cpu", ["cortex-a76", "neoverse-n1", "max"])
def test_counters_of_a_guest(cpu: str) -> None:
    """Instructions are an event under -icount, so nothing is skipped."""
    checks = guest("counters", cpu)
    assert len(checks) == 10
    assert [line for line in checks if not line.startswith("PASS ")] == []
    assert checks == host("counters", cpu=cpu)


def test_no_counters_where_el2_would_be_counted() -> None:
    """FEAT_PMUv3p1 is what keeps the core's events apart."""
    assert guest("counters", "cortex-a72") == ["SKIP performance monitors"]


@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_debugging_of_a_host(cpu: str) -> None:
    assert host("debugging", cpu=cpu) == bare("debugging", cpu)


@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_registers_of_a_guests_user(cpu: str) -> None:
    """At EL0 a guest has what the bare CPU has, as far as its ID registers say so; the maintenance is the same."""
    ours, theirs = (
        [counts(line.partition(": ")[2]) for line in lines] for lines in (guest("user", cpu), bare("user", cpu))
    )
    assert [sum(kinds.values()) for kinds in ours] == [1 << 14] * 3
    assert ours[0] == theirs[0]
    for guests, machines in zip(ours, theirs, strict=True):
        assert guests["other"] <= machines["other"]
        assert guests["done"] <= machines["done"]
    if cpu == "cortex-a76":
        assert ours == theirs, "it has nothing that guests have not"


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_calls_of_a_guest(cpus: int) -> None:
    """H10: reserved arguments, both conduits and widths, every immediate."""
    lines = guest("calls", cpus=cpus)
    known = answers(lines)
    assert known[Psci.VERSION] == VERSION_1_1
    assert known[Smccc.VERSION] == VERSION_1_2
    assert VendorCall.CALL_UID in known
    assert not HOST_CALLS & set(known)
    kinds = [counts(line) for line in lines if line.endswith("answered")]
    hosts = [kinds[1], kinds[5]]
    assert hosts == [{"calls": 40, "not supported": 40, "undefined": 0, "answered": 0}] * 2
    assert not any(kind["answered"] for kind in (kinds[3], kinds[7])), "an immediate is no call"


def test_calls_of_a_host() -> None:
    """All are answered; wild arguments are refused."""
    lines = host("calls")
    known = answers(lines)
    assert set(known) >= HOST_CALLS
    kinds = [counts(line) for line in lines if line.endswith("answered")]
    assert kinds[1]["answered"] == 2 * CALL_COUNT
    assert len(kinds) == 8


@pytest.mark.parametrize("cpu, cpus", [*((cpu, 1) for cpu in CPUS), ("cortex-a76", 2), ("cortex-a76", 4)])
def test_core_memory_is_hidden(cpu: str, cpus: int) -> None:
    """M3, M14: loads and stores are external aborts; what has no effect is maintenance, prefetch, translation."""
    *regions, last = host("aborts", cpu=cpu, cpus=cpus)
    assert last == "the host lives"
    assert regions and len(regions) % cpus == 0
    for line in regions:
        kinds = counts(line.partition(": ")[2])
        assert kinds["exceptions"] == 0
        assert kinds["aborts"] >= 4 * kinds["without effect"]


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_doorbell_takes_anything(cpus: int) -> None:
    lines = host("doorbell", cpus=cpus)
    assert lines[-1] == "the host lives"
    rung, touched = (counts(line) for line in lines if line.endswith("exceptions"))
    assert rung["exceptions"] == 0
    assert rung["made"] == rung["errors"] + rung["went through"]
    assert rung["errors"] > 4000
    assert touched["exceptions"] > touched["went through"] > 0


def test_devices_of_a_guest() -> None:
    """In every window the same instructions work, are aborted for want of a syndrome, or are misaligned."""
    *windows, last = guest("devices")
    assert last == "the guest lives"
    kinds = [counts(line.partition(": ")[2]) for line in windows]
    assert len(kinds) == 5
    assert all(kind == kinds[0] for kind in kinds)
    assert min(kinds[0].values()) > 0
    assert kinds[0]["through"] > kinds[0]["aborts"]
