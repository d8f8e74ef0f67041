# SPDX-License-Identifier: Apache-2.0
"""What a host does all day: compiling, processes, page faults, system calls. Runs there; prints nanoseconds of each.

Under `-icount shift=0` they are instructions. Of several rounds of all the shortest counts of each: what the kernel
does beside them, and in which state its allocators are, goes with the time."""

from __future__ import annotations

import ast
import importlib.util
import json
import mmap
import os
import time
from collections.abc import Callable
from importlib.machinery import SourceFileLoader

ROUNDS = 12
SOURCES = ("argparse", "ast", "inspect", "typing")
PROCESSES = 40
PROGRAMS = 10
MEMORY = 32 << 20
CALLS = 20_000


def compile_sources() -> None:
    """The parser, the compiler and their memory."""
    for name in SOURCES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and isinstance(spec.loader, SourceFileLoader)
        text = spec.loader.get_source(name)
        assert text is not None
        compile(ast.parse(text), name, "exec")


def fork() -> None:
    for _ in range(PROCESSES):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def execute() -> None:
    for _ in range(PROGRAMS):
        os.waitpid(os.posix_spawn("/bin/busybox", ["true"], {}), 0)


def fault() -> None:
    with mmap.mmap(-1, MEMORY) as memory:
        for offset in range(0, MEMORY, mmap.PAGESIZE):
            memory[offset] = 1


def call() -> None:
    for _ in range(CALLS):
        os.getppid()


WORK: tuple[Callable[[], None], ...] = (compile_sources, fork, execute, fault, call)


def measure(work: Callable[[], None]) -> int:
    """Nanoseconds."""
    begin = time.monotonic_ns()
    work()
    return time.monotonic_ns() - begin


if __name__ == "__main__":
    rounds = [{work.__name__: measure(work) for work in WORK} for _ in range(ROUNDS)]
    print(json.dumps({name: min(times[name] for times in rounds) for name in rounds[0]}))
