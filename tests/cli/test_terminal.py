# SPDX-License-Identifier: Apache-2.0
"""Ctrl-A is the escape, wherever the pieces of what is typed are cut."""

from __future__ import annotations

import pytest

from gz.cli.terminal import Keys


@pytest.mark.parametrize(
    ("typed", "sent", "leave", "help"),
    [
        (b"plain\r\x03\x04", b"plain\r\x03\x04", False, False),
        (b"a\x01xb", b"a", True, False),
        (b"\x01X", b"", True, False),
        (b"a\x01ab", b"a\x01b", False, False),
        (b"\x01\x01x", b"\x01x", False, False),
        (b"\x01hz", b"z", False, True),
        (b"\x01q", b"q", False, False),
    ],
)
def test_keys(typed: bytes, sent: bytes, leave: bool, help: bool):
    for size in range(1, len(typed) + 1):
        keys = Keys()
        out = b""
        for at in range(0, len(typed), size):
            out += keys.feed(typed[at : at + size])
            if keys.leave:
                break
        assert (out, keys.leave, keys.help) == (sent, leave, help)
