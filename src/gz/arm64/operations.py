# SPDX-License-Identifier: Apache-2.0
"""Encodings of the SYS instructions: cache, TLB and address translation maintenance (DDI 0487, C5.3-C5.5).

Emitted as `sys #op1, Cn, Cm, #op2`, so that no assembler feature decides which of them exist.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sys:
    """`argument`: the instruction takes a register."""

    op1: int
    crn: int
    crm: int
    op2: int
    argument: bool = True


def _shareabilities(name: str, op1: int, op2: int, argument: bool = True) -> dict[str, Sys]:
    """A TLBI of this CPU, of the inner and of the outer shareable domain (FEAT_TLBIOS)."""
    return {
        name: Sys(op1, 8, 7, op2, argument),
        f"{name}is": Sys(op1, 8, 3, op2, argument),
        f"{name}os": Sys(op1, 8, 1, op2, argument),
    }


TLBI: dict[str, Sys] = {
    **_shareabilities("vmalle1", 0, 0, argument=False),
    **_shareabilities("vae1", 0, 1),
    **_shareabilities("aside1", 0, 2),
    **_shareabilities("vaae1", 0, 3),
    **_shareabilities("vale1", 0, 5),
    **_shareabilities("vaale1", 0, 7),
    **_shareabilities("alle2", 4, 0, argument=False),
    **_shareabilities("vae2", 4, 1),
    **_shareabilities("alle1", 4, 4, argument=False),
    **_shareabilities("vale2", 4, 5),
    **_shareabilities("vmalls12e1", 4, 6, argument=False),
    "ipas2e1": Sys(4, 8, 4, 1),
    "ipas2le1": Sys(4, 8, 4, 5),
    "ipas2e1is": Sys(4, 8, 0, 1),
    "ipas2le1is": Sys(4, 8, 0, 5),
    "ipas2e1os": Sys(4, 8, 4, 0),
    "ipas2le1os": Sys(4, 8, 4, 4),
    # FEAT_TLBIRANGE
    "ripas2e1is": Sys(4, 8, 0, 2),
    "ripas2le1is": Sys(4, 8, 0, 6),
}

DC: dict[str, Sys] = {
    "zva": Sys(3, 7, 4, 1),
    "ivac": Sys(0, 7, 6, 1),
    "isw": Sys(0, 7, 6, 2),
    "cvac": Sys(3, 7, 10, 1),
    "csw": Sys(0, 7, 10, 2),
    "cvau": Sys(3, 7, 11, 1),
    "civac": Sys(3, 7, 14, 1),
    "cisw": Sys(0, 7, 14, 2),
}

IC: dict[str, Sys] = {
    "ialluis": Sys(0, 7, 1, 0, argument=False),
    "iallu": Sys(0, 7, 5, 0, argument=False),
    "ivau": Sys(3, 7, 5, 1),
}

AT: dict[str, Sys] = {
    "s1e1r": Sys(0, 7, 8, 0),
    "s1e1w": Sys(0, 7, 8, 1),
    "s1e0r": Sys(0, 7, 8, 2),
    "s1e0w": Sys(0, 7, 8, 3),
    "s1e2r": Sys(4, 7, 8, 0),
    "s1e2w": Sys(4, 7, 8, 1),
    "s12e1r": Sys(4, 7, 8, 4),
    "s12e1w": Sys(4, 7, 8, 5),
    "s12e0r": Sys(4, 7, 8, 6),
    "s12e0w": Sys(4, 7, 8, 7),
}

#: CRm of DMB and DSB (DDI 0487, C6.2 DMB).
BARRIERS: dict[str, int] = {
    "oshld": 1,
    "oshst": 2,
    "osh": 3,
    "nshld": 5,
    "nshst": 6,
    "nsh": 7,
    "ishld": 9,
    "ishst": 10,
    "ish": 11,
    "ld": 13,
    "st": 14,
    "sy": 15,
}

#: HINT (DDI 0487, C6.2): what the CPU recorded of instructions before it goes to the buffer, to be followed by a DSB.
HINTS: dict[str, int] = {"psb csync": 17, "tsb csync": 18}
