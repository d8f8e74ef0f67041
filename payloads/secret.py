# SPDX-License-Identifier: Apache-2.0
"""A protected VM and its host in one: the guest fills memory with a secret and shows one page, the host tries to get
at the rest in every way, and looks again when the guest is gone.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, RunPage
from gz.arm64.insn import hvc
from gz.arm64.syndrome import ESR_EL2, DataAbort, ExceptionClass, FaultStatus
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, export, log, panic, peek64, poke64, unroll, view
from gz.vmm.maps import VIRT
from payloads import exceptions, initrd, interrupts, start  # noqa: F401 - parts of every payload
from payloads.accesses import COUNT, access, allow
from payloads.console import put
from payloads.host_call import call

#: RAM that nothing else uses, with 512 MiB in the machine: the guest's, its program and its secret.
MEMORY = 0x5800_0000
BLOCKS = 2
SECRET = 0x5EC2_E75E_C2E7_5EC2
ANSWER = 0xA45E_A45E_A45E_A45E
SHOWN = BLOCK_SIZE + 5 * PAGE_SIZE  # offset of the page that the guest shows
_WORD = 8


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(2 * HWSTATE_OFFSET)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Outcomes(Struct):
    aborts: u32
    exceptions: u32
    nothing: u32


pages = storage(Pages)
outcomes = storage(Outcomes)


# The guest.


def guest() -> None:
    """Before the console is guarded nothing can be printed."""
    secret = VIRT.ram + BLOCK_SIZE
    shown = Va(VIRT.ram + SHOWN)
    for offset in range(0, BLOCK_SIZE, _WORD):
        poke64(Va(secret + offset), SECRET)
    guarded, _, _, _ = hvc(VendorCall.MMIO_GUARD_MAP, VIRT.uart, 0, 0)
    shared, count, _, _ = hvc(VendorCall.MEM_SHARE, u64(shown), 0, 0)
    log(f"guest: {guarded | shared} {count} page shown")
    answer = peek64(shown)
    poke64(shown, SECRET)
    changed: u64 = 0
    for offset in range(0, BLOCK_SIZE, _WORD):
        if peek64(Va(secret + offset)) != SECRET:
            changed += 1
    log(f"guest: answer {answer:#x}, {changed} words changed")


# The host.


def create() -> u64:
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.DEMAND_PAGING, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(pages.mailbox)), 0)
    region = view(MemoryRegion, address(pages.region))
    region.slot = 0
    region.total_pages = BLOCKS * BLOCK_PAGES
    region.gpa = VIRT.ram
    call(Call.MEMREGION_PURPOSE, vm, VIRT.ram, BLOCKS * BLOCK_SIZE, Purpose.GUEST_MEMORY, 0)
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
    return vm


def supply(vm: u64, gpa: u64) -> None:
    block = (gpa - VIRT.ram) & ~(BLOCK_SIZE - 1)
    for i in range(BLOCK_PAGES):
        pages.mailbox[i] = (MEMORY + block) // PAGE_SIZE + i
    call(Call.MAP_GUEST_BLOCK, vm, 0, (VIRT.ram + block) // PAGE_SIZE, BLOCK_PAGES, 0)


def touch(at: u64) -> None:
    for index in range(COUNT):
        esr = ESR_EL2(access(u32(index), at))
        if esr == 0:
            outcomes.nothing += 1
        elif esr.EC == ExceptionClass.DATA_ABORT_SAME and DataAbort(esr.ISS).DFSC == FaultStatus.ALIGNMENT:
            outcomes.aborts += 1
        else:
            outcomes.exceptions += 1


def probe() -> None:
    """In every way, on what is private; then the shown page."""
    for offset in unroll((0, BLOCK_SIZE, SHOWN - PAGE_SIZE, SHOWN + PAGE_SIZE, BLOCKS * BLOCK_SIZE - PAGE_SIZE)):
        touch(MEMORY + offset)
    log(f"host: {outcomes.aborts} aborts, {outcomes.exceptions} exceptions, {outcomes.nothing} without effect")
    shown = Va(MEMORY + SHOWN)
    log(f"host: shown {peek64(shown):#x}")
    poke64(shown, ANSWER)


def run(vm: u64, vcpu: u64) -> None:
    page = view(RunPage, address(pages.run))
    probed = False
    while True:
        _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
        if reason == ExitReason.MMIO:
            if not probed:
                probe()
                probed = True
            if page.mmio.is_write == 0:
                page.mmio.data = 0
            elif page.mmio.phys_addr == VIRT.uart:
                put(u8(page.mmio.data))
        elif reason == ExitReason.EXCEPTION:
            supply(vm, page.exception.fault_gpa)
        elif reason == ExitReason.SYSTEM_EVENT:
            return
        elif reason != ExitReason.IRQ and reason != ExitReason.GZ:
            panic(f"RUN came back with {reason:#x}")


def host(image: u64, size: u64) -> None:
    for offset in range(0, size, _WORD):
        poke64(Va(MEMORY + offset), peek64(Va(image + offset)))
    vm = create()
    vcpu = VcpuTuple(VMID=u32(vm), VCPU=0)
    call(Call.CREATE_VCPU, vcpu, u64(address(pages.run)), 0, 0, 0)
    call(Call.SET_ONE_REG, vcpu, PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    run(vm, vcpu)
    read, _, _, _ = hvc(SMC64_BASE + Call.GET_ONE_REG, vcpu, PC)
    if read == 0:
        log("host: registers of a protected VM can be read")
    call(Call.DESTROY_VCPU, vcpu, 0, 0, 0, 0)
    call(Call.DESTROY_VM, vm, 0, 0, 0, 0)
    left: u64 = 0
    for offset in range(0, BLOCKS * BLOCK_SIZE, _WORD):
        if peek64(Va(MEMORY + offset)) != 0:
            left += 1
    log(f"host: {left} words left")


@export
def payload(tree: Va) -> None:
    """Without a device tree it is the guest."""
    if tree == 0:
        guest()
        return
    allow()
    exceptions.expect()
    image, size = initrd.find(tree)
    host(image, size)
