# SPDX-License-Identifier: Apache-2.0
"""What the core starts by itself, from boot modules in the board's device tree."""

from __future__ import annotations

GUESTS_MAX = 4
