# SPDX-License-Identifier: Apache-2.0
"""Virtio over MMIO, version 2 (VIRTIO 1.3, 4.2): a window of registers in front of a device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum, IntFlag

from gz.vmm.irq import EdgeLine
from gz.vmm.virtio.device import RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1, VirtioDevice
from gz.vmm.virtio.queue import Queue, QueueBroken

MAGIC = int.from_bytes(b"virt", "little")
VERSION = 2
VENDOR = int.from_bytes(b"gz\0\0", "little")
CONFIG = 0x100


class Reg(IntEnum):
    """Offsets (4.2.2)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC


class Status(IntFlag):
    """Device status (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


REQUIRES = {
    Status.ACKNOWLEDGE: Status(0),
    Status.DRIVER: Status(0),  # U-Boot acknowledges before the reset and not again
    Status.FEATURES_OK: Status.DRIVER,
    Status.DRIVER_OK: Status.DRIVER | Status.FEATURES_OK,
    Status.FAILED: Status(0),
}
"""A bit the driver sets, and the bits that have to be there with it (3.1.1)."""

USED_BUFFER, CONFIG_CHANGE = 1, 2
"""InterruptStatus."""

ADDRESSES = {
    Reg.QUEUE_DESC_LOW: ("descriptors_at", 0),
    Reg.QUEUE_DESC_HIGH: ("descriptors_at", 32),
    Reg.QUEUE_DRIVER_LOW: ("available_at", 0),
    Reg.QUEUE_DRIVER_HIGH: ("available_at", 32),
    Reg.QUEUE_DEVICE_LOW: ("used_at", 0),
    Reg.QUEUE_DEVICE_HIGH: ("used_at", 32),
}
"""Which half of which address of the selected queue a register sets."""


class MmioTransport:
    """The registers of one device. Called by vCPU threads, and by the device's thread to interrupt."""

    def __init__(self, device: VirtioDevice, line: EdgeLine, log: Callable[[str], object]) -> None:
        self.device = device
        self.line = line
        self._log = log
        self._isr = 0
        self._isr_lock = threading.Lock()
        self._clear()
        device.connect(self._interrupt_used, self._interrupt_changed, self._fail)
        self._readers: dict[int, Callable[[], int]] = {
            Reg.MAGIC_VALUE: lambda: MAGIC,
            Reg.VERSION: lambda: VERSION,
            Reg.DEVICE_ID: lambda: device.KIND,
            Reg.VENDOR_ID: lambda: VENDOR,
            Reg.DEVICE_FEATURES: lambda: (
                device.features >> 32 * self._device_sel & 0xFFFF_FFFF if self._device_sel < 2 else 0
            ),
            Reg.QUEUE_NUM_MAX: lambda: 0 if self._queue is None else self._queue.size_max,
            Reg.QUEUE_READY: lambda: 0 if self._queue is None else int(self._queue.ready),
            Reg.INTERRUPT_STATUS: lambda: self._isr,
            Reg.STATUS: lambda: int(self.status),
            # No shared memory regions: length -1 (4.2.2).
            Reg.SHM_LEN_LOW: lambda: 0xFFFF_FFFF,
            Reg.SHM_LEN_HIGH: lambda: 0xFFFF_FFFF,
            Reg.SHM_BASE_LOW: lambda: 0xFFFF_FFFF,
            Reg.SHM_BASE_HIGH: lambda: 0xFFFF_FFFF,
            Reg.CONFIG_GENERATION: lambda: device.generation,
        }
        self._writers: dict[int, Callable[[int], None]] = {
            Reg.DEVICE_FEATURES_SEL: self._select_device_features,
            Reg.DRIVER_FEATURES: self._accept_features,
            Reg.DRIVER_FEATURES_SEL: self._select_driver_features,
            Reg.QUEUE_SEL: self._select_queue,
            Reg.QUEUE_NUM: self._set_size,
            Reg.QUEUE_READY: self._set_ready,
            Reg.QUEUE_NOTIFY: lambda value: device.wake(),
            Reg.INTERRUPT_ACK: self._acknowledge,
            Reg.STATUS: self._set_status,
        }
        for register, (name, shift) in ADDRESSES.items():
            self._writers[register] = self._address_setter(name, shift)

    def read(self, offset: int, size: int) -> int:
        reader = self._readers.get(offset)
        if reader is not None:
            return reader() if size == 4 else 0
        if offset >= CONFIG:
            return int.from_bytes(self.device.config[offset - CONFIG : offset - CONFIG + size], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        writer = self._writers.get(offset)
        if writer is not None and size == 4:
            writer(value)

    def _clear(self) -> None:
        self.status = Status(0)
        self._accepted = 0
        self._device_sel = 0
        self._driver_sel = 0
        self._queue: Queue | None = self.device.queues[0] if self.device.queues else None
        with self._isr_lock:
            self._isr = 0

    def _select_device_features(self, value: int) -> None:
        self._device_sel = value

    def _select_driver_features(self, value: int) -> None:
        self._driver_sel = value

    def _accept_features(self, value: int) -> None:
        if self._driver_sel < 2 and not self.status & Status.FEATURES_OK:
            shift = 32 * self._driver_sel
            self._accepted = self._accepted & ~(0xFFFF_FFFF << shift) | value << shift

    def _select_queue(self, value: int) -> None:
        queues = self.device.queues
        self._queue = queues[value] if value < len(queues) else None

    def _set_size(self, value: int) -> None:
        if self._queue is not None and not self._queue.ready:
            self._queue.size = value

    def _address_setter(self, name: str, shift: int) -> Callable[[int], None]:
        keep = 0xFFFF_FFFF << (32 - shift)

        def set_half(value: int) -> None:
            queue = self._queue
            if queue is not None and not queue.ready:
                setattr(queue, name, getattr(queue, name) & keep | value << shift)

        return set_half

    def _set_ready(self, value: int) -> None:
        queue = self._queue
        if queue is None or self.status & Status.NEEDS_RESET:
            return
        with self.device.lock:
            if value == 0:
                queue.disable()
            elif value == 1 and not queue.ready and self.status & Status.FEATURES_OK:
                try:
                    queue.enable(bool(self._accepted & RING_INDIRECT_DESC), bool(self._accepted & RING_EVENT_IDX))
                except QueueBroken as error:
                    self._fail(str(error))

    def _acknowledge(self, value: int) -> None:
        with self._isr_lock:
            self._isr &= ~value

    def _set_status(self, value: int) -> None:
        with self.device.lock:
            if value == 0:
                self.device.reset()
                self._clear()
                return
            for bit, required in REQUIRES.items():
                if value & bit and not self.status & bit and required & ~(self.status | value) == 0:
                    self._set_bit(bit)

    def _set_bit(self, bit: Status) -> None:
        """One step of the driver's (the device's lock held)."""
        if bit == Status.FEATURES_OK:
            # Refusing is leaving the bit clear, which the driver reads back (3.1.1 step 6).
            if self._accepted & ~self.device.features or not self._accepted & VERSION_1:
                return
        elif bit == Status.DRIVER_OK:
            if not self.status & Status.FEATURES_OK or self.status & Status.NEEDS_RESET:
                return
            self.status |= bit
            self.device.activate(self._accepted)
            return
        self.status |= bit

    def _interrupt_used(self) -> None:
        self._interrupt(USED_BUFFER)

    def _interrupt_changed(self) -> None:
        self._interrupt(CONFIG_CHANGE)

    def _interrupt(self, cause: int) -> None:
        # The line is high while InterruptStatus is not 0; its rising edge is what the driver's GIC sees.
        with self._isr_lock:
            rises = self._isr == 0
            self._isr |= cause
        if rises:
            self.line.pulse()

    def _fail(self, reason: str) -> None:
        self._log(f"virtio {self.device.NAME}: {reason}; the device is stopped until the guest resets it")
        self.status |= Status.NEEDS_RESET
        if self.status & Status.DRIVER_OK:
            self._interrupt(CONFIG_CHANGE)
