# SPDX-License-Identifier: Apache-2.0
"""The driver against a core that checks what it is told."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from fake_core import VMID, FakeCore, FakePages, Step

from gz.abi import registers
from gz.abi.calls import Call
from gz.abi.capabilities import Capability
from gz.abi.devices import DeviceType
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, Access, Purpose
from gz.abi.run import HwState, RunPage
from gz.driver.interface import INTERRUPTED, CallError
from gz.driver.shared import Shared
from gz.driver.vcpu import install_kick
from gz.driver.vm import DoorbellVm

RAM = 0x4000_0000


@pytest.fixture
def core() -> FakeCore:
    install_kick()
    return FakeCore(FakePages())


def make(core: FakeCore) -> DoorbellVm:
    return DoorbellVm(core, VMID, core.pages, core.end, lambda line: None)


def exits(reason: int) -> Step:
    return lambda page, state: reason


def fault(gpa: int, code: int = 1) -> Step:
    def step(page: RunPage, state: HwState) -> int:
        page.exception.exception, page.exception.fault_gpa = code, gpa
        return ExitReason.EXCEPTION

    return step


def names(core: FakeCore) -> list[str]:
    return [call.name for call, _ in core.calls]


def test_capabilities_are_asked_in_the_order_of_gzvm(core: FakeCore) -> None:
    make(core)
    asked = [arguments[1] for call, arguments in core.calls if call is Call.ENABLE_CAP]
    assert asked == [
        Capability.DEMAND_PAGING,
        Capability.BLOCK_DEMAND_PAGING,
        Capability.IDLE,
        Capability.QUERY_BLOCK_BATCH,
    ]


def test_set_up_and_run(core: FakeCore) -> None:
    vm = make(core)
    memory = vm.add_memory(0, RAM, 2 * BLOCK_SIZE, Purpose.GUEST_MEMORY)
    assert len(memory) == 2 * BLOCK_SIZE and core.slots == {0: (RAM, 2 * BLOCK_SIZE)}
    vm.create_device(DeviceType.VGICV3_DISTRIBUTOR, 0x800_0000, 0x1_0000)
    vm.create_device(DeviceType.VGICV3_REDISTRIBUTOR, 0x80A_0000, 0x2_0000)
    assert core.devices == [(0, 0x800_0000, 0x1_0000), (1, 0x80A_0000, 0x2_0000)]
    vcpus = [vm.create_vcpu(index) for index in range(8)]
    vcpus[3].set_register(registers.PC, 0x1234)
    assert core.registers == {(3, registers.PC): 0x1234} and vcpus[3].get_register(registers.PC) == 0x1234
    vm.set_dtb(RAM, 0x1000)
    core.script[3] = []
    assert vcpus[3].enter() == ExitReason.SHUTDOWN
    vm.close()
    assert core.ended.is_set()


def test_irq_and_gz_run_again(core: FakeCore) -> None:
    vm = make(core)
    vcpu = vm.create_vcpu(0)
    core.script[0] = [exits(ExitReason.IRQ), exits(ExitReason.GZ)]
    assert vcpu.enter() == ExitReason.SHUTDOWN and names(core).count("RUN") == 3


@pytest.mark.parametrize("batch", [0, 512, 128, 1])
def test_a_fault_maps_its_block(core: FakeCore, batch: int) -> None:
    core.block_batch = batch
    vm = make(core)
    vm.add_memory(0, RAM, 3 * BLOCK_SIZE, Purpose.GUEST_MEMORY)
    vcpu = vm.create_vcpu(0)
    core.script[0] = [fault(RAM + BLOCK_SIZE + 0x1234), fault(RAM + BLOCK_SIZE)]
    assert vcpu.enter() == ExitReason.SHUTDOWN
    first = core.pages.blocks["slot0"].physical(BLOCK_SIZE) >> 12
    gfn = (RAM + BLOCK_SIZE) >> 12
    assert core.mapped == {gfn + i: first + i for i in range(BLOCK_PAGES)}


def test_access_to_a_slot(core: FakeCore) -> None:
    """A fault that another vCPU's change has overtaken is left to the guest, which tries again."""
    vm = make(core)
    vm.add_memory(1, RAM, 3 * BLOCK_SIZE, Purpose.GUEST_MEMORY)
    vcpu = vm.create_vcpu(0)
    core.script[0] = [fault(RAM + offset) for offset in (0, 2 * BLOCK_SIZE)]
    assert vcpu.enter() == ExitReason.SHUTDOWN and len(core.mapped) == 2 * BLOCK_PAGES
    assert vm.set_access(1, Access.NONE)
    assert core.mapped == {} and core.access == {1: 2}
    core.script[0] = [fault(RAM)]
    assert vcpu.enter() == ExitReason.SHUTDOWN and core.mapped == {}
    assert vm.set_access(1, Access.READ_ONLY)
    core.script[0] = [fault(RAM)]
    assert vcpu.enter() == ExitReason.SHUTDOWN and len(core.mapped) == BLOCK_PAGES


def test_faults_that_are_not_the_drivers_go_to_the_vmm(core: FakeCore) -> None:
    vm = make(core)
    vm.add_memory(0, RAM, BLOCK_SIZE, Purpose.GUEST_MEMORY)
    vcpu = vm.create_vcpu(0)
    core.script[0] = [fault(RAM + BLOCK_SIZE), fault(RAM, code=0)]
    assert vcpu.enter() == vcpu.enter() == ExitReason.EXCEPTION
    core.refused[Call.MAP_GUEST_BLOCK] = Error.NO_MEMORY
    core.script[0] = [fault(RAM)]
    assert vcpu.enter() == ExitReason.EXCEPTION


def test_memory_is_made_of_blocks(core: FakeCore) -> None:
    vm = make(core)
    for slot, gpa, size in ((0, RAM + 0x1000, BLOCK_SIZE), (0, RAM, 0x1000), (0, RAM, 0), (10, RAM, BLOCK_SIZE)):
        with pytest.raises(ValueError):
            vm.add_memory(slot, gpa, size, Purpose.GUEST_MEMORY)
    vm.add_memory(0, RAM, BLOCK_SIZE, Purpose.GUEST_MEMORY)
    with pytest.raises(ValueError, match="slot 0"):
        vm.add_memory(0, RAM + BLOCK_SIZE, BLOCK_SIZE, Purpose.GUEST_MEMORY)
    with pytest.raises(ValueError, match="vCPU 8"):
        vm.create_vcpu(8)


def test_refusals_become_errors(core: FakeCore) -> None:
    vm = make(core)
    core.refused[Call.CREATE_VCPU] = Error.NO_MEMORY
    with pytest.raises(CallError, match="CREATE_VCPU failed: NO_MEMORY") as caught:
        vm.create_vcpu(0)
    assert caught.value.errno == 12
    with pytest.raises(CallError, match="IRQ_LINE failed: INVALID_ARGS"):
        vm.irq_line(1000, 1)
    with pytest.raises(CallError, match="ENABLE_CAP failed: NOT_SUPPORTED"):
        vm.enable_capability(0x1234)


def test_ioeventfds_are_handed_to_the_compiled_part(core: FakeCore) -> None:
    vm = make(core)
    vm.ioeventfd(0xA00_0050, 0, 9)
    vm.ioeventfd(0xA00_0250, 4, 10, 3)
    with pytest.raises(ValueError, match="exists already"):
        vm.ioeventfd(0xA00_0050, 4, 9)
    shared = Shared.view(vm._shared, 0)  # pyright: ignore[reportPrivateUsage]
    assert shared.watch_count == 2
    row = shared.watches[1]
    assert (row.address, row.length, row.exact, row.data, row.fd) == (0xA00_0250, 4, 1, 3, 10)


def test_irqfd_raises_its_line(core: FakeCore) -> None:
    vm = make(core)
    fds = [os.eventfd(0), os.eventfd(0)]
    for spi, fd in enumerate(fds):
        vm.irqfd(fd, spi + 5)
    os.eventfd_write(fds[1], 1)
    end = time.monotonic() + 5
    while not core.lines and time.monotonic() < end:
        time.sleep(0.001)
    assert core.lines == [(VMID << 16, 6, 1)]
    vm.close()
    for fd in fds:
        os.close(fd)


def test_what_happens_wakes_the_vcpus(core: FakeCore) -> None:
    vm = make(core)
    vcpu = vm.create_vcpu(0)
    vm.irq_line(3, 1)
    assert core.wakes == 1
    vm.irq_line(3, 0)
    assert core.wakes == 1
    vcpu.kick()
    assert core.wakes == 2


def test_a_kick_ends_one_run(core: FakeCore) -> None:
    vm = make(core)
    vcpu = vm.create_vcpu(0)
    core.script[0] = []
    vcpu.kick()
    assert vcpu.enter() == INTERRUPTED
    assert vcpu.enter() == ExitReason.SHUTDOWN


def test_a_kick_reaches_a_busy_guest(core: FakeCore) -> None:
    vm = make(core)
    vcpu = vm.create_vcpu(0)
    entered = threading.Event()
    results: list[int] = []

    def busy(page: RunPage, state: HwState) -> int:
        entered.set()
        core.script[0].append(busy)
        return ExitReason.IRQ

    core.script[0] = [busy]
    thread = threading.Thread(target=lambda: results.append(vcpu.enter()))
    thread.start()
    entered.wait(5)
    vcpu.kick()
    thread.join(5)
    assert results == [INTERRUPTED]


def hypercall(*args: int) -> tuple[Step, list[Any]]:
    """The step, and the hypercall's part of the run page, where the answers are."""
    results: list[Any] = []

    def step(page: RunPage, state: HwState) -> int:
        state.vtimer_offset = 0x10
        for index, value in enumerate(args):
            page.hypercall.args[index] = value
        results.append(page.hypercall)
        return ExitReason.HYPERCALL

    return step, results


@pytest.mark.parametrize(("counter", "upper", "lower"), [(0, 5, 0), (1, 9, 0), (2, 0, 0)])
def test_ptp_is_answered(core: FakeCore, counter: int, upper: int, lower: int) -> None:
    vm = make(core)
    vcpu = vm.create_vcpu(0)
    step, seen = hypercall(VendorCall.PTP, counter)
    core.script[0] = [step]
    assert vcpu.enter() == ExitReason.SHUTDOWN
    args = seen[0].args
    assert abs((args[0] << 32 | args[1]) - time.time_ns()) < 10**10
    assert (args[2], args[3]) == (upper, lower)


def test_relinquish_is_served_and_others_are_not(core: FakeCore) -> None:
    vm = make(core)
    vcpu = vm.create_vcpu(0)
    core.script[0] = [hypercall(VendorCall.MEM_RELINQUISH, RAM)[0], hypercall(0xC600_4242)[0]]
    assert vcpu.enter() == ExitReason.HYPERCALL
    assert core.script[0] == []
