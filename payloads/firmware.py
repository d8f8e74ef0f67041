# SPDX-License-Identifier: Apache-2.0
"""Firmware of protected VMs that lets run what its manifest says, or nothing (gz.abi.firmware).

What it reads becomes private by that, so nobody changes it after it was verified. Nothing that the host chose counts:
no register at the start, no memory but what has the right digest.
"""

from __future__ import annotations

from typing import NoReturn

import gz.core.dice as dice
import gz.core.sha512 as sha512
from gz.abi.firmware import MANIFEST_MAGIC, RANGES_MAX, Config, DiceInput, Manifest, Range
from gz.abi.guest import VendorCall
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import dc, dsb, hvc
from gz.arm64.registers import SCTLR_EL1_RES1
from gz.bits import Array, Struct, Va, array, storage, u8, u64
from gz.core.sha512 import DIGEST_SIZE, derivation
from gz.metal import address, assembly, export, extern, log, view
from payloads import exceptions, interrupts  # noqa: F401 - parts of every payload
from payloads.console import power_off, serial
from payloads.entry import program

_LINE = 16  # bytes, the smallest there are (DDI 0487, CTR_EL0)
_CLEARED = "\n".join(f"    mov x{n}, xzr" for n in (*range(1, 9), *range(10, 31)))

assembly(program("xzr"))
assembly(
    f"""
    .section .text.handing, "ax"
    .global image_end
    .type image_end, %function
image_end:
    adrp x0, __image_end
    add x0, x0, :lo12:__image_end
    ret

    .global start_kernel
    .type start_kernel, %function
start_kernel:
    mov x9, x1
    ldr x2, ={int(SCTLR_EL1_RES1):#x}
    msr daifset, #15
    msr sctlr_el1, x2
    isb
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
{_CLEARED}
    br x9
    .ltorg
"""
)


@extern
def image_end() -> Va: ...


@extern
def start_kernel(tree: u64, entry: u64) -> NoReturn: ...


class Verifier(Struct):
    digest: Array[u8] = array(DIGEST_SIZE, align=8)
    inputs: DiceInput


verifier = storage(Verifier)


def measure(at: Va, size: u64) -> None:
    """Into `verifier.digest`."""
    sha512.begin(derivation.hash)
    sha512.add(derivation.hash, at, size)
    sha512.end(derivation.hash, address(verifier.digest))


def verified(wanted: Range) -> bool:
    measure(Va(wanted.address), wanted.length)
    different: u8 = 0
    for i in range(DIGEST_SIZE):
        different |= verifier.digest[i] ^ wanted.digest[i]
    return different == 0


def hand_over(config: Config) -> None:
    """The next program's secrets, which depend on all that was verified, take the place of this one's."""
    measure(image_end(), Manifest.size)
    for i in range(DIGEST_SIZE):
        verifier.inputs.code[i] = verifier.digest[i]
    dice.derive(config.handover, address(config.handover.attest), address(config.handover.seal), verifier.inputs)
    at = address(config)
    for offset in range(0, PAGE_SIZE, _LINE):
        dc("civac", at + offset)
    dsb("sy")


@export
def payload(tree: Va) -> None:
    manifest = view(Manifest, image_end())
    if manifest.magic != MANIFEST_MAGIC or manifest.count > RANGES_MAX:
        power_off()
    hvc(VendorCall.MMIO_GUARD_MAP, manifest.console, 0, 0)
    serial.base = Va(manifest.uart8250)
    private, _, _, _ = hvc(VendorCall.MEM_PRIVATE, manifest.ram, manifest.ram_length // PAGE_SIZE, 0)
    if private != 0:
        log("firmware: some of this memory is not private")
        power_off()
    for i in range(manifest.count):
        if not verified(manifest.ranges[i]):
            log(f"firmware: what lies at {manifest.ranges[i].address:#x} is not what may run here")
            power_off()
    hand_over(view(Config, image_end() + PAGE_SIZE))
    log("firmware: verified")
    start_kernel(manifest.tree, manifest.entry)
