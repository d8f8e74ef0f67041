# SPDX-License-Identifier: Apache-2.0
"""The calls of a host that makes no mistake, and those with which the life of a VM begins."""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability
from gz.abi.devices import DeviceRequest
from gz.abi.memory import BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import hvc
from gz.bits import Va, u32, u64
from gz.metal import panic, view


def call(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """A call that has to succeed; gives x1."""
    status, value, _, _ = hvc(SMC64_BASE + index, a, b, c, d, e)
    if status != 0:
        panic(f"call {index} answered {0 - status}\n")
    return value


def page_by_blocks(vm: u64, mailbox: Va) -> None:
    """What the guest lacks comes to its host as exits, of which a block answers one: its pages are in the mailbox."""
    call(Call.ENABLE_CAP, vm, Capability.DEMAND_PAGING, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(mailbox), 0)


def declare(vm: u64, buffer: Va, gpa: u64, size: u64) -> None:
    """Slot 0 is `size` bytes of ordinary memory, none of which is there yet; `buffer` is REGION_BUFFER_SIZE bytes."""
    region = view(MemoryRegion, buffer)
    region.slot = 0
    region.total_pages = size // PAGE_SIZE
    region.gpa = gpa
    region.constituent_count = 0
    call(Call.MEMREGION_PURPOSE, vm, gpa, size, Purpose.GUEST_MEMORY, 0)
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(buffer), 0, 0)


def create_device(vm: u64, page: Va, type: u32, base: u64, size: u64) -> None:
    """`page`: for the request."""
    request = view(DeviceRequest, page)
    request.type = type
    request.base = base
    request.window_size = size
    call(Call.CREATE_DEVICE, vm, u64(page), 0, 0, 0)
