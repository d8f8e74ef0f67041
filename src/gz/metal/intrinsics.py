# SPDX-License-Identifier: Apache-2.0
"""The intrinsics that do not depend on the architecture. A *place* is a field, an array element or storage."""

# The body of an intrinsic is `...` for pyright, also behind a docstring.
# ruff: noqa: PIE790

from __future__ import annotations

from typing import Any, NoReturn, TypeVar, overload

from gz.bits.integers import Va, u8, u16, u32, u64
from gz.bits.intrinsic import intrinsic
from gz.bits.layout import Layout, Window

T = TypeVar("T")
L = TypeVar("L", bound=Layout)
W = TypeVar("W", bound=Window)


@intrinsic()
def read_once(place: T) -> T:
    """One volatile load of a place that others may change meanwhile."""
    ...


@intrinsic()
def write_once(place: T, value: T) -> None:
    """One volatile store to a place that others may look at meanwhile."""
    ...


@intrinsic()
def load_acquire(place: T) -> T:
    """One load; what follows in the program happens after it (ldar)."""
    ...


@intrinsic()
def store_release(place: T, value: T) -> None:
    """One store; what precedes in the program happens before it (stlr)."""
    ...


@intrinsic("atomic")
def fetch_add(place: T, value: T) -> T:
    """Add atomically, acquire and release; gives the old value."""
    ...


@intrinsic("atomic")
def fetch_or(place: T, value: T) -> T:
    """Or atomically, acquire and release; gives the old value."""
    ...


@intrinsic("atomic")
def fetch_and(place: T, value: T) -> T:
    """And atomically, acquire and release; gives the old value."""
    ...


@intrinsic("atomic")
def exchange(place: T, value: T) -> T:
    """Store atomically, acquire and release; gives the old value."""
    ...


@intrinsic()
def compare_exchange(place: T, expected: T, new: T) -> T:
    """Store `new` if the place holds `expected`, atomically, acquire and release; gives the old value."""
    ...


@intrinsic("peek")
def peek8(address: Va) -> u8:
    """One load of 8 bits of normal memory."""
    ...


@intrinsic("peek")
def peek16(address: Va) -> u16:
    """One load of 16 bits of normal memory."""
    ...


@intrinsic("peek")
def peek32(address: Va) -> u32:
    """One load of 32 bits of normal memory."""
    ...


@intrinsic("peek")
def peek64(address: Va) -> u64:
    """One load of 64 bits of normal memory."""
    ...


@intrinsic("poke")
def poke8(address: Va, value: u8) -> None:
    """One store of 8 bits to normal memory."""
    ...


@intrinsic("poke")
def poke16(address: Va, value: u16) -> None:
    """One store of 16 bits to normal memory."""
    ...


@intrinsic("poke")
def poke32(address: Va, value: u32) -> None:
    """One store of 32 bits to normal memory."""
    ...


@intrinsic("poke")
def poke64(address: Va, value: u64) -> None:
    """One store of 64 bits to normal memory."""
    ...


@intrinsic()
def mmio(window: type[W], address: Va) -> W:
    """A reference to the device window at an address."""
    ...


@overload
def view(type: type[L], address: Va, /) -> L: ...
@overload
def view(type: type[T], address: Va, count: u64, /) -> T: ...
@intrinsic()
def view(type: Any, address: Va, count: u64 = 0, /) -> Any:
    """A reference to the struct, or an array of `count` elements, at an address. Nothing is checked."""
    ...


@intrinsic()
def address(reference: Any) -> Va:
    """Where a struct, array or other place lies."""
    ...


@intrinsic()
def held(struct: L) -> L:
    """The token `Held[T]` of a struct whose lock has just been taken. Nothing is checked."""
    ...


@intrinsic()
def copy(target: T, source: T) -> None:
    """Copy a struct or an array of the same length; the two do not overlap."""
    ...


@intrinsic("count")
def popcount(value: T) -> T:
    """The number of bits that are 1."""
    ...


@intrinsic("count")
def count_leading_zeros(value: T) -> T:
    """Zero bits above the highest 1; the width if there is none."""
    ...


@intrinsic("count")
def count_trailing_zeros(value: T) -> T:
    """Zero bits below the lowest 1; the width if there is none."""
    ...


@intrinsic("count")
def byte_swap(value: T) -> T:
    """The bytes in reverse order."""
    ...


@intrinsic()
def log(text: str) -> None:
    """Write a line: constant text and `{number}`, `{number:#x}`, `{number:d}`."""
    ...


@intrinsic()
def panic(text: str) -> NoReturn:
    """Write file, line and the text, then give up."""
    ...


@intrinsic()
def trap() -> NoReturn:
    """Stop with a breakpoint instruction."""
    ...


def unroll(sequence: Any) -> Any:
    """`for x in unroll(CONSTANTS)`: the body once for each element, with x a build-time constant."""
    return sequence
