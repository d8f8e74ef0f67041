# SPDX-License-Identifier: Apache-2.0
"""How commands end and what they say meanwhile. Everything here goes to standard error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from types import FrameType

import typer

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class UserError(Exception):
    """One line: what is wrong and what to do."""


class Ended(BaseException):
    """A signal asks this process to end; it unwinds like Ctrl-C, so that nothing stays behind."""

    def __init__(self, number: int) -> None:
        self.number = number


def say(line: str) -> None:
    print(f"gz: {line}", file=sys.stderr, flush=True)


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """A command: its result is the exit status; expected errors are one line; interruption leaves nothing."""

    @wraps(function)
    def run(*arguments: object, **options: object) -> None:
        for number in ENDING:
            signal.signal(number, end)
        try:
            status = function(*arguments, **options) or 0
        except Ended as ended:
            say("interrupted")
            status = 128 + ended.number
        except BrokenPipeError:
            # Who read our output is gone; nothing more can be said there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 128 + signal.SIGPIPE
        except Exception as error:
            if not is_expected(error):
                raise
            say(f"error: {explain(error)}")
            status = 1
        raise typer.Exit(status)

    return run


def end(number: int, _: FrameType | None) -> None:
    # Once is enough: a second signal must not interrupt the cleaning up.
    for handled in ENDING:
        signal.signal(handled, signal.SIG_IGN)
    raise Ended(number)


def is_expected(error: Exception) -> bool:
    """Errors that are the world's and not this program's."""
    from gz.board.errors import BoardError

    return isinstance(error, (UserError, BoardError, OSError))


def explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


class Steps:
    """Called with each step of a long work: a spinner on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self.status = None
        if sys.stderr.isatty():
            from rich.console import Console

            self.status = Console(stderr=True).status("starting")
            self.status.start()
        self.over = False

    def __call__(self, step: str) -> None:
        if self.over:
            return
        if self.status:
            self.status.update(step)
        else:
            say(step)

    def stop(self) -> None:
        """From here on the terminal belongs to somebody else."""
        self.over = True
        if self.status:
            self.status.stop()


@contextmanager
def progress() -> Generator[Steps]:
    """Steps that end with the block."""
    steps = Steps()
    try:
        yield steps
    finally:
        steps.stop()
