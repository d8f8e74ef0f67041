# SPDX-License-Identifier: Apache-2.0
"""Guests among the boot modules: the core starts them, they share the CPUs with the host and neither is in the
other's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulator import COUNTED, counts, failed, host, image

from payloads import clock, idle, patient

TICKS = [f"tick {number}" for number in range(clock.TICKS)]
HOST_SHARE = 0.7


#: Idle time passes at once, not at the pace of real time.
WITHOUT_SLEEP = ("-icount", "shift=0,sleep=off", *COUNTED[2:])


def guests(*names: str, memory: int = 16, cpus: int = 1) -> list[tuple[str, Path]]:
    return [(f"vm={name} mem={memory} cpus={cpus}", image(f"payloads.{name}")) for name in names]


def said(lines: list[str], name: str) -> list[str]:
    """By one of the guests."""
    return [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]


def hosts(lines: list[str], *names: str) -> list[str]:
    return [line for line in lines if not line.startswith(tuple(f"{name}: " for name in names))]


@pytest.mark.parametrize(("cpu", "cpus"), [("cortex-a76", 1), ("cortex-a76", 4), ("max", 2)])
def test_a_busy_host_shares_its_time(cpu: str, cpus: int) -> None:
    """Guests that compute and sleep come to their ends while the host computes, and it keeps most of its time."""
    alone = host("idle", cpu=cpu, cpus=cpus)
    lines = host("idle", cpu=cpu, cpus=cpus, guests=guests("hello", "clock"))
    assert said(lines, "hello") == [f"hello from a guest, device tree at {0x4000_0000 + (14 << 20):#x}", "off"]
    assert said(lines, "clock") == [f"{clock.TURNS} turns", *TICKS, "off"]
    before, after = (counts(hosts(found, "hello", "clock")[0])["turns"] for found in (alone, lines))
    assert HOST_SHARE * before < after < before
    assert counts(hosts(lines, "hello", "clock")[1])["ticks"] == idle.TICKS


@pytest.mark.parametrize(("payload", "cpus", "vcpus"), [("platform", 2, 2), ("gic", 2, 2), ("platform", 2, 4)])
def test_several_vcpus(payload: str, cpus: int, vcpus: int) -> None:
    """The checks of timers, PSCI and GIC, on as many CPUs and on fewer."""
    lines = host("patient", cpus=cpus, guests=guests(payload, cpus=vcpus), clock=WITHOUT_SLEEP)
    told = said(lines, payload)
    assert told[0].startswith(f"{vcpus} CPUs") and told[-1] == "off" and not failed(told), told
    assert hosts(lines, payload) == [f"{patient.TICKS} ticks"]


@pytest.mark.parametrize(("cpu", "cpus"), [("cortex-a76", 1), ("max", 2)])
def test_neither_starves(cpu: str, cpus: int) -> None:
    """Guests that never wait leave the host most of its time, and go on while it never waits either."""
    alone = host("idle", cpu=cpu, cpus=cpus)
    lines = host("idle", cpu=cpu, cpus=cpus, guests=guests("greedy", cpus=2))
    first, second = hosts(lines, "greedy")
    share = counts(first)["turns"] / counts(hosts(alone)[0])["turns"]
    assert HOST_SHARE < share < 1
    assert counts(first)["ticks"] == counts(second)["ticks"] == idle.TICKS
    meanwhile = said(lines[: lines.index(first)], "greedy")
    for index in range(2):
        assert sum(line.startswith(f"CPU {index} ") for line in meanwhile) > 10, meanwhile


def test_a_reset_is_the_end() -> None:
    """Of all its vCPUs, at once on one CPU; the host goes on."""
    lines = host("idle", guests=guests("restart", cpus=2))
    told = said(lines, "restart")
    assert told[0] == "turn 0" and told[-1] == "off: it asked for a reset, and is not started again", told
    assert len(hosts(lines, "restart")) == 2


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_crash_is_the_end(cpus: int) -> None:
    """Said once, whichever of its vCPUs it was, and both; the others go on."""
    lines = host("patient", cpus=cpus, guests=[*guests("lost", cpus=2), *guests("clock")], clock=WITHOUT_SLEEP)
    assert said(lines, "lost") == ["off: it cannot take its exceptions any more"]
    assert said(lines, "clock") == [f"{clock.TURNS} turns", *TICKS, "off"]
    assert hosts(lines, "lost", "clock") == [f"{patient.TICKS} ticks"]


def test_the_host_cannot_reach_their_memory() -> None:
    """Loads and stores into all that the tree reserves are aborts; the guest doesn't notice."""
    lines = host("aborts", guests=guests("clock", memory=2))
    *regions, last = hosts(lines, "clock")
    assert last == "the host lives"
    assert len(regions) == len(hosts(host("aborts"))) - 1 + 1
    assert all(counts(line.partition(": ")[2])["exceptions"] == 0 for line in regions)


@pytest.mark.parametrize("payload", ["hostile", "calls"])
def test_no_call_of_the_host_finds_them(payload: str) -> None:
    """It says and does the same as without them, and they come to their ends or are still at it."""
    lines = host(payload, guests=guests("clock"))
    assert hosts(lines, "clock")[-1] == host(payload)[-1]
    told = said(lines, "clock")
    assert told == [f"{clock.TURNS} turns", *TICKS, "off"][: len(told)]


@pytest.mark.parametrize("payload", ["registers", "devices", "calls"])
def test_a_hostile_one_is_alone_with_it(payload: str) -> None:
    """Wild registers, accesses and calls."""
    lines = host("idle", guests=guests(payload, "clock"))
    assert said(lines, "clock") == [f"{clock.TURNS} turns", *TICKS, "off"]
    assert [counts(line)["ticks"] for line in hosts(lines, payload, "clock")] == [idle.TICKS] * 2


def test_what_cannot_be_started_is_said() -> None:
    """No Image, no room, no memory at all; the others run."""
    nonsense = Path(__file__)
    hello = image("payloads.hello")
    wrong = [("vm=text mem=16", nonsense), ("vm=large mem=4096", hello), ("vm=none mem=0", nonsense)]
    lines = host("idle", guests=[*wrong, *guests("hello")])
    for cpus in (0, 9, 1 << 40):
        assert said(host("idle", guests=guests("hello", cpus=cpus)), "hello") == [
            "not started: it may have 1 to 8 CPUs"
        ]
    assert said(lines, "text") == ["not started: it does not fit into its RAM, or is no arm64 Image"]
    assert said(lines, "large") == said(lines, "none") == ["not started: no room in RAM for it"]
    assert said(lines, "hello")[-1] == "off"
    assert len(hosts(lines, "text", "large", "none", "hello")) == 2
