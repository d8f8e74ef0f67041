# SPDX-License-Identifier: Apache-2.0
"""A world below EL2 on one CPU: the host's or a vCPU's registers while it does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz.arm64.sysreg import SysRegs
from gz.bits import Array, Ptr, Struct, array, u32, u64

if TYPE_CHECKING:
    from gz.core.cpu import Cpu
    from gz.core.vcpu import Vcpu

#: EL0/EL1 registers that both worlds use and that are switched each time.
EL1_REGISTERS = (
    SysRegs.SP_EL0,
    SysRegs.SP_EL1,
    SysRegs.ELR_EL1,
    SysRegs.SPSR_EL1,
    SysRegs.SCTLR_EL1,
    SysRegs.CPACR_EL1,
    SysRegs.TCR_EL1,
    SysRegs.TTBR0_EL1,
    SysRegs.TTBR1_EL1,
    SysRegs.MAIR_EL1,
    SysRegs.AMAIR_EL1,
    SysRegs.VBAR_EL1,
    SysRegs.ESR_EL1,
    SysRegs.FAR_EL1,
    SysRegs.AFSR0_EL1,
    SysRegs.AFSR1_EL1,
    SysRegs.PAR_EL1,
    SysRegs.CONTEXTIDR_EL1,
    SysRegs.TPIDR_EL0,
    SysRegs.TPIDRRO_EL0,
    SysRegs.TPIDR_EL1,
    SysRegs.CNTKCTL_EL1,
    SysRegs.CSSELR_EL1,
    SysRegs.MDSCR_EL1,
)

#: Keys of pointer authentication: switched when a guest first uses them (world.load_keys).
KEY_REGISTERS = (
    SysRegs.APIAKeyLo_EL1,
    SysRegs.APIAKeyHi_EL1,
    SysRegs.APIBKeyLo_EL1,
    SysRegs.APIBKeyHi_EL1,
    SysRegs.APDAKeyLo_EL1,
    SysRegs.APDAKeyHi_EL1,
    SysRegs.APDBKeyLo_EL1,
    SysRegs.APDBKeyHi_EL1,
    SysRegs.APGAKeyLo_EL1,
    SysRegs.APGAKeyHi_EL1,
)


class FpState(Struct, align=16):
    """V0–V31 (low half first), FPSR, FPCR.  The vectors' fp_save and fp_load know this layout."""

    v: Array[u64] = array(64)
    fpsr: u64
    fpcr: u64


class Context(Struct, align=64):
    """x0–x30 first: the vectors store them at the address in TPIDR_EL2."""

    x: Array[u64] = array(31)
    elr: u64  # ELR_EL2 and SPSR_EL2 while another context runs on this CPU
    spsr: u64
    cpu: Ptr[Cpu]  # where it runs, or ran last
    vcpu: Ptr[Vcpu] | None  # None: the host
    hcr: u64
    vttbr: u64
    vmpidr: u64
    cptr: u64
    mdcr: u64
    fp_live: u32  # guest: its FP/SIMD registers are in the CPU
    fp_used: u32  # guest: they have been since its reset, before they are zero
    sve: u64  # virtual address of its SVE state while that is not in the CPU (vectors.sve_save); 0: no SVE
    zcr: u64  # ZCR_EL1, the same
    svcr: u64  # the host's, the same: it may be in streaming mode
    hcrx: u64
    tpidr2: u64  # TPIDR2_EL0 and SMPRI_EL1 while another context runs, on CPUs with SME
    smpri: u64
    keys_live: u32  # guest: its keys are in the CPU
    el1: Array[u64] = array(len(EL1_REGISTERS))
    keys: Array[u64] = array(len(KEY_REGISTERS))
    fp: FpState
