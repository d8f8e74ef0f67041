# SPDX-License-Identifier: Apache-2.0
"""A protected VM and its host with the instructions for memory tags (FEAT_MTE2): the host has tags, and gave those of
the guest's memory one before it gave the memory; the guest tries to see and to change them (M17).
"""

from __future__ import annotations

from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_SIZE
from gz.arm64.descriptors import MAIR, Mair, MairIndex
from gz.arm64.insn import dsb, hvc, isb, tlbi
from gz.arm64.registers import SCTLR_EL1, TCR_EL1
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u32, u64
from gz.metal import export, log, peek64, poke64, unroll
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, protected, start  # noqa: F401 - parts of every payload
from payloads.protected import MEMORY
from payloads.slot import run

PLACE = BLOCK_SIZE + 0x3000  # offset of what is tagged
TAGS = 16  # granules of 16 bytes
HOSTS, GUESTS = 5, 9
_TAG_AT = 56
_GRANULE = 16
_TAGGED = 0xF0  # MAIR_ELx: Normal write-back, tagged
_MAIR = MAIR & ~(Mair.NORMAL_WRITE_BACK << 8 * MairIndex.NORMAL) | _TAGGED << 8 * MairIndex.NORMAL

#: All with the address in x0, the tag to be stored in its bits 59:56 (DDI 0487, C6.2).
LDG = 0xD960_0000
STG = 0xD920_0800
STORES = (
    ("stg", STG),
    ("st2g", 0xD9A0_0800),
    ("stzg", 0xD960_0800),
    ("stz2g", 0xD9E0_0800),
    ("stgp", 0x6900_7C1F),
    ("stgm", 0xD9A0_0000),
    ("stzgm", 0xD920_0000),
    ("dc gva", 0xD50B_7460),
    ("dc gzva", 0xD50B_7480),
)
_RGSR = 0xD538_10A0  # mrs x0, rgsr_el1


def use_tags() -> None:
    """As far as EL1 can say so."""
    sysreg.MAIR_EL1 = _MAIR
    sysreg.TCR_EL1 = TCR_EL1(sysreg.TCR_EL1).replace(TBI0=1)
    sysreg.SCTLR_EL1 = SCTLR_EL1(sysreg.SCTLR_EL1).replace(ATA=1)
    isb()
    tlbi("vmalle1")
    dsb("ish")
    isb()


def tag_of(at: u64) -> u64:
    value, _ = run(LDG, at)
    return value >> _TAG_AT & 15


def tag(at: u64, value: u64) -> u64:
    """The syndrome."""
    _, esr = run(STG, at | value << _TAG_AT)
    return esr


def seen(at: u64) -> u64:
    """The tags of all granules, together."""
    tags: u64 = 0
    for i in range(TAGS):
        tags |= tag_of(at + i * _GRANULE)
    return tags


def guest() -> None:
    hvc(VendorCall.MMIO_GUARD_MAP, VIRT.uart, 0, 0)
    exceptions.expect()
    use_tags()
    place: u64 = VIRT.ram + PLACE
    before = peek64(Va(place))
    log(f"guest: tags {seen(place)}, word {before:#x}")
    for name, instruction in unroll(STORES):
        _, esr = run(u32(instruction), place | GUESTS << _TAG_AT)
        log(f"guest: {name} {esr:#x}, tags {seen(place)}")
    _, esr = run(_RGSR, 0)
    log(f"guest: rgsr_el1 {esr:#x}")


def host(tree: Va) -> None:
    place: u64 = MEMORY + PLACE
    for i in range(TAGS):
        tag(place + i * _GRANULE, HOSTS)
    poke64(Va(place), 0x1234)
    log(f"host: tags {seen(place)}")
    protected.create(tree)
    reason = protected.enter()
    while reason != ExitReason.MMIO and protected.serve(reason):
        reason = protected.enter()
    _, load = run(LDG, place)
    log(f"host: ldg {load:#x}, stg {tag(place, HOSTS):#x}")
    while protected.serve(reason):
        reason = protected.enter()
    left = protected.destroy()
    log(f"host: tags {seen(place)}, {left} words left")


@export
def payload(tree: Va) -> None:
    if tree == 0:
        guest()
        return
    exceptions.expect()
    use_tags()
    host(tree)
