# SPDX-License-Identifier: Apache-2.0
"""SMC calling convention 1.2 (DEN0028)."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, enumeration, field, i64


class FunctionId(Register, width=32):
    NUMBER = field(15, 0)
    SVE_HINT = field(16)
    OWNER = field(29, 24)
    SMC64 = field(30)
    FAST = field(31)


class Owner(IntEnum):
    ARCHITECTURE = 0
    CPU = 1
    SIP = 2
    OEM = 3
    STANDARD_SECURE = 4
    STANDARD_HYPERVISOR = 5
    VENDOR_HYPERVISOR = 6
    TRUSTED_APPLICATION = 48
    TRUSTED_OS = 50
    GENIEZONE = 59


class Smccc(IntEnum):
    """Arm architecture calls."""

    VERSION = 0x8000_0000
    ARCH_FEATURES = 0x8000_0001
    ARCH_SOC_ID = 0x8000_0002
    ARCH_WORKAROUND_1 = 0x8000_8000
    ARCH_WORKAROUND_2 = 0x8000_7FFF
    ARCH_WORKAROUND_3 = 0x8000_3FFF


class Trng(IntEnum):
    """Firmware random numbers 1.0 (DEN0098)."""

    VERSION = 0x8400_0050
    FEATURES = 0x8400_0051
    GET_UUID = 0x8400_0052
    RND32 = 0x8400_0053
    RND64 = 0xC400_0053


class ParavirtTime(IntEnum):
    """Paravirtualised time (DEN0057)."""

    FEATURES = 0xC500_0020
    STOLEN_TIME = 0xC500_0021


VERSION_1_1 = 0x0001_0001
VERSION_1_2 = 0x0001_0002


@enumeration(i64)
class SmcccStatus(IntEnum):
    SUCCESS = 0
    NOT_SUPPORTED = -1
    NOT_REQUIRED = -2
    INVALID_PARAMETER = -3


NOT_SUPPORTED = 0xFFFF_FFFF_FFFF_FFFF
"""x0 of an unknown function."""
