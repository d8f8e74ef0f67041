# SPDX-License-Identifier: Apache-2.0
"""Stock Debian as guest of stock Debian on the core: the promises of README.md."""

from __future__ import annotations

import pytest
from hosts import GUEST_TIMEOUT, Boards, Host

from gz.board.vmm import Guest, start_console
from gz.cli import products


@pytest.mark.parametrize("vcpus", [1, 2, 4])
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_a_guest_boots_and_answers(boards: Boards, cpus: int, vcpus: int):
    """More vCPUs than CPUs included."""
    host = boards.host(cpus)
    assert int(host.shell("nproc")) == cpus
    done = host.guest("sh", "-c", "uname -rm; nproc; cat; echo wrong >&2; exit 3", cpus=vcpus, stdin=b"in\n")
    assert done.stdout.decode().split() == [host.software.release, "aarch64", str(vcpus), "in"], done
    assert b"wrong" in done.stderr and done.status == 3, done
    assert host.huge_pages() == 0


@pytest.mark.parametrize("machine", ["kvmtool", "crosvm"])
def test_other_machines(host: Host, machine: str):
    """A payload finds its console by the tree; Debian has it as ttyS0, and RAM and GIC where the map says."""
    host.shell("mkdir -p /run/test")
    host.board.host.put("/run/test/hello", products.payload("hello").flat.read_bytes())
    vmm = ["python3", "-m", "gz.vmm", "--machine", machine]
    done = host.run(*vmm, "--kernel", "/run/test/hello", "--mem", "32M", timeout=GUEST_TIMEOUT)
    assert (done.status, done.text) == (0, "hello from a guest, device tree at 0x80000000\r\n"), done
    initrd = host.initrd(["true"])
    guest = ["--kernel", host.board.disk("gz-kernel"), "--initrd", initrd, "--cpus", "2", "--mem", "256M"]
    done = host.run(*vmm, *guest, "--params", "console=ttyS0 panic=-1", timeout=GUEST_TIMEOUT)
    for text in ("[mem 0x0000000080000000-0x000000008fffffff]", "ttyS0 at MMIO", "Total of 2 processors activated"):
        assert text in done.text, done
    assert done.status == 0 and "reboot: Power down" in done.text, done


@pytest.mark.parametrize("payload, checks", [("debugging", 11), ("counters", 10)])
def test_debugging_and_counting(host: Host, payload: str, checks: int):
    """What payloads check on the smallest host holds below Debian too, whose drivers use the same registers."""
    host.shell("mkdir -p /run/test")
    host.board.host.put(f"/run/test/{payload}", products.payload(payload).flat.read_bytes())
    done = host.run("python3", "-m", "gz.vmm", "--kernel", f"/run/test/{payload}", "--mem", "32M", "--watch", "hvc")
    verdicts = done.stdout.decode().split("\r\n")[:-1]
    assert done.status == 0 and len(verdicts) == checks, done
    assert [line for line in verdicts if line[:5] not in ("PASS ", "SKIP ")] == [], done
    assert b"gz: vCPU 0: HVC, ESR 0x5a000000, at 0x4" in done.stderr, done


def test_features(boards: Boards):
    """Of the CPU with everything: what the host has and guests have not is what the core cannot keep apart."""
    host = boards.host(2, "max")
    line = "grep -m1 Features /proc/cpuinfo"
    theirs = set(host.shell(line).split()[2:])
    ours = set(host.guest("sh", "-c", line, cpus=2).text.split()[2:])
    assert {"paca", "pacg", "sve", "sve2", "atomics", "bti"} <= ours <= theirs
    assert all(name.startswith("sme") for name in theirs - ours), theirs - ours


@pytest.mark.parametrize("cpus", [4, 2, 1])
def test_a_guest_hides_what_a_device_uses(boards: Boards, cpus: int) -> None:
    """M15: the device breaks, its VMM and the guest live on; what is hidden is not written to any more."""
    host = boards.host(cpus)
    host.shell("mkdir -p /run/test")
    host.board.host.put("/run/test/withdrawn", products.payload("withdrawn").flat.read_bytes())
    done = start_console(host.board.host, Guest("/run/test/withdrawn", None, memory=16, protected=True)).wait(240)
    assert done.status == 0, done
    *pages, raced, ends = done.text.splitlines()
    assert pages == [f"page {number}: 1 2 1, 0 changed" for number in range(4)]
    assert raced == "raced: 200 ends, 0 changed" and ends.startswith("served ")
    lines = done.stderr.decode().splitlines()
    for what in ("descriptor table", "available ring", "used ring", "buffer"):
        assert any(f"virtio entropy device: the {what} is out of reach: Bad address" in line for line in lines), what
    assert len(lines) == 4 + int(ends.split()[-1])
    assert host.shell("dmesg | grep -cE 'Oops|Internal error|BUG:' || true").strip() == "0"
