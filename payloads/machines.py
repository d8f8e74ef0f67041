# SPDX-License-Identifier: Apache-2.0
"""VMs of a payload that is a host: of one vCPU and more, with the program in its initrd, several at once."""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, HwState, RunPage
from gz.arm64.insn import hvc
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, peek64, poke64, view
from gz.vmm.maps import VIRT
from payloads import initrd
from payloads.host_call import call, create_device, declare, page_by_blocks

#: RAM that nothing else uses, with 512 MiB in the machine: this much for each VM.
MEMORY = 0x5800_0000
MEMORY_SIZE = 8 * BLOCK_SIZE
MACHINES_MAX = 2
VCPUS_MAX = 2


class VcpuPages(Struct):
    run: Array[u8] = array(HWSTATE_OFFSET)
    hwstate: Array[u8] = array(PAGE_SIZE)


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    vcpu: Array[VcpuPages] = array(VCPUS_MAX)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    device: Array[u8] = array(PAGE_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Program(Struct):
    start: u64
    size: u64


program = storage(Program)
PAGES = storage(Pages, MACHINES_MAX)
HANDLES = storage(u64, MACHINES_MAX)


def open_tree(tree: Va) -> None:
    """Before the first `create`."""
    program.start, program.size = initrd.find(tree)


def create(machine: u32, argument: u64) -> None:
    """A VM whose program starts with x0 = argument."""
    pages = PAGES[machine]
    memory = MEMORY + machine * MEMORY_SIZE
    for offset in range(0, program.size, 8):
        poke64(Va(memory + offset), peek64(Va(program.start + offset)))
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    HANDLES[machine] = vm
    page_by_blocks(vm, address(pages.mailbox))
    declare(vm, address(pages.region), VIRT.ram, MEMORY_SIZE)
    create_device(vm, address(pages.device), DeviceType.VGICV3_DISTRIBUTOR, VIRT.gicd, DISTRIBUTOR_SIZE)
    create_device(vm, address(pages.device), DeviceType.VGICV3_REDISTRIBUTOR, VIRT.redistributors, REDISTRIBUTOR_SIZE)
    create_vcpu(machine, 0)
    boot = vcpu(machine, 0)
    call(Call.SET_ONE_REG, boot, PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, boot, PSTATE, BOOT_PSTATE, 0, 0)
    call(Call.SET_ONE_REG, boot, X0, argument, 0, 0)


def create_vcpu(machine: u32, index: u32) -> None:
    """The first one is made by `create`; the others wait for CPU_ON."""
    call(Call.CREATE_VCPU, vcpu(machine, index), u64(address(PAGES[machine].vcpu[index].run)), 0, 0, 0)


def vcpu(machine: u32, index: u32) -> u64:
    return VcpuTuple(VMID=u32(HANDLES[machine]), VCPU=index)


def run_page(machine: u32, index: u32) -> RunPage:
    return view(RunPage, address(PAGES[machine].vcpu[index].run))


def hwstate(machine: u32, index: u32) -> HwState:
    return view(HwState, address(PAGES[machine].vcpu[index].hwstate))


def run(machine: u32, index: u32) -> u64:
    """Gives the reason of the exit."""
    _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu(machine, index))
    return reason


def supply(machine: u32, index: u32) -> None:
    """The block around a page the vCPU missed."""
    block = (run_page(machine, index).exception.fault_gpa - VIRT.ram) & ~(BLOCK_SIZE - 1)
    for i in range(BLOCK_PAGES):
        PAGES[machine].mailbox[i] = (MEMORY + machine * MEMORY_SIZE + block) // PAGE_SIZE + i
    call(Call.MAP_GUEST_BLOCK, HANDLES[machine], 0, (VIRT.ram + block) // PAGE_SIZE, BLOCK_PAGES, 0)


def destroy_vcpu(machine: u32, index: u32) -> None:
    call(Call.DESTROY_VCPU, vcpu(machine, index), 0, 0, 0, 0)


def destroy(machine: u32) -> None:
    """With the first vCPU, which is the last one."""
    destroy_vcpu(machine, 0)
    call(Call.DESTROY_VM, HANDLES[machine], 0, 0, 0, 0)
