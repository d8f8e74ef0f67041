# SPDX-License-Identifier: Apache-2.0
"""Stock Debian as the host: what it has, what it must not reach, and that it can come and go."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from hosts import Boards, Host

from gz.abi.doorbell import DOORBELL_SIZE
from gz.board.errors import BoardError

BUS_ERROR = 128 + 7
PAGE = 4096


def numbers(host: Host, file: str) -> list[int]:
    """The 64-bit numbers in a property of the device tree."""
    digits = host.shell(f"od -An -v -tx1 {file}").replace(" ", "").replace("\n", "")
    return [int(digits[i : i + 16], 16) for i in range(0, len(digits), 16)]


def core_memory(host: Host) -> tuple[int, int]:
    base, size = numbers(host, "/proc/device-tree/reserved-memory/core@*/reg")
    return base, size


@pytest.mark.parametrize("cpu", ["cortex-a72", "neoverse-n1", "max"])
def test_cpu_models(boards: Boards, cpu: str):
    host = boards.host(2, cpu)
    assert host.shell("nproc") == "2\n"
    log = host.shell("dmesg")
    assert "CPU: All CPU(s) started at EL1" in log
    for bad in ("Oops", "undefined instruction", "Internal error", "WARNING:"):
        assert bad not in log
    assert numbers(host, "/proc/device-tree/hypervisor/gz,doorbell")[1] == DOORBELL_SIZE


def test_features_of_max_are_the_hosts(boards: Boards):
    """What Linux found in the ID registers it uses; nothing of it traps to the core."""
    host = boards.host(2, "max")
    features = host.shell("grep -m1 Features /proc/cpuinfo").split()
    assert {"sve", "paca", "pacg", "bti", "rng"} <= set(features)
    assert host.shell("cat /proc/sys/abi/sve_default_vector_length").strip() == "64"


def test_cpus_come_and_go(boards: Boards):
    host = boards.host(4)
    for _ in range(3):
        host.shell(
            "for n in 1 2 3; do echo 0 >/sys/devices/system/cpu/cpu$n/online; done; test $(nproc) = 1;"
            "for n in 3 1 2; do echo 1 >/sys/devices/system/cpu/cpu$n/online; done; test $(nproc) = 4"
        )
    assert int(host.shell("for n in 0 1 2 3; do taskset -c $n true && echo; done | wc -l")) == 4


def test_the_boot_cpu_goes_too(boards: Boards):
    host = boards.host(4)
    if host.run("test", "-e", "/sys/devices/system/cpu/cpu0/online").status != 0:
        pytest.skip("this kernel keeps its boot CPU")
    host.shell("echo 0 >/sys/devices/system/cpu/cpu0/online; test $(nproc) = 3")
    host.shell("echo 1 >/sys/devices/system/cpu/cpu0/online; test $(nproc) = 4")


@pytest.mark.parametrize("width", [8, 32, 64])
def test_core_memory_is_out_of_reach(host: Host, width: int):
    """A load or a store there is a bus error for the process that tries; the host and the core live on."""
    base, size = core_memory(host)
    chance = random.Random(width)
    places = [base, base + size - PAGE, *(base + chance.randrange(size // PAGE) * PAGE for _ in range(6))]
    for place in places:
        assert host.run("busybox", "devmem", hex(place), str(width)).status in (BUS_ERROR, -7)
        assert host.run("busybox", "devmem", hex(place), str(width), "0").status in (BUS_ERROR, -7)
    assert host.shell("echo alive") == "alive\n"


def test_memory_around_the_core_is_the_hosts(host: Host):
    base, size = core_memory(host)
    ram = [line for line in host.shell("cat /proc/iomem").splitlines() if line.endswith("System RAM")]
    bounds = [tuple(int(number, 16) for number in line.split(" :")[0].strip().split("-")) for line in ram]
    assert any(end + 1 == base for _, end in bounds) and any(start == base + size for start, _ in bounds)
    assert all(end < base or start >= base + size for start, end in bounds)


def test_wild_stores_to_the_doorbell(host: Host):
    """Functions that do not exist, widths that are no call, loads: an error or a bus error, nothing worse."""
    (page, _) = numbers(host, "/proc/device-tree/hypervisor/gz,doorbell")
    chance = random.Random(3)
    for _ in range(20):
        place, width = page + chance.choice((0, 0, 8, 0x800, 0xFF8)), chance.choice((8, 16, 32, 64))
        host.run("busybox", "devmem", hex(place), str(width), hex(chance.getrandbits(width)))
    assert host.run("busybox", "devmem", hex(page), "64").status in (BUS_ERROR, -7)
    assert host.shell("echo alive") == "alive\n"


@pytest.mark.parametrize("way", ["reboot", "poweroff"])
def test_the_machine_ends(boards: Boards, way: str):
    """SYSTEM_OFF and SYSTEM_RESET reach the firmware; QEMU ends for either (-no-reboot)."""
    host = boards.host(1)
    with contextlib.suppress(BoardError):  # the agent goes as well
        host.run(way, "-f")
    deadline = time.monotonic() + 60
    while host.board.qemu.running():
        assert time.monotonic() < deadline, host.board.qemu.console_text()[-1000:]
        time.sleep(0.1)
    assert "core panic" not in host.board.qemu.console_text()
