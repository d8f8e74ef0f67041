# SPDX-License-Identifier: Apache-2.0
"""The doorbell under load, guests that start over, and VMMs that die at any moment."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hosts import Host

from gz.board.channel import Process
from gz.board.vmm import QUIET, Guest, resize_console, start_console
from gz.board.wire import Kind

PROMPT = b"guest# "
#: The time and the first line of /proc/stat before and after five seconds in which $1 processes never wait.
STEAL = """
for i in $(seq $1); do (while :; do :; done) & done
sleep 2
echo $(cut -d' ' -f1 /proc/uptime) $(head -1 /proc/stat)
sleep 5
echo $(cut -d' ' -f1 /proc/uptime) $(head -1 /proc/stat)
"""
USER_HZ = 100
TROUBLE = "grep -icE 'stall|lockup|hung|lost|BUG:|WARNING:'"


@contextmanager
def busy(host: Host) -> Generator[None]:
    """A process that never sleeps on every CPU of the host."""
    cpus = int(host.shell("nproc"))
    loops = [host.board.host.start(["sh", "-c", "while :; do :; done"]) for _ in range(cpus)]
    try:
        yield
    finally:
        for loop in loops:
            loop.signal(9)


def until(process: Process, wanted: bytes, seconds: float = 240) -> bytes:
    """What the console prints up to `wanted`."""
    seen = b""
    for kind, data in process.events(seconds):
        if kind is Kind.OUTPUT:
            seen += data
            if wanted in seen:
                return seen
    raise AssertionError(f"the guest ended before {wanted!r}: {seen[-500:]!r}")


def wait_for_pages(host: Host, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while host.huge_pages() != 0:
        assert time.monotonic() < deadline, "the guest's pages do not come back"
        time.sleep(0.2)


def test_timers_of_a_guest_while_the_host_is_busy(host: Host):
    """Sleeps in the guest end, in time by its own clock and not before; neither kernel complains."""
    script = (
        "for i in 1 2 3 4 5 6 7 8 9 10; do a=$(cut -d' ' -f1 /proc/uptime); sleep 0.3;"
        " echo $a $(cut -d' ' -f1 /proc/uptime); done; dmesg | " + TROUBLE
    )
    with busy(host):
        done = host.guest("sh", "-c", script, cpus=2)
    *sleeps, complaints = done.text.splitlines()
    assert len(sleeps) == 10 and complaints == "0", done
    for line in sleeps:
        begin, end = map(float, line.split())
        assert 0.29 <= end - begin < 10, line
    assert host.shell(f"dmesg | {TROUBLE} || true").strip() == "0"


def test_timers_of_the_host_while_guests_are_busy(host: Host):
    """A guest that never waits on each CPU: the host's sleeps still end."""
    cpus = int(host.shell("nproc"))
    guests = [host.start("sh", "-c", "echo go; while :; do :; done") for _ in range(cpus)]
    try:
        for guest in guests:
            until(guest, b"go")
        begin = float(host.shell("cut -d' ' -f1 /proc/uptime"))
        host.shell("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; done", timeout=120)
        assert 2 <= float(host.shell("cut -d' ' -f1 /proc/uptime")) - begin < 60
    finally:
        for guest in guests:
            guest.signal(15)
    wait_for_pages(host)
    assert host.shell(f"dmesg | {TROUBLE} || true").strip() == "0"


def test_stolen_time(host: Host):
    """Of twice as many vCPUs as CPUs each waits half of the time, as many have them nearly for themselves; what else
    the machine under the emulator does takes its share of both."""
    cpus = int(host.shell("nproc"))
    shares: list[float] = []
    for vcpus in (cpus, 2 * cpus):
        done = host.guest("sh", "-c", STEAL, "sh", str(vcpus), cpus=vcpus)
        lines = [line.split() for line in done.text.splitlines()]
        (begin, before), (end, after) = ((float(line[0]), int(line[9])) for line in lines)
        shares.append((after - before) / USER_HZ / (end - begin) / vcpus)
    assert 2 * shares[0] < shares[1] and 0.35 < shares[1] < 0.75, shares


def test_a_guest_starts_over(host: Host):
    """SYSTEM_RESET gives a fresh machine, SYSTEM_OFF ends the VMM with status 0."""
    guest = Guest(host.board.disk("gz-kernel"), host.initrd([]), memory=256, params=QUIET)
    process = start_console(host.board.host, guest)
    until(process, PROMPT)
    process.write(b"touch /here; reboot -f\n")
    until(process, PROMPT)
    process.write(b"ls /here; poweroff -f\n")
    rest = b"".join(data for _, data in process.events(240))
    assert b"No such file" in rest and process.status == 0, rest
    assert host.huge_pages() == 0


def test_the_terminal_changes_its_size(host: Host):
    """The console has the size of the user's terminal from the start on, and programs hear of changes."""
    guest = Guest(host.board.disk("gz-kernel"), host.initrd([]), memory=256, params=QUIET)
    process = start_console(host.board.host, guest, (100, 30))
    until(process, PROMPT)
    process.write(b"stty size; sh -c 'trap \"stty size; poweroff -f\" WINCH; while sleep 0.2; do echo wa''its; done'\n")
    until(process, b"30 100\r\nwaits")
    resize_console(host.board.host, process, (132, 43))
    until(process, b"43 132")
    assert process.wait(240).status == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_vmms_killed_at_random_moments(host: Host, seed: int):
    """From the first call to the running guest: pages come back, host and core go on."""
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(4):
        guest = host.start("sh", "-c", "while :; do :; done", cpus=2, memory=128)
        time.sleep(chance.choice((0.3, 1, 3, 8)) * chance.random())
        guest.signal(9)
        assert guest.wait(60).status != 0
        wait_for_pages(host)
    assert host.guest("echo", "alive").text == "alive\n"
    assert "core panic" not in host.board.qemu.console_text()
