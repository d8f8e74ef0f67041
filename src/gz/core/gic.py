# SPDX-License-Identifier: Apache-2.0
"""The physical GIC, as far as the core needs it: the host owns and drives it."""

from __future__ import annotations

import gz.core.mmu as mmu
from gz.arm64.gic import DISTRIBUTOR_SIZE, FRAME_SIZE, GICD_CTLR, GICR_TYPER, REDISTRIBUTOR_SIZE, Gicd, Gicr
from gz.arm64.gic_interface import ICC_SRE, ICH_HCR_EL2
from gz.arm64.insn import isb
from gz.arm64.registers import MPIDR_EL1
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u64
from gz.core.cpu import Cpu
from gz.core.platform import machine
from gz.metal import mmio

_GICV4_SIZE = REDISTRIBUTOR_SIZE + 2 * FRAME_SIZE


def discover() -> None:
    """Once: map the frames, see whether Group 0 is ours."""
    assert machine.distributor.size >= DISTRIBUTOR_SIZE, "no GICv3 in the device tree"
    machine.gicd = mmu.map_device(machine.distributor.base, DISTRIBUTOR_SIZE)
    machine.group0 = GICD_CTLR(mmio(Gicd, machine.gicd).CTLR).DS
    if machine.guest_count != 0:
        machine.host_ich = ICH_HCR_EL2(TALL1=1)
    for i in range(machine.redistributor_count):
        region = machine.redistributors[i]
        if region.size != 0:
            mmu.map_device(region.base, region.size)


def prepare_cpu(cpu: Cpu) -> None:
    """On each CPU: system registers for EL2 and EL1, no virtual interface, its redistributor."""
    sysreg.ICC_SRE_EL2 = ICC_SRE(SRE=1, DFB=1, DIB=1, Enable=1)
    isb()
    sysreg.ICH_HCR_EL2 = machine.host_ich
    cpu.redistributor = redistributor(cpu.mpidr)
    assert cpu.redistributor != Va(0), "a CPU has no redistributor"


def redistributor(mpidr: u64) -> Va:
    """RD_base of the CPU with that affinity; Va(0) if none."""
    m = MPIDR_EL1(mpidr)
    affinity = m.Aff3 << 24 | m.Aff2 << 16 | m.Aff1 << 8 | m.Aff0
    for i in range(machine.redistributor_count):
        region = machine.redistributors[i]
        offset: u64 = 0
        while offset + REDISTRIBUTOR_SIZE <= region.size:
            frame = mmu.device(region.base + offset)
            typer = GICR_TYPER(mmio(Gicr, frame).TYPER)
            if typer.Affinity_Value == affinity:
                return frame
            if typer.Last != 0:
                break
            offset += _GICV4_SIZE if typer.VLPIS != 0 else REDISTRIBUTOR_SIZE
    return Va(0)
