# SPDX-License-Identifier: Apache-2.0
"""What a guest may call with HVC #0 besides PSCI and SMCCC themselves: the vendor hypervisor service (owner 6).

Function numbers are those of KVM/arm64 (Linux, virt/kvm/arm/hypercalls.rst); GenieZone uses the same ones under its
own UID. Everything unknown is answered -1 in x0.
"""

from __future__ import annotations

from enum import IntEnum
from uuid import UUID

from gz.bits import enumeration, i64

KVM_UID = UUID("28b46fb6-2ec5-11e9-a9ca-4b564d003a74")
"""The only one upstream Linux guests know."""
GENIEZONE_UID = UUID("7e134ed0-3b82-488d-8cee-69c19211dbe7")
"""Known to Android's protected-VM firmware."""


def uid_words(uid: UUID) -> tuple[int, int, int, int]:
    """w0-w3 of the UID query: the bytes of the UUID as little-endian words (SMC calling convention, 6.2)."""
    w = [int.from_bytes(uid.bytes[i : i + 4], "little") for i in range(0, 16, 4)]
    return w[0], w[1], w[2], w[3]


KVM_UID_WORDS = uid_words(KVM_UID)
GENIEZONE_UID_WORDS = uid_words(GENIEZONE_UID)


class VendorCall(IntEnum):
    CALL_UID = 0x8600_FF01
    FEATURES = 0x8600_0000
    """Bitmap of the function numbers 0-127 in w0-w3."""
    PTP = 0x8600_0001
    """x1 = counter (:class:`PtpCounter`); x0, x1 = host real time in ns, upper and lower half; x2, x3 = counter."""
    HYP_MEMINFO = 0xC600_0002
    """x1-x3 zero; x0 = granule of sharing in bytes, x1 = 1: MEM_SHARE and MEM_UNSHARE take ranges."""
    MEM_SHARE = 0xC600_0003
    """x1 = address, x2 = pages (0: one); x1 = pages done."""
    MEM_UNSHARE = 0xC600_0004
    MMIO_GUARD_INFO = 0xC600_0005
    MMIO_GUARD_ENROLL = 0xC600_0006
    MMIO_GUARD_MAP = 0xC600_0007
    MMIO_GUARD_UNMAP = 0xC600_0008
    """x1 = page's address; what is so already is no error."""
    MEM_RELINQUISH = 0xC600_0009
    """x1 = page's address; scrubbed and given back to the host before the exit."""
    MMIO_RGUARD_MAP = 0xC600_000A
    """Android's kernels, once HYP_MEMINFO announces ranges: x1 = address, x2 = pages (0: one); x1 = pages done."""
    MMIO_RGUARD_UNMAP = 0xC600_000B
    MEM_PRIVATE = 0xC600_007E
    """Of our own: x1 = address, x2 = pages, x3 zero. SUCCESS if all of it is memory that is the guest's alone, now and
    whenever the host supplies it, but for what the guest shows itself."""


PROTECTED_CALLS = (
    VendorCall.MEM_SHARE,
    VendorCall.MEM_UNSHARE,
    VendorCall.MMIO_GUARD_INFO,
    VendorCall.MMIO_GUARD_ENROLL,
    VendorCall.MMIO_GUARD_MAP,
    VendorCall.MMIO_GUARD_UNMAP,
    VendorCall.MMIO_RGUARD_MAP,
    VendorCall.MMIO_RGUARD_UNMAP,
    VendorCall.MEM_PRIVATE,
)
"""Offered to protected VMs alone."""


class PtpCounter(IntEnum):
    VIRTUAL = 0
    PHYSICAL = 1


@enumeration(i64)
class VendorStatus(IntEnum):
    SUCCESS = 0
    NOT_SUPPORTED = -1
    NOT_REQUIRED = -2
    INVALID_PARAMETER = -3
