# SPDX-License-Identifier: Apache-2.0
"""How a check of a payload went; each is one line, PASS, FAIL or SKIP and its name."""

from __future__ import annotations

from collections.abc import Callable

from gz.bits import u32

Check = Callable[[], u32]

FAIL = 0
PASS = 1
SKIP = 2
"""This machine has not what the check needs."""


def verdict(holds: bool) -> u32:
    return PASS if holds else FAIL
