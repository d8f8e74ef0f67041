# SPDX-License-Identifier: Apache-2.0
"""What firmware lets run, for payloads.verified: says that it runs, and shows (as nobody should) a word of the secrets
it was handed. Its tree is a page whose first word says where they lie."""

from __future__ import annotations

from gz.abi.firmware import Config
from gz.bits import Va, u64
from gz.metal import address, export, log, peek8, peek64, view
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload

_BYTES = 8


def word(at: Va) -> u64:
    value: u64 = 0
    for i in range(_BYTES):
        value |= u64(peek8(at + i)) << (8 * i)
    return value


@export
def payload(tree: Va) -> None:
    handover = view(Config, Va(peek64(tree))).handover
    log(f"kernel: runs, attest {word(address(handover.attest)):#x}, seal {word(address(handover.seal)):#x}")
