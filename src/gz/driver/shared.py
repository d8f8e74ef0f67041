# SPDX-License-Identifier: Apache-2.0
"""What the threads of a VM and the driver's compiled part (`call`) share: sleeping vCPUs and watched writes."""

from __future__ import annotations

from gz.abi.calls import VCPUS_MAX
from gz.abi.run import RunPage
from gz.bits import Array, Ptr, Struct, Va, array, i32, u32, u64

AWAKE, RUNG, ASLEEP = range(3)
"""`Sleep.state`. RUNG: something happened, the next sleep ends at once."""
WATCHES_MAX = 64


class Timespec(Struct):
    """As system calls of 64-bit Linux take it."""

    seconds: u64
    nanoseconds: u64


class Sleep(Struct):
    """An idle vCPU's thread waits on `state`, a futex."""

    state: u32
    timeout: Timespec


class Watch(Struct):
    """A guest's write that signals the eventfd `fd`."""

    address: u64
    data: u64
    length: u32
    """Bytes; 0: any."""
    exact: u32
    """Not 0: only writes of `data`."""
    fd: i32


class Shared(Struct):
    """Of one VM, all zero before its first use."""

    sleeps: Array[Sleep] = array(VCPUS_MAX)
    event: u64
    """What is written to eventfds: 1."""
    watch_count: u32
    watches: Array[Watch] = array(WATCHES_MAX)


class Entry(Struct):
    """What RUN of one vCPU needs, addresses of this process: ctypes passes one argument faster than four."""

    page: Va
    """Where the doorbell is mapped."""
    vcpu: u64
    """A VcpuTuple."""
    run: Ptr[RunPage]
    shared: Ptr[Shared]
