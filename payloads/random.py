# SPDX-License-Identifier: Apache-2.0
"""A xorshift generator (Marsaglia, Xorshift RNGs, 2003)."""

from __future__ import annotations

from gz.bits import Struct, storage, u64


class Random(Struct):
    state: u64


RANDOM = storage(Random)


def seed(value: u64) -> None:
    """Any number but 0."""
    RANDOM.state = value


def random() -> u64:
    x = RANDOM.state
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    RANDOM.state = x
    return x
