# SPDX-License-Identifier: Apache-2.0
"""A protected VM of two blocks and one vCPU, whose guest is the payload itself: without a device tree it is the guest.

Its memory is the host's from MEMORY on, with 512 MiB in the machine.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, RunPage
from gz.arm64.insn import hvc
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, panic, peek64, poke64, view
from gz.vmm.maps import VIRT
from payloads import initrd
from payloads.console import put
from payloads.host_call import call, declare, page_by_blocks

MEMORY = 0x5800_0000
BLOCKS = 2
_WORD = 8


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(2 * HWSTATE_OFFSET)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Life(Struct):
    vm: u64
    vcpu: u64


pages = storage(Pages)
life = storage(Life)


def create(tree: Va) -> None:
    """The VM with its vCPU, about to begin with the image that the tree names."""
    image, size = initrd.find(tree)
    for offset in range(0, size, _WORD):
        poke64(Va(MEMORY + offset), peek64(Va(image + offset)))
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    page_by_blocks(vm, address(pages.mailbox))
    declare(vm, address(pages.region), VIRT.ram, BLOCKS * BLOCK_SIZE)
    call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
    life.vm = vm
    life.vcpu = u64(VcpuTuple(VMID=u32(vm), VCPU=0))
    call(Call.CREATE_VCPU, life.vcpu, u64(address(pages.run)), 0, 0, 0)
    call(Call.SET_ONE_REG, life.vcpu, PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, life.vcpu, PSTATE, BOOT_PSTATE, 0, 0)


def enter() -> u64:
    """RUN, to the next exit: its reason."""
    _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, life.vcpu)
    return reason


def serve(reason: u64) -> bool:
    """What the guest came back for; False if that is its end."""
    run = view(RunPage, address(pages.run))
    if reason == ExitReason.MMIO:
        if run.mmio.is_write == 0:
            run.mmio.data = 0
        elif run.mmio.phys_addr == VIRT.uart:
            put(u8(run.mmio.data))
    elif reason == ExitReason.EXCEPTION:
        _supply(run.exception.fault_gpa)
    elif reason != ExitReason.IRQ and reason != ExitReason.GZ and reason != ExitReason.SYSTEM_EVENT:
        panic(f"RUN came back with {reason:#x}")
    return reason != ExitReason.SYSTEM_EVENT


def _supply(gpa: u64) -> None:
    block = (gpa - VIRT.ram) & ~(BLOCK_SIZE - 1)
    for i in range(BLOCK_PAGES):
        pages.mailbox[i] = (MEMORY + block) // PAGE_SIZE + i
    call(Call.MAP_GUEST_BLOCK, life.vm, 0, (VIRT.ram + block) // PAGE_SIZE, BLOCK_PAGES, 0)


def destroy() -> u64:
    """The words of its memory that are not 0 afterwards."""
    call(Call.DESTROY_VCPU, life.vcpu, 0, 0, 0, 0)
    call(Call.DESTROY_VM, life.vm, 0, 0, 0, 0)
    left: u64 = 0
    for offset in range(0, BLOCKS * BLOCK_SIZE, _WORD):
        if peek64(Va(MEMORY + offset)) != 0:
            left += 1
    return left
