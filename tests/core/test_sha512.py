# SPDX-License-Identifier: Apache-2.0
"""SHA-512 and HKDF against Python's."""

from __future__ import annotations

import hashlib
import hmac
import random

import pytest

import gz.core.sha512 as sha512
from gz.metal.buffer import Buffer
from gz.metal.jit import Jit
from gz.metal.program import Program

CHANCE = random.Random(7)


@pytest.fixture(scope="module")
def jit() -> Jit:
    return Program(roots=[sha512.begin, sha512.add, sha512.end, sha512.derive]).jit()


def digest(jit: Jit, parts: list[bytes]) -> bytes:
    hash = jit.storage("gz.core.sha512.derivation").hash
    jit.fn(sha512.begin)(hash)
    for part in parts:
        room = jit.buffer(len(part) + 8)
        room.memory[: len(part)] = part
        jit.fn(sha512.add)(hash, room.address, len(part))
    out = jit.buffer(64)
    jit.fn(sha512.end)(hash, out.address)
    return bytes(out.memory)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 111, 112, 113, 127, 128, 129, 239, 240, 256, 4096, 10_001])
def test_digest(jit: Jit, length: int) -> None:
    message = CHANCE.randbytes(length)
    assert digest(jit, [message]) == hashlib.sha512(message).digest()


def test_any_parts(jit: Jit) -> None:
    for _ in range(200):
        parts = [CHANCE.randbytes(CHANCE.choice((0, 1, 3, 64, 127, 128, 300))) for _ in range(CHANCE.randrange(6))]
        assert digest(jit, parts) == hashlib.sha512(b"".join(parts)).digest()


def test_derivation(jit: Jit) -> None:
    for _ in range(50):
        secret, salt, info = (CHANCE.randbytes(CHANCE.randrange(low, 100)) for low in (1, 0, 0))
        size = CHANCE.randrange(1, 65)
        key = hmac.digest(salt, secret, "sha512")
        expected = hmac.digest(key, info + b"\1", "sha512")[:size]
        rooms: list[Buffer] = []
        for data in (secret, salt, info):
            rooms.append(jit.buffer(len(data) + 1))
            rooms[-1].memory[: len(data)] = data
        out = jit.buffer(64)
        pairs = zip(rooms, (secret, salt, info), strict=True)
        jit.fn(sha512.derive)(out.address, size, *(word for room, data in pairs for word in (room.address, len(data))))
        assert bytes(out.memory[:size]) == expected
        left = jit.storage("gz.core.sha512.derivation")
        assert not any(left.key) and not any(left.digest) and not any(left.hash.state)
