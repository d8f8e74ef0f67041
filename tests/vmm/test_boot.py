# SPDX-License-Identifier: Apache-2.0
"""The tree against dtc, the loader against bad files, the command line."""

from __future__ import annotations

import gzip
import importlib.util
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import libfdt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import make_elf, make_image, make_zboot

from gz.abi.exits import Watch
from gz.vmm import fdt
from gz.vmm.kernel import is_image, load_kernel
from gz.vmm.loader import Layout, LoadError, load_initrd, load_tree
from gz.vmm.maps import MAPS, VIRT, Map
from gz.vmm.memory import GuestMemory
from gz.vmm.options import Options, PortOption, UsageError, open_port, parse

RAM = 0x4000_0000
MIB = 1 << 20


def memory(mib: int = 16) -> GuestMemory:
    return GuestMemory([(RAM, memoryview(bytearray(mib * MIB)))])


def write_tree(cpus: int, boot: fdt.Boot, virtio: int = 3, machine: Map = VIRT) -> bytes:
    tree = fdt.Tree()
    with tree.node(""):
        fdt.write_machine(tree, machine, cpus, 512 * MIB, boot)
        fdt.write_uart(tree, machine)
        fdt.write_rtc(tree, machine)
        for number in range(virtio):
            fdt.write_virtio(tree, machine, number)
    return bytes(tree)


def test_dtc_finds_nothing_wrong(tmp_path: Path) -> None:
    blob = tmp_path / "guest.dtb"
    blob.write_bytes(write_tree(4, fdt.Boot("console=ttyAMA0", (RAM, RAM + 5))))
    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for line in (
        'compatible = "linux,dummy-virt";',
        r'compatible = "arm,psci-1.0\0arm,psci-0.2";',
        'method = "hvc";',
        "interrupts = <0x01 0x0d 0x08 0x01 0x0e 0x08 0x01 0x0b 0x08 0x01 0x0a 0x08>;",
        "reg = <0x00 0x8000000 0x00 0x10000 0x00 0x80a0000 0x00 0x80000>;",
        "virtio_mmio@a000400 {",
        "interrupts = <0x00 0x12 0x01>;",
        "linux,initrd-end = <0x00 0x40000005>;",
        'stdout-path = "/pl011@9000000";',
    ):
        assert line in done.stdout, line


@pytest.mark.parametrize("machine", MAPS.values(), ids=list(MAPS))
def test_dtc_likes_every_machine(tmp_path: Path, machine: Map) -> None:
    blob = tmp_path / "guest.dtb"
    blob.write_bytes(write_tree(8, fdt.Boot(""), 16, machine))
    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    tree: Any = libfdt.Fdt(blob.read_bytes())
    uart = tree.path_offset(tree.getprop(tree.path_offset("/chosen"), "stdout-path").as_str())
    assert struct.unpack(">QQ", tree.getprop(uart, "reg")) == (machine.uart, machine.uart_size)
    gic = tree.path_offset(f"/intc@{machine.gicd:x}")
    _, _, gicr, size = struct.unpack(">4Q", tree.getprop(gic, "reg"))
    assert gicr + size <= machine.ram and (gicr >= machine.gicd + 0x1_0000 or gicr + size == machine.gicd)


def test_kvmtool_tree() -> None:
    """As kvmtool has it: the redistributors of two vCPUs end where the distributor begins."""
    tree: Any = libfdt.Fdt(write_tree(2, fdt.Boot(""), machine=MAPS["kvmtool"]))
    assert tree.getprop(tree.path_offset("/uart@1000000"), "compatible").as_str() == "ns16550a"
    reg = struct.unpack(">4Q", tree.getprop(tree.path_offset("/intc@3fff0000"), "reg"))
    assert reg == (0x3FFF_0000, 0x1_0000, 0x3FFB_0000, 0x4_0000)
    assert tree.path_offset("/memory@80000000") > 0 and tree.path_offset("/virtio_mmio@3000000") > 0


def test_tree_names_cpus_and_command_line() -> None:
    tree: Any = libfdt.Fdt(write_tree(8, fdt.Boot("x" * 3000)))
    chosen = tree.path_offset("/chosen")
    assert tree.getprop(chosen, "bootargs").as_str() == "x" * 3000
    assert len(tree.getprop(chosen, "rng-seed")) == 64 and len(tree.getprop(chosen, "kaslr-seed")) == 8
    assert tree.getprop(chosen, "linux,initrd-start", [libfdt.NOTFOUND]) == -libfdt.NOTFOUND
    for cpu in range(8):
        assert tree.getprop(tree.path_offset(f"/cpus/cpu@{cpu:x}"), "reg").as_uint32() == cpu
    assert bytes(tree.getprop(tree.path_offset("/virtio_mmio@a000000"), "dma-coherent")) == b""


def test_an_image_is_loaded_where_it_wants(tmp_path: Path) -> None:
    kernel = tmp_path / "Image"
    kernel.write_bytes(make_image(3 * MIB, image_size=5 * MIB, text_offset=0x8_0000))
    target = memory()
    layout = load_kernel(target, str(kernel))
    assert layout == Layout(RAM + 0x28_0000, RAM, RAM + 0x28_0000 + 5 * MIB)
    assert bytes(target.at(layout.entry, 3 * MIB)) == kernel.read_bytes()
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"cpio")
    start, end = load_initrd(target, str(initrd), layout)
    assert (start, end) == (RAM + 8 * MIB, RAM + 8 * MIB + 4)
    assert bytes(target.at(start, 4)) == b"cpio"


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    plain, packed = make_image(3 * MIB), tmp_path / "Image.gz"
    packed.write_bytes(gzip.compress(plain, 1))
    target = memory()
    layout = load_kernel(target, str(packed))
    assert bytes(target.at(layout.entry, len(plain))) == plain and layout.kernel_end == layout.entry + 3 * MIB


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\0" * 64, "neither an arm64 Linux Image nor an ELF file nor code"),
        (b"\x7fELF".ljust(4096, b"\0"), "not a 64-bit little-endian ELF file"),
        (make_elf([(RAM, b"code")])[:60], "not a 64-bit little-endian ELF file"),
        (make_elf([(RAM, b"code")], machine=62), r"ELF file for another machine \(number 62\)"),
        (make_elf([(RAM, b"code")], kind=1), "an ELF file that is not a program"),
        (make_elf([]), "nothing to load"),
        (make_elf([(RAM, b"code")], count=9), "program headers of this ELF file are damaged"),
        (make_elf([(0xFFFF_8000_0800_0000, b"code")]), "give arch/arm64/boot/Image instead of vmlinux"),
        (make_elf([(RAM, b"code")], memory_size=2**63), "not inside the guest's memory"),
        (make_elf([(RAM, b"code")], entry=RAM + 0x1000), "in no segment"),
        (make_zboot(b"gzip", b"garbage"), "damaged compressed data"),
        (make_zboot(b"gzip", gzip.compress(make_image(1 * MIB), 1)[:-100]), "ends too early"),
        (make_zboot(b"gzip", gzip.compress(make_image(4096)), size=2**32 - 1), "lies outside of the file"),
        (make_zboot(b"lzo", b"data"), "compressed by 'lzo'; gzip and zstd are known"),
        (b"MZ\0\0zimg", "only 8 bytes, too short for an EFI zboot image"),
        (b"MZ".ljust(4096, b"\0"), "EFI program that is no arm64 Linux Image"),
        (b"#!/bin/sh\n", "a script"),
        (b"kernel: see the other file\n", "a text file"),
        (b"070701" + bytes(100), "a cpio archive; that is an --initrd"),
        (b"\x01\0\0\x14" * (14 * MIB // 4), "does not fit: it needs 14 MiB"),
        (make_image(4096, flags=1), "big-endian"),
        (make_image(4096, image_size=0), "before Linux 3.17"),
        (make_image(4096, text_offset=2**63), "text offset 0x8000000000000000 lies outside"),
        (
            make_image(4096, image_size=15 * MIB),
            "it needs 15 MiB and 14 MiB are left; give the guest at least 1 MiB more",
        ),
        (make_image(4096, image_size=2**64 - 1), "does not fit"),
        (gzip.compress(make_image(15 * MIB, image_size=1 * MIB), 1), "does not fit: it needs 15 MiB"),
        (gzip.compress(make_image(1 * MIB), 1)[:-100], "the compressed data ends too early"),
        (gzip.compress(b"short"), "a text file"),
        (gzip.compress(make_elf([(RAM, b"code")])), "an ELF file inside of another; unpack it"),
        (b"\x1f\x8b" + b"garbage" * 20, "damaged compressed data"),
        (gzip.compress(bytes(64 * MIB), 9), "neither an arm64 Linux Image"),
    ],
    ids=range(32),
)
def test_wrong_kernels_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    kernel = tmp_path / "Image"
    kernel.write_bytes(content)
    with pytest.raises(LoadError, match=f"^kernel {kernel}.*{message}"):
        load_kernel(memory(), str(kernel))


@pytest.mark.parametrize("machine", MAPS.values(), ids=list(MAPS))
def test_an_elf_file_is_loaded_by_its_segments(tmp_path: Path, machine: Map) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(make_elf([(machine.ram + 0x1000, b"code"), (machine.ram + 0x9000, b"data")], memory_size=0x100))
    target = GuestMemory([(machine.ram, memoryview(bytearray(b"\xff" * 16 * MIB)))])
    layout = load_kernel(target, str(kernel))
    assert layout == Layout(machine.ram + 0x1000, machine.ram + 14 * MIB, machine.ram + 0x9100)
    assert bytes(target.at(machine.ram + 0x1000, 0x101)) == b"code".ljust(0x100, b"\0") + b"\xff"
    assert bytes(target.at(machine.ram + 0x9000, 4)) == b"data"
    assert not is_image(str(kernel), (machine.ram, 16 * MIB))
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"cpio")
    start, end = load_initrd(target, str(initrd), layout)
    assert (start, end) == (machine.ram + 14 * MIB - 0x1000, machine.ram + 14 * MIB - 0x1000 + 4)


def test_a_position_independent_elf_file_is_moved_into_ram(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(make_elf([(0x1000, b"code")], kind=3, entry=0x1002))
    target = memory()
    assert load_kernel(target, str(kernel)).entry == RAM + 2 * MIB + 0x1002
    assert bytes(target.at(RAM + 2 * MIB + 0x1000, 4)) == b"code"


@pytest.mark.parametrize("packed", [False, True])
def test_a_raw_binary_goes_where_other_machines_put_it(tmp_path: Path, packed: bool) -> None:
    code = b"\x01\0\0\x14" + os.urandom(3 * MIB)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(gzip.compress(code, 1) if packed else code)
    target = memory()
    layout = load_kernel(target, str(kernel))
    assert layout == Layout(RAM + 0x8_0000, RAM + 14 * MIB, RAM + 0x8_0000 + len(code))
    assert bytes(target.at(layout.entry, len(code))) == code
    load_tree(target, b"tree", layout)
    assert not is_image(str(kernel), (RAM, 16 * MIB))


def test_zboot_is_unpacked(tmp_path: Path) -> None:
    plain, kernel = make_image(3 * MIB), tmp_path / "vmlinuz.efi"
    kernel.write_bytes(make_zboot(b"gzip", gzip.compress(plain, 1)))
    target = memory()
    layout = load_kernel(target, str(kernel))
    assert bytes(target.at(layout.entry, len(plain))) == plain
    assert is_image(str(kernel), (RAM, 16 * MIB))


def test_zstd_zboot(tmp_path: Path) -> None:
    """With Python's module it is unpacked, without it the module is named."""
    plain, kernel = make_image(1 * MIB), tmp_path / "vmlinuz.efi"
    packed = subprocess.run(["zstd", "-c"], input=plain, capture_output=True, check=True).stdout
    kernel.write_bytes(make_zboot(b"zstd22", packed))
    target = memory()
    if importlib.util.find_spec("zstandard") is None:
        with pytest.raises(LoadError, match="needs Python's zstandard module"):
            load_kernel(target, str(kernel))
    else:
        layout = load_kernel(target, str(kernel))
        assert bytes(target.at(layout.entry, len(plain))) == plain


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=60, max_size=200), st.binary(max_size=50))
def test_any_elf_file_loads_or_says_why(tmp_path: Path, head: bytes, rest: bytes) -> None:
    good = make_elf([(RAM, b"code")])
    kernel = tmp_path / "kernel"
    # Identification, type and machine are right, the rest is not.
    kernel.write_bytes(good[:20] + head + good[20 + len(head) :] + rest)
    try:
        load_kernel(memory(), str(kernel))
    except LoadError as error:
        assert "\n" not in str(error)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^kernel /none: No such file or directory$"):
        load_kernel(memory(), "/none")
    with pytest.raises(LoadError, match=f"^kernel {tmp_path}: Is a directory$"):
        load_kernel(memory(), str(tmp_path))
    layout = Layout(RAM, RAM, RAM + 15 * MIB)
    with pytest.raises(LoadError, match=r"^initrd /none: No such file"):
        load_initrd(memory(), "/none", layout)
    big = tmp_path / "initrd"
    big.write_bytes(b"")
    with pytest.raises(LoadError, match="the file is empty"):
        load_initrd(memory(), str(big), layout)
    big.write_bytes(bytes(3 * MIB))
    with pytest.raises(LoadError, match=r"it needs 3 MiB and 0 MiB are left; give the guest at least 3 MiB more"):
        load_initrd(memory(), str(big), layout)
    with pytest.raises(LoadError, match="more than 2 MiB"):
        load_tree(memory(), bytes(2 * MIB + 1), layout)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=60, max_size=60), st.booleans(), st.binary(max_size=50))
def test_any_header_loads_or_says_why(tmp_path: Path, head: bytes, packed: bool, rest: bytes) -> None:
    content = head[:56] + b"ARM\x64" + head[56:] + rest
    kernel = tmp_path / "Image"
    kernel.write_bytes(gzip.compress(content, 1) if packed else content)
    try:
        layout = load_kernel(memory(), str(kernel))
    except LoadError as error:
        assert "\n" not in str(error)
    else:
        assert RAM <= layout.entry < layout.kernel_end <= RAM + 16 * MIB


def options(*arguments: str) -> Options:
    return parse(["--kernel", "Image", *arguments])


def test_firmware_and_what_goes_with_it() -> None:
    plan = parse(["--firmware", "code", "--vars", "store"]).plan
    assert (plan.firmware, plan.variables, plan.kernel) == ("code", "store", None)
    plan = options("--firmware", "code", "--initrd", "cpio").plan
    assert (plan.firmware, plan.kernel, plan.initrd) == ("code", "Image", "cpio")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --kernel and --firmware is needed"),
        (["--firmware", "f", "--initrd", "i"], "--initrd goes with --kernel"),
    ],
)
def test_nothing_to_start(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_options() -> None:
    given = options("--cpus", "4", "--mem", "512M", "--disk", "a,b.img", "--disk", "c,ro", "--params", "quiet")
    plan = given.plan
    assert (plan.kernel, plan.initrd, plan.cpus, plan.memory) == ("Image", None, 4, 512 * MIB)
    assert plan.disks == [("a,b.img", False), ("c", True)] and plan.params == "quiet"
    assert (plan.protected, options("--protected").plan.protected) == (False, True)
    assert (plan.watch, options("--watch", "hvc,breakpoint").plan.watch) == (0, Watch.HVC | Watch.BREAKPOINT)
    assert options("--mem", "33554433").plan.memory == 34 * MIB
    assert (given.transport, options("--transport", "kvm").transport) == ("auto", "kvm")
    assert options("--params", "console=ttyAMA0,115200 console=hvc0 xconsole=no").consoles == ["ttyAMA0", "hvc0"]
    ports = options("--port", "gz.stdin=fd:3", "--port", "log=out:/tmp/a:b", "--port", "gz.status=status").ports
    assert ports == [
        PortOption("gz.stdin", "fd", "3"),
        PortOption("log", "out", "/tmp/a:b"),
        PortOption("gz.status", "status", ""),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--machine", "sbsa"], "choose from 'virt', 'kvmtool', 'crosvm'"),
        (["--vars", "store"], "--vars goes with --firmware"),
        (["--firmware", "flash", "--pvmfw"], "--pvmfw starts a kernel, not what is in the flash"),
        (["--cpus", "0"], "--cpus 0: a guest has 1 to 8"),
        (["--cpus", "9"], "--cpus 9: a guest has 1 to 8"),
        (["--mem", "lots"], "--mem lots: expected a number"),
        (["--mem", "1M"], "--mem 1M: at least 16M"),
        (["--mem", "9999G"], "--mem 9999G: at most 256G"),
        (["--transport", "hvc"], "choose from 'auto', 'doorbell', 'gzvm', 'kvm'"),
        (["--port", "nothing"], "--port nothing: expected NAME=in:PATH"),
        (["--port", "a=in:"], "expected NAME=in:PATH"),
        (["--port", "a=fd:x"], "x is not the number of a file descriptor"),
        (["--port", "a=fd:1", "--port", "a=fd:2"], "two ports of the same name"),
        (["--watch", "hvc,brk"], "--watch brk: there are undefined, abort, breakpoint, hvc, smc, serror"),
        (["--watch", "hvc", "--protected"], "nobody hears of the exceptions of a protected guest"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        options(*arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_ports_open_in_their_direction(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"")
    port = open_port(PortOption("a", "in", str(source)))
    assert port.input is not None and port.output is None
    os.close(port.input)
    port = open_port(PortOption("b", "out", str(tmp_path / "out")))
    assert port.input is None and port.output is not None
    port.output.write(b"data")
    assert port.output.close(5)
    assert (tmp_path / "out").read_bytes() == b"data"
    os.close(port.output.fd)
    reader, writer = os.pipe()
    assert open_port(PortOption("c", "fd", str(reader))).output is None
    os.close(reader)
    os.close(writer)
    with pytest.raises(UsageError, match="port a: /none: No such file"):
        open_port(PortOption("a", "in", "/none"))
    with pytest.raises(UsageError, match="port a: 999: Bad file descriptor"):
        open_port(PortOption("a", "fd", "999"))


def test_tree_size_is_what_it_says() -> None:
    blob = write_tree(1, fdt.Boot(""))
    assert struct.unpack(">I", blob[4:8])[0] == len(blob) < 0x2000
