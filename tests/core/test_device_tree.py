# SPDX-License-Identifier: Apache-2.0
"""Reading the loader's tree and writing the host's, held against dtc and libfdt."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import libfdt
import pytest

from gz.abi import doorbell
from gz.arm64.fdt import SIZE_MAX
from gz.core import discovery, hole, host_tree, placement, tree
from gz.core.tree import NONE
from gz.metal import Program
from gz.metal.jit import Jit

SOURCE = """
/dts-v1/;
/memreserve/ 0x41000000 0x1000;
/ {
    #address-cells = <2>;
    #size-cells = <2>;
    model = "a board";
    aliases { serial0 = "/soc/uart@3000"; };
    chosen {
        bootargs = "for the loader";
        stdout-path = "serial0:115200n8";
        linux,initrd-start = <0x1>;
        module@44000000 {
            compatible = "multiboot,module", "multiboot,kernel";
            reg = <0 0x44000000 0 0x2000000>;
            bootargs = "console=ttyAMA0 quiet";
        };
        module@48000000 {
            compatible = "multiboot,module", "multiboot,ramdisk";
            reg = <0 0x48000000 0 0x123456>;
        };
        keep { left = "alone"; };
    };
    memory@40000000 { device_type = "memory"; reg = <0 0x40000000 0 0x8000000>, <0x1 0 0 0x10000800>; };
    memory@48000000 { device_type = "memory"; reg = <0 0x48000000 0 0x8000000>; };
    psci { compatible = "arm,psci-1.0"; method = "smc"; };
    cpus {
        #address-cells = <1>;
        #size-cells = <0>;
        cpu@0 { device_type = "cpu"; reg = <0x0>; };
        cpu@100 { device_type = "cpu"; reg = <0x100>; };
        cpu@10001 { device_type = "cpu"; reg = <0x10001>; };
    };
    intc: intc@8000000 {
        compatible = "arm,gic-v3";
        #redistributor-regions = <2>;
        reg = <0 0x8000000 0 0x10000>, <0 0x80a0000 0 0x100000>, <0x40 0 0 0x40000>;
    };
    soc {
        #address-cells = <1>;
        #size-cells = <1>;
        compatible = "simple-bus";
        ranges;
        uart@2000 { compatible = "arm,pl011"; reg = <0x2000 0x1000>; status = "disabled"; };
        uart@1000 { compatible = "arm,pl011", "arm,primecell"; reg = <0x1000 0x1000>; };
        uart@3000 { compatible = "arm,pl011"; reg = <0x3000 0x1000>; };
        behind {
            #address-cells = <1>;
            #size-cells = <1>;
            ranges = <0x0 0x50000000 0x10000>;
            uart@4000 { compatible = "arm,pl011"; reg = <0x4000 0x1000>; };
        };
        device@50010000 { reg = <0x50010000 0x10>; };
    };
    pci {
        #address-cells = <3>;
        #size-cells = <2>;
        ranges = <0x2000000 0 0x50030000 0 0x50020000 0 0x100000>;
    };
    hypervisor { compatible = "something,else"; child { }; };
    RESERVED
};
"""
RESERVED = """
    reserved-memory {
        #address-cells = <2>;
        #size-cells = <2>;
        ranges;
        firmware@42000000 { reg = <0 0x42000000 0 0x10000>; no-map; };
        floating { size = <0 0x1000>; };
    };
"""


def compiled(source: str) -> bytes:
    done = subprocess.run(
        ["dtc", "-q", "-I", "dts", "-O", "dtb"], input=source.encode(), stdout=subprocess.PIPE, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def jit() -> Jit:
    program = Program(
        roots=[
            tree.open,
            tree.root,
            tree.next_node,
            tree.name,
            tree.find,
            discovery.discover,
            host_tree.room,
            host_tree.write,
            hole.find,
            placement.find,
        ]
    )
    return program.jit()


class Machine:
    """One tree, read with fresh storage. The blob ends where its memory does."""

    def __init__(self, jit: Jit, blob: bytes) -> None:
        self.jit = jit
        jit.reset()
        self.blob = self.jit.buffer(SIZE_MAX)
        self.at = self.blob.address
        self.blob.memory[: len(blob)] = blob
        self.tree = self.jit.buffer(tree.Tree.size)
        self.opened = self.jit.fn(tree.open)(self.tree.address, self.at, len(blob))

    @property
    def machine(self) -> Any:
        return self.jit.storage("gz.core.platform.machine")

    def discover(self) -> None:
        self.jit.fn(discovery.discover)(self.tree.address)

    def write(self) -> bytes:
        room = self.jit.fn(host_tree.room)(self.tree.address)
        out = self.jit.buffer((room + 7) & ~7)
        size = self.jit.fn(host_tree.write)(self.tree.address, out.address)
        assert size <= room
        return bytes(out.memory[:size])

    def nodes(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        node, depth = self.jit.fn(tree.root)(self.tree.address), 0
        while node != NONE:
            at, length = self.jit.fn(tree.name)(self.tree.address, node)
            start = at - self.at
            found.append((bytes(self.blob.memory[start : start + length]).decode(), depth))
            node, depth = self.jit.fn(tree.next_node)(self.tree.address, node, depth)
        return found


def walk(fdt: libfdt.FdtRo) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    node, depth = 0, 0
    while True:
        found.append((fdt.get_name(node), depth))
        try:
            node, depth = fdt.next_node(node, depth)
        except libfdt.FdtException:
            return found
        if depth < 0:
            return found


@pytest.fixture(params=["", RESERVED], ids=["without reservations", "with reservations"])
def board(request: pytest.FixtureRequest, jit: Jit) -> Machine:
    found = Machine(jit, compiled(SOURCE.replace("RESERVED", request.param)))
    assert found.opened
    return found


def ranges(array: Any, count: int) -> list[tuple[int, int]]:
    return [(array[i].base, array[i].size) for i in range(count)]


def test_nodes_are_those_that_libfdt_sees(board: Machine) -> None:
    assert board.nodes() == walk(libfdt.Fdt(bytes(board.blob.memory)))


def test_discovery(board: Machine) -> None:
    board.discover()
    m = board.machine
    assert ranges(m.ram, m.ram_count) == [(0x4000_0000, 0x1000_0000), (0x1_0000_0000, 0x1000_0000)]
    assert (m.kernel.base, m.kernel.size) == (0x4400_0000, 0x200_0000)
    assert (m.initrd.base, m.initrd.size) == (0x4800_0000, 0x12_3456)
    start = m.kernel_arguments - board.at
    assert bytes(board.blob.memory[start : start + m.kernel_arguments_size]) == b"console=ttyAMA0 quiet"
    assert (m.psci_smc, m.psci_hvc) == (1, 0)
    assert (m.uart.base, m.uart.size) == (0x3000, 0x1000), "stdout-path leads through an alias"
    assert (m.distributor.base, m.distributor.size) == (0x800_0000, 0x1_0000)
    assert ranges(m.redistributors, m.redistributor_count) == [(0x80A_0000, 0x10_0000), (0x40_0000_0000, 0x4_0000)]
    cpus = board.jit.storage("gz.core.cpu.CPUS")
    assert [cpus[i].mpidr for i in range(m.cpu_count)] == [0, 0x100, 0x1_0001]


def test_uart_without_stdout_path(jit: Jit) -> None:
    source = SOURCE.replace('stdout-path = "serial0:115200n8";', "").replace("RESERVED", "")
    board = Machine(jit, compiled(source))
    board.discover()
    assert board.machine.uart.base == 0x1000, "the first that is not disabled"


def test_reserved_memory_is_taken(jit: Jit) -> None:
    board = Machine(jit, compiled(SOURCE.replace("RESERVED", RESERVED)))
    board.discover()
    taken = board.jit.storage("gz.core.placement.placement")
    assert ranges(taken.taken, taken.count) == [(0x4200_0000, 0x1_0000)]
    assert board.jit.fn(placement.find)(0x0200_0000, 0x20_0000) == 0x4000_0000
    assert board.jit.fn(placement.find)(0x0200_0001, 0x20_0000) == 0x4220_0000
    assert board.jit.fn(placement.find)(0x1000_0000, 0x20_0000) == 0x1_0000_0000
    assert board.jit.fn(placement.find)(0x1000_0001, 0x20_0000) == 0


def test_doorbell_lies_behind_devices_and_windows(board: Machine) -> None:
    board.discover()
    # 0x5000_0000 is a bus window, 0x5001_0000 a device, 0x5002_0000 … 0x5012_0000 another window
    assert board.jit.fn(hole.find)(board.tree.address, 1 << 40) == 0x5012_0000
    assert board.jit.fn(hole.find)(board.tree.address, 0x5012_0000) == 0


def written(board: Machine) -> libfdt.Fdt:
    board.discover()
    m = board.machine
    m.image.base, m.image.size = 0x4020_0000, 0x12_3000
    m.pool.base, m.pool.size = 0x4032_3000, 0x4_D000
    m.doorbell = 0x1_2345_0000
    return libfdt.Fdt(board.write())


def test_host_tree(board: Machine) -> None:
    before = libfdt.Fdt(bytes(board.blob.memory))
    after = written(board)
    chosen = after.path_offset("/chosen")
    assert after.getprop(chosen, "bootargs").as_str() == "console=ttyAMA0 quiet"
    initrd = after.getprop(chosen, "linux,initrd-start"), after.getprop(chosen, "linux,initrd-end")
    assert [int.from_bytes(end, "big") for end in initrd] == [0x4800_0000, 0x4812_3456]
    assert after.getprop(chosen, "stdout-path").as_str() == "serial0:115200n8"
    node = after.path_offset(f"/{doorbell.NODE}")
    strings = bytes(after.getprop(node, "compatible")).decode().split("\0")
    assert strings == [*doorbell.COMPATIBLE, ""]
    page = struct.unpack(">QQ", after.getprop(node, doorbell.PROPERTY))
    assert page == (0x1_2345_0000, doorbell.DOORBELL_SIZE)
    core = after.path_offset("/reserved-memory/core@40200000")
    assert struct.unpack(">QQ", after.getprop(core, "reg")) == (0x4020_0000, 0x17_0000)
    assert len(after.getprop(core, "no-map")) == 0
    reserved = after.path_offset("/reserved-memory")
    assert after.getprop(reserved, "#address-cells").as_uint32() == 2
    assert len(after.getprop(reserved, "ranges")) == 0
    assert [after.get_mem_rsv(i) for i in range(after.num_mem_rsv())] == [[0x4100_0000, 0x1000]]

    gone = {"module@44000000", "module@48000000", "child"}
    added = {"core@40200000", "reserved-memory"}
    names = [name for name, _ in walk(after)]
    assert not gone & set(names)
    assert set(names) - added == {name for name, _ in walk(before)} - gone - added
    for path in ("/", "/memory@40000000", "/soc/behind/uart@4000", "/chosen/keep", "/cpus/cpu@100"):
        assert properties(after, path) == properties(before, path)


def properties(fdt: libfdt.FdtRo, path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    offset = fdt.first_property_offset(fdt.path_offset(path), libfdt.QUIET_NOTFOUND)
    while offset >= 0:
        prop = fdt.get_property_by_offset(offset)
        found[prop.name] = bytes(prop)
        offset = fdt.next_property_offset(offset, libfdt.QUIET_NOTFOUND)
    return found


def test_dtc_reads_the_host_tree(board: Machine) -> None:
    blob = written(board).as_bytearray()
    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts"], input=bytes(blob), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    # dtc repeats what it dislikes about the source as well; about our nodes it has nothing to say.
    assert b"/hypervisor" not in done.stderr and b"core@" not in done.stderr, done.stderr.decode()


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="needs QEMU")
@pytest.mark.parametrize("gic_memory", [("3", 1024), ("3", 4096)])
def test_qemu_tree(jit: Jit, tmp_path: Path, gic_memory: tuple[str, int]) -> None:
    version, memory = gic_memory
    for name, size in (("kernel", 1 << 20), ("initrd", 4097)):
        (tmp_path / name).write_bytes(bytes(size))
    subprocess.run(
        [
            "qemu-system-aarch64", "-nodefaults", "-display", "none", "-cpu", "cortex-a76", "-smp", "4",
            "-M", f"virt,virtualization=on,gic-version={version},dumpdtb={tmp_path / 'dtb'}", "-m", str(memory),
            "-kernel", str(tmp_path / "kernel"),
            "-device", f"guest-loader,addr=0x4a000000,kernel={tmp_path / 'kernel'},bootargs=quiet",
            "-device", f"guest-loader,addr=0x50000000,initrd={tmp_path / 'initrd'}",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    board = Machine(jit, (tmp_path / "dtb").read_bytes())
    board.discover()
    m = board.machine
    assert ranges(m.ram, m.ram_count) == [(0x4000_0000, memory << 20)]
    assert (m.kernel.base, m.kernel.size) == (0x4A00_0000, 1 << 20)
    assert (m.initrd.base, m.initrd.size) == (0x5000_0000, 4097)
    assert (m.uart.base, m.cpu_count, m.psci_smc) == (0x900_0000, 4, 1)
    assert m.distributor.base == 0x800_0000
    assert ranges(m.redistributors, m.redistributor_count) == [(0x80A_0000, 0xF6_0000)]
    assert board.jit.fn(hole.find)(board.tree.address, 1 << 40) == 0x4000_0000 + (memory << 20)


def test_what_is_no_tree(jit: Jit) -> None:
    good = compiled(SOURCE.replace("RESERVED", ""))
    assert Machine(jit, good).opened
    for damaged in (bytes(64), b"\0" * len(good), good[:-1], good[:39], good[:4] + b"\xff" * 4 + good[8:]):
        board = Machine(jit, damaged)
        assert not board.opened
        assert board.nodes() == []


@pytest.mark.parametrize("seed", range(8))
def test_damaged_trees(jit: Jit, seed: int) -> None:
    """Any damage: no access outside of the blob, no endless loop, no assertion."""
    chance = random.Random(seed)
    good = compiled(SOURCE.replace("RESERVED", RESERVED))
    board = Machine(jit, good)
    for _ in range(60):
        blob = bytearray(good)
        for _ in range(chance.choice((1, 2, 8, 64))):
            place = chance.randrange(len(blob)) & ~3
            blob[place : place + 4] = struct.pack(
                ">I", chance.choice((0, 1, 2, 3, 4, 9, 0xFFFF_FFFF, 0x7FFF_FFFC, chance.getrandbits(32)))
            )
        board.jit.reset()
        room = board.jit.buffer((len(blob) + 7) & ~7)
        start = len(room.memory) - len(blob) & ~7
        room.memory[start : start + len(blob)] = blob
        if board.jit.fn(tree.open)(board.tree.address, room.address + start, len(blob)):
            board.discover()
            board.write()
            board.jit.fn(hole.find)(board.tree.address, 1 << 40)
