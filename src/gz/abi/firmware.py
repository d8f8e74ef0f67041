# SPDX-License-Identifier: Apache-2.0
"""Firmware of protected VMs: how the core gets it, what it finds, and what ours is told to verify.

The core's loader gets one file: the core's Image up to its `image_size`, then the firmware in whole pages, and an
`image_size` that covers both. In a VM the firmware lies at the address that the VMM chose, whole, and on the page
behind it pvmfw configuration data 1.0 with one entry, the DICE hand-over (Open Profile for DICE, CBOR).
"""

from __future__ import annotations

from gz.bits import Array, Struct, array, u8, u32, u64

FIRMWARE_MAX = 0x20_0000
"""Bytes with the configuration: what lies above in the 4 MiB window of crosvm is the firmware's own."""
CDI_SIZE = 32
DIGEST_SIZE = 64


class ConfigEntry(Struct):
    offset: u32
    """From the configuration's start, a multiple of 8."""
    length: u32
    """0: there is none."""


CONFIG_MAGIC = 0x666D_7670
CONFIG_VERSION = 1 << 16
ENTRY_HANDOVER, ENTRY_DEBUG_POLICY = range(2)


class Handover(Struct):
    """A CBOR map {1: CDI_Attest, 2: CDI_Seal} of two byte strings."""

    head: u32
    attest: Array[u8] = array(CDI_SIZE)
    middle: Array[u8] = array(3)
    seal: Array[u8] = array(CDI_SIZE)


HANDOVER_SIZE = 4 + CDI_SIZE + 3 + CDI_SIZE
HANDOVER_HEAD = 0x20_58_01_A2
"""Map of two, key 1, a string of 32 bytes; little-endian."""
HANDOVER_MIDDLE = (0x02, 0x58, 0x20)
"""Key 2, a string of 32 bytes."""


class Config(Struct):
    """The page behind the firmware."""

    magic: u32
    version: u32
    total_size: u32
    flags: u32
    entries: Array[ConfigEntry] = array(2)
    handover: Handover


class DiceInput(Struct):
    """What an attestation CDI depends on; a sealing one, on all from `authority` on (Open Profile for DICE, 4.2)."""

    code: Array[u8] = array(DIGEST_SIZE)
    configuration: Array[u8] = array(DIGEST_SIZE)
    authority: Array[u8] = array(DIGEST_SIZE)
    mode: u8
    hidden: Array[u8] = array(DIGEST_SIZE)


DICE_INPUT_SIZE = 4 * DIGEST_SIZE + 1
DICE_MODE_DEBUG = 2
"""Without a rollback index no boot is a normal one."""
CDI_ATTEST = "CDI_Attest"
CDI_SEAL = "CDI_Seal"


MANIFEST_MAGIC = 0x5345_4946_4952_4556
"""\"VERIFIES\", little-endian."""
RANGES_MAX = 8


class Range(Struct):
    """Guest memory that has to have these contents."""

    address: u64
    length: u64
    digest: Array[u8] = array(DIGEST_SIZE)
    """SHA-512."""


class Manifest(Struct):
    """The last page of our own firmware: what it lets run."""

    magic: u64
    entry: u64
    tree: u64
    """x0 at the entry."""
    console: u64
    """Page of the UART that it asks for, to say what it found."""
    ram: u64
    """What has to be the guest's alone, this and so many bytes."""
    ram_length: u64
    uart8250: u64
    """Address of that UART if it is an 8250; 0: a PL011 at the usual place."""
    count: u64
    ranges: Array[Range] = array(RANGES_MAX)
