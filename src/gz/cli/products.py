# SPDX-License-Identifier: Apache-2.0
"""What gz compiles for the board: the core, and shared objects for the host VM."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from gz.board import images
from gz.cli.report import UserError
from gz.metal.build import ROOT, BuildError, Built, build, fingerprint
from gz.metal.report import Image
from gz.metal.target import LINUX_ARM64, Target

DRIVER = "gz/driver/_driver.so"
RING = "gz/vmm/virtio/_ring.so"
"""Below /opt/gz in the host VM."""


def image(program: str, *, debug: bool = False) -> Built:
    """A program in metal as an arm64 Image, from the cache if its sources have not changed; with `debug` its ELF file
    has lines and variables."""
    try:
        return build(program, debug=debug)
    except BuildError as error:
        raise UserError(f"{program} does not compile:\n{error}") from None


def core() -> Path:
    """The core's arm64 Image."""
    return image("gz.core").image.flat


def payload(name: str) -> Image:
    """The image of a program of `payloads`, as `hello`."""
    if not name.isidentifier() or not (ROOT / "payloads" / f"{name}.py").is_file():
        raise UserError(f"there is no payload {name!r}; see the directory payloads")
    return image(f"payloads.{name}").image


def libraries() -> dict[str, bytes]:
    """What driver and VMM have compiled, by their names below /opt/gz."""
    from gz.driver import call, gzvm_run, kvm_run
    from gz.vmm.virtio import ring

    return {DRIVER: library("driver", [call, gzvm_run, kvm_run]), RING: library("ring", [ring])}


def answering_driver() -> dict[str, bytes]:
    """The driver's with a RUN that answers reads of the first virtio device itself, for measurements."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from benchmarks import answer
    from gz.driver import call, kvm_run

    replaced = {call.doorbell_run, kvm_run.kvm_run}
    return {DRIVER: library("answer", [call, kvm_run, answer], replaced)}


def library(
    name: str,
    modules: Sequence[ModuleType],
    without: Set[Callable[..., Any]] = frozenset(),
    target: Target = LINUX_ARM64,
) -> bytes:
    """A shared object for user space, the host VM's by default, with the @export functions of the modules."""
    from gz.metal.errors import CompileError
    from gz.metal.functions import marks
    from gz.metal.program import Program

    roots = [
        function
        for module in modules
        for function in vars(module).values()
        if getattr(function, "__module__", None) == module.__name__ and "export" in marks(function)
        if function not in without
    ]

    def compile_library() -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="gz-library-") as directory:
                return Program(roots).shared_object(Path(directory), name, target).read_bytes()
        except CompileError as error:
            raise UserError(f"{name} does not compile:\n{error}") from None

    directories = sorted({Path(inspect.getfile(module)).parent for module in modules})  # with the layouts they share
    sources = [file.read_bytes() for directory in directories for file in sorted(directory.glob("*.py"))]
    key = images.fingerprint([fingerprint(name), target.name, *sources])
    return images.cached(name, key, compile_library).read_bytes()
