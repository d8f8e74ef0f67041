# SPDX-License-Identifier: Apache-2.0
"""The private directory where gz keeps what it can make again: builds, downloads, images, sockets."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """`$GZ_STATE`, or `gz` in the XDG state home; created with mode 0700 if it is missing.

    The path is absolute. OSError if it cannot be made or is not a directory."""
    chosen = os.environ.get("GZ_STATE")
    if chosen:
        path = Path(chosen)
    else:
        # The XDG base directory specification ignores relative values.
        home = Path(os.environ.get("XDG_STATE_HOME", ""))
        path = (home if home.is_absolute() else Path.home() / ".local" / "state") / "gz"
    path = path.expanduser().absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
