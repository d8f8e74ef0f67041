# SPDX-License-Identifier: Apache-2.0
"""Frames survive any cutting into pieces and any rubbish before them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gz.board.wire import LIMIT, Decoder, Frame, Kind, frames

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=8
)


def cut(data: bytes, where: list[int]) -> list[bytes]:
    at = sorted({position % (len(data) + 1) for position in where} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=20))
def test_pieces(sent: list[Frame], where: list[int]):
    decoder = Decoder()
    received = [frame for piece in cut(b"".join(map(Frame.encode, sent)), where) for frame in decoder.feed(piece)]
    assert received == sent


@given(st.binary(max_size=300), st.lists(st.integers(0, 100_000), max_size=5))
def test_a_new_client_gets_through(rubbish: bytes, where: list[int]):
    """Whatever a predecessor left, even the beginning of a frame, the opening zeros and a RESET are
    understood."""
    decoder = Decoder()
    opening = bytes(LIMIT) + Frame(Kind.RESET, 0, b"nonce").encode()
    unfinished = Frame(Kind.INPUT, 1, bytes(LIMIT)).encode()[:100]
    received = [f for piece in cut(rubbish + unfinished + opening, where) for f in decoder.feed(piece)]
    assert received[-1] == Frame(Kind.RESET, 0, b"nonce")


@given(st.binary(max_size=3 * LIMIT))
def test_long_data_is_cut_into_frames(data: bytes):
    pieces = list(frames(Kind.OUTPUT, 7, data))
    assert b"".join(frame.payload for frame in pieces) == data
    assert all(0 < len(frame.payload) <= LIMIT for frame in pieces)


def test_an_oversized_length_is_not_believed():
    decoder = Decoder()
    good = Frame(Kind.EXIT, 3, b"{}")
    bad = b"gzW\x01" + (6).to_bytes(4, "little") + (1).to_bytes(4, "little") + (0xFFFF_FFFF).to_bytes(4, "little")
    assert list(decoder.feed(bad + good.encode())) == [good]
