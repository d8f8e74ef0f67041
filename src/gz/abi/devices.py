# SPDX-License-Identifier: Apache-2.0
"""CREATE_DEVICE: x1 = vmid, x2 = physical address of a page that begins with a :class:`DeviceRequest`."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Struct, enumeration, u32, u64


@enumeration(u32)
class DeviceType(IntEnum):
    VGICV3_DISTRIBUTOR = 0
    VGICV3_REDISTRIBUTOR = 1


class DeviceRequest(Struct):
    """48 bytes; the rest of the page is not zeroed."""

    type: u32
    """A :class:`DeviceType`."""
    id: u32
    flags: u64
    base: u64
    """Guest-physical address of the first frame."""
    window_size: u64
    attr_addr: u64
    """A physical address only if attr_size is not 0, else an untranslated user value."""
    attr_size: u64


DISTRIBUTOR_SIZE = 0x1_0000
REDISTRIBUTOR_SIZE = 0x2_0000
"""One redistributor: RD and SGI frame. Requests name one; vCPU n has its own at base + n times this."""
