# SPDX-License-Identifier: Apache-2.0
"""A host CPU that calls without sense or pause; several of them race on the same VMs, vCPUs and pages.

Compiled with the core, so that the CPUs are threads which no interpreter holds up.
"""

from __future__ import annotations

from el2 import BLOCK, LOW, PAGE

import gz.core.calls as calls
import gz.core.enter as enter
import gz.core.guard as guard
import gz.core.memory as memory
import gz.core.reclaim as reclaim
import gz.core.sharing as sharing
from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.bits import Ipa, Pa, i64, u32, u64
from gz.core.context import Context
from gz.core.vcpu import Vcpu
from gz.metal import poke32, poke64

GUEST_RAM = LOW + 16 * BLOCK
VMS = 3
PAGES = 24  # of guest memory, that the VMs fight for
VCPUS = 2


def random(state: u64) -> u64:
    return state * 6364136223846793005 + 1442695040888963407


def call(context: Context, index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> i64:
    context.x[0] = SMC64_BASE + index
    context.x[1] = a
    context.x[2] = b
    context.x[3] = c
    context.x[4] = d
    context.x[5] = e
    resumed = calls.hypercall(context, False)
    while resumed.vcpu is None and u32(context.x[0]) == SMC64_BASE + index and _takes_up(context):
        resumed = calls.hypercall(context, False)
    vcpu = resumed.vcpu
    if vcpu is not None:
        live(vcpu, b, Ipa((c % 16) * PAGE))
        assert enter.lower_irq(resumed).vcpu is None, "the host does not come back"
        assert context.x[1] == ExitReason.IRQ, "not the exit of an interrupt"
    return i64(context.x[0])


def _takes_up(context: Context) -> bool:
    """What becomes of a call that is done in part: mostly it goes on, as it was, or as if it had come elsewhere."""
    context.x[20] = random(context.x[20])
    choice = context.x[20] >> 33
    if choice % 8 == 0:
        context.x[0] ^= u64(1) << 32 + choice // 8 % 32
    return choice % 16 != 1


def live(vcpu: Vcpu, choice: u64, ipa: Ipa) -> None:
    """What the guest does before an interrupt takes its CPU."""
    match choice % 8:
        case 0 | 1:
            reclaim.relinquish(vcpu, ipa)
        case 2 | 3:
            sharing.show(vcpu, ipa, choice // 8 % 4)
        case 4:
            sharing.hide(vcpu, ipa, choice // 8 % 4)
        case 5 if vcpu.vm.protected != 0:
            guard.permit(vcpu.vm, ipa)
        case 6 if vcpu.vm.protected != 0:
            guard.refuse(vcpu.vm, ipa)
        case _:
            pass


def declare(context: Context, vmid: u64, buffer: u64) -> None:
    at = memory.va(Pa(buffer))
    poke32(at, 0)
    poke64(at + 8, 1024)
    poke64(at + 16, 0)
    call(context, Call.MEMREGION_PURPOSE, vmid, 0, 2 * BLOCK, 1, 0)
    call(context, Call.SET_MEMREGION, vmid, 2 * PAGE, buffer, 0, 0)


def storm(context: Context, seed: u64, count: u64, own: u64) -> u64:
    """`count` calls; `own`: physical address of 64 pages for this CPU's buffers. Gives how many succeeded."""
    state = seed
    good: u64 = 0
    for _ in range(count):
        state = random(state)
        pick = state >> 33
        vmid = 1 + pick % VMS
        pick //= VMS
        vcpu = vmid << 16 | pick % VCPUS
        pick //= VCPUS
        choice = pick % 32
        pick //= 32
        page = GUEST_RAM // PAGE + pick % PAGES
        gfn = pick % 16
        status: i64 = Error.INVALID_ARGS
        if choice == 0:
            status = call(context, Call.CREATE_VM, 0, 0, 0, 0, 0)
            if pick % 2 != 0:
                call(context, Call.ENABLE_CAP, context.x[1], Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
        elif choice == 1:
            status = call(context, Call.DESTROY_VM, vmid, pick % 3, 0, 0, 0)
        elif choice < 6:
            status = call(context, Call.CREATE_VCPU, vcpu, own + (pick % 8) * 2 * PAGE, 0, 0, 0)
        elif choice < 8:
            status = call(context, Call.DESTROY_VCPU, vcpu, 0, 0, 0, 0)
        elif choice < 10:
            declare(context, vmid, own + 20 * PAGE)
        elif choice < 14:
            status = call(context, Call.MAP_GUEST, vmid, 0, page, gfn, 1 + pick % 3)
        elif choice == 14:
            status = call(context, Call.ENABLE_CAP, vmid, 0x9201, BLOCK, own + (24 + pick % 2) * PAGE, 0)
        elif choice < 17:
            mailbox = memory.va(Pa(own + 24 * PAGE))
            for i in range(16):
                poke64(mailbox + 8 * i, GUEST_RAM // PAGE + (pick + i) % PAGES)
            status = call(context, Call.MAP_GUEST_BLOCK, vmid, 0, 512 + gfn, 4, 0)
        elif choice < 19:
            status = call(context, Call.IRQ_LINE, vcpu, pick % 32, pick // 32 % 2, 0, 0)
        elif choice == 19:
            status = call(context, Call.SET_ONE_REG, vcpu, 0x6030_0000_0010_0000, pick, 0, 0)
        elif choice == 22:
            status = call(context, Call.ENABLE_CAP, vmid, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
        elif choice == 23:
            status = call(context, Call.MAP_GUEST, vmid, 0, (GUEST_RAM + BLOCK) // PAGE + pick % 2, 512, 512)
        elif choice == 20:
            status = call(context, Call.INFORM_EXIT, vmid, 0, 0, 0, 0)
        elif choice == 21:
            at = memory.va(Pa(own + 30 * PAGE))
            poke64(at, 0)
            poke64(at + 8, 0)
            poke64(at + 16, 0x3FFF_0000)
            poke64(at + 24, 0x1_0000)
            poke64(at + 40, 0)
            status = call(context, Call.CREATE_DEVICE, vmid, own + 30 * PAGE, 0, 0, 0)
        else:
            status = call(context, Call.RUN, vcpu, pick, pick // 2, 0, 0)
        good += 1 if status == Error.NO_ERROR else 0
    return good
