# SPDX-License-Identifier: Apache-2.0
"""What a handler decides about a guest's trap; core/enter.py alone carries it out."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    RESUME = 0  # go on where the PC stands (also after an exception was injected)
    SKIP = 1  # the instruction is done: PC + 4
    LEAVE = 2  # to the host; vcpu.exit says why
    UNDEFINED = 3  # inject an undefined instruction exception
    REPEAT = 4  # a call: to the host like LEAVE, then the instruction is executed again
