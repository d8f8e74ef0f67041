# SPDX-License-Identifier: Apache-2.0
"""The secrets of what runs next, from those of what runs and what it measured (Open Profile for DICE, 4.2 and 4.3)."""

from __future__ import annotations

import gz.core.sha512 as sha512
from gz.abi.firmware import CDI_ATTEST, CDI_SEAL, CDI_SIZE, DICE_INPUT_SIZE, DICE_MODE_DEBUG, DiceInput, Handover
from gz.bits import Array, ReadOnly, Struct, Va, array, storage, u8, u64
from gz.core.sha512 import derivation
from gz.core.tree import text
from gz.metal import address

_ATTEST = text(CDI_ATTEST)
_SEAL = text(CDI_SEAL)
_AUTHORITY = DiceInput.offset("authority")


class Salt(Struct):
    digest: Array[u8] = array(sha512.DIGEST_SIZE, align=8)


_salt = storage(Salt)


def derive(to: Handover, attest: Va, seal: Va, inputs: DiceInput) -> None:
    """Both CDIs from the two before them, which may be the ones in `to`."""
    inputs.mode = DICE_MODE_DEBUG
    at = address(inputs)
    _derive(address(to.attest), attest, at, DICE_INPUT_SIZE, _ATTEST)
    _derive(address(to.seal), seal, at + _AUTHORITY, DICE_INPUT_SIZE - _AUTHORITY, _SEAL)


def _derive(to: Va, secret: Va, inputs: Va, size: u64, info: ReadOnly[u8]) -> None:
    digest = address(_salt.digest)
    sha512.begin(derivation.hash)
    sha512.add(derivation.hash, inputs, size)
    sha512.end(derivation.hash, digest)
    sha512.derive(to, CDI_SIZE, secret, CDI_SIZE, digest, sha512.DIGEST_SIZE, address(info), len(info))
