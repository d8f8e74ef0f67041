# SPDX-License-Identifier: Apache-2.0
"""Paravirtualised time (DEN0057 A): the record that a hypervisor keeps for each virtual CPU."""

from __future__ import annotations

from gz.bits import Struct, u32, u64

WINDOW_SIZE = 0x1_0000
"""Bytes of address space for all records: a page of the largest granule, with nothing else in it."""
RECORD_SIZE = 64
"""Distance of two records; the calling CPU's address comes from PV_TIME_ST."""


class StolenTime(Struct):
    revision: u32
    attributes: u32
    stolen: u64
    """Nanoseconds that the CPU could have run and did not; only ever grows, written as one."""
