# SPDX-License-Identifier: Apache-2.0
"""What a guest can start from, on the core: every kind of kernel file, and U-Boot in the flash."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable

import pytest
from hosts import GUEST_TIMEOUT, Host

from gz.board.deb import entries
from gz.board.debian import Debian
from gz.cli import products
from gz.vmm.maps import MAPS

TEXT = 0x20_0000  # from the start of RAM
VMM = ("python3", "-m", "gz.vmm", "--mem", "64M")
PROMPT = b"=> "


def elf(image: bytes, ram: int) -> bytes:
    """One segment at its physical address."""
    entry = ram + TEXT
    head = struct.pack(
        "<4s12sHHIQQQIHHHHHH",
        b"\x7fELF", b"\x02\x01\x01", 2, 183, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 7, 120, entry, entry, len(image), 2 * len(image), 0x1000)
    return head + segment + image


def zboot(image: bytes, ram: int) -> bytes:
    """A self-extracting EFI program (zboot-header.S)."""
    data = gzip.compress(image)
    return struct.pack("<4s4sII8x32s", b"MZ", b"zimg", 256, len(data), b"gzip").ljust(256, b"\0") + data


def raw(image: bytes, ram: int) -> bytes:
    """Without the header's magic number it is just code."""
    return image[:56] + bytes(4) + image[60:]


def plain(image: bytes, ram: int) -> bytes:
    return image


def packed(image: bytes, ram: int) -> bytes:
    return gzip.compress(image)


@pytest.mark.parametrize("form", [plain, raw, elf, packed, zboot], ids=lambda form: form.__name__)
@pytest.mark.parametrize("machine", MAPS)
def test_kernels(host: Host, form: Callable[[bytes, int], bytes], machine: str) -> None:
    host.shell("mkdir -p /run/test")
    host.board.host.put("/run/test/kernel", form(products.payload("hello").flat.read_bytes(), MAPS[machine].ram))
    done = host.run(*VMM, "--machine", machine, "--kernel", "/run/test/kernel", timeout=GUEST_TIMEOUT)
    assert done.status == 0 and done.text.startswith("hello from a guest, device tree at 0x"), done


@pytest.mark.parametrize("machine, cpus", [("virt", 1), ("virt", 4), ("kvmtool", 2)])
@pytest.mark.parametrize("program", ["gic", "platform"])
def test_checks(host: Host, program: str, machine: str, cpus: int) -> None:
    """Below a Linux host, with as many vCPUs as CPUs and with more."""
    host.shell("mkdir -p /run/test")
    host.board.host.put("/run/test/checks", products.payload(program).flat.read_bytes())
    vmm = [*VMM, "--machine", machine, "--kernel", "/run/test/checks", "--cpus", str(cpus)]
    done = host.run(*vmm, timeout=GUEST_TIMEOUT)
    assert done.status == 0 and done.text.startswith(f"{cpus} CPUs") and done.text.count("PASS ") > 15, done
    assert "FAIL" not in done.text and "unexpected" not in done.text, done
    assert program != "gic" or "PASS message" in done.text, done


def test_linux_finds_the_msi_frame(host: Host) -> None:
    done = host.guest("dmesg")
    assert "GICv2m: range[mem 0x08020000-0x08020fff], SPI[35:46]" in done.text, done


def test_u_boot(host: Host) -> None:
    """Finds memory, console, clock and disk by the tree, comes to its prompt and powers the machine off."""
    debian = Debian()
    (package,) = debian.closure("u-boot-qemu")
    firmware = next(
        entry.content for entry in entries(debian.path(package)) if entry.name == "usr/lib/u-boot/qemu_arm64/u-boot.bin"
    )
    assert firmware is not None
    host.shell("mkdir -p /run/test; { printf found; head -c 2097147 /dev/zero; } >/run/test/disk")
    host.board.host.put("/run/test/u-boot", firmware)
    options = ["--firmware", "/run/test/u-boot", "--mem", "256M", "--disk", "/run/test/disk,ro"]
    process = host.board.host.start([*VMM[:3], *options])
    commands = iter([b"virtio dev 0; virtio read 0x41000000 0 1; md.b 0x41000000 10\n", b"poweroff\n"])
    seen, stopped, prompts = b"", False, 0
    for _, data in process.events():
        seen += data
        if not stopped and b"stop autoboot" in seen:
            stopped = True
            process.write(b" ")
        while prompts < seen.count(PROMPT):
            prompts += 1
            process.write(next(commands, b""))
    assert process.status == 0 and b"DRAM:  256 MiB" in seen and seen.rstrip().endswith(b"poweroff ..."), seen
    assert b"found..." in seen, seen
