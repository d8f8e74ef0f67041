# SPDX-License-Identifier: Apache-2.0
"""Guests that the core's firmware starts, on a hypervisor without hardware: what it will find is what was foreseen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake import POWER_OFF, FakeVm, Guest
from images import make_elf, make_image

from gz.abi import registers
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.memory import Purpose
from gz.cli.firmware import carry, foresee, given
from gz.cli.report import UserError
from gz.vmm.loader import LoadError
from gz.vmm.machine import Machine, Streams
from gz.vmm.maps import MAPS, PVMFW, PVMFW_SIZE
from gz.vmm.options import Options, open_port, parse
from gz.vmm.streams import Output

SIZE = 0x9000
MEMORY = 32 << 20


def silent(vm: FakeVm) -> Guest:
    yield POWER_OFF


def run(options: Options, firmware_size: int = SIZE) -> FakeVm:
    vm = FakeVm([silent] * options.plan.cpus, firmware_size=firmware_size)
    streams = Streams(Output(os.open("/dev/null", os.O_WRONLY), "console"), None, options.consoles)
    machine = Machine(vm, options.plan, streams, [open_port(port) for port in options.ports], lambda _: None)
    try:
        machine.run()
        return vm
    finally:
        machine.close()


def contents(vm: FakeVm, address: int, length: int) -> bytes:
    base, memory = next((base, memory) for base, memory in vm.memory.items() if 0 <= address - base < len(memory))
    return bytes(memory[address - base :][:length])


def program(kind: str, ram: int) -> bytes:
    match kind:
        case "Image":
            return make_image(0x12_3456)
        case "ELF":
            return make_elf([(ram + 0x40_0000, b"\1\2\3\4" * 999), (ram + 0x50_0000, b"\5" * 77)], memory_size=0x1000)
        case _:
            return b"\x1f\x20\x03\xd5" * 5000


@pytest.mark.parametrize("machine", list(MAPS))
@pytest.mark.parametrize("kind", ["Image", "ELF", "raw"])
@pytest.mark.parametrize("more", [[], ["--params", "console=hvc0"], ["--cpus", "3", "--port", "p=out:/dev/null"]])
def test_memory_is_as_foreseen(tmp_path: Path, machine: str, kind: str, more: list[str]) -> None:
    """To the bit, the tree included: two runs know nothing of each other."""
    ram = MAPS[machine].ram
    for name, data in (("kernel", program(kind, ram)), ("initrd", os.urandom(5000)), ("disk", bytes(1024))):
        (tmp_path / name).write_bytes(data)
    arguments = ["--machine", machine, "--pvmfw", "--mem", "32M", "--kernel", str(tmp_path / "kernel"), *more]
    arguments += ["--initrd", str(tmp_path / "initrd"), "--disk", f"{tmp_path / 'disk'},ro"]
    verdict = foresee(parse(arguments))
    vm = run(parse(arguments))
    assert len(verdict.ranges) == 3
    for address, wanted in verdict.ranges:
        assert contents(vm, address, len(wanted)) == bytes(wanted)
    assert verdict.ram == (ram, MEMORY)
    boot = vm.vcpus[0].registers
    assert registers.PC not in boot
    assert (boot[registers.X0], boot[registers.x(1)]) == (verdict.tree, verdict.entry)
    first, length = max(verdict.ranges, key=lambda row: len(row[1]))[0], boot[registers.x(2)]
    assert first <= verdict.entry < verdict.entry + length <= ram + MEMORY


@pytest.mark.parametrize("machine", list(MAPS))
def test_it_lies_beside_the_memory(tmp_path: Path, machine: str) -> None:
    (tmp_path / "kernel").write_bytes(make_image(0x1000))
    vm = run(parse(["--machine", machine, "--pvmfw", "--mem", "32M", "--kernel", str(tmp_path / "kernel")]))
    ram = MAPS[machine].ram
    at = ram + MEMORY if machine == "virt" else PVMFW
    assert vm.purposes == {ram: Purpose.GUEST_MEMORY, at: Purpose.PROTECTED_FIRMWARE}
    assert len(vm.memory[at]) == PVMFW_SIZE
    assert vm.capabilities == [
        (Capability.PROTECTED_VM, ProtectedVm.GET_FIRMWARE_SIZE),
        (Capability.PROTECTED_VM, ProtectedVm.SET_FIRMWARE, at),
    ]


def test_a_core_without_firmware(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(make_image(0x1000))
    with pytest.raises(LoadError, match="no firmware for protected VMs"):
        run(parse(["--pvmfw", "--mem", "32M", "--kernel", str(tmp_path / "kernel")]), firmware_size=0)


@pytest.mark.parametrize(
    "size, reason", [(None, "No such file"), (0, "is empty"), (2 << 20, "at most 0x1ff000 fit"), (0x1FF000, None)]
)
def test_files_of_the_user(tmp_path: Path, size: int | None, reason: str | None) -> None:
    path = tmp_path / "pvmfw"
    if size is not None:
        path.write_bytes(bytes(size))
    if reason is None:
        assert given(str(path)) == bytes(0x1FF000)
        return
    with pytest.raises(UserError, match=reason):
        given(str(path))


def test_the_core_carries_whole_pages() -> None:
    core = make_image(0x5000)
    whole = carry(core, b"\7" * 0x1001)
    size = int.from_bytes(core[16:24], "little")
    assert whole[size:] == b"\7" * 0x1001 + bytes(0xFFF)
    assert int.from_bytes(whole[16:24], "little") == len(whole)
    assert whole[24:size] == core[24:].ljust(size - 24, b"\0")
