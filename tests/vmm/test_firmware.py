# SPDX-License-Identifier: Apache-2.0
"""Guests that start in flash: what the banks hold, where variables go, and kernels that firmware is told to start."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libfdt
import pytest
from fake import POWER_OFF, FakeVm, Guest, Load, Store
from images import make_image
from test_machine import Host

from gz.abi import registers
from gz.abi.memory import Access
from gz.vmm.exits import Ending
from gz.vmm.firmware import Variables, create_variables, extent, kernel_items
from gz.vmm.loader import LoadError
from gz.vmm.maps import CROSVM, KVMTOOL, VIRT, Map

MIB = 1 << 20
BLOCK = 2 * MIB
BANK = 64 * MIB
FW_CFG = 0x0902_0000
VARIABLES = 0x0400_0000


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "TEST_CODE.fd"
    path.write_bytes(b"code" * 1000)
    return path


@pytest.fixture
def store() -> Iterator[Variables]:
    variables = Variables(None, BANK)
    yield variables
    variables.close()


def off(vm: FakeVm) -> Guest:
    yield POWER_OFF


def program(offset: int, value: int) -> Guest:
    yield Store(VARIABLES + offset, 4, 0x40_0040)
    yield Store(VARIABLES + offset, 4, value)
    assert (yield Load(VARIABLES + offset, 4)) == 0x80_0080
    yield Store(VARIABLES + offset, 4, 0xFF_00FF)


@pytest.mark.parametrize("machine", [VIRT, KVMTOOL, CROSVM], ids=lambda machine: machine.name)
def test_it_starts_in_flash(host: Host, machine: Map, firmware: Path, store: Variables) -> None:
    vm, _ = host.run(off, machine=machine, kernel=None, firmware=str(firmware), variables=store)
    assert (
        bytes(vm.memory[machine.flash][:4004]) == b"code" * 1000 + b"\xff" * 4
        and len(vm.memory[machine.flash]) == BLOCK
    )
    assert vm.accesses == ([(1, Access.READ_ONLY), (2, Access.READ_ONLY)] if machine.variables is not None else [])
    if machine.variables is not None:
        assert vm.memory[machine.variables][:] == b"\xff" * BLOCK
    boot = vm.vcpus[0].registers
    assert (boot[registers.PC], boot[registers.X0]) == (machine.flash, machine.ram)


def test_the_tree_says_so(host: Host, firmware: Path, store: Variables) -> None:
    vm, _ = host.run(off, kernel=None, firmware=str(firmware), variables=store)
    assert vm.dtb is not None
    tree: Any = libfdt.Fdt(bytes(vm.memory[VIRT.ram][: vm.dtb[1]]))
    flash, fw_cfg = tree.path_offset("/flash@0"), tree.path_offset("/fw-cfg@9020000")
    assert bytes(tree.getprop(flash, "reg")) == struct.pack(">4Q", 0, BANK, BANK, BANK)
    assert bytes(tree.getprop(flash, "bank-width")) == struct.pack(">I", 4)
    assert bytes(tree.getprop(fw_cfg, "reg")) == struct.pack(">2Q", FW_CFG, 0x18)
    names = [bytes(tree.getprop(node, "compatible")) for node in (flash, fw_cfg)]
    assert names == [b"cfi-flash\0", b"qemu,fw-cfg-mmio\0"]


def test_variables_outlive_the_machine(host: Host, firmware: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    create_variables(path, firmware)

    def guest(vm: FakeVm) -> Guest:
        yield from program(0x1000, 0x1234_5678)
        yield POWER_OFF

    def second(vm: FakeVm) -> Guest:
        assert vm.memory[VARIABLES][0x1000:0x1004] == bytes.fromhex("78563412")
        assert (yield Load(VARIABLES + BANK - 4, 4)) == 0xFFFF_FFFF
        yield POWER_OFF

    for life in (guest, second):
        store = Variables(str(path), BANK)
        _, end = host.run(life, kernel=None, firmware=str(firmware), variables=store)
        store.close()
        assert end.ending is Ending.POWER_OFF, end
    assert path.stat().st_size == BLOCK and path.read_bytes()[0x1000:0x1004] == bytes.fromhex("78563412")


def test_commands_take_the_memory_away(host: Host, firmware: Path, store: Variables) -> None:
    def guest(vm: FakeVm) -> Guest:
        del vm.accesses[:]
        yield from program(0, 0)
        yield Store(0, 4, 0x90_0090)
        assert (yield Load(8, 4)) == 0x01_0001
        yield Store(0, 4, 0xFF_00FF)
        yield POWER_OFF

    vm, end = host.run(guest, kernel=None, firmware=str(firmware), variables=store)
    assert end.ending is Ending.POWER_OFF, end
    assert vm.accesses == [(slot, access) for slot in (2, 1) for access in (Access.NONE, Access.READ_ONLY)]
    assert host.lines == []


def test_without_read_only_memory_flash_is_memory(host: Host, firmware: Path, tmp_path: Path) -> None:
    def guest(vm: FakeVm) -> Guest:
        assert (yield Load(VARIABLES, 4)) == 0  # nobody's
        yield POWER_OFF

    def run(variables: Variables) -> None:
        vm = FakeVm([guest], writable_only=True)
        host.run(guest, vm=vm, kernel=None, firmware=str(firmware), variables=variables)

    run(Variables(None, BANK))
    create_variables(tmp_path / "store", firmware)
    with pytest.raises(LoadError, match="has no read-only memory, so nothing is stored; leave --vars away"):
        run(Variables(str(tmp_path / "store"), BANK))


def test_padding_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "padded"
    with path.open("wb+") as file:
        for head, length, expected in (
            (b"", 64 * MIB, (BLOCK, 0)),
            (b"code", 64 * MIB, (BLOCK, 0)),
            (b"x" * (BLOCK + 1), 64 * MIB, (2 * BLOCK, 0)),
            (b"x" * 100, 100, (BLOCK, 0xFF)),
            (b"x" * (3 * BLOCK), 3 * BLOCK, (BLOCK, ord("x"))),
            (b"xy" * BLOCK, 2 * BLOCK, (2 * BLOCK, ord("y"))),
            (b"\0" * 5 + b"\xff" * (2 * BLOCK), 2 * BLOCK + 5, (BLOCK, 0xFF)),
        ):
            file.truncate(0)
            os.pwrite(file.fileno(), head, 0)
            file.truncate(length)
            assert extent(file.fileno(), length) == expected


def test_first_use(tmp_path: Path, firmware: Path) -> None:
    """A template beside the firmware is copied, what exists stays."""
    path = tmp_path / "store"
    (tmp_path / "TEST_VARS.fd").write_bytes(b"template")
    create_variables(path, firmware)
    assert path.read_bytes() == b"template"
    (tmp_path / "TEST_VARS.fd").write_bytes(b"another")
    create_variables(path, firmware)
    assert path.read_bytes() == b"template"
    create_variables(tmp_path / "other", tmp_path / "u-boot.bin")
    assert (tmp_path / "other").read_bytes() == b"\xff" * BLOCK
    with pytest.raises(LoadError, match=r"^variables /none/store: No such file or directory$"):
        create_variables(Path("/none/store"), firmware)


def test_stores_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pytest.raises(LoadError, match="No such file"):
        Variables(str(path), BANK)
    path.write_bytes(b"")
    with pytest.raises(LoadError, match="the file is empty"):
        Variables(str(path), BANK)
    path.write_bytes(bytes(5))
    with pytest.raises(LoadError, match="0x5 bytes, and the flash of this machine has 0x4"):
        Variables(str(path), 4)
    first = Variables(str(path), BANK)
    with pytest.raises(LoadError, match="in use by another guest"):
        Variables(str(path), BANK)
    first.close()
    with pytest.raises(LoadError, match="Is a directory"):
        Variables(str(tmp_path), BANK)


@pytest.mark.parametrize(
    "content, why", [(b"", "the file is empty"), (bytes(BANK + 1), "0x4000001 bytes, and the flash")]
)
def test_firmware_that_cannot_be(host: Host, firmware: Path, store: Variables, content: bytes, why: str) -> None:
    firmware.write_bytes(content)
    with pytest.raises(LoadError, match=why):
        host.run(off, kernel=None, firmware=str(firmware), variables=store)


def test_machines_without_the_devices(host: Host, firmware: Path, store: Variables, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="the machine kvmtool has nothing that tells firmware of a kernel"):
        host.run(off, machine=KVMTOOL, firmware=str(firmware), variables=store)
    create_variables(tmp_path / "store", firmware)
    named = Variables(str(tmp_path / "store"), BANK)
    with pytest.raises(LoadError, match="the machine crosvm has no flash for variables"):
        host.run(off, machine=CROSVM, kernel=None, firmware=str(firmware), variables=named)
    named.close()


def test_firmware_hears_of_a_kernel(host: Host, firmware: Path, store: Variables, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"MZ" + make_image(0x3000)[2:])
    initrd.write_bytes(b"archive")
    found: dict[int, int] = {}

    def guest(vm: FakeVm) -> Guest:
        for key in (0x08, 0x0B, 0x14, 0x05):
            yield Store(FW_CFG + 8, 2, key << 8)
            found[key] = yield Load(FW_CFG, 4)
        for key in (0x11, 0x12, 0x15):
            yield Store(FW_CFG + 8, 2, key << 8)
            found[key] = yield Load(FW_CFG, 8)
        yield POWER_OFF

    plan: dict[str, Any] = {"kernel": str(kernel), "initrd": str(initrd), "params": "quiet", "firmware": str(firmware)}
    vm, _ = host.run(guest, variables=store, **plan)
    head = int.from_bytes(kernel.read_bytes()[:8], "little")
    texts = [int.from_bytes(text.ljust(8, b"\0"), "little") for text in (b"archive", b"quiet\0")]
    assert found == {0x08: 0x3000, 0x0B: 7, 0x14: 6, 0x05: 1, 0x11: head, 0x12: texts[0], 0x15: texts[1]}
    assert not any(vm.memory[VIRT.ram][0x20_0000:0x20_3000]), "it is not loaded"


def test_a_kernel_that_firmware_does_not_start(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"\x1f\x8b packed")
    with ExitStack() as undo, pytest.raises(LoadError, match="not an EFI program, which firmware wants; unpack it"):
        kernel_items(str(kernel), None, "", undo)
