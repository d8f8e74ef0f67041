# SPDX-License-Identifier: Apache-2.0
"""What gz compiles for the board: the core, and the driver's shared object."""

from __future__ import annotations
