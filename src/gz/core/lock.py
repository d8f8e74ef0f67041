# SPDX-License-Identifier: Apache-2.0
"""Spin locks.  Order when several are held: calls, vm, a UART, vgic, the host's memory, pages, frames, guard, console.

Whoever runs may take a free lock, in no order.  With tickets four vCPUs on four emulated CPUs, which share two real
ones, did not get past the first lines of Linux in a minute: the lock waited for the one CPU that had no time.
"""

from __future__ import annotations

from gz.arm64.insn import yield_
from gz.bits import Struct, u32
from gz.metal import exchange, inline, read_once, store_release


class Lock(Struct):
    taken: u32


@inline
def attempt(lock: Lock) -> bool:
    """Take the lock if it is free."""
    return read_once(lock.taken) == 0 and exchange(lock.taken, 1) == 0


@inline
def acquire(lock: Lock) -> None:
    while not attempt(lock):
        yield_()


@inline
def release(lock: Lock) -> None:
    store_release(lock.taken, 0)
