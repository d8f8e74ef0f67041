# SPDX-License-Identifier: Apache-2.0
"""The commands. Each one imports what it needs when it runs, so that help and completion come at once."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; does not return."""
    from gz.cli.app import app

    app(prog_name="gz")
