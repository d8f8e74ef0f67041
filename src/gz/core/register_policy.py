# SPDX-License-Identifier: Apache-2.0
"""What becomes of the registers that neither `identification.IDENTITIES` nor `sysregs.POLICY` names: for people and
tests.  Each register of EL1 and EL0 that has a name is in exactly one row of the three tables."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from gz.arm64.sysreg import TABLE, SysReg, SysRegs
from gz.core.context import EL1_REGISTERS

_EL2 = 4  # the lowest op1 of registers that EL1 does not have


class Fate(Enum):
    OWN = "the vCPU's own, in the CPU while it runs"
    CPU = "as the CPU has it"
    UNDEFINED = "an undefined instruction"


class Disposition(NamedTuple):
    registers: tuple[str, ...]
    fate: Fate
    reason: str


_VIRTUAL_INTERFACE = "the virtual CPU interface (HCR_EL2.IMO, FMO)"

DISPOSITIONS: tuple[Disposition, ...] = (
    Disposition(
        tuple(r.name for r in EL1_REGISTERS if r.op1 < _EL2 and r is not SysRegs.MDSCR_EL1),
        Fate.OWN,
        "switched with the world",
    ),
    Disposition(("ZCR_EL1", "FPCR", "FPSR"), Fate.OWN, "switched with the vectors, at their first use after an entry"),
    Disposition(
        ("SPSel", "CurrentEL", "PAN", "UAO", "ALLINT", "NZCV", "DAIF", "DIT", "SSBS", "TCO"),
        Fate.OWN,
        "PSTATE, switched in SPSR_EL2",
    ),
    Disposition(
        ("CNTV_TVAL_EL0", "CNTV_CTL_EL0", "CNTV_CVAL_EL0"), Fate.OWN, "the virtual timer, switched with the world"
    ),
    Disposition(("MIDR_EL1",), Fate.CPU, "VPIDR_EL2: workarounds of the kernel go by it"),
    Disposition(("MPIDR_EL1",), Fate.OWN, "VMPIDR_EL2: the vCPU's affinity"),
    Disposition(("REVIDR_EL1", "AIDR_EL1"), Fate.CPU, "revisions of the CPU, beside MIDR_EL1"),
    Disposition(
        ("CTR_EL0", "CLIDR_EL1", "CCSIDR_EL1", "CCSIDR2_EL1", "DCZID_EL0"),
        Fate.CPU,
        "caches are the CPU's; CSSELR_EL1, which selects one, is switched",
    ),
    Disposition(("RNDR", "RNDRRS"), Fate.CPU, "random numbers, without state"),
    Disposition(("ISR_EL1",), Fate.CPU, "the virtual interrupts that are pending (HCR_EL2.IMO, FMO, AMO)"),
    Disposition(("DISR_EL1",), Fate.CPU, "VDISR_EL2 (HCR_EL2.AMO), where no error is ever put"),
    Disposition(("CNTFRQ_EL0",), Fate.CPU, "the same for all"),
    Disposition(
        ("CNTVCT_EL0", "CNTVCTSS_EL0", "CNTPCTSS_EL0"),
        Fate.CPU,
        "counters; the virtual one by CNTVOFF_EL2 from the VM's start on",
    ),
    Disposition(
        tuple(
            f"ICC_{name}_EL1"
            for name in (
                *("PMR", "IAR0", "EOIR0", "HPPIR0", "BPR0", "IAR1", "EOIR1", "HPPIR1", "BPR1", "NMIAR1"),
                *("RPR", "CTLR", "IGRPEN0", "IGRPEN1"),
                *(f"AP{group}R{n}" for group in range(2) for n in range(4)),
            )
        ),
        Fate.OWN,
        _VIRTUAL_INTERFACE,
    ),
    Disposition(("ICC_SRE_EL1",), Fate.CPU, "there is no interface in memory to change to"),
    Disposition(("RVBAR_EL1", "RMR_EL1"), Fate.UNDEFINED, "there are higher exception levels"),
    Disposition(("DSPSR_EL0", "DLR_EL0"), Fate.UNDEFINED, "there is no debug state"),
    Disposition(("DBGDTRTX_EL0",), Fate.UNDEFINED, "written as DBGDTRRX_EL0, whose encoding it has"),
    Disposition(
        ("GMID_EL1", "RGSR_EL1", "GCR_EL1", "TFSR_EL1", "TFSRE0_EL1"),
        Fate.UNDEFINED,
        "memory tags are hidden (HCR_EL2.ATA, TID5)",
    ),
    Disposition(
        ("SMIDR_EL1", "SMPRI_EL1", "SMCR_EL1", "SVCR", "TPIDR2_EL0"),
        Fate.UNDEFINED,
        "SME is hidden (CPTR_EL2.TSM, HFGRTR_EL2); what nothing traps is switched or says nothing",
    ),
    Disposition(
        ("SCTLR2_EL1", "TCR2_EL1", "MAIR2_EL1", "PIRE0_EL1", "PIR_EL1", "POR_EL1"),
        Fate.UNDEFINED,
        "hidden extensions of stage 1 (HCRX_EL2, HFGRTR_EL2)",
    ),
    Disposition(
        (
            *("ERRIDR_EL1", "ERRSELR_EL1", "ERXFR_EL1", "ERXCTLR_EL1", "ERXSTATUS_EL1", "ERXADDR_EL1"),
            *("ERXMISC0_EL1", "ERXMISC1_EL1"),
        ),
        Fate.UNDEFINED,
        "errors of the hardware are the host's (HCR_EL2.TERR)",
    ),
    Disposition(
        ("LORSA_EL1", "LOREA_EL1", "LORN_EL1", "LORC_EL1", "LORID_EL1"), Fate.UNDEFINED, "LORegions (HCR_EL2.TLOR)"
    ),
    Disposition(
        ("MPAMIDR_EL1", "MPAM1_EL1", "MPAM0_EL1"), Fate.UNDEFINED, "partitions of caches are the host's (MPAM2_EL2)"
    ),
    Disposition(
        ("SCXTNUM_EL1", "SCXTNUM_EL0"), Fate.UNDEFINED, "software context numbers are hidden (HCR_EL2.EnSCXT)"
    ),
    Disposition(
        tuple(name for name in TABLE if name.startswith("AM") and name.endswith("_EL0")),
        Fate.UNDEFINED,
        "activity monitors are the host's (CPTR_EL2.TAM)",
    ),
    Disposition(
        tuple(name for name in TABLE if name.startswith(("PMS", "PMB")) and name.endswith("_EL1")),
        Fate.UNDEFINED,
        "statistical profiling is the host's (MDCR_EL2.TPMS, E2PB)",
    ),
    Disposition(
        ("TRFCR_EL1", *(name for name in TABLE if name.startswith("TRB") and name.endswith("_EL1"))),
        Fate.UNDEFINED,
        "trace is the host's (MDCR_EL2.TTRF, E2TB)",
    ),
    Disposition(
        ("BRBCR_EL1",),
        Fate.UNDEFINED,
        "branch records are the host's (HDFGRTR_EL2, HDFGWTR_EL2)",
    ),
    Disposition(
        tuple(name for name, register in TABLE.items() if register.op1 >= _EL2),
        Fate.UNDEFINED,
        "there is no EL2 or EL3 for guests",
    ),
)


def disposition_of(register: SysReg) -> Disposition | None:
    return next((row for row in DISPOSITIONS if register.name in row.registers), None)
