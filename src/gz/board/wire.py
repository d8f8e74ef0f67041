# SPDX-License-Identifier: Apache-2.0
"""Frames between the command line (channel.py) and the agent in the host VM (agent.py).

A frame is a 16-byte little-endian header (magic, kind, stream, length) and at most LIMIT bytes of payload. A
stream is one operation: opened by the client with a JSON payload, fed by INPUT frames (an empty one is the
end of input), answered by OUTPUT and ERRORS frames, closed by the agent's EXIT.

The port is a byte pipe without connections. A client therefore starts with LIMIT zero bytes, which end any
frame that its predecessor left unfinished, and a RESET whose payload the agent sends back; the client skips
everything before that answer. A decoder that meets anything but a frame searches for the next magic."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Literal, NamedTuple, NotRequired, TypedDict

MAGIC = b"gzW\x01"
HEADER = struct.Struct("<4sIII")
LIMIT = 32 * 1024


class ExecRequest(TypedDict):
    """An OPEN frame's payload: run a command, on a terminal of its own if it has a `size` (rows, columns)."""

    op: Literal["exec"]
    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    size: NotRequired[tuple[int, int]]


class PutRequest(TypedDict):
    """Write a file."""

    op: Literal["put"]
    path: str
    mode: int


class GetRequest(TypedDict):
    """Read a file."""

    op: Literal["get"]
    path: str


Request = ExecRequest | PutRequest | GetRequest


class Kind(IntEnum):
    RESET = 1  # both ways: the client's nonce
    OPEN = 2  # to the agent: a Request
    INPUT = 3  # to the agent: bytes, empty at the end
    SIGNAL = 4  # to the agent: one byte, the signal's number
    RESIZE = 5  # to the agent: rows and columns, two u16
    OUTPUT = 6  # from the agent
    ERRORS = 7  # from the agent: standard error
    EXIT = 8  # from the agent: {"status": n} or {"error": "…"}


class Frame(NamedTuple):
    kind: Kind
    stream: int
    payload: bytes = b""

    def encode(self) -> bytes:
        if len(self.payload) > LIMIT:
            raise ValueError(f"{len(self.payload)} bytes in a frame, at most {LIMIT}")
        return HEADER.pack(MAGIC, self.kind, self.stream, len(self.payload)) + self.payload


def frames(kind: Kind, stream: int, data: bytes) -> Iterator[Frame]:
    """`data` cut into frames; none if it is empty."""
    for at in range(0, len(data), LIMIT):
        yield Frame(kind, stream, data[at : at + LIMIT])


class Decoder:
    """Bytes in any pieces in, frames out."""

    def __init__(self) -> None:
        self.pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        pending = self.pending
        pending += data
        while len(pending) >= HEADER.size:
            magic, kind, stream, length = HEADER.unpack_from(pending)
            if magic != MAGIC or length > LIMIT or kind not in Kind._value2member_map_:
                found = pending.find(MAGIC, 1)
                # Keep a tail that may be the beginning of a magic.
                del pending[: found if found > 0 else len(pending) - len(MAGIC) + 1]
                continue
            if len(pending) < HEADER.size + length:
                return
            payload = bytes(pending[HEADER.size : HEADER.size + length])
            del pending[: HEADER.size + length]
            yield Frame(Kind(kind), stream, payload)
