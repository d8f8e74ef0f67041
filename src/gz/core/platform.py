# SPDX-License-Identifier: Apache-2.0
"""What the device tree said about this machine, and what the core made of it; written once at boot."""

from __future__ import annotations

from gz.abi.boot import GUESTS_MAX
from gz.bits import Array, Pa, Struct, Va, array, storage, u16, u32, u64
from gz.metal import inline

RAM_BANKS_MAX = 16
RAMDISKS_MAX = GUESTS_MAX + 1
REDISTRIBUTOR_REGIONS_MAX = 8


class PhysicalRange(Struct):
    """Bytes; a size of 0 means that there is none."""

    base: Pa
    size: u64


class BootGuest(Struct):
    """A guest among the boot modules (core/resident.py)."""

    index: u32
    kernel: PhysicalRange
    initrd: PhysicalRange
    name: Va  # in the tree
    name_size: u64
    arguments: Va  # its kernel's, in the tree, without a final NUL
    arguments_size: u64
    memory: PhysicalRange  # at first only as large as it wants to be
    cpus: u32


class Machine(Struct):
    tree: Pa  # as the loader left it
    ram: Array[PhysicalRange] = array(RAM_BANKS_MAX)
    ram_count: u32
    image: PhysicalRange  # what was loaded: the core and, behind it, firmware
    firmware: PhysicalRange  # of protected VMs, the last part of `image`
    pool: PhysicalRange  # its frames
    doorbell: Pa  # identity: the same IPA
    uart: PhysicalRange
    distributor: PhysicalRange
    redistributors: Array[PhysicalRange] = array(REDISTRIBUTOR_REGIONS_MAX)
    redistributor_count: u32
    gicd: Va  # the distributor's frame in the device window
    group0: u32  # 1: GICD_CTLR.DS, so that Group 0 interrupts are ours to use
    psci_smc: u32  # 1: firmware answers PSCI over SMC
    psci_hvc: u32  # 1: a hypervisor does, over HVC; so there is no EL2 for us
    cpu_count: u32  # of those in the tree, as many as there is room for
    kernel: PhysicalRange  # boot modules
    kernel_arguments: Va  # in the tree, without the final NUL
    kernel_arguments_size: u64
    initrd: PhysicalRange
    guests: Array[BootGuest] = array(GUESTS_MAX)
    guest_count: u32
    host_ich: u64  # ICH_HCR_EL2 while the host runs
    zero_block: u64  # bytes that DC ZVA clears, 0: prohibited
    vulnerable: u32  # bits by speculation.WORKAROUNDS: some CPU needs it
    mitigated: u32  # and its firmware has it
    vector_length: u64  # bytes of an SVE vector, 0: no SVE
    cache_line: u64  # bytes, the smallest data cache line
    forces_write_back: u16  # 1: FEAT_S2FWB, so that guests' accesses to memory are all cacheable
    fetches_coherently: u16  # 1: CTR_EL0.DIC, instruction caches follow the data
    repeats_tlbi: u16  # 1: see core/coherency.py


machine = storage(Machine)


@inline
def overlaps(a: Pa, a_size: u64, b: Pa, b_size: u64) -> bool:
    return a_size != 0 and b_size != 0 and a < b + b_size and b < a + a_size
