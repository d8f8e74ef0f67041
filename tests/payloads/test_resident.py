# SPDX-License-Identifier: Apache-2.0
"""Guests among the boot modules: the core starts them, they share the CPUs with the host and neither is in the
other's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulator import counts, host, image

from payloads import clock, idle

TICKS = [f"tick {number}" for number in range(clock.TICKS)]
HOST_SHARE = 0.7


def guests(*names: str, memory: int = 16) -> list[tuple[str, Path]]:
    return [(f"vm={name} mem={memory}", image(f"payloads.{name}")) for name in names]


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
    wrong = [("vm=text mem=16", nonsense), ("vm=large mem=4096", image("payloads.hello")), ("vm=none mem=0", nonsense)]
    lines = host("idle", guests=[*wrong, *guests("hello")])
    assert said(lines, "text") == ["not started: it does not fit into its RAM, or is no arm64 Image"]
    assert said(lines, "large") == said(lines, "none") == ["not started: no room in RAM for it"]
    assert said(lines, "hello")[-1] == "off"
    assert len(hosts(lines, "text", "large", "none", "hello")) == 2
