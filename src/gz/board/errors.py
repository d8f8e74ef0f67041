# SPDX-License-Identifier: Apache-2.0
"""What the board refuses, in one line for the user."""

from __future__ import annotations


class BoardError(Exception):
    """One line: what is wrong and what to do."""
