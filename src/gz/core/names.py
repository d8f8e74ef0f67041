# SPDX-License-Identifier: Apache-2.0
"""The function an address lies in, by the table that the linker put into the image (gz.metal.names)."""

from __future__ import annotations

import gz.core.image as image
from gz.bits import Struct, Va, u32, u64
from gz.metal import cold, view

_COUNT = 4  # bytes before the entries


class FunctionName(Struct):
    offset: u32  # of the function, from the image's start
    name: u32  # offset from the table


@cold
def find(address: u64) -> tuple[Va, u64, u64]:
    """Name, its length and how far into the function; Va(0): no address of the image's code."""
    table = image.names_start()
    start = u64(image.image_start())
    if address < start or address >= u64(image.text_end()):
        return Va(0), 0, 0
    offset = address - start
    at = table + _COUNT
    found = Va(0)
    while view(FunctionName, at).offset <= offset:  # the entry for the end is above every offset
        found = at
        at = at + FunctionName.size
    if found == Va(0):
        return Va(0), 0, 0
    entry = view(FunctionName, found)
    following = view(FunctionName, found + FunctionName.size)
    return table + entry.name, following.name - entry.name, offset - entry.offset
