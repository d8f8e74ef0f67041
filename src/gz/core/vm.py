# SPDX-License-Identifier: Apache-2.0
"""A virtual machine: its objects and how it begins and ends."""

from __future__ import annotations

from gz.bits import Array, Ipa, Pa, Ptr, Struct, array, storage, u32, u64
from gz.core.lock import Lock
from gz.core.slots import Slot
from gz.core.stage2 import Stage2
from gz.core.vcpu import Vcpu
from gz.core.vgic import Vgic

VM_COUNT_MAX = 64
VCPU_COUNT_MAX = 8  # the driver's limit (gzvm ABI 1.2)
SLOT_COUNT_MAX = 10


class Vm(Struct, align=64):
    lock: Lock
    used: u32
    vmid: u32  # handle and VMID: 1…
    quirks: u32
    reset_pending: u32  # the guest asked for SYSTEM_RESET; the next write of vCPU 0's PC carries it out
    capabilities: u32
    mailbox: Pa  # block demand paging (capability 0x9201), 0: single pages
    stage2: Stage2
    slots: Array[Slot] = array(SLOT_COUNT_MAX)
    vcpus: Array[Ptr[Vcpu] | None] = array(VCPU_COUNT_MAX)
    vcpu_count: u32
    frame_count: u64  # frames of the core's pool this VM holds
    dtb: Ipa
    dtb_size: u64
    vgic: Vgic


VMS = storage(Vm, VM_COUNT_MAX)
