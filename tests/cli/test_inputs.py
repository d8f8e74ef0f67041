# SPDX-License-Identifier: Apache-2.0
"""What users name wrongly is refused in one line that says what and what to do, before anything starts."""

from __future__ import annotations

import gzip
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gz.cli import inputs
from gz.cli.report import UserError
from gz.vmm.maps import CROSVM, KVMTOOL, VIRT

IMAGE = struct.pack("<II6Q4sI", 0, 0, 0, 1 << 20, 0xA, 0, 0, 0, b"ARM\x64", 0) + bytes(1000)
Write = Callable[[bytes], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    def write(content: bytes) -> Path:
        path = tmp_path / "file"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("content", [IMAGE, gzip.compress(IMAGE, mtime=0)])
def test_kernels(file: Write, content: bytes) -> None:
    assert inputs.kernel(file(content), VIRT, 64)


def test_other_code(file: Write) -> None:
    assert not inputs.kernel(file(b"\x01\0\0\x14" * 100), VIRT, 64)


def test_firmware(file: Write) -> None:
    code = b"\x01\0\0\x14"
    inputs.firmware(file(code * 0x10_0000), CROSVM)
    with pytest.raises(UserError, match="0x400004 bytes, and the flash of this machine has 0x400000"):
        inputs.firmware(file(code * 0x10_0001), CROSVM)
    for other, why in (
        (bytes(100), "nor code"),
        (b"MZ", "EFI program"),
        (b"QFI\xfb", "qcow2"),
        (b"\x7fELF", "ELF file"),
    ):
        with pytest.raises(UserError, match=f"^firmware .*: .*{why}"):
            inputs.firmware(file(other), VIRT)


def test_a_kernel_for_firmware(file: Write, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    firmware = file(b"\x01\0\0\x14")
    kernel.write_bytes(b"MZ" + IMAGE[2:])
    inputs.firmware(firmware, VIRT, kernel)
    with pytest.raises(UserError, match="--machine kvmtool has nothing that tells firmware of a kernel"):
        inputs.firmware(firmware, KVMTOOL, kernel)
    kernel.write_bytes(gzip.compress(IMAGE, mtime=0))
    with pytest.raises(UserError, match="not an EFI program, which firmware wants; unpack it"):
        inputs.firmware(firmware, VIRT, kernel)


def test_variables(file: Write, tmp_path: Path) -> None:
    firmware, store = file(b"\x01\0\0\x14"), tmp_path / "store"
    disk = inputs.variables(store, firmware, VIRT, "serial")
    assert (disk.path, disk.serial, disk.read_only) == (store, "serial", False)
    assert store.read_bytes() == b"\xff" * 0x20_0000
    store.write_bytes(b"kept".ljust(512))
    inputs.variables(store, firmware, VIRT, "serial")
    assert store.read_bytes().startswith(b"kept")
    for content, why in ((b"", "0 bytes are not whole sectors"), (b"odd", "3 bytes are not whole sectors")):
        store.write_bytes(content)
        with pytest.raises(UserError, match=why):
            inputs.variables(store, firmware, VIRT, "serial")
    with store.open("wb") as large:
        large.truncate(0x400_0200)
    with pytest.raises(UserError, match="store: 0x4000200 bytes, and the flash of this machine has 0x4000000"):
        inputs.variables(store, firmware, VIRT, "serial")
    with pytest.raises(UserError, match="variables /none/store: No such file"):
        inputs.variables(Path("/none/store"), firmware, VIRT, "serial")
    with pytest.raises(UserError, match="--machine crosvm has no flash for variables"):
        inputs.variables(store, firmware, CROSVM, "serial")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x7fELF" + bytes(100), "ELF"),
        (b"MZ" + bytes(100), "EFI"),
        (b"ARM\x64", "a text file"),
        (gzip.compress(b"no kernel" * 100, mtime=0), "a text file"),
        (b"\x1f\x8b" + bytes(100), "damaged compressed"),
        (b"\x1f\x8b\x08", "ends too early"),
    ],
)
def test_wrong_kernels(file: Write, content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        inputs.kernel(file(content), VIRT, 64)


def looks(*them: Callable[[Path], object]) -> tuple[Callable[[Path], object], ...]:
    return them


@pytest.mark.parametrize(
    "look", looks(lambda path: inputs.kernel(path, VIRT, 64), inputs.initrd, lambda path: inputs.disk(str(path), 0))
)
def test_missing_files_and_directories(tmp_path: Path, look: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match="No such file"):
        look(tmp_path / "none")
    with pytest.raises(UserError, match="directory"):
        look(tmp_path)


def test_initrds(file: Write) -> None:
    assert inputs.initrd(file(b"070701" + bytes(104)))
    assert inputs.initrd(file(gzip.compress(b"x")))
    for content in (b"", b"hello", IMAGE):
        with pytest.raises(UserError):
            inputs.initrd(file(content))


def test_disks(file: Write) -> None:
    path = file(bytes(1024))
    disk = inputs.disk(f"{path},ro", 3)
    assert (disk.path, disk.read_only, disk.serial) == (path, True, "gz-disk3")
    assert not inputs.disk(str(path), 0).read_only
    with pytest.raises(UserError, match="sectors"):
        inputs.disk(str(file(bytes(1000))), 0)
    with pytest.raises(UserError, match="sectors"):
        inputs.disk(str(file(b"")), 0)
    with pytest.raises(UserError, match="neither"):
        inputs.disk("/dev/null", 0)


def test_a_name_with_a_comma(tmp_path: Path) -> None:
    path = tmp_path / "a,b"
    path.write_bytes(bytes(512))
    assert inputs.disk(str(path), 0).path == path


@pytest.mark.parametrize(("text", "size"), [("512M", 512), ("1G", 1024), ("128", 128), ("256MiB", 256), ("1gb", 1024)])
def test_sizes(text: str, size: int) -> None:
    assert inputs.memory(text) == size


@pytest.mark.parametrize("text", ["", "M", "1T", "-5", "many", "1.5G", "0", "63M", "65M", "1"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UserError):
        inputs.memory(text)


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used"):
            inputs.port(taken.getsockname()[1])
    for number in (0, -1, 65536):
        with pytest.raises(UserError, match="not a TCP port"):
            inputs.port(number)


def test_guests_of_the_core(file: Write) -> None:
    initrd = file(b"070701" + bytes(20))
    assert inputs.boot_guest("a=kernel") == ("a", "kernel", None, inputs.BOOT_GUEST_MEMORY, 1, "")
    text = f"web-1=payload:hello,initrd={initrd},mem=1G,cpus=2,params=console=ttyAMA0 root=/dev/ram0,ro x=1,2"
    assert inputs.boot_guest(text) == (
        "web-1",
        "payload:hello",
        initrd,
        1024,
        2,
        "console=ttyAMA0 root=/dev/ram0,ro x=1,2",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kernel", "write it as NAME=KERNEL"),
        ("=kernel", "write it as NAME=KERNEL"),
        ("a b=kernel", "write it as NAME=KERNEL"),
        ("a=", "write it as NAME=KERNEL"),
        (f"{'a' * 33}=kernel", "write it as NAME=KERNEL"),
        ("a=kernel,disk=a", "no setting 'disk'"),
        ("a=kernel,cpus=0", "not a number from 1 to 8"),
        ("a=kernel,cpus=9", "not a number from 1 to 8"),
        ("a=kernel,cpus=", "not a number from 1 to 8"),
        ("a=kernel,mem=much", "is not a memory size"),
        ("a=kernel,initrd=/nowhere", "/nowhere"),
    ],
)
def test_no_guest_of_the_core(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        inputs.boot_guest(text)
