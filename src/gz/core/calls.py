# SPDX-License-Identifier: Apache-2.0
"""The host's calls (gzvm ABI 1): by index, from HVC in both columns of ids and from the doorbell.

A call reads its arguments once, from registers that only the core can change. Memory that the host names is
made SHARED in the table of pages while the core uses it, so it is the host's RAM and stays so. An error has
no effect.
"""

from __future__ import annotations

from collections.abc import Callable

import gz.core.advance as advance
import gz.core.exits as exits
import gz.core.kick as kick
import gz.core.lifecycle as lifecycle
import gz.core.mapping as mapping
import gz.core.memory as memory
import gz.core.one_reg as one_reg
import gz.core.pages as pages
import gz.core.reclaim as reclaim
import gz.core.run as run
import gz.core.slots as slots
import gz.core.stage2 as stage2
import gz.core.trace as trace
import gz.core.vgic as vgic
import gz.core.vgic_reset as vgic_reset
import gz.core.vm as vms
import gz.core.watching as watching
import gz.core.work as works
from gz.abi.calls import CALL_COUNT, DRIVER_VERSION, SMC32_BASE, SMC64_BIT, Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.devices import DeviceRequest, DeviceType
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE
from gz.abi.run import PAGE_SIZE
from gz.arm64.smccc import SmcccStatus
from gz.bits import Held, Ipa, Pa, function_table, i64, table, u8, u32, u64
from gz.core.context import Context
from gz.core.cpu import Cpu
from gz.core.firmware import firmware
from gz.core.trace import Event
from gz.core.vcpu import Vcpu
from gz.core.vm import VCPU_COUNT_MAX, VM_COUNT_MAX, VMS, Vm
from gz.core.work import AGAIN, Stage
from gz.metal import cold, inline, load_acquire, read_once, view

_RUN_PAGES = 2  # run page and hardware state
_BUFFER_PAGES = REGION_BUFFER_SIZE // PAGE_SIZE
_DESTROY_BATCH_PAGES = BLOCK_PAGES

#: Calls that name no VM, and those that do; the VM's lock is held for the latter.
HostCall = Callable[[Context], i64]
VmCall = Callable[[Context, Held[Vm]], i64]


def hypercall(context: Context, doorbell: bool) -> Context:
    """x0 is the function id, x1 to x7 the arguments; status and results in x0 to x3. Gives the context to
    resume.

    `doorbell`: the instruction was a store, which is behind us when the context is resumed.
    """
    index = (u64(u32(context.x[0])) & ~u64(SMC64_BIT)) - SMC32_BASE
    if index == Call.RUN:
        return _run(context, doorbell)
    trace.record(context.cpu, Event.CALL, 0, context.x[0], context.x[1])
    status = _dispatch(context, index)
    if status == AGAIN:
        trace.record(context.cpu, Event.AGAIN, 0, context.x[0], context.x[1])
        if not doorbell:
            advance.repeat()
        return context
    trace.record(context.cpu, Event.RETURN, 0, u64(status), context.x[1])
    context.x[0] = u64(status)
    if doorbell:
        advance.skip()
    return context


@inline
def _run(context: Context, doorbell: bool) -> Context:
    vmid = context.x[1] >> 16
    index = context.x[1] & 0xFFFF
    if vmid - 1 < VM_COUNT_MAX and index < VCPU_COUNT_MAX:
        vm = VMS[vmid - 1]
        if vms.hold(vm):
            vcpu = vm.vcpus[index]
            if vcpu is not None:
                if vm.last_run[context.cpu.index] != index + 1:
                    _change_vcpu(vm, context.cpu, u32(index) + 1)
                resumed = run.run(context, vcpu, doorbell)
                vms.drop(vm)
                return resumed
            vms.drop(vm)
    return _no_vcpu(context, doorbell)


@cold
def _change_vcpu(vm: Vm, cpu: Cpu, number: u32) -> None:
    """Another vCPU of the VM ran here before: of the same VMID and perhaps ASID, but with tables of its own."""
    if vm.last_run[cpu.index] != 0:
        stage2.flush_here(vm.stage2)
    vm.last_run[cpu.index] = number


@cold
def _no_vcpu(context: Context, doorbell: bool) -> Context:
    """The driver looks at x1 alone."""
    run.answer(context, ExitReason.FAIL_ENTRY, doorbell)
    context.x[0] = u64(i64(Error.INVALID_ARGS))
    return context


def _dispatch(context: Context, index: u64) -> i64:
    if index >= CALL_COUNT:
        return SmcccStatus.NOT_SUPPORTED
    if index == Call.IRQ_LINE:
        return _irq_line(context)
    scope = _SCOPES[index]
    vmid = context.x[1]
    if scope == _NO_VM or (scope == _VM_OR_NONE and vmid == 0):
        return HOST_CALLS[index](context)
    if scope == _VCPU:
        vmid = vmid >> 16
    vm = vms.find(vmid)
    if vm is None:
        return Error.INVALID_ARGS
    locked = slots.acquire_for_host(vm)
    status: i64 = Error.INVALID_ARGS
    used = load_acquire(vm.used)
    if used == vms.LIVE or (used == vms.ENDING and index == Call.DESTROY_VM):
        works.begin(locked.work, context.x[0])
        status = VM_CALLS[index](context, locked)
        if status == AGAIN:
            context.x[0] = works.suspend(locked.work, context.x[0])
    slots.release(locked)
    return status


def _irq_line(context: Context) -> i64:
    """From any CPU at any time, so without the VM's lock."""
    vm = vms.find(context.x[1] >> 16)
    if vm is None or not vms.hold(vm):
        return Error.INVALID_ARGS
    status = vgic.irq_line(vm, u32(context.x[1] & 0xFFFF), context.x[2], context.x[3])
    vms.drop(vm)
    return status


def _probe(context: Context) -> i64:
    major, minor, sub = DRIVER_VERSION
    context.x[1] = major
    context.x[2] = minor
    context.x[3] = sub
    return Error.NO_ERROR


def _create_vm(context: Context) -> i64:
    if context.x[1] != 0:  # the only type there is
        return Error.INVALID_ARGS
    status, vmid = vms.create(context.x[0] & SMC64_BIT != 0)
    if status == Error.NO_ERROR:
        context.x[1] = vmid
    return status


def _destroy_vm(context: Context, vm: Held[Vm]) -> i64:
    """x2: pages to deal with in this call, 0: all.

    BUSY: not done, call again; never for a caller that says all.
    """
    budget = context.x[2]
    if vm.used == vms.LIVE:
        if vm.work.stage == Stage.END:  # it was another VM of this number
            return Error.INVALID_ARGS
        if not vms.close(vm):
            _kick(vm)
            return Error.BUSY if budget != 0 else Error.INVALID_ARGS
        for i in range(VCPU_COUNT_MAX):
            vcpu = vm.vcpus[i]
            if vcpu is not None:
                _destroy(vm, vcpu)
        vm.used = vms.ENDING
        vms.open(vm)
        if vm.mailbox != 0:
            pages.unshare(vm.mailbox, 1)
        stage2.flush(vm.stage2)
    if vms.end(vm, budget):
        return Error.NO_ERROR
    vm.work.stage = Stage.END
    return AGAIN if budget == 0 else i64(Error.BUSY)


def _create_vcpu(context: Context, vm: Held[Vm]) -> i64:
    index = context.x[1] & 0xFFFF
    run_page = Pa(context.x[2])
    if index >= VCPU_COUNT_MAX or vm.vcpus[index] is not None or not pages.share(run_page, _RUN_PAGES):
        return Error.INVALID_ARGS
    status = lifecycle.create(vm, u32(index), run_page)
    if status != Error.NO_ERROR:
        pages.unshare(run_page, _RUN_PAGES)
    return status


def _destroy_vcpu(context: Context, vm: Held[Vm]) -> i64:
    """BUSY while any vCPU of the VM runs: those that run may look at this one."""
    vcpu = _vcpu(context, vm)
    if vcpu is None:
        return Error.INVALID_ARGS
    if not vms.close(vm):
        _kick(vm)
        return Error.BUSY
    _destroy(vm, vcpu)
    vms.open(vm)
    return Error.NO_ERROR


def _destroy(vm: Held[Vm], vcpu: Vcpu) -> None:
    run_page = vcpu.run_page
    status = lifecycle.destroy(vm, vcpu.index)
    assert status == Error.NO_ERROR, "a vCPU of a closed VM runs"
    pages.unshare(run_page, _RUN_PAGES)


def _kick(vm: Vm) -> None:
    for i in range(VCPU_COUNT_MAX):
        vcpu = vm.vcpus[i]
        if vcpu is not None:
            kick.vcpu(vcpu)


@inline
def _vcpu(context: Context, vm: Vm) -> Vcpu | None:
    index = context.x[1] & 0xFFFF
    if index >= VCPU_COUNT_MAX:
        return None
    return vm.vcpus[index]


def _set_memregion(context: Context, vm: Held[Vm]) -> i64:
    buffer = Pa(context.x[3])
    if context.x[2] != REGION_BUFFER_SIZE or not pages.share(buffer, _BUFFER_PAGES):
        return Error.INVALID_ARGS
    status = mapping.set_region(vm, buffer)
    pages.unshare(buffer, _BUFFER_PAGES)
    return status


def _memregion_purpose(context: Context, vm: Held[Vm]) -> i64:
    return slots.announce(vm, Ipa(context.x[2]), context.x[3], context.x[4])


def _map_guest(context: Context, vm: Held[Vm]) -> i64:
    return mapping.map_pages(vm, context.x[2], context.x[3], context.x[4], context.x[5])


def _map_guest_block(context: Context, vm: Held[Vm]) -> i64:
    return mapping.map_block(vm, context.x[2], context.x[3], context.x[4])


def _set_one_reg(context: Context, vm: Held[Vm]) -> i64:
    vcpu = _vcpu(context, vm)
    if vcpu is None:
        return Error.INVALID_ARGS
    return one_reg.write(vcpu, context.x[2], context.x[3])


def _get_one_reg(context: Context, vm: Held[Vm]) -> i64:
    vcpu = _vcpu(context, vm)
    if vcpu is None:
        return Error.INVALID_ARGS
    status, value = one_reg.read(vcpu, context.x[2])
    if status == Error.NO_ERROR:
        context.x[1] = value
    return status


def _create_device(context: Context, vm: Held[Vm]) -> i64:
    """x2: a request that does not cross a page."""
    at = context.x[2]
    page = Pa(at & ~u64(PAGE_SIZE - 1))
    if at % 8 != 0 or at % PAGE_SIZE > PAGE_SIZE - DeviceRequest.size or not pages.share(page, 1):
        return Error.INVALID_ARGS
    request = view(DeviceRequest, memory.va(Pa(at)))
    type = read_once(request.type)
    flags = read_once(request.flags)
    base = Ipa(read_once(request.base))
    size = read_once(request.window_size)
    attributes = read_once(request.attr_size) != 0 and read_once(request.attr_addr) != 0
    pages.unshare(page, 1)
    if flags != 0 or attributes:  # none are defined
        return Error.NOT_SUPPORTED
    if not stage2.in_range(base, size):
        return Error.INVALID_ARGS
    if not vms.close(vm):  # a vCPU runs
        return Error.INVALID_ARGS
    status: i64 = Error.NOT_SUPPORTED
    if type == DeviceType.VGICV3_DISTRIBUTOR:
        status = vgic_reset.create_distributor(vm, base, size)
    elif type == DeviceType.VGICV3_REDISTRIBUTOR:
        status = vgic_reset.create_redistributor(vm, base, size)
    vms.open(vm)
    return status


def _inform_exit(context: Context, vm: Held[Vm]) -> i64:
    """The vCPU that this CPU ran last goes back to its thread without the VMM having seen its exit."""
    last = vm.last_run[context.cpu.index]
    if last != 0:
        vcpu = vm.vcpus[last - 1]
        if vcpu is not None:
            exits.undelivered(vcpu)
    return Error.NO_ERROR


def _set_dtb_config(context: Context, vm: Held[Vm]) -> i64:
    vm.dtb = Ipa(context.x[2])
    vm.dtb_size = context.x[3]
    return Error.NO_ERROR


def _get_statistics(context: Context, vm: Held[Vm]) -> i64:
    """x1: bytes that the core spends on the VM; x2: bytes that host and guest both reach."""
    context.x[1] = (vm.frame_count + vm.stage2.frames) * PAGE_SIZE
    context.x[2] = (vm.lent_count - vm.private_count) * PAGE_SIZE
    return Error.NO_ERROR


def _query(context: Context) -> i64:
    """ENABLE_CAP without a VM."""
    capability = context.x[2]
    if capability == Capability.QUERY_BLOCK_BATCH:
        context.x[1] = BLOCK_PAGES
    elif capability == Capability.QUERY_DESTROY_BATCH:
        context.x[1] = _DESTROY_BATCH_PAGES
    else:
        return Error.INVALID_ARGS
    return Error.NO_ERROR


def _enable_cap(context: Context, vm: Held[Vm]) -> i64:
    capability = context.x[2]
    if capability == Capability.DEMAND_PAGING:
        vm.capabilities |= vms.PAGING
    elif capability == Capability.BLOCK_DEMAND_PAGING:
        return _enable_block_paging(vm, context.x[3], Pa(context.x[4]))
    elif capability == Capability.IDLE:
        vm.capabilities |= vms.IDLE
    elif capability == Capability.WATCH_EXCEPTIONS:
        status = watching.enable(vm, context.x[3])
        if status != Error.NO_ERROR:
            return status
    elif capability == Capability.MEMORY_ACCESS:
        status, following = reclaim.set_access(vm, context.x[3], context.x[4], context.x[5])
        if status == Error.NO_ERROR:
            context.x[1] = following
        return status
    elif capability == Capability.PROTECTED_VM:
        return _enable_protection(context, vm)
    elif capability == Capability.QUERY_BLOCK_BATCH or capability == Capability.QUERY_DESTROY_BATCH:
        return _query(context)
    else:
        return Error.NOT_SUPPORTED
    context.x[1] = 0
    return Error.NO_ERROR


def _enable_protection(context: Context, vm: Held[Vm]) -> i64:
    answer: u64 = 0
    status: i64 = Error.NOT_SUPPORTED
    if context.x[3] == ProtectedVm.PROTECT:
        status = lifecycle.protect(vm)
    elif context.x[3] == ProtectedVm.SET_FIRMWARE:
        status = lifecycle.load_firmware(vm, Ipa(context.x[4]))
    elif context.x[3] == ProtectedVm.GET_FIRMWARE_SIZE:
        answer = firmware.size
        status = Error.NO_ERROR
    if status == Error.NO_ERROR:
        context.x[1] = answer
    return status


def _enable_block_paging(vm: Held[Vm], granule: u64, mailbox: Pa) -> i64:
    """The mailbox stays shared with the core until the VM ends or names another one."""
    if granule != BLOCK_SIZE or not pages.share(mailbox, 1):
        return Error.INVALID_ARGS
    if vm.mailbox != 0:
        pages.unshare(vm.mailbox, 1)
    vm.mailbox = mailbox
    vm.capabilities |= vms.BLOCK_PAGING
    return Error.NO_ERROR


def _none(context: Context) -> i64:
    """Reserved numbers: GET_REGS, SET_REGS."""
    return Error.NOT_IMPLEMENTED


def _no_vm_call(context: Context, vm: Held[Vm]) -> i64:
    return Error.NOT_IMPLEMENTED


_NO_VM, _VM, _VCPU, _VM_OR_NONE = range(4)  # what x1 names

_HOST_ROWS: dict[Call, HostCall] = {
    Call.PROBE: _probe,
    Call.CREATE_VM: _create_vm,
    Call.ENABLE_CAP: _query,
}
_VM_ROWS: dict[Call, tuple[int, VmCall]] = {
    Call.DESTROY_VM: (_VM, _destroy_vm),
    Call.CREATE_VCPU: (_VCPU, _create_vcpu),
    Call.DESTROY_VCPU: (_VCPU, _destroy_vcpu),
    Call.SET_MEMREGION: (_VM, _set_memregion),
    Call.GET_ONE_REG: (_VCPU, _get_one_reg),
    Call.SET_ONE_REG: (_VCPU, _set_one_reg),
    Call.CREATE_DEVICE: (_VM, _create_device),
    Call.ENABLE_CAP: (_VM_OR_NONE, _enable_cap),
    Call.INFORM_EXIT: (_VM, _inform_exit),
    Call.MEMREGION_PURPOSE: (_VM, _memregion_purpose),
    Call.SET_DTB_CONFIG: (_VM, _set_dtb_config),
    Call.MAP_GUEST: (_VM, _map_guest),
    Call.MAP_GUEST_BLOCK: (_VM, _map_guest_block),
    Call.GET_STATISTICS: (_VM, _get_statistics),
}

HOST_CALLS = function_table(HostCall, [_HOST_ROWS.get(call, _none) for call in Call])
VM_CALLS = function_table(VmCall, [_VM_ROWS[call][1] if call in _VM_ROWS else _no_vm_call for call in Call])
_SCOPES = table(u8, [_VM_ROWS[call][0] if call in _VM_ROWS else _NO_VM for call in Call])
