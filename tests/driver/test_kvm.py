# SPDX-License-Identifier: Apache-2.0
"""The KVM transport against a kernel that checks what it is told; `kvm_run` is the compiled one, in this process."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_kvm import SYSTEM, VCPU_0, FakeKernel

from gz.abi import registers
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.exits import ExitReason, SystemEvent
from gz.abi.kvm import KvmCapability, KvmExit, KvmRequest, KvmRun, VgicAddress
from gz.abi.memory import BLOCK_SIZE, Access, Purpose
from gz.abi.run import RunPage
from gz.driver import kvm_run
from gz.driver.interface import INTERRUPTED, DriverError
from gz.driver.kernel import KvmError, Linux
from gz.driver.kvm import KvmVm
from gz.driver.transport import choose
from gz.driver.vcpu import KICK, install_kick
from gz.metal.jit import Jit
from gz.metal.program import Program
from gz.vmm.exits import Ending, handle

RAM = 0x4000_0000
Step = Callable[[KvmRun], int]


@pytest.fixture(scope="module")
def jit() -> Jit:
    return Program([kvm_run.kvm_run]).jit()


@pytest.fixture
def kernel(jit: Jit) -> Iterator[FakeKernel]:
    install_kick()
    yield FakeKernel(jit)
    signal.signal(KICK, signal.SIG_DFL)
    jit.on_svc(None)


def machine(kernel: FakeKernel, vcpus: int = 1):
    """A VM with an interrupt controller."""
    vm = KvmVm(kernel, SYSTEM)
    vm.create_device(DeviceType.VGICV3_DISTRIBUTOR, 0x800_0000, DISTRIBUTOR_SIZE)
    vm.create_device(DeviceType.VGICV3_REDISTRIBUTOR, 0x80A_0000, REDISTRIBUTOR_SIZE)
    return vm, [vm.create_vcpu(index) for index in range(vcpus)]


def access(address: int, length: int, value: int = 0, write: bool = False) -> Step:
    def step(run: KvmRun) -> int:
        run.exit_reason = KvmExit.MMIO
        run.mmio.phys_addr, run.mmio.length, run.mmio.data, run.mmio.is_write = address, length, value, int(write)
        return 0

    return step


def leave(reason: int, fill: Callable[[KvmRun], object] = lambda run: None) -> Step:
    def step(run: KvmRun) -> int:
        run.exit_reason = reason
        fill(run)
        return 0

    return step


def test_memory_lies_in_whole_blocks_of_zeros(kernel: FakeKernel) -> None:
    vm = KvmVm(kernel, SYSTEM)
    view = vm.add_memory(3, RAM, 2 * BLOCK_SIZE, Purpose.GUEST_MEMORY)
    gpa, size, address = kernel.slots[3]
    assert (gpa, size, address % BLOCK_SIZE) == (RAM, 2 * BLOCK_SIZE, 0)
    assert len(view) == size and not any(view[:4096]) and not any(view[-4096:])
    last = view[-1:]
    last[0] = 0x5A
    with pytest.raises(ValueError, match="taken"):
        vm.add_memory(3, RAM, BLOCK_SIZE, Purpose.GUEST_MEMORY)
    for gpa, size in ((RAM + 4096, BLOCK_SIZE), (RAM, 4096), (RAM, 0)):
        with pytest.raises(ValueError, match="2 MiB"):
            vm.add_memory(4, gpa, size, Purpose.GUEST_MEMORY)
    vm.close()
    assert last[0] == 0x5A  # who still has bytes keeps them


@pytest.mark.parametrize(("limit", "bits"), [(48, 40), (36, 36), (0, 0)])
def test_guests_have_the_addresses_that_the_core_gives_them(kernel: FakeKernel, limit: int, bits: int) -> None:
    kernel.capabilities[KvmCapability.ARM_VM_IPA_SIZE] = limit
    KvmVm(kernel, SYSTEM)
    assert kernel.address_bits == bits and kernel.enabled == [KvmCapability.ARM_NISV_TO_USER]


@pytest.mark.parametrize(("limit", "end"), [(48, 1 << 40), (36, 1 << 36), (0, 1 << 40)])
def test_stolen_time_lies_where_the_core_has_it(kernel: FakeKernel, limit: int, end: int) -> None:
    """At the end of the addresses; not at all if the kernel keeps none."""
    kernel.capabilities[KvmCapability.ARM_VM_IPA_SIZE] = limit
    vm = KvmVm(kernel, SYSTEM)
    vm.create_vcpu(0)
    assert not kernel.records and not kernel.slots
    kernel.capabilities[KvmCapability.STEAL_TIME] = 1
    for index in (1, 2):
        vm.create_vcpu(index)
    (window,) = kernel.slots.values()
    assert window[:2] == (end - 0x1_0000, 0x1_0000)
    assert list(kernel.records.values()) == [end - 0x1_0000 + 64 * index for index in (1, 2)]
    vm.close()


def test_access_to_a_slot(kernel: FakeKernel) -> None:
    vm = KvmVm(kernel, SYSTEM)
    vm.add_memory(1, RAM, BLOCK_SIZE, Purpose.NONE)
    writable = kernel.slots[1]
    for wanted in (Access.READ_ONLY, Access.NONE, Access.NONE, Access.READ_ONLY, Access.READ_WRITE):
        assert vm.set_access(1, wanted)
        assert kernel.slots.get(1) == (None if wanted == Access.NONE else writable)
        assert wanted == Access.NONE or kernel.flags[1] == (2 if wanted == Access.READ_ONLY else 0)


def test_the_interrupt_controller_is_ready_after_the_vcpus(kernel: FakeKernel) -> None:
    vm, vcpus = machine(kernel, 3)
    assert kernel.windows == {VgicAddress.DISTRIBUTOR: 0x800_0000, VgicAddress.REDISTRIBUTORS: 0x80A_0000}
    assert [kernel.vcpus[VCPU_0 + index] for index in range(3)] == [0b100, 0b101, 0b101]  # PSCI; the others off
    assert not kernel.initialized
    vm.irq_line(1, 1)
    vm.irq_line(31, 0)
    assert kernel.lines == [(33, 1), (63, 0)]
    kernel.script[0] = [leave(KvmExit.SHUTDOWN)]
    assert vcpus[0].enter() == ExitReason.SHUTDOWN


def test_a_vcpu_that_runs_first_finds_it_ready(kernel: FakeKernel) -> None:
    _, (vcpu,) = machine(kernel)
    kernel.script[0] = [leave(KvmExit.SHUTDOWN)]
    vcpu.enter()
    assert kernel.initialized


def test_devices_of_another_size_are_refused(kernel: FakeKernel) -> None:
    vm = KvmVm(kernel, SYSTEM)
    with pytest.raises(ValueError, match="0x20000"):
        vm.create_device(DeviceType.VGICV3_REDISTRIBUTOR, 0x80A_0000, DISTRIBUTOR_SIZE)
    assert not kernel.vgic


def test_registers(kernel: FakeKernel) -> None:
    _, (vcpu,) = machine(kernel)
    vcpu.set_register(registers.PC, 0xFFFF_0000_4020_0000)
    vcpu.set_register(registers.FPCR, 0x300_0000)
    assert kernel.registers[0, registers.PC] == vcpu.get_register(registers.PC) == 0xFFFF_0000_4020_0000
    assert vcpu.get_register(registers.FPCR) == 0x300_0000
    with pytest.raises(KvmError, match="KVM_GET_ONE_REG") as caught:
        vcpu.get_register(registers.X0)
    assert caught.value.errno == errno.ENOENT


def test_accesses_in_the_words_of_gzvm(kernel: FakeKernel) -> None:
    _, (vcpu,) = machine(kernel)
    page = RunPage.view(vcpu.page)
    answers: list[int] = []

    def after_read(run: KvmRun) -> int:
        answers.append(run.mmio.data)
        return access(0x900_0004, 2, 0xBEEF, write=True)(run)

    kernel.script[0] = [access(0xA00_0000, 4), after_read]
    assert vcpu.enter() == ExitReason.MMIO
    assert (page.mmio.phys_addr, page.mmio.length, page.mmio.is_write) == (0xA00_0000, 4, 0)
    page.mmio.data = 0x7472_6976
    assert vcpu.enter() == ExitReason.MMIO
    assert answers == [0x7472_6976]
    assert (page.mmio.phys_addr, page.mmio.length, page.mmio.data, page.mmio.is_write) == (0x900_0004, 2, 0xBEEF, 1)


@pytest.mark.parametrize(
    ("event", "ending"), [(SystemEvent.SHUTDOWN, Ending.POWER_OFF), (SystemEvent.RESET, Ending.RESET)]
)
def test_ends(kernel: FakeKernel, event: SystemEvent, ending: Ending) -> None:
    _, (vcpu,) = machine(kernel)
    kernel.script[0] = [leave(KvmExit.SYSTEM_EVENT, lambda run: setattr(run.system_event, "type", int(event)))]
    end = handle(vcpu.enter(), 0, RunPage.view(vcpu.page), print)
    assert end is not None and end.ending is ending


def no_syndrome(run: KvmRun) -> None:
    run.no_syndrome.esr_iss, run.no_syndrome.fault_ipa = 0x47, 0xDEAD_0000


def internal(run: KvmRun) -> None:
    run.internal.suberror, run.internal.ndata = 17, 1
    run.internal.data[0] = 0xABCD


def nothing(run: KvmRun) -> None:
    pass


def entry(run: KvmRun) -> None:
    run.fail_entry.reason, run.fail_entry.cpu = 0x77, 2


@pytest.mark.parametrize(
    ("reason", "fill", "words"),
    [
        (KvmExit.ARM_NISV, no_syndrome, ["0x47", "0xdead0000"]),
        (KvmExit.INTERNAL_ERROR, internal, ["17", "0xabcd"]),
        (KvmExit.FAIL_ENTRY, entry, ["0x77", "CPU 2"]),
        (38, nothing, ["unknown"]),
    ],
)
def test_failures_are_explained(
    kernel: FakeKernel, reason: int, fill: Callable[[KvmRun], object], words: list[str]
) -> None:
    _, (vcpu,) = machine(kernel)
    kernel.script[0] = [leave(reason, fill)]
    end = handle(vcpu.enter(), 0, RunPage.view(vcpu.page), print)
    assert end is not None and end.ending is Ending.FAILED
    assert all(word in end.why for word in words), end.why


def test_run_that_fails(kernel: FakeKernel) -> None:
    _, (vcpu,) = machine(kernel)
    kernel.script[0] = [lambda run: -errno.EFAULT]
    with pytest.raises(KvmError, match="KVM_RUN failed: Bad address"):
        vcpu.enter()


def test_other_signals_are_nobodys_business(kernel: FakeKernel) -> None:
    _, (vcpu,) = machine(kernel)
    kernel.script[0] = [lambda run: -errno.EINTR, lambda run: -errno.EINTR, leave(KvmExit.SHUTDOWN)]
    assert vcpu.enter() == ExitReason.SHUTDOWN
    assert kernel.runs == 3


def test_a_kick_ends_the_next_enter_once(kernel: FakeKernel) -> None:
    _, (vcpu,) = machine(kernel)
    kernel.script[0] = [leave(KvmExit.SHUTDOWN)]
    vcpu.kick()
    assert vcpu.enter() == INTERRUPTED
    assert vcpu.enter() == ExitReason.SHUTDOWN


def test_a_kick_reaches_the_thread_that_runs(kernel: FakeKernel) -> None:
    """As the real RUN does, the fake one waits until a signal is taken and then says EINTR."""
    _, (vcpu,) = machine(kernel)
    entered = threading.Event()
    taken: list[int] = []
    signal.signal(KICK, lambda number, frame: taken.append(number))

    def waits(run: KvmRun) -> int:
        entered.set()
        while not run.immediate_exit:
            time.sleep(0.001)
        return -errno.EINTR

    kernel.script[0] = [waits]
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(vcpu.enter()))
    thread.start()
    assert entered.wait(10)
    vcpu.kick()
    thread.join(10)
    assert results == [INTERRUPTED] and taken == [KICK]


def test_ioeventfds(kernel: FakeKernel) -> None:
    vm, _ = machine(kernel)
    vm.ioeventfd(0xA00_0050, 4, 7)
    vm.ioeventfd(0xA00_0250, 0, 8, data=3)
    assert kernel.ioeventfds == [(0xA00_0050, 4, 7, 0, 0), (0xA00_0250, 0, 8, 1, 3)]
    with pytest.raises(ValueError, match="exists already"):
        vm.ioeventfd(0xA00_0050, 4, 9)
    with pytest.raises(ValueError, match="3 bytes"):
        vm.ioeventfd(0xA00_0050, 3, 9)


def test_irqfds(kernel: FakeKernel) -> None:
    vm, _ = machine(kernel)
    vm.irqfd(7, 16)
    assert kernel.irqfds == [(7, 16)]


def test_everything_is_closed(kernel: FakeKernel) -> None:
    vm, _ = machine(kernel, 2)
    vm.add_memory(0, RAM, BLOCK_SIZE, Purpose.GUEST_MEMORY)
    vm.close()
    vm.close()
    assert not kernel.open


@pytest.mark.parametrize("request_", [KvmRequest.CREATE_VM, KvmRequest.ENABLE_CAP, KvmRequest.GET_VCPU_MMAP_SIZE])
def test_a_vm_that_cannot_be_leaves_nothing_open(kernel: FakeKernel, request_: KvmRequest) -> None:
    kernel.refused[request_] = errno.ENOMEM
    with pytest.raises(KvmError, match=f"KVM_{request_.name} failed: Cannot allocate memory"):
        KvmVm(kernel, SYSTEM)
    assert not kernel.open


def test_kernels_that_are_too_old(kernel: FakeKernel) -> None:
    del kernel.capabilities[KvmCapability.IMMEDIATE_EXIT]
    with pytest.raises(DriverError, match="too old: it has no IMMEDIATE_EXIT"):
        KvmVm(kernel, SYSTEM)
    assert not kernel.open


def test_another_interface(kernel: FakeKernel) -> None:
    kernel.version = 13
    with pytest.raises(DriverError, match="version 13"):
        KvmVm(kernel, SYSTEM)


def test_no_gicv3(kernel: FakeKernel) -> None:
    kernel.refused[KvmRequest.CREATE_DEVICE] = errno.ENODEV
    vm = KvmVm(kernel, SYSTEM)
    with pytest.raises(DriverError, match="GICv3"):
        vm.create_device(DeviceType.VGICV3_DISTRIBUTOR, 0x800_0000, DISTRIBUTOR_SIZE)


def test_capabilities_of_gzvm_are_refused(kernel: FakeKernel) -> None:
    with pytest.raises(DriverError, match="0xffbadab1"):
        KvmVm(kernel, SYSTEM).enable_capability(0xFFBA_DAB1)


def test_the_transport_of_a_host(tmp_path: Path) -> None:
    device, tree = tmp_path / "kvm", tmp_path / "tree"
    with pytest.raises(DriverError, match=f"no {device}"):
        choose(tree, device)
    device.touch()
    assert choose(tree, device) == "kvm"
    (tree / "hypervisor").mkdir(parents=True)
    assert choose(tree, device) == "kvm"  # another hypervisor's node
    (tree / "hypervisor" / "gz,doorbell").write_bytes(bytes(16))
    assert choose(tree, device) == "doorbell"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="installation is incomplete"):
        Linux(tmp_path / "_driver.so")


def test_no_device(tmp_path: Path) -> None:
    linux = object.__new__(Linux)
    with pytest.raises(DriverError, match=r"cannot open .*kvm: No such file"):
        linux.open(os.fspath(tmp_path / "kvm"))
