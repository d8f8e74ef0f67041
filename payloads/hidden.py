# SPDX-License-Identifier: Apache-2.0
"""A protected guest with a secret: shows one page and lives until its host writes there.

From 8 MiB of its RAM on the block is filled with SECRET; page SHOWN of it is shared, and of its words WORD is
what the guest waits for and ends by, at GO.
"""

from __future__ import annotations

from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_SIZE
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import hvc
from gz.bits import Va, u64
from gz.metal import export, log, peek64, poke64
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload

HIDDEN = 8 << 20
SECRET = 0x5EC2_E75E_C2E7_5EC2
SHOWN = HIDDEN + 5 * PAGE_SIZE
GO = 0x6060_6060_6060_6060
_WORD = 8


@export
def payload(tree: Va) -> None:
    """Before the console is guarded nothing can be printed."""
    hidden = VIRT.ram + HIDDEN
    shown = VIRT.ram + SHOWN
    hvc(VendorCall.MMIO_GUARD_MAP, VIRT.uart, 0, 0)
    for offset in range(0, BLOCK_SIZE, _WORD):
        poke64(Va(hidden + offset), SECRET)
    status, count, _, _ = hvc(VendorCall.MEM_SHARE, shown, 0, 0)
    log(f"{status} {count} shown")
    while peek64(Va(shown)) != GO:
        pass
    poke64(Va(shown), SECRET)
    changed: u64 = 0
    for offset in range(0, BLOCK_SIZE, _WORD):
        if peek64(Va(hidden + offset)) != SECRET:
            changed += 1
    log(f"{changed} changed")
