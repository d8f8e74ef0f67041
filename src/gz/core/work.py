# SPDX-License-Identifier: Apache-2.0
"""How much a call does at once: no interrupt is taken at EL2, so a long one is done in pieces.

A call that has more to do leaves its instruction where it is. The CPU takes what interrupts there are, and the same
thread executes the same instruction again, on whatever CPU. How far the call came stands in the upper half of x0,
which no caller uses (DEN0028 2.5: the function is in W0) and the result overwrites: it moves with the thread, no other
call can change it, and nothing is left of a call that is never taken up again. The host may write anything there, so it
is only a hint of where to go on: whatever must hold of a page is looked up when it is its turn.
"""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, Struct, Va, enumeration, field, u32, u64
from gz.metal import inline

#: Instead of a status: the rest is for the same instruction, executed again.
AGAIN = 1

#: Instructions, about, of a piece, beside what every call takes; nothing that is done at once takes more.
EFFORT = 16_000

_MARK = 0xA5


@enumeration(u32)
class Stage(IntEnum):
    RESERVE = 0
    COMMIT = 1
    CANCEL_INVALID = 2  # and answer INVALID_ARGS
    CANCEL_NO_MEMORY = 3
    END = 4  # of a VM


class Progress(Register, width=32):
    """The upper half of x0; 0 or anything without the mark: the call begins."""

    DONE = field(19, 0)
    MARK = field(27, 20)
    STAGE = field(31, 28)


class Work(Struct):
    """Of the call that has the VM's lock."""

    stage: Stage
    done: u64  # pages, of a range that the call names
    effort: u64  # instructions that it may still take
    entry: Va  # where the next page's leaf goes, if that is in the same table as the last one's


@inline
def begin(work: Work, x0: u64) -> None:
    work.stage = Stage.RESERVE
    work.done = 0
    work.effort = EFFORT
    work.entry = Va(0)
    if x0 >> 32 != 0:
        _take_up(work, Progress(u32(x0 >> 32)))


def _take_up(work: Work, progress: Progress) -> None:
    if progress.MARK == _MARK and progress.STAGE <= Stage.END:
        work.stage = Stage(progress.STAGE)
        work.done = progress.DONE


@inline
def suspend(work: Work, x0: u64) -> u64:
    """x0 of a call that is to go on."""
    progress = Progress(DONE=work.done, MARK=_MARK, STAGE=u32(work.stage))
    return u64(u32(x0)) | u64(progress) << 32


@inline
def afford(work: Work, instructions: u64) -> bool:
    """Take them. False: they are for the next piece, and this one is over."""
    if work.effort < instructions:
        work.effort = 0
        return False
    work.effort -= instructions
    return True


@inline
def charge(work: Work, instructions: u64) -> None:
    """They have been taken."""
    work.effort -= min(work.effort, instructions)
