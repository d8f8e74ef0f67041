# SPDX-License-Identifier: Apache-2.0
"""A protected guest that hides from its VMM what a virtio device is using (M15).

It drives the entropy device itself, with the three parts of the queue and the buffer in pages of their own, all
shown. It hides each of them in turn, asks, and expects the device to want a reset and to work again after it; then it
hides the buffer as soon as it has asked, again and again, and looks whether something is written there later.
"""

from __future__ import annotations

from gz.abi.guest import VendorCall
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import dmb, hvc
from gz.bits import Va, u32, u64
from gz.metal import export, log, peek16, peek32, peek64, poke16, poke32, poke64
from gz.vmm.maps import VIRT, VIRTIO_COUNT, VIRTIO_SIZE
from gz.vmm.virtio.mmio import Reg, Status
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload

DESCRIPTORS = VIRT.ram + (8 << 20)
AVAILABLE = DESCRIPTORS + PAGE_SIZE
USED = AVAILABLE + PAGE_SIZE
BUFFER = USED + PAGE_SIZE
_PAGES = 4
_SIZE = 8
_LENGTH = 64
_WRITE = 2
_ENTROPY = 4
_RACES = 200
_OWN = 0x0B5E_55ED_0B5E_55ED
_STARTED = Status.ACKNOWLEDGE | Status.DRIVER


@export
def payload(tree: Va) -> None:
    hvc(VendorCall.MMIO_GUARD_MAP, VIRT.uart, 0, 0)
    hvc(VendorCall.MMIO_GUARD_MAP, VIRT.virtio, 0, 0)
    device = find()
    for number in range(_PAGES):
        show(DESCRIPTORS + PAGE_SIZE * number)
    for number in range(_PAGES):
        page: u64 = DESCRIPTORS + PAGE_SIZE * number
        bring_up(device)
        before = ask(device)
        hide(page)
        during = ask(device)
        fill(page)
        changed = look(page)
        show(page)
        bring_up(device)
        after = ask(device)
        log(f"page {number}: {before} {during} {after}, {changed} changed")
    race(device)


def race(device: Va) -> None:
    """Each time the request is served before, or not at all."""
    served: u32 = 0
    broken: u32 = 0
    changed: u64 = 0
    bring_up(device)
    for _ in range(_RACES):
        poke64(Va(BUFFER), 0)
        offer(device)
        hide(BUFFER)
        fill(BUFFER)
        if await_end(device) == 1:
            served += 1
        else:
            broken += 1
            bring_up(device)
        changed += look(BUFFER)
        show(BUFFER)
    log(f"raced: {served + broken} ends, {changed} changed")
    log(f"served {served}, broken {broken}")


def find() -> Va:
    """The window of the entropy device, or the first if there is none."""
    for number in range(VIRTIO_COUNT):
        window = Va(VIRT.virtio + VIRTIO_SIZE * number)
        if peek32(window + Reg.DEVICE_ID) == _ENTROPY:
            return window
    return Va(VIRT.virtio)


def show(page: u64) -> None:
    hvc(VendorCall.MEM_SHARE, page, 0, 0)


def hide(page: u64) -> None:
    hvc(VendorCall.MEM_UNSHARE, page, 0, 0)


def fill(page: u64) -> None:
    for offset in range(0, PAGE_SIZE, 8):
        poke64(Va(page + offset), _OWN)


def look(page: u64) -> u64:
    """How many words of the page are not what it was filled with."""
    changed: u64 = 0
    for offset in range(0, PAGE_SIZE, 8):
        if peek64(Va(page + offset)) != _OWN:
            changed += 1
    return changed


def bring_up(device: Va) -> None:
    """From a reset on (VIRTIO 1.3, 3.1.1), with an empty queue of one descriptor."""
    poke32(device + Reg.STATUS, 0)
    poke32(device + Reg.STATUS, Status.ACKNOWLEDGE)
    poke32(device + Reg.STATUS, _STARTED)
    poke32(device + Reg.DRIVER_FEATURES_SEL, 1)
    poke32(device + Reg.DRIVER_FEATURES, 1)  # VIRTIO_F_VERSION_1
    poke32(device + Reg.STATUS, _STARTED | Status.FEATURES_OK)
    poke64(Va(AVAILABLE), 0)
    poke64(Va(USED), 0)
    poke64(Va(DESCRIPTORS), BUFFER)
    poke32(Va(DESCRIPTORS + 8), _LENGTH)
    poke32(Va(DESCRIPTORS + 12), _WRITE)
    poke32(device + Reg.QUEUE_SEL, 0)
    poke32(device + Reg.QUEUE_NUM, _SIZE)
    poke32(device + Reg.QUEUE_DESC_LOW, u32(DESCRIPTORS))
    poke32(device + Reg.QUEUE_DRIVER_LOW, u32(AVAILABLE))
    poke32(device + Reg.QUEUE_DEVICE_LOW, u32(USED))
    poke32(device + Reg.QUEUE_READY, 1)
    poke32(device + Reg.STATUS, _STARTED | Status.FEATURES_OK | Status.DRIVER_OK)


def offer(device: Va) -> None:
    """Descriptor 0 once more; all entries of the available ring say 0."""
    dmb("ish")
    poke16(Va(AVAILABLE + 2), peek16(Va(AVAILABLE + 2)) + 1)
    dmb("ish")
    poke32(device + Reg.QUEUE_NOTIFY, 0)


def await_end(device: Va) -> u64:
    """1 if everything was served, 2 if the device wants a reset."""
    while True:
        if peek32(device + Reg.STATUS) & Status.NEEDS_RESET != 0:
            return 2
        if peek16(Va(USED + 2)) == peek16(Va(AVAILABLE + 2)):
            return 1


def ask(device: Va) -> u64:
    """As await_end; 0 if it was served and nothing was written."""
    poke64(Va(BUFFER), 0)
    offer(device)
    end = await_end(device)
    return 0 if end == 1 and peek64(Va(BUFFER)) == 0 else end
