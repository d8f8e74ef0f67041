# SPDX-License-Identifier: Apache-2.0
"""The smallest guest: says where its device tree is and powers off."""

from __future__ import annotations

from gz.bits import Va
from gz.metal import export, log
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload


@export
def payload(tree: Va) -> None:
    log(f"hello from a guest, device tree at {tree:#x}")
