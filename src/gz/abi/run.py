# SPDX-License-Identifier: Apache-2.0
"""The two pages a vCPU shares with the host: the run page and, in the page after it, the hardware state.

The physical address of the run page is given once, in CREATE_VCPU. Both pages belong to the host, so all that the core
reads there is untrusted; what it has to know about a pending access it keeps for itself.
"""

from __future__ import annotations

from gz.bits import Array, Struct, array, at, u8, u32, u64, union

PAGE_SIZE = 0x1000
"""The page size of every shared structure; hosts have 4 KiB pages."""
HWSTATE_OFFSET = PAGE_SIZE
"""From the run page to the hardware state."""


class MmioExit(Struct):
    """An access for the VMM. On a read the VMM puts the value into data; it counts at the next RUN."""

    phys_addr: u64
    """Guest-physical byte address."""
    data: u64
    """The bytes in memory order, the first ``length`` of them valid."""
    length: u64
    """1, 2, 4 or 8."""
    reg_nr: u32
    """Transfer register, for information."""
    is_write: u8


class DebugExit(Struct):
    syndrome: u64
    """ESR_EL2: its class says which debug exception it was."""
    pc: u64


class FailEntryExit(Struct):
    reason: u64
    cpu: u32


class ExceptionExit(Struct):
    exception: u32
    """An :class:`gz.abi.exits.ExceptionCode`."""
    error_code: u32
    """Of what was asked for: ESR_EL2, the low half."""
    fault_gpa: u64
    """Of aborts the guest-physical address, 0 if it isn't known; else the address of the instruction."""
    reserved: Array[u64] = array(30)
    """Zero, or the driver runs the vCPU again without doing anything."""


class HypercallExit(Struct):
    args: Array[u64] = array(8)
    """The guest's x0-x7; args 0-3 are the results on the next RUN."""


class InternalErrorExit(Struct):
    suberror: u32
    ndata: u32
    data: Array[u64] = array(16)


CRASH_DATA = 4
"""Words of a CRASH that the core found: ESR_EL2, FAR_EL2, guest-physical address, PC. A guest's own has none."""


class SystemEventExit(Struct):
    type: u32
    """A :class:`gz.abi.exits.SystemEvent`."""
    ndata: u32
    data: Array[u64] = array(16)


class RunPage(Struct):
    """264 bytes: a header and the union of what the exit reasons carry."""

    exit_reason: u32 = at(0)
    """An :class:`gz.abi.exits.ExitReason`; 0 before the first RUN."""
    immediate_exit: u8 = at(4)
    """1: the driver returns EINTR instead of calling RUN."""
    padding: Array[u8] = array(3, at=5)
    mmio: MmioExit = union(8)
    fail_entry: FailEntryExit = union(8)
    exception: ExceptionExit = union(8)
    debug: DebugExit = union(8)
    hypercall: HypercallExit = union(8)
    internal: InternalErrorExit = union(8)
    system_event: SystemEventExit = union(8)


LIST_REGISTERS_MAX = 16


class HwState(Struct):
    """Page 1. What lies beyond ``lr`` is written only for VMs created by SMC64 ids: older drivers differ there."""

    nr_lrs: u32 = at(0)
    lr: Array[u64] = array(LIST_REGISTERS_MAX, at=8)
    vtimer_offset: u64 = at(136)
    """Counter ticks the guest's virtual counter lags behind the counter that the host reads."""
    vtimer_delay: u64 = at(144)
    """Counter ticks until the guest's virtual timer fires, set at each IDLE exit; below 30 s."""
    vtimer_migrate: u32 = at(152)
    """Not 0: the driver arms a timer of its own for vtimer_delay and may sleep."""
