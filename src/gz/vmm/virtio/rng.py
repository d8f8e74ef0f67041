# SPDX-License-Identifier: Apache-2.0
"""Virtio entropy device (VIRTIO 1.3, 5.4)."""

from __future__ import annotations

import os

from gz.vmm.memory import GuestMemory
from gz.vmm.virtio.device import VirtioDevice
from gz.vmm.virtio.queue import Chain

REQUEST_MAX = 0x1_0000
"""Bytes one request gets at most."""


class Entropy(VirtioDevice):
    """Fills the guest's buffers with random bytes of the host."""

    KIND = 4
    NAME = "entropy device"

    def __init__(self, memory: GuestMemory) -> None:
        super().__init__(memory, features=0, queue_sizes=[64], config=b"")

    def serve(self) -> None:
        self.serve_queue(self.queues[0], self._fill)

    def _fill(self, chain: Chain) -> int:
        return chain.write(os.urandom(min(chain.room, REQUEST_MAX)))
