# SPDX-License-Identifier: Apache-2.0
"""Ticket spin locks.  Order when several are held: calls, vm, vgic, pages, frames, console."""

from __future__ import annotations

from gz.bits import Struct, u32
from gz.metal import fetch_add, inline, load_acquire, store_release


class Lock(Struct):
    """First come, first served: a waiter takes a ticket and spins until it is called."""

    next: u32
    serving: u32


@inline
def acquire(lock: Lock) -> None:
    ticket = fetch_add(lock.next, 1)
    while load_acquire(lock.serving) != ticket:
        pass


@inline
def release(lock: Lock) -> None:
    store_release(lock.serving, lock.serving + 1)
