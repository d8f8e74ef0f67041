# SPDX-License-Identifier: Apache-2.0
"""The transport by the kernel's gzvm driver, against one that notes what it is told; `gzvm_run` is the compiled one,
in this process."""

from __future__ import annotations

import ctypes
import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gz.abi import device, registers
from gz.abi.calls import VCPUS_MAX
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.device import IoctlEnableCap, IoctlIoeventfd, IoctlIrqfd, IoctlIrqLine, IoctlMemoryRegion, IoctlOneReg
from gz.abi.devices import DISTRIBUTOR_SIZE, DeviceRequest, DeviceType
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_SIZE, SLOTS_MAX, Access, Purpose
from gz.abi.run import RunPage
from gz.bits.view import address_of
from gz.driver import gzvm_run
from gz.driver.gzvm import GzvmVm, Linux
from gz.driver.interface import INTERRUPTED, DriverError
from gz.driver.kvm_run import IOCTL
from gz.driver.transport import choose
from gz.driver.vcpu import install_kick
from gz.metal.jit import Jit
from gz.metal.program import Program

RAM = 0x4000_0000
SYSTEM, VM, VCPU_0 = 3, 10, 20
Step = Callable[[RunPage], int]


class FakeDriver:
    """`script`: what the vCPUs do, run by run; a negative errno or 0 with the page filled."""

    def __init__(self, jit: Jit) -> None:
        self.asked: list[tuple[int, int, Any]] = []
        self.refused: dict[int, int] = {}
        self.closed: list[int] = []
        self.script: list[Step] = []
        self.runs = 0
        self._jit = jit
        jit.on_svc(self._svc)

    def ioctl(self, file: int, request: int, argument: int | bytearray) -> int:
        if request in self.refused:
            raise OSError(self.refused[request], "refused")
        self.asked.append((file, request, bytes(argument) if isinstance(argument, bytearray) else argument))
        match request:
            case device.CREATE_VM:
                return VM
            case device.CREATE_VCPU:
                assert isinstance(argument, int)
                return VCPU_0 + argument
            case device.ENABLE_CAP:
                assert isinstance(argument, bytearray)
                IoctlEnableCap.view(argument).args[1] = 0x5000
                return 0
            case _:
                return 0

    def runner(self, vcpu: int, page: memoryview) -> Callable[[], int]:
        return partial(self._jit.fn(gzvm_run.gzvm_run), vcpu, address_of(page))

    def close(self, file: int) -> None:
        self.closed.append(file)

    def _svc(self, number: int, file: int, request: int, address: int, *rest: int) -> int:
        assert (number, request) == (IOCTL, device.RUN) and file >= VCPU_0
        self.runs += 1
        copy = bytearray(ctypes.string_at(address, RunPage.size))
        page = RunPage.view(memoryview(copy), 0)
        if page.immediate_exit == 1:
            return -errno.EINTR
        status = self.script.pop(0)(page)
        ctypes.memmove(address, bytes(copy), RunPage.size)
        return status


@pytest.fixture(scope="module")
def jit() -> Jit:
    return Program([gzvm_run.gzvm_run]).jit()


@pytest.fixture
def driver(jit: Jit) -> Iterator[FakeDriver]:
    install_kick()
    yield FakeDriver(jit)
    jit.on_svc(None)


def leave(reason: int) -> Step:
    def step(page: RunPage) -> int:
        page.exit_reason = reason
        return 0

    return step


def test_set_up_in_the_drivers_words(driver: FakeDriver) -> None:
    vm = GzvmVm(driver, SYSTEM)
    view = vm.add_memory(0, RAM, BLOCK_SIZE, Purpose.GUEST_MEMORY)
    vm.create_device(DeviceType.VGICV3_DISTRIBUTOR, 0x800_0000, DISTRIBUTOR_SIZE)
    assert not vm.set_access(0, Access.READ_ONLY) and vm.set_access(0, Access.READ_WRITE)
    vcpu = vm.create_vcpu(1)
    vcpu.set_register(registers.PC, 0x1234_5678_9ABC)
    vm.set_dtb(RAM, 0x1000)
    vm.irq_line(5, 1)
    vm.irqfd(7, 6)
    vm.ioeventfd(0xA00_0050, 4, 8, 3)
    assert [(file, request) for file, request, _ in driver.asked] == [
        (SYSTEM, device.CREATE_VM),
        (VM, device.SET_USER_MEMORY_REGION),
        (VM, device.CREATE_DEVICE),
        (VM, device.CREATE_VCPU),
        (VCPU_0 + 1, device.SET_ONE_REG),
        (VM, device.SET_DTB_CONFIG),
        (VM, device.IRQ_LINE),
        (VM, device.IRQFD),
        (VM, device.IOEVENTFD),
    ]
    told = [bytearray(argument) if isinstance(argument, bytes) else bytearray() for _, _, argument in driver.asked]
    region, request = IoctlMemoryRegion.view(told[1]), DeviceRequest.view(told[2])
    register, line = IoctlOneReg.view(told[4]), IoctlIrqLine.view(told[6])
    irqfd, event = IoctlIrqfd.view(told[7]), IoctlIoeventfd.view(told[8])
    assert (region.flags, region.gpa, region.memory_size) == (Purpose.GUEST_MEMORY, RAM, BLOCK_SIZE)
    assert region.user_address == address_of(view)
    assert (request.type, request.base, request.window_size) == (0, 0x800_0000, DISTRIBUTOR_SIZE)
    assert register.id == registers.PC
    assert (line.irq, line.level) == (1 << 24 | 5, 1)
    assert (irqfd.fd, irqfd.gsi, irqfd.flags) == (7, 6, 0)
    assert (event.address, event.length, event.fd, event.datamatch, event.flags) == (0xA00_0050, 4, 8, 3, 1)
    vm.close()
    assert driver.closed == [VCPU_0 + 1, VM, SYSTEM]


def test_the_size_of_firmware_is_the_only_answer(driver: FakeDriver) -> None:
    vm = GzvmVm(driver, SYSTEM)
    assert vm.enable_capability(Capability.PROTECTED_VM, ProtectedVm.GET_FIRMWARE_SIZE) == 0x5000
    assert vm.enable_capability(Capability.PROTECTED_VM, ProtectedVm.SET_FIRMWARE, RAM) == 0
    assert IoctlEnableCap.view(bytearray(driver.asked[-1][2])).args[1] == RAM


def test_exits_and_interruptions(driver: FakeDriver) -> None:
    """A signal that nobody meant for the vCPU is no end of the run."""
    vcpu = GzvmVm(driver, SYSTEM).create_vcpu(0)
    driver.script = [lambda _: -errno.EINTR, leave(ExitReason.MMIO), leave(ExitReason.SYSTEM_EVENT)]
    assert vcpu.enter() == ExitReason.MMIO and driver.runs == 2
    vcpu.kick()
    assert vcpu.enter() == INTERRUPTED and driver.runs == 3
    assert vcpu.enter() == ExitReason.SYSTEM_EVENT
    driver.script = [lambda _: -errno.EFAULT]
    with pytest.raises(DriverError, match="RUN of /dev/gzvm failed: Bad address"):
        vcpu.enter()


def test_a_kick_reaches_the_thread_that_runs(driver: FakeDriver) -> None:
    vcpu = GzvmVm(driver, SYSTEM).create_vcpu(0)
    running = threading.Event()

    def busy(_: RunPage) -> int:
        running.set()
        time.sleep(0.05)
        return -errno.EINTR

    driver.script = [busy, leave(ExitReason.MMIO)]
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(vcpu.enter()))
    thread.start()
    assert running.wait(10)
    vcpu.kick()
    thread.join(10)
    assert results == [INTERRUPTED] and driver.runs == 1
    assert vcpu.enter() == ExitReason.MMIO, "one kick ends one run"
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_what_is_wrong_is_said(driver: FakeDriver, tmp_path: Path) -> None:
    vm = GzvmVm(driver, SYSTEM)
    for slot, gpa, size in ((SLOTS_MAX, RAM, BLOCK_SIZE), (0, RAM + 1, BLOCK_SIZE), (0, RAM, 0), (-1, RAM, BLOCK_SIZE)):
        with pytest.raises(ValueError):
            vm.add_memory(slot, gpa, size, Purpose.GUEST_MEMORY)
    with pytest.raises(ValueError):
        vm.create_vcpu(VCPUS_MAX)
    with pytest.raises(DriverError, match="reads no registers"):
        vm.create_vcpu(0).get_register(registers.PC)
    driver.refused[device.IRQ_LINE] = errno.EFAULT
    with pytest.raises(DriverError, match="IRQ_LINE of /dev/gzvm failed: Bad address"):
        vm.irq_line(0, 1)
    driver.refused[device.CREATE_VM] = errno.ENOMEM
    with pytest.raises(DriverError, match="CREATE_VM of /dev/gzvm failed"):
        GzvmVm(driver, 99)
    assert driver.closed[-1] == 99
    with pytest.raises(DriverError, match="installation is incomplete"):
        Linux(tmp_path / "_driver.so")
    with pytest.raises(DriverError, match="cannot open /dev/gzvm: No such file"):
        object.__new__(Linux).open()


def test_the_doorbell_comes_first(tmp_path: Path) -> None:
    tree, kvm, gzvm = tmp_path / "tree", tmp_path / "kvm", tmp_path / "gzvm"
    kvm.touch()
    assert choose(tree, kvm, gzvm) == "kvm"
    gzvm.touch()
    assert choose(tree, kvm, gzvm) == "gzvm"
    (tree / "hypervisor").mkdir(parents=True)
    (tree / "hypervisor" / "gz,doorbell").write_bytes(bytes(16))
    assert choose(tree, kvm, gzvm) == "doorbell"
