# SPDX-License-Identifier: Apache-2.0
"""What gz compiles for the board: the core, and the driver's shared object for the host VM."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path

from gz.board import images
from gz.cli.report import UserError
from gz.metal.build import BuildError, Built, build, fingerprint

DOORBELL = "gz/driver/_doorbell.so"
"""Below /opt/gz in the host VM."""


def image(program: str) -> Built:
    """A program in metal as an arm64 Image, from the cache if its sources have not changed."""
    try:
        return build(program)
    except BuildError as error:
        raise UserError(f"{program} does not compile:\n{error}") from None


def core() -> Path:
    """The core's arm64 Image."""
    return image("gz.core").image.flat


def driver() -> dict[str, bytes]:
    """The driver's compiled files, by their names below /opt/gz."""
    from gz.driver import call
    from gz.metal.errors import CompileError
    from gz.metal.program import Program
    from gz.metal.target import LINUX_ARM64

    def compile_library() -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="gz-driver-") as directory:
                path = Program([], [call]).shared_object(Path(directory), "doorbell", LINUX_ARM64)
                return path.read_bytes()
        except CompileError as error:
            raise UserError(f"gz.driver.call does not compile:\n{error}") from None

    key = images.fingerprint([fingerprint("gz.driver.call"), inspect.getsource(call)])
    return {DOORBELL: images.cached("doorbell", key, compile_library).read_bytes()}
