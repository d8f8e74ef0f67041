# SPDX-License-Identifier: Apache-2.0
"""A host whose two CPUs share 64 vCPUs of eight VMs, one tick each, in turn: all of them count as fast as they can.

Prints, for a few sizes of the crowd, the least and the most that a vCPU counted and the least and the most permille of
the time that its record of stolen time (DEN0057) says it waited.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, VCPUS_MAX, Call, VcpuTuple
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, Constituent, MemoryRegion
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import PAGE_SIZE, RunPage
from gz.arm64.insn import hvc, isb, wfi, yield_
from gz.arm64.psci import Psci
from gz.arm64.smccc import ParavirtTime
from gz.arm64.stolen_time import StolenTime
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import (
    address,
    assembly,
    compare_exchange,
    export,
    extern,
    fetch_add,
    load_acquire,
    log,
    noinline,
    panic,
    peek64,
    poke64,
    store_release,
    view,
)
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.host_call import call, create_device, declare
from payloads.secondary import start_cpu

VM_COUNT = 8
VCPU_COUNT = VM_COUNT * VCPUS_MAX
CPU_COUNT = 2
#: RAM that nothing else uses, with 512 MiB or more in the machine: a block for each VM, then two pages for each vCPU.
MEMORY = 0x5800_0000
RUN_PAGES = MEMORY + VM_COUNT * BLOCK_SIZE
_SLOT = 64  # bytes that a vCPU has for what it tells: count, nanoseconds waited
_SLOTS = 0x1000  # offset of them in the guest's memory, behind its program
_TICKS_PER_SECOND = 10_000
_TURNS = 64  # ticks for each vCPU

_MASKED = 1 << 7  # DAIF.I


def _constant(register: str, value: int) -> str:
    return f"    movz {register}, #{value & 0xFFFF}\n    movk {register}, #{value >> 16}, lsl #16\n"


# x0 of the first vCPU: how many there are; of the others: where their slot is.
assembly(
    f"""
    .section .text.guest, "ax"
    .balign 64
guest_begin:
    mov x20, x0
    adr x19, guest_begin
    add x19, x19, #{_SLOTS}
    mov x21, #1
1:  cmp x21, x20
    b.hs 2f
{_constant("x0", Psci.CPU_ON_64)}
    mov x1, x21
    adr x2, guest_other
    add x3, x19, x21, lsl #{_SLOT.bit_length() - 1}
    hvc #0
    add x21, x21, #1
    b 1b
2:  mov x0, x19
guest_other:
    mov x19, x0
{_constant("x0", ParavirtTime.STOLEN_TIME)}
    hvc #0
    mov x20, x0
    mov x21, #0
3:  add x21, x21, #1
    ldr x22, [x20, #{StolenTime.offset("stolen")}]
    stp x21, x22, [x19]
    b 3b
guest_end:

    .global guest_program
    .type guest_program, %function
guest_program:
    adr x0, guest_begin
    ret

    .global guest_program_end
    .type guest_program_end, %function
guest_program_end:
    adr x0, guest_end
    ret
"""
)


@extern
def guest_program() -> Va: ...


@extern
def guest_program_end() -> Va: ...


class Buffers(Struct, align=PAGE_SIZE):
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    device: Array[u8] = array(PAGE_SIZE)


class Crowd(Struct):
    next: u64  # vCPUs are run in turn
    total: u64
    per_vm: u64
    until: u64  # counter
    running: u64  # CPUs
    generation: u64  # a new one: the other CPU joins in
    migrations: u64
    vms: Array[u64] = array(VM_COUNT)
    busy: Array[u64] = array(VCPU_COUNT)
    last: Array[u64] = array(VCPU_COUNT)  # CPU + 1


BUFFERS = storage(Buffers)
CROWD = storage(Crowd)


def create(number: u64, vcpus: u64) -> u64:
    """A VM with one block of memory: the program at its start."""
    memory = MEMORY + number * BLOCK_SIZE
    for offset in range(0, 2 * _SLOTS, 8):
        poke64(Va(memory + offset), 0)
    for offset in range(0, guest_program_end() - guest_program(), 8):
        poke64(Va(memory + offset), peek64(guest_program() + offset))
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    declare(vm, address(BUFFERS.region), VIRT.ram, BLOCK_SIZE)
    region = view(MemoryRegion, address(BUFFERS.region))
    region.constituent_count = 1
    run = view(Constituent, address(BUFFERS.region) + MemoryRegion.size)
    run.address = memory
    run.page_count = BLOCK_PAGES
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(BUFFERS.region)), 0, 0)
    create_device(vm, address(BUFFERS.device), DeviceType.VGICV3_DISTRIBUTOR, VIRT.gicd, DISTRIBUTOR_SIZE)
    create_device(vm, address(BUFFERS.device), DeviceType.VGICV3_REDISTRIBUTOR, VIRT.redistributors, REDISTRIBUTOR_SIZE)
    for i in range(vcpus):
        page = RUN_PAGES + (number * VCPUS_MAX + i) * 2 * PAGE_SIZE
        for offset in range(0, 2 * PAGE_SIZE, 8):
            poke64(Va(page + offset), 0)
        vcpu = VcpuTuple(VMID=u32(vm), VCPU=u32(i))
        call(Call.CREATE_VCPU, vcpu, page, 0, 0, 0)
        call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
        if i == 0:
            call(Call.SET_ONE_REG, vcpu, PC, VIRT.ram, 0, 0)
            call(Call.SET_ONE_REG, vcpu, X0, vcpus, 0, 0)
    return vm


def serve(cpu: u64) -> None:
    """Runs the next vCPU for a tick, until the time is over."""
    interval = sysreg.CNTFRQ_EL0 // _TICKS_PER_SECOND
    total = CROWD.total
    while sysreg.CNTVCT_EL0 < CROWD.until:
        turn = fetch_add(CROWD.next, 1)
        number = (turn + turn // total) % total  # each round the next CPU's turn
        if compare_exchange(CROWD.busy[number], 0, 1) == 0:
            if CROWD.last[number] != cpu + 1:
                CROWD.last[number] = cpu + 1
                fetch_add(CROWD.migrations, 1)
            sysreg.DAIF = _MASKED  # a tick that comes too early ends the RUN at once
            sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + interval
            sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
            isb()
            vm = CROWD.vms[number // CROWD.per_vm]
            vcpu = VcpuTuple(VMID=u32(vm), VCPU=u32(number % CROWD.per_vm))
            _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
            if reason != ExitReason.IRQ and reason != ExitReason.GZ:
                page = view(RunPage, Va(RUN_PAGES + number * 2 * PAGE_SIZE))
                panic(f"vCPU {number} came back with {reason:#x} {page.mmio.phys_addr:#x}\n")
            store_release(CROWD.busy[number], 0)
            sysreg.DAIF = 0


@noinline
def crowd(vms: u64, per_vm: u64, cpus: u64) -> None:
    for i in range(vms):
        CROWD.vms[i] = create(i, per_vm)
    CROWD.total = vms * per_vm
    CROWD.per_vm = per_vm
    CROWD.next = 0
    CROWD.migrations = 0
    for i in range(VCPU_COUNT):
        CROWD.last[i] = 0
    begin = sysreg.CNTVCT_EL0
    ticks = _TURNS * vms * per_vm // cpus
    CROWD.until = begin + ticks * (sysreg.CNTFRQ_EL0 // _TICKS_PER_SECOND)
    if cpus != 1:
        CROWD.running = 1
        fetch_add(CROWD.generation, 1)
        interrupts.send(1)
    serve(0)
    while load_acquire(CROWD.running) != 0:
        yield_()
    report(vms, per_vm, cpus, (sysreg.CNTVCT_EL0 - begin) * (1_000_000_000 // sysreg.CNTFRQ_EL0))
    for i in range(vms):
        for k in range(per_vm):
            call(Call.DESTROY_VCPU, VcpuTuple(VMID=u32(CROWD.vms[i]), VCPU=u32(k)), 0, 0, 0, 0)
        call(Call.DESTROY_VM, CROWD.vms[i], 0, 0, 0, 0)


def report(vms: u64, per_vm: u64, cpus: u64, elapsed: u64) -> None:
    least, most, total = ~u64(0), u64(0), u64(0)
    short, long = ~u64(0), u64(0)
    for i in range(vms):
        for k in range(per_vm):
            slot = Va(MEMORY + i * BLOCK_SIZE + _SLOTS + k * _SLOT)
            count = peek64(slot)
            waited = peek64(slot + 8) * 1000 // elapsed
            least, most, total = min(least, count), max(most, count), total + count
            short, long = min(short, waited), max(long, waited)
    log(f"{vms * per_vm} vcpus, {cpus} cpus, {least} least, {most} most, {total} total")
    log(f"{short} short, {long} long, {CROWD.migrations} migrations")


@export
def secondary(index: u64) -> None:
    interrupts.enable()
    seen: u64 = 0
    while True:
        sysreg.DAIF = _MASKED  # nothing is missed between the look and the wait
        generation = load_acquire(CROWD.generation)
        if generation == seen:
            wfi()
        sysreg.DAIF = 0
        if generation != seen:
            seen = generation
            serve(index)
            store_release(CROWD.running, 0)


@export
def payload(tree: Va) -> None:
    interrupts.enable()
    start_cpu(1)
    crowd(1, 1, 1)
    crowd(1, 2, 1)
    crowd(VM_COUNT, VCPUS_MAX, CPU_COUNT)
