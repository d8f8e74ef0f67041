# SPDX-License-Identifier: Apache-2.0
"""The payloads on the bare emulator, at EL1 without a hypervisor: what they must also do as guests."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from gz.metal.build import build

QEMU = "qemu-system-aarch64"

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


def run(payload: str, cpu: str = "cortex-a76") -> list[str]:
    """The lines that a payload prints until it powers the machine off."""
    image = build(f"payloads.{payload}").image.flat
    done = subprocess.run(
        [
            *(QEMU, "-machine", "virt,gic-version=3", "-cpu", cpu, "-m", "128", "-icount", "shift=0"),
            *("-nodefaults", "-display", "none", "-serial", "stdio", "-kernel", str(image)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "neoverse-n1", "max"])
def test_hello(cpu: str) -> None:
    (line,) = run("hello", cpu)
    assert re.fullmatch(r"hello from a guest, device tree at 0x4[0-9a-f]{7}", line)


def test_exits() -> None:
    """Without a hypervisor there are no exits: every operation takes its own few instructions."""
    lines = dict(line.split() for line in run("exits"))
    assert list(lines) == ["hvc_psci_version", "mmio_read_vgic", "mmio_read_user", "eoi", "ipi", "timer"]
    counts = {name: int(count) for name, count in lines.items()}
    assert all(3 <= counts[name] <= 30 for name in list(counts)[:4]), counts
    assert all(30 <= counts[name] <= 200 for name in ("ipi", "timer")), counts


def test_exits_are_deterministic() -> None:
    assert run("exits") == run("exits")


def test_registers() -> None:
    """The bare CPU has no EL2 to offer, so its registers are undefined; many of EL1 and EL0 can be read."""
    debug, system, maintenance = run("registers")
    for line in (debug, system, maintenance):
        done, undefined, other = (int(number) for number in re.findall(r"(\d+) (?:read|done|undef|other)", line))
        assert done + undefined + other == 1 << 14
        assert other == 0
    assert int(re.findall(r"(\d+) read", system)[0]) > 150


def test_calls() -> None:
    """The emulator's own PSCI answers HVC; SMC needs an EL3 and is undefined."""
    lines = run("calls")
    counts = [line for line in lines if line.endswith("answered")]
    assert len(counts) == 8
    assert "function 0x84000000 answers 0x10001" in lines
    known, host, _, _, *smc = ({w: int(n) for n, w in re.findall(r"(\d+) ([a-z ]+)", c)} for c in counts)
    assert known["calls"] == known["not supported"] + known["answered"]
    assert host == {"calls": 40, "not supported": 40, "undefined": 0, "answered": 0}
    assert all(count["undefined"] == count["calls"] for count in smc)
