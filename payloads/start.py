# SPDX-License-Identifier: Apache-2.0
"""The usual start of a payload: `payload(tree)` gets what the loader left in x0."""

from __future__ import annotations

from gz.metal import assembly
from payloads.entry import program

assembly(program("x0"))
