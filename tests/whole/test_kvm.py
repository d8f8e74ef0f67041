# SPDX-License-Identifier: Apache-2.0
"""The same VMM on KVM: stock Debian on the bare board, without the core."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hosts import BOOT_TIMEOUT, GUEST_TIMEOUT, Host

from gz.board.board import Board
from gz.board.guest import guest_kernel
from gz.board.host_vm import Software
from gz.board.qemu import Disk
from gz.board.vmm import Guest, start_console
from gz.cli import products

VMM = ("python3", "-m", "gz.vmm")


@contextmanager
def booted(bootargs: str = "") -> Generator[Host]:
    """A host that is its own hypervisor."""
    software = Software()
    payload = products.image("payloads.hello").image.flat
    board = Board(
        compiled=products.libraries(),
        cpus=2,
        memory=1024,
        disks=[Disk(payload, "gz-payload", True), Disk(guest_kernel(software), "gz-kernel", True)],
        bootargs=bootargs,
        boot_timeout=BOOT_TIMEOUT,
        software=software,
    )
    with board:
        yield Host(board, software)


@pytest.fixture(scope="module")
def kvm() -> Generator[Host]:
    """Where the CPU has the virtualization host extensions KVM uses them."""
    with booted() as host:
        yield host


def hello(host: Host) -> None:
    """The transport is found: this host's tree has no doorbell."""
    done = host.run(*VMM, "--kernel", host.board.disk("gz-payload"), "--mem", "32M", timeout=GUEST_TIMEOUT)
    assert (done.status, done.text) == (0, "hello from a guest, device tree at 0x40000000\r\n"), done


def test_a_payload(kvm: Host) -> None:
    assert "VHE mode initialized" in kvm.shell("dmesg")
    hello(kvm)


def test_a_payload_without_vhe() -> None:
    with booted("kvm-arm.mode=nvhe") as host:
        assert "Hyp mode initialized" in host.shell("dmesg")
        hello(host)


def test_the_doorbell_is_missed(kvm: Host) -> None:
    done = kvm.run(*VMM, "--transport", "doorbell", "--kernel", kvm.board.disk("gz-payload"), timeout=GUEST_TIMEOUT)
    assert done.status == 1 and done.stderr.startswith(b"gz: no hypervisor below this kernel"), done


def test_debian(kvm: Host) -> None:
    """More vCPUs than CPUs, a disk, and the guest's own exit status."""
    kvm.shell("mkdir -p /run/test; dd if=/dev/urandom of=/run/test/from bs=1M count=4")
    expected = kvm.shell("sha256sum </run/test/from").split()[0]
    script = "nproc; sha256sum </dev/vda; cat; exit 7"
    done = kvm.guest("sh", "-c", script, cpus=4, memory=192, disks=["/run/test/from,ro"], stdin=b"typed\n")
    assert done.stdout.decode().split() == ["4", expected, "-", "typed"] and done.status == 7, done
    assert not kvm.shell("pgrep -f gz[.]vmm || true")


def test_stolen_time(kvm: Host) -> None:
    """The guest finds its records, and they count: four vCPUs that never wait on two CPUs."""
    busy = "for i in 1 2 3 4; do (while :; do :; done) & done; sleep 3"
    script = f"{busy}; dmesg | grep -c 'stolen time PV'; head -1 /proc/stat"
    found, line = kvm.guest("sh", "-c", script, cpus=4, memory=192).text.splitlines()
    assert found == "1" and int(line.split()[8]) > 100, line


def test_resets_until_a_signal(kvm: Host) -> None:
    """Without a root file system Debian panics and resets; the VMM starts it anew until it is told to end."""
    params = "console=ttyAMA0 loglevel=6 panic=-1"
    guest = Guest(kvm.board.disk("gz-kernel"), None, cpus=2, memory=128, params=params)
    process = start_console(kvm.board.host, guest)
    text = b""
    for _, data in process.events(GUEST_TIMEOUT):
        before = text.count(b"] Linux version")
        text += data
        if before < 2 <= text.count(b"] Linux version"):
            process.signal(signal.SIGTERM)
    assert text.count(b"Kernel panic - not syncing: VFS") == 1 and text.endswith(b"gz: ended by SIGTERM\n"), text[-500:]
    assert process.status == 128 + signal.SIGTERM
