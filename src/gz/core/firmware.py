# SPDX-License-Identifier: Apache-2.0
"""Firmware of protected VMs (gz.abi.firmware): kept since boot where no host ever reads it, measured once, and copied
into each VM that asks for it as its pages become private.

The secret that its CDIs come from is of this boot alone: the CPU's random numbers and the seed in the loader's tree,
which the host gets another one for.
"""

from __future__ import annotations

import gz.core.dice as dice
import gz.core.guest_random as guest_random
import gz.core.image as image
import gz.core.memory as memory
import gz.core.sha512 as sha512
import gz.core.tree as tree
from gz.abi.firmware import (
    CDI_SIZE,
    CONFIG_MAGIC,
    CONFIG_VERSION,
    ENTRY_HANDOVER,
    FIRMWARE_MAX,
    HANDOVER_HEAD,
    HANDOVER_MIDDLE,
    HANDOVER_SIZE,
    Config,
    DiceInput,
)
from gz.abi.run import PAGE_SIZE
from gz.arm64.image import ImageHeader
from gz.bits import Array, Pa, Struct, Va, array, storage, u8, u64
from gz.core.platform import machine
from gz.core.sha512 import derivation
from gz.core.tree import NONE, Tree, text
from gz.metal import address, log, unroll, view

_CHOSEN = text("/chosen")
_SEED = text("rng-seed")
_ROOT = text("gz root")
_HOST = text("gz host")
_RANDOM_WORDS = 8


class Firmware(Struct, align=PAGE_SIZE):
    config: Array[u8] = array(PAGE_SIZE)  # the page behind the firmware, as every VM gets it
    size: u64  # bytes in a VM, that page included; 0: there is none
    entropy: Array[u64] = array(_RANDOM_WORDS + 8)
    secret: Array[u8] = array(CDI_SIZE, align=8)
    inputs: DiceInput


firmware = storage(Firmware)


def discover() -> None:
    """What the loader's file had behind the core's image is the core's, and perhaps firmware."""
    own = machine.image
    loaded = view(ImageHeader, image.image_start()).image_size
    if loaded > own.size:
        machine.firmware.base = own.base + own.size
        machine.firmware.size = loaded - own.size
        own.size = (loaded + PAGE_SIZE - 1) & ~u64(PAGE_SIZE - 1)


def prepare(t: Tree) -> None:
    """Measure it and derive its secrets, once RAM is in the window."""
    binary = machine.firmware
    if binary.size == 0:
        return
    if binary.size % PAGE_SIZE != 0 or binary.size + PAGE_SIZE > FIRMWARE_MAX:
        log("gz: the firmware for protected VMs is too large or no whole pages")
        return
    if not _gather(t):
        log("gz: no random numbers, so no firmware for protected VMs")
        return
    sha512.begin(derivation.hash)
    sha512.add(derivation.hash, memory.va(binary.base), binary.size)
    sha512.end(derivation.hash, address(firmware.inputs.code))
    config = view(Config, address(firmware.config))
    config.magic = CONFIG_MAGIC
    config.version = CONFIG_VERSION
    config.total_size = Config.offset("handover") + HANDOVER_SIZE
    config.entries[ENTRY_HANDOVER].offset = Config.offset("handover")
    config.entries[ENTRY_HANDOVER].length = HANDOVER_SIZE
    config.handover.head = HANDOVER_HEAD
    for i, byte in unroll(tuple(enumerate(HANDOVER_MIDDLE))):
        config.handover.middle[i] = byte
    dice.derive(config.handover, address(firmware.secret), address(firmware.secret), firmware.inputs)
    for i in range(CDI_SIZE):
        firmware.secret[i] = 0
    firmware.size = binary.size + PAGE_SIZE


def _gather(t: Tree) -> bool:
    """`firmware.secret`, and another seed for the host. False: there is nothing to make it from."""
    words: u64 = 0
    if guest_random.available():
        while words < _RANDOM_WORDS:
            firmware.entropy[words] = guest_random.random()
            if firmware.entropy[words] == 0:
                return False
            words += 1
    seed = Va(0)
    length: u64 = 0
    node = tree.find(t, address(_CHOSEN), len(_CHOSEN))
    if node != NONE:
        seed, length = tree.property(t, node, _SEED)
    if length != 0:
        sha512.begin(derivation.hash)
        sha512.add(derivation.hash, seed, length)
        sha512.end(derivation.hash, address(firmware.entropy) + 8 * words)
        words += 8
    if words == 0:
        return False
    entropy = address(firmware.entropy)
    sha512.derive(address(firmware.secret), CDI_SIZE, entropy, 8 * words, entropy, 0, address(_ROOT), len(_ROOT))
    if length != 0:
        given = min(length, sha512.DIGEST_SIZE)
        sha512.derive(seed, given, entropy, 8 * words, entropy, 0, address(_HOST), len(_HOST))
    for i in range(len(firmware.entropy)):
        firmware.entropy[i] = 0
    return True


def fill(offset: u64, page: Pa) -> None:
    """The contents of a page of a VM's firmware region, that far behind its entry."""
    binary = machine.firmware
    if offset < binary.size:
        memory.copy(memory.va(page), memory.va(binary.base + offset), PAGE_SIZE)
    elif offset == binary.size:
        memory.copy(memory.va(page), address(firmware.config), PAGE_SIZE)
    else:
        memory.zero(page, PAGE_SIZE)
