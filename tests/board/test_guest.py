# SPDX-License-Identifier: Apache-2.0
"""The default guest's root file system, with QEMU in the place of our VMM: streams, status, power off."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from gz.board.guest import PORTS, command_archive, guest_initrd, guest_kernel, terminal_archive
from gz.board.host_vm import Software
from gz.board.qemu import require_qemu
from gz.board.vmm import QUIET

TIMEOUT = 120


def run_on_qemu(software: Software, directory: Path, argv: list[str], stdin: bytes) -> dict[str, bytes]:
    """What came out of each port, by its name."""
    initrd = directory / "initrd"
    initrd.write_bytes(guest_initrd(software).read_bytes() + command_archive(argv))
    arguments = [require_qemu(), "-M", "virt,gic-version=3", "-cpu", "cortex-a76", "-m", "256", "-nodefaults"]
    arguments += ["-display", "none", "-no-reboot", "-kernel", str(guest_kernel(software))]
    arguments += ["-initrd", str(initrd), "-append", "console=ttyAMA0 quiet loglevel=1 panic=-1"]
    arguments += ["-serial", f"file:{directory / 'console'}", "-device", "virtio-serial-device"]
    for number, name in enumerate(PORTS):
        chardev = f"socket,id=p{number},path={directory / name},server=on,wait=off"
        arguments += ["-chardev", chardev, "-device", f"virtserialport,chardev=p{number},name={name}"]
    qemu = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    output: dict[str, bytes] = dict.fromkeys(PORTS, b"")

    def read(name: str, port: socket.socket) -> None:
        while data := port.recv(65536):
            output[name] += data

    readers: list[threading.Thread] = []
    try:
        for name in PORTS:
            port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            while port.connect_ex(str(directory / name)):
                assert qemu.poll() is None, "QEMU did not start"
                time.sleep(0.02)
            readers.append(threading.Thread(target=read, args=(name, port)))
            readers[-1].start()
            if name == "gz.stdin":
                port.sendall(stdin)
        assert qemu.wait(TIMEOUT) == 0
    finally:
        qemu.kill()
        qemu.wait()
        for reader in readers:
            reader.join()
    return output


@pytest.fixture(scope="module")
def software() -> Software:
    return Software()


def test_a_command(software: Software, tmp_path: Path):
    script = 'head -n 2; echo "it\'s $1" >&2; uname -r; ls -d /sys/bus/virtio/drivers/*; exit 42'
    output = run_on_qemu(software, tmp_path, ["sh", "-c", script, "name", "two words"], b"one\ntwo\nthree\n")
    assert output["gz.stderr"] == b"it's two words\n", output
    lines = output["gz.stdout"].decode().splitlines()
    assert lines[:3] == ["one", "two", software.release]
    assert {line.rpartition("/")[2] for line in lines[3:]} >= {"virtio_blk", "virtio_console", "virtio_rng"}
    assert output["gz.status"] == b"42\n"


def test_a_command_that_is_not_there(software: Software, tmp_path: Path):
    output = run_on_qemu(software, tmp_path, ["no-such-command"], b"")
    assert b"no-such-command" in output["gz.stderr"] and output["gz.status"] == b"127\n"


def test_a_shell(software: Software, tmp_path: Path):
    """Without a command the console named last has a shell with job control; its end powers off."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(guest_initrd(software).read_bytes() + terminal_archive(33, 99))
    arguments = [require_qemu(), "-M", "virt,gic-version=3", "-cpu", "cortex-a76", "-m", "256", "-nodefaults"]
    arguments += ["-display", "none", "-no-reboot", "-kernel", str(guest_kernel(software))]
    arguments += ["-initrd", str(initrd), "-append", QUIET, "-serial", f"file:{tmp_path / 'uart'}"]
    arguments += ["-device", "virtio-serial-device", "-chardev", "stdio,id=c", "-device", "virtconsole,chardev=c"]
    qemu = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert qemu.stdin and qemu.stdout
    output, typed = qemu.stdout, qemu.stdin

    def expect(what: bytes) -> bytes:
        text = b""
        while what not in text:
            data = os.read(output.fileno(), 65536)
            assert data, text
            text += data
        return text

    def enter(keys: bytes) -> None:
        typed.write(keys)
        typed.flush()

    try:
        assert b"job control turned off" not in expect(b"guest# ")
        enter(b"stty size; tty; echo a; sleep 1000\r")
        assert b"33 99\r\n/dev/hvc0\r\n" in expect(b"\na\r\n")
        time.sleep(1)
        enter(b"\x03")
        expect(b"guest# ")
        enter(b"echo $((6 * 7)); exit\r")
        expect(b"\n42\r\n")
        assert qemu.wait(TIMEOUT) == 0
    finally:
        qemu.kill()
        qemu.wait()
