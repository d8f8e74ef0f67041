# SPDX-License-Identifier: Apache-2.0
"""What a request to a virtio device costs the VMM, in this process: a driver's ring in plain memory, a device, no
guest. Prints nanoseconds per request as JSON; under `-icount shift=0` they are instructions."""

from __future__ import annotations

import json
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from gz.vmm.memory import GuestMemory
from gz.vmm.virtio.block import Block, Disk, Request
from gz.vmm.virtio.device import VirtioDevice
from gz.vmm.virtio.ring import INDIRECT, NEXT, WRITE
from gz.vmm.virtio.rng import Entropy

BASE, SIZE = 0x4000_0000, 1 << 20
DESCRIPTORS, AVAILABLE, USED, TABLE, DATA = (BASE + 0x1000 * page for page in range(5))
QUEUE_SIZE = 64
ROUNDS = 256


class Driver:
    """Offers one request again and again: the buffers `out`, then room for `lengths`, as Linux would."""

    def __init__(self, memory: GuestMemory, device: VirtioDevice, out: bytes, lengths: list[int]) -> None:
        self.device = device
        queue = device.queues[0]
        queue.size = QUEUE_SIZE
        queue.descriptors_at, queue.available_at, queue.used_at = DESCRIPTORS, AVAILABLE, USED
        queue.enable(True, True)
        buffers = [(len(out), 0)] if out else []
        buffers += [(length, WRITE) for length in lengths]
        memory.at(DATA, len(out))[:] = out
        direct = len(buffers) == 1
        for number, (length, flags) in enumerate(buffers):
            last = number == len(buffers) - 1
            row = struct.pack("<QIHH", DATA + 0x1000 * number, length, flags | (0 if last else NEXT), number + 1)
            memory.at((DESCRIPTORS if direct else TABLE) + 16 * number, 16)[:] = row
        if not direct:
            memory.at(DESCRIPTORS, 16)[:] = struct.pack("<QIHH", TABLE, 16 * len(buffers), INDIRECT, 0)
        self.available = memory.at(AVAILABLE, 6 + 2 * QUEUE_SIZE).cast("H")

    def request(self) -> int:
        """Nanoseconds that the device takes for one, the interrupt left out."""
        index = self.available[1]
        self.available[2 + QUEUE_SIZE] = index  # the used index that it wants an interrupt for
        self.available[1] = index + 1
        begin = time.perf_counter_ns()
        self.device.serve()
        return time.perf_counter_ns() - begin


def median(make: Callable[[GuestMemory], VirtioDevice], out: bytes, lengths: list[int]) -> int:
    memory = GuestMemory([(BASE, memoryview(bytearray(SIZE)))])
    driver = Driver(memory, make(memory), out, lengths)
    driver.request()  # the first one finds nothing in Python's caches
    return statistics.median_low(driver.request() for _ in range(ROUNDS))  # the host has other things to do too


def main() -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "disk"
        path.write_bytes(bytes(SIZE))
        read = struct.pack("<IIQ", Request.IN, 0, 0)
        figures = {
            "rng, 64 bytes": median(Entropy, b"", [64]),
            "block, read 4 KiB": median(lambda memory: Block(memory, Disk(str(path), True)), read, [4096, 1]),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
