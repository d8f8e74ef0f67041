# SPDX-License-Identifier: Apache-2.0
"""What the core keeps about a VM's interrupts and timers; core/vgic.py tells how it is used."""

from __future__ import annotations

from gz.arm64.gic import INTERRUPTS_MAX, PRIVATE_INTERRUPTS
from gz.bits import Array, Ipa, Ptr, Struct, array, u8, u32, u64
from gz.core.lock import Lock

BANK = 32
#: Banks of the INTID space; number 0 is private to each vCPU.
BANKS = (INTERRUPTS_MAX + BANK - 1) // BANK
SPI_BANKS = BANKS - PRIVATE_INTERRUPTS // BANK


class Bank(Struct):
    """32 interrupts, a bit or an element each."""

    enabled: u32
    group1: u32
    edge: u32
    latch: u32  # pending because of an edge, an SGI, ISPENDR, or a level whose end nobody reports
    line: u32  # the level of the input
    tracked: u32  # the source lowers its line too: pending as long as it is high (gzvm ABI 3.2)
    active: u32
    listed: u32  # in a list register of some CPU: latch and active are there, not here
    any: u32  # IROUTER.Interrupt_Routing_Mode
    valid: u32  # which of them exist
    configurable: u32  # those whose trigger can be chosen
    priority: Array[u8] = array(BANK, align=8)
    owner: Array[u8] = array(BANK)  # index of the vCPU on which it is active


class Spis(Struct):
    """In frames of its own: most VMs never exist."""

    banks: Array[Bank] = array(SPI_BANKS)  # from INTID 32 on
    routes: Array[u32] = array(SPI_BANKS * BANK)  # IROUTER, lower half


class Vgic(Struct):
    """A VM's distributor."""

    lock: Lock
    control: u32  # GICD_CTLR: the enable bits of both groups
    busy: u32  # bit n: something in bank n of the INTID space may be pending or active, or go to any CPU
    shared: u32  # there has been an SPI for any CPU (1 of N)
    distributor: Ipa
    distributor_size: u64  # 0: none
    redistributors: Ipa  # frame of vCPU i: 0x20000 · i behind
    redistributor_size: u64  # of all vCPUs up to the highest; 0: none
    redistributor_exists: u32
    redistributor_count: u32  # index of the highest vCPU + 1
    spis: Ptr[Spis] | None


class VcpuGic(Struct):
    """A vCPU's redistributor and CPU interface."""

    dirty: u32  # look before the guest goes on: something changed
    recall: u32  # another CPU holds the lock and waits for what is in our list registers
    stale: u32  # what lies in the list registers has to be chosen anew
    announce: u32  # leave with exit IPI: an idle vCPU has got an interrupt
    loaded: u32  # list registers, VMCR and active priorities are in the CPU
    used: u32  # list registers that hold an interrupt
    written: u32  # those that are not zero
    latched: u32  # those whose interrupt was pending by its latch
    registers: u32  # the list registers there are on this CPU
    sleep: u32  # GICR_WAKER.ProcessorSleep
    intid: Array[u32] = array(16)  # by list register
    best: Array[u32] = array(16)  # list_registers.choose: priority << 16 | intid, the best first
    best_count: u32
    routed: Array[u32] = array(BANKS)  # by bank of the INTID space: SPIs routed here
    hcr: u64  # ICH_HCR_EL2 while loaded
    vmcr: u64
    ap0r: Array[u64] = array(4)
    ap1r: Array[u64] = array(4)
    private: Bank


class TimerState(Struct):
    """One comparator: CTL and CVAL."""

    control: u64
    deadline: u64


class VcpuTimer(Struct):
    virtual: TimerState  # while the vCPU doesn't run; else in the CPU
    physical: TimerState
    held: u32  # PPI 27 is active at the physical redistributor because of this vCPU
