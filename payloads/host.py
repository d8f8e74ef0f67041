# SPDX-License-Identifier: Apache-2.0
"""The smallest host: runs the program it finds as its initrd in a guest, and is its VMM.

It makes the driver's calls by HVC, maps memory as the guest touches it, prints what the guest sends to its PL011 and
answers every other access at once: what an exit costs here is the core's part of the price. Calls for the VMM
have no effect. The guest has as many vCPUs as the host has CPUs, up to four. Ends when the guest asks for it.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.capabilities import Capability
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceRequest, DeviceType
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, RunPage
from gz.arm64.insn import hvc, yield_
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.core.lock import Lock, acquire, release
from gz.metal import address, export, log, panic, peek64, poke64, read_once, view, write_once
from gz.vmm.maps import VIRT
from payloads import exceptions, initrd, interrupts, start  # noqa: F401 - parts of every payload
from payloads.console import put
from payloads.host_call import call
from payloads.secondary import is_there, start_cpu

GUEST_SIZE = 32 << 20
CPUS = 4
_VIRTIO_MAGIC = 0x7472_6976


class VcpuPages(Struct):
    """What one vCPU's host shares with the core."""

    run: Array[u8] = array(HWSTATE_OFFSET)
    hwstate: Array[u8] = array(PAGE_SIZE)


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    vcpu: Array[VcpuPages] = array(CPUS)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    device: Array[u8] = array(PAGE_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Guest(Struct):
    vm: u64
    memory: u64
    """Where its RAM is in the host's."""
    mailbox: Lock
    over: u32


pages = storage(Pages)
guest = storage(Guest)


def device(vm: u64, kind: u32, base: u64, size: u64) -> None:
    request = view(DeviceRequest, address(pages.device))
    request.type = kind
    request.base = base
    request.window_size = size
    call(Call.CREATE_DEVICE, vm, u64(address(pages.device)), 0, 0, 0)


def declare(vm: u64) -> None:
    region = view(MemoryRegion, address(pages.region))
    region.slot = 0
    region.total_pages = GUEST_SIZE // PAGE_SIZE
    region.gpa = VIRT.ram
    call(Call.MEMREGION_PURPOSE, vm, VIRT.ram, GUEST_SIZE, Purpose.GUEST_MEMORY, 0)
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0, 0)


def supply(gpa: u64) -> None:
    """The block around a page the guest missed."""
    block = (gpa - VIRT.ram) & ~(BLOCK_SIZE - 1)
    acquire(guest.mailbox)
    for i in range(BLOCK_PAGES):
        pages.mailbox[i] = (guest.memory + block) // PAGE_SIZE + i
    call(Call.MAP_GUEST_BLOCK, guest.vm, 0, (VIRT.ram + block) // PAGE_SIZE, BLOCK_PAGES, 0)
    release(guest.mailbox)


def serve(run: RunPage) -> None:
    """A device access: the PL011's data register, or a read that any VMM answers with virtio's magic number."""
    if run.mmio.is_write == 0:
        run.mmio.data = _VIRTIO_MAGIC if run.mmio.phys_addr >= VIRT.virtio else 0
    elif run.mmio.phys_addr == VIRT.uart:
        put(u8(run.mmio.data))


def create(image: u64, size: u64) -> None:
    """The VM, with the image at the start of its RAM."""
    guest.memory = (image + size + 2 * BLOCK_SIZE) & ~(BLOCK_SIZE - 1)
    for offset in range(0, size, 8):
        poke64(Va(guest.memory + offset), peek64(Va(image + offset)))
    call(Call.PROBE, 0, 0, 0, 0, 0)
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.DEMAND_PAGING, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(pages.mailbox)), 0)
    declare(vm)
    device(vm, DeviceType.VGICV3_DISTRIBUTOR, VIRT.gicd, DISTRIBUTOR_SIZE)
    device(vm, DeviceType.VGICV3_REDISTRIBUTOR, VIRT.redistributors, CPUS * REDISTRIBUTOR_SIZE)
    guest.vm = vm


def create_vcpu(index: u64) -> None:
    vcpu = VcpuTuple(VMID=u32(guest.vm), VCPU=u32(index))
    call(Call.CREATE_VCPU, vcpu, u64(address(pages.vcpu[index].run)), 0, 0, 0)


def run_vcpu(index: u64) -> None:
    """To the end of the guest."""
    vcpu = VcpuTuple(VMID=u32(guest.vm), VCPU=u32(index))
    run = view(RunPage, address(pages.vcpu[index].run))
    while read_once(guest.over) == 0:
        _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
        if reason == ExitReason.MMIO:
            serve(run)
        elif reason == ExitReason.EXCEPTION:
            supply(run.exception.fault_gpa)
        elif reason == ExitReason.SYSTEM_EVENT:
            write_once(guest.over, 1)
        elif reason == ExitReason.GZ:
            yield_()
        elif reason != ExitReason.IRQ and reason != ExitReason.HYPERCALL:
            panic(f"RUN came back with {reason:#x}\n")


def destroy_vcpu(index: u64) -> None:
    """Once no vCPU runs any more."""
    vcpu = VcpuTuple(VMID=u32(guest.vm), VCPU=u32(index))
    status = u64(Error.BUSY)
    while status == u64(Error.BUSY):
        status, _, _, _ = hvc(SMC64_BASE + Call.DESTROY_VCPU, vcpu)
        yield_()
    if status != 0:
        panic(f"DESTROY_VCPU answered {0 - status}\n")


@export
def secondary(index: u64) -> None:
    interrupts.enable()
    run_vcpu(index)


@export
def payload(blob: Va) -> None:
    interrupts.enable()
    image, size = initrd.find(blob)
    create(image, size)
    create_vcpu(0)
    vcpu = VcpuTuple(VMID=u32(guest.vm), VCPU=0)
    call(Call.SET_ONE_REG, vcpu, PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    for cpu in range(1, CPUS):
        if is_there(cpu):
            create_vcpu(cpu)
    for cpu in range(1, CPUS):
        if is_there(cpu):
            start_cpu(cpu)
    run_vcpu(0)
    for cpu in range(1, CPUS):
        if is_there(cpu):
            interrupts.send(cpu)
    for cpu in range(CPUS):
        if is_there(cpu):
            destroy_vcpu(cpu)
    call(Call.DESTROY_VM, guest.vm, 0, 0, 0, 0)
    log("host: the guest is gone\n")
