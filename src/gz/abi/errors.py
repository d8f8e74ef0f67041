# SPDX-License-Identifier: Apache-2.0
"""Status of a hypercall: x0, read by the driver as a signed 32-bit number; we return it sign-extended to 64 bits."""

from __future__ import annotations

import errno
from enum import IntEnum

from gz.bits import enumeration, i64


@enumeration(i64)
class Error(IntEnum):
    NO_ERROR = 0
    NO_MEMORY = -5
    INVALID_ARGS = -8
    NOT_SUPPORTED = -24
    NOT_IMPLEMENTED = -27
    BUSY = -33
    """Only where the caller repeats the call: DESTROY_VM with a page budget."""
    FAULT = -40


ERRNO = {
    Error.NO_ERROR: 0,
    Error.NO_MEMORY: errno.ENOMEM,
    Error.INVALID_ARGS: errno.EINVAL,
    Error.NOT_SUPPORTED: errno.EOPNOTSUPP,
    Error.NOT_IMPLEMENTED: errno.EOPNOTSUPP,
    Error.BUSY: errno.EAGAIN,
    Error.FAULT: errno.EFAULT,
}


def status(x0: int) -> int:
    """The signed status in x0 as the driver sees it: the low 32 bits."""
    low = x0 & 0xFFFF_FFFF
    return low - (1 << 32) if low & 0x8000_0000 else low


def errno_of(x0: int) -> int:
    """The errno (positive; 0 for success) the driver makes of x0; EINVAL for a status it does not know."""
    value = status(x0)
    return next((number for error, number in ERRNO.items() if error == value), errno.EINVAL)
