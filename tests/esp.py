# SPDX-License-Identifier: Apache-2.0
"""An EFI system partition for tests: FAT16 (Microsoft, FAT: General Overview of On-Disk Format, 1.03) with one file."""

from __future__ import annotations

import struct

SECTOR = 512
CLUSTER = 4 * SECTOR
SECTORS_PER_CLUSTER = CLUSTER // SECTOR
ROOT_ENTRIES = 512
CLUSTERS = 0x4000
"""FAT16 by their number, whatever the boot sector says."""
LAST = 0xFFFF
DIRECTORY, ARCHIVE = 0x10, 0x20


def make_esp(length: int) -> tuple[bytes, int]:
    """What lies in front of the program that firmware starts from removable media, /EFI/BOOT/BOOTAA64.EFI, of `length`
    bytes; and the bytes of the whole, which ends in zeros. There is no partition table."""
    fat_sectors = 2 * (CLUSTERS + 2) // SECTOR + 1
    count = -(-length // CLUSTER)
    assert 0 < count <= CLUSTERS - 2
    fat = [0xFFF8, LAST, LAST, LAST, *range(5, 4 + count), LAST]
    table = struct.pack(f"<{len(fat)}H", *fat).ljust(fat_sectors * SECTOR, b"\0")
    sectors = 1 + fat_sectors + ROOT_ENTRIES * 32 // SECTOR + CLUSTERS * SECTORS_PER_CLUSTER
    boot = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\xfe\x90", b"GZ", SECTOR, SECTORS_PER_CLUSTER, 1, 1, ROOT_ENTRIES, 0, 0xF8, fat_sectors, 1, 1, 0, sectors,
    )  # fmt: skip
    boot += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 1, b"ESP".ljust(11), b"FAT16".ljust(8))
    root = entry(b"EFI", DIRECTORY, 2).ljust(ROOT_ENTRIES * 32, b"\0")
    efi = entry(b".", DIRECTORY, 2) + entry(b"..", DIRECTORY, 0) + entry(b"BOOT", DIRECTORY, 3)
    within = entry(b".", DIRECTORY, 3) + entry(b"..", DIRECTORY, 2) + entry(b"BOOTAA64EFI", ARCHIVE, 4, length)
    head = boot.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + table + root
    return head + efi.ljust(CLUSTER, b"\0") + within.ljust(CLUSTER, b"\0"), sectors * SECTOR


def entry(name: bytes, attributes: int, cluster: int, size: int = 0) -> bytes:
    """Of a directory; `name` is padded, its dot left out."""
    return struct.pack("<11sB14xHI", name.ljust(11), attributes, cluster, size)
