# SPDX-License-Identifier: Apache-2.0
"""What gz compiles for the board: the core, and the driver's shared object for the host VM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gz.cli.report import UserError
from gz.metal.build import BuildError, Built, build


def compiled(program: str) -> Built:
    """The program as an image, from the cache if its sources have not changed."""
    try:
        return build(program)
    except BuildError as error:
        raise UserError(f"{program} does not compile:\n{error}") from None


def core() -> Path:
    """The core's arm64 Image."""
    return compiled("gz.core").image.flat
