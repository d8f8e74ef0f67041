# SPDX-License-Identifier: Apache-2.0
"""Whole guests, scripted, on a hypervisor without hardware."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import libfdt
import pytest
from fake import POWER_OFF, RESET, Event, Exit, FakeVm, Guest, Load, Store, WaitForInterrupt
from images import make_image
from ring import Ring

from gz.abi import registers
from gz.abi.devices import DeviceType
from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent, Watch
from gz.abi.run import RunPage
from gz.vmm.exits import End, Ending
from gz.vmm.firmware import Variables
from gz.vmm.machine import Machine, Plan, Streams
from gz.vmm.maps import CROSVM, KVMTOOL, VIRT, Map
from gz.vmm.streams import Output
from gz.vmm.virtio.console import Port
from gz.vmm.virtio.device import VERSION_1
from gz.vmm.virtio.mmio import Reg, Status

UART = 0x0900_0000
RTC = 0x0901_0000
VIRTIO = 0x0A00_0000
RAM = 0x4000_0000


class Host:
    """What surrounds a guest in a test."""

    def __init__(self, directory: Path) -> None:
        self.kernel = directory / "Image"
        self.kernel.write_bytes(make_image(0x10_0000))
        self.read_end, write_end = os.pipe()
        self.output = Output(write_end, "console")
        self.lines: list[str] = []

    def run(
        self,
        *guests: Callable[[FakeVm], Guest],
        ports: list[Port] | None = None,
        typed: int | None = None,
        consoles: Sequence[str] = (),
        variables: Variables | None = None,
        vm: FakeVm | None = None,
        **plan: Any,
    ) -> tuple[FakeVm, End]:
        vm = vm or FakeVm(list(guests))
        plan = {"kernel": str(self.kernel), "cpus": len(guests), "memory": 16 << 20} | plan
        streams = Streams(self.output, typed, consoles)
        machine = Machine(vm, Plan(**plan), streams, ports or [], self.lines.append, variables)
        try:
            return vm, machine.run()
        finally:
            machine.close()

    def printed(self) -> bytes:
        assert self.output.close(5)
        os.close(self.output.fd)
        return os.read(self.read_end, 1 << 16)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def hello(vm: FakeVm) -> Guest:
    for byte in b"hello\n":
        while (yield Load(UART + 0x18, 4)) & 1 << 5:
            pass
        yield Store(UART, 1, byte)
    yield POWER_OFF


def test_a_guest_prints_and_powers_off(host: Host) -> None:
    vm, end = host.run(hello, params="quiet")
    assert end == End(Ending.POWER_OFF)
    assert host.printed() == b"hello\n" and host.lines == []
    assert vm.devices == [
        (DeviceType.VGICV3_DISTRIBUTOR, 0x0800_0000, 0x1_0000),
        (DeviceType.VGICV3_REDISTRIBUTOR, 0x080A_0000, 0x2_0000),
    ]


def hello_8250(base: int) -> Callable[[FakeVm], Guest]:
    def guest(vm: FakeVm) -> Guest:
        for byte in b"hello\n":
            while not (yield Load(base + 5, 1)) & 1 << 5:
                pass
            yield Store(base, 1, byte)
        yield POWER_OFF

    return guest


@pytest.mark.parametrize("machine", [KVMTOOL, CROSVM], ids=lambda machine: machine.name)
def test_a_guest_prints_on_other_machines(host: Host, machine: Map) -> None:
    vm, end = host.run(hello_8250(machine.uart), machine=machine)
    assert end == End(Ending.POWER_OFF) and host.printed() == b"hello\n" and host.lines == []
    assert [device[1] for device in vm.devices] == [0x3FFF_0000, 0x3FFD_0000]
    assert vm.vcpus[0].registers[registers.PC] == 0x8020_0000


def test_it_starts_as_linux_wants_it(host: Host) -> None:
    vm, _ = host.run(hello)
    boot = vm.vcpus[0].registers
    assert boot == {registers.PC: RAM + 0x20_0000, registers.X0: RAM, registers.PSTATE: 0x3C5}
    ram = vm.memory[RAM]
    assert bytes(ram[0x20_0000:0x30_0000]) == host.kernel.read_bytes()
    assert vm.dtb is not None and vm.dtb[0] == RAM
    tree: Any = libfdt.Fdt(bytes(ram[: vm.dtb[1]]))
    assert tree.getprop(tree.path_offset("/memory@40000000"), "reg")[-4:] == struct.pack(">I", 16 << 20)


def test_protection_is_asked_for_once_there_is_memory(host: Host) -> None:
    vm, _ = host.run(hello, protected=True)
    assert vm.capabilities == [(0xFFBA_DAB1, 2)]


def test_watched_exceptions_are_lines(host: Host) -> None:
    def hvc(page: RunPage) -> None:
        page.exception.exception, page.exception.error_code = ExceptionCode.HVC, 0x5A00_0000
        page.exception.fault_gpa = 0x4000_1000

    def brk(page: RunPage) -> None:
        page.debug.syndrome, page.debug.pc = 0xF200_0001, 0x4000_2000

    def guest(vm: FakeVm) -> Guest:
        yield Exit(ExitReason.EXCEPTION, hvc)
        yield Exit(ExitReason.DEBUG, brk)
        yield RESET

    vm, end = host.run(guest, watch=Watch.HVC | Watch.BREAKPOINT)
    assert vm.capabilities == [(0x9280, 0b1100)]
    assert end.ending is Ending.RESET
    assert host.lines == [
        "vCPU 0: HVC, ESR 0x5a000000, at 0x40001000",
        "vCPU 0: breakpoint, ESR 0xf2000001, at 0x40002000",
    ]


def test_secondary_vcpus_get_no_entry(host: Host) -> None:
    def sleeper(vm: FakeVm) -> Guest:
        yield WaitForInterrupt()

    vm, end = host.run(hello, sleeper, sleeper)
    assert end.ending is Ending.POWER_OFF
    assert [set(vcpu.registers) for vcpu in vm.vcpus[1:]] == [{registers.PSTATE}] * 2


def test_reset_is_an_ending(host: Host) -> None:
    def guest(vm: FakeVm) -> Guest:
        yield RESET

    assert host.run(guest)[1] == End(Ending.RESET)


@pytest.mark.parametrize(
    ("reason", "fill", "why"),
    [
        (ExitReason.UNKNOWN, {}, "vCPU 0: exit for an unknown reason 0x92920000"),
        (0x1234, {}, "vCPU 0: exit for an unknown reason 0x1234"),
        (
            ExitReason.EXCEPTION,
            {"exception.exception": 1, "exception.error_code": 7, "exception.fault_gpa": 0x4100_0000},
            "vCPU 0: unserved exception 1 (error 0x7) at 0x41000000",
        ),
        (
            ExitReason.FAIL_ENTRY,
            {"fail_entry.reason": 5, "fail_entry.cpu": 2},
            "vCPU 0: the core refused to enter it (reason 0x5, CPU 2)",
        ),
        (
            ExitReason.INTERNAL_ERROR,
            {"internal.suberror": 3, "internal.ndata": 1},
            "vCPU 0: internal error 3 of the core 0x0",
        ),
        (
            ExitReason.INTERNAL_ERROR,
            {"internal.suberror": 3, "internal.ndata": 2**32 - 1},
            "vCPU 0: internal error 3 of the core" + " 0x0" * 16,
        ),
        (ExitReason.SYSTEM_EVENT, {"system_event.type": 3}, "the guest reported a crash"),
        (ExitReason.SYSTEM_EVENT, {"system_event.type": 99}, "vCPU 0: unknown system event 99"),
    ],
)
def test_errors_end_with_one_line(host: Host, reason: int, fill: dict[str, int], why: str) -> None:
    def write(page: RunPage) -> None:
        page.exception.fault_gpa = page.internal.ndata = 0
        for i in range(16):
            page.internal.data[i] = 0
        for path, value in fill.items():
            record, name = path.split(".")
            setattr(getattr(page, record), name, value)

    def guest(vm: FakeVm) -> Guest:
        yield Exit(reason, write)

    assert host.run(guest)[1] == End(Ending.FAILED, why)


def test_shutdown_and_harmless_events(host: Host) -> None:
    def guest(vm: FakeVm) -> Guest:
        yield Event(SystemEvent.WAKEUP)
        yield Exit(ExitReason.SHUTDOWN)

    assert host.run(guest)[1] == End(Ending.POWER_OFF)


def test_an_unknown_hypercall_is_not_supported(host: Host) -> None:
    seen: list[Any] = []

    def call(page: RunPage) -> None:
        page.hypercall.args[0] = 0xC600_1234
        seen.append(page.hypercall)

    def guest(vm: FakeVm) -> Guest:
        yield Exit(ExitReason.HYPERCALL, call)
        assert seen[0].args[0] == 2**64 - 1
        yield POWER_OFF

    assert host.run(guest)[1] == End(Ending.POWER_OFF)


def test_a_hole_reads_zero_and_is_reported_once(host: Host) -> None:
    def guest(vm: FakeVm) -> Guest:
        assert (yield Load(0x1000, 8)) == 0
        assert (yield Load(0x1008, 1)) == 0
        yield Store(0x1000, 2, 0xFFFF)
        yield POWER_OFF

    assert host.run(guest)[1] == End(Ending.POWER_OFF)
    assert host.lines == ["the guest reads 0x1000 (8 bytes), where no device is"]


def test_sizes_are_cut(host: Host) -> None:
    def guest(vm: FakeVm) -> Guest:
        assert (yield Load(VIRTIO, 4)) == 0x7472_6976
        assert (yield Load(RTC + 0xFE0, 1)) == 0x31
        yield POWER_OFF

    assert host.run(guest)[1] == End(Ending.POWER_OFF)


def test_our_own_mistakes_end_the_guest_not_the_vmm(host: Host) -> None:
    def guest(vm: FakeVm) -> Guest:
        yield Store(VIRTIO, 3, 0)

    end = host.run(guest)[1]
    assert end.ending is Ending.FAILED and "KeyError" in end.why


def test_another_thread_can_stop_a_busy_guest(host: Host) -> None:
    def forever(vm: FakeVm) -> Guest:
        while True:
            yield Load(RTC, 4)

    vm = FakeVm([forever, forever])
    plan = Plan(kernel=str(host.kernel), cpus=2, memory=16 << 20)
    machine = Machine(vm, plan, Streams(host.output, None), [], host.lines.append)
    stop = End(Ending.STOPPED, "enough")
    threading.Timer(0.1, lambda: machine.end(stop)).start()
    begin = time.monotonic()
    assert machine.run() == stop
    machine.close()
    assert time.monotonic() - begin < 5
    entries = [vcpu.entries for vcpu in vm.vcpus]
    time.sleep(0.05)
    assert entries == [vcpu.entries for vcpu in vm.vcpus]


def bring_up(slot: int, queues: list[Ring]) -> Guest:
    """A virtio driver as a guest."""
    base = VIRTIO + 0x200 * slot

    def steps() -> list[tuple[Reg, int]]:
        yield_up = [(Reg.STATUS, 0), (Reg.STATUS, 1), (Reg.STATUS, 3)]
        yield_up += [(Reg.DRIVER_FEATURES_SEL, 1), (Reg.DRIVER_FEATURES, VERSION_1 >> 32)]
        yield_up += [(Reg.DRIVER_FEATURES_SEL, 0), (Reg.DRIVER_FEATURES, 2 if len(queues) > 1 else 0)]
        yield_up += [(Reg.STATUS, 11)]
        for number, ring in enumerate(queues):
            yield_up += [
                (Reg.QUEUE_SEL, number),
                (Reg.QUEUE_NUM, ring.size),
                (Reg.QUEUE_DESC_LOW, ring.descriptors_at),
                (Reg.QUEUE_DRIVER_LOW, ring.available_at),
                (Reg.QUEUE_DEVICE_LOW, ring.used_at),
                (Reg.QUEUE_READY, 1),
            ]
        return [*yield_up, (Reg.STATUS, 15)]

    for register, value in steps():
        yield Store(base + register, 4, value)
    assert (yield Load(base + Reg.STATUS, 4)) == Status(15)


class Ram:
    """Guest memory as the ring of the tests wants it."""

    def __init__(self, vm: FakeVm) -> None:
        self._ram = vm.memory[RAM]

    def at(self, gpa: int, length: int) -> memoryview:
        return self._ram[gpa - RAM : gpa - RAM + length]


def test_a_guest_reads_its_disk(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"first sector".ljust(512, b".") + b"second".ljust(512, b"."))

    def guest(vm: FakeVm) -> Guest:
        ring = Ring(Ram(vm), RAM + 0x80_0000, 16)  # type: ignore[arg-type]
        yield from bring_up(0, [ring])
        _, (data, status) = ring.add([struct.pack("<IIQ", 0, 0, 1)], [512, 1])
        yield Store(VIRTIO + Reg.QUEUE_NOTIFY, 4, 0)
        yield WaitForInterrupt(16)
        assert (yield Load(VIRTIO + Reg.INTERRUPT_STATUS, 4)) == 1
        yield Store(VIRTIO + Reg.INTERRUPT_ACK, 4, 1)
        assert bytes(Ram(vm).at(data, 6)) == b"second" and Ram(vm).at(status, 1)[0] == 0
        yield POWER_OFF

    vm, end = host.run(guest, disks=[(str(image), True)])
    assert end == End(Ending.POWER_OFF)
    assert (16, 1) not in vm.lines


def test_what_a_port_got_before_power_off_arrives(host: Host) -> None:
    reader, writer = os.pipe()
    output = Output(writer, "gz.stdout")
    data = os.urandom(2000)

    def guest(vm: FakeVm) -> Guest:
        rings = [Ring(Ram(vm), RAM + 0x80_0000 + 0x1_0000 * n, 16) for n in range(6)]  # type: ignore[arg-type]
        yield from bring_up(0, rings)
        rings[5].add([data[:1000], data[1000:]], [])
        # Neither a notification nor patience.
        yield POWER_OFF

    _, end = host.run(guest, ports=[Port("gz.stdout", None, output)])
    assert end == End(Ending.POWER_OFF)
    assert output.close(5)
    os.close(writer)
    assert os.read(reader, 4000) == data


@pytest.mark.parametrize("machine", [VIRT, KVMTOOL], ids=lambda machine: machine.name)
def test_hvc0_only_for_those_who_name_it(host: Host, machine: Map) -> None:
    """kvm-unit-tests hang at their end with a console that is not QEMU's legacy test device."""
    kinds: list[int] = []

    def guest(vm: FakeVm) -> Guest:
        kinds.append((yield Load(machine.virtio + Reg.DEVICE_ID, 4)))
        yield POWER_OFF

    host.run(guest, machine=machine)
    host.run(guest, machine=machine, consoles=["hvc0", "ttyAMA0"])
    assert kinds == [4, 3], "entropy comes first where there is no console"


def test_typing_reaches_hvc0(host: Host) -> None:
    keys, keyboard = os.pipe()

    def guest(vm: FakeVm) -> Guest:
        ring = Ring(Ram(vm), RAM + 0x80_0000, 16)  # type: ignore[arg-type]
        _, (buffer,) = ring.add([], [16])
        yield from bring_up(0, [ring])
        os.write(keyboard, b"ok")
        yield WaitForInterrupt(16)
        assert bytes(Ram(vm).at(buffer, 2)) == b"ok"
        yield POWER_OFF

    assert host.run(guest, typed=keys, consoles=["ttyAMA0", "hvc0"])[1] == End(Ending.POWER_OFF)


def test_typing_reaches_the_uart(host: Host) -> None:
    keys, keyboard = os.pipe()

    def guest(vm: FakeVm) -> Guest:
        yield Store(UART + 0x38, 4, 0x50)
        os.write(keyboard, b"ok")
        yield WaitForInterrupt(1)
        text = b""
        while len(text) < 2:
            if not (yield Load(UART + 0x18, 4)) & 1 << 4:
                text += bytes([(yield Load(UART, 4))])
        assert text == b"ok"
        yield POWER_OFF

    assert host.run(guest, typed=keys)[1] == End(Ending.POWER_OFF)


def test_a_failed_build_leaves_nothing_running(host: Host) -> None:
    before = threading.active_count()
    with pytest.raises(Exception, match="disk /nowhere: No such file"):
        host.run(hello, disks=[("/nowhere", False)])
    assert threading.active_count() == before
