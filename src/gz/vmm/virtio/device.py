# SPDX-License-Identifier: Apache-2.0
"""What every virtio device has: identity, features, queues, configuration, and a thread that serves them."""

from __future__ import annotations

import os
import select
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from gz.vmm.memory import GuestMemory
from gz.vmm.virtio.bounce import BounceQueue
from gz.vmm.virtio.queue import Chain, Queue, QueueBroken
from gz.vmm.virtio.shared import INTERRUPT, MORE

RING_INDIRECT_DESC = 1 << 28
RING_EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
TRANSPORT_FEATURES = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1


class VirtioDevice(ABC):
    """A device behind a transport. The transport calls `activate` and `reset` and owns the status register;
    the device's own thread calls `serve` whenever the driver notified, something it watches is ready, or
    `wake` was called. Everything that touches queues happens with `lock` held."""

    KIND: ClassVar[int]
    """Device ID (VIRTIO 1.3, 5)."""
    NAME: ClassVar[str]

    def __init__(self, memory: GuestMemory, features: int, queue_sizes: list[int], config: bytes) -> None:
        kind, missing = (BounceQueue, RING_INDIRECT_DESC) if memory.private else (Queue, 0)
        self.features = TRANSPORT_FEATURES & ~missing | features
        self.queues = [kind(memory, size) for size in queue_sizes]
        self.config = config
        self.generation = 0
        """Counts changes of `config` (4.2.2.1)."""
        self.lock = threading.Lock()
        self.notify_fd = os.eventfd(0, os.EFD_CLOEXEC)
        """An eventfd; a write of 1 makes the device look at its queues."""
        self.active = False
        self.stopping = False
        """The device serves a last time."""
        self._interrupt: Callable[[], None] = lambda: None
        self._changed: Callable[[], None] = lambda: None
        self._fail: Callable[[str], None] = lambda reason: None
        self._thread = threading.Thread(target=self._work, name=self.NAME, daemon=True)

    def connect(self, interrupt: Callable[[], None], changed: Callable[[], None], fail: Callable[[str], None]) -> None:
        """`interrupt` tells the driver about used buffers, `changed` about a new configuration; `fail` stops the
        device and says why."""
        self._interrupt = interrupt
        self._changed = changed
        self._fail = fail

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Serves what the driver made available so far, then ends the thread."""
        self.stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        with self.lock:
            self.reset()
            for queue in self.queues:
                queue.close()
        os.close(self.notify_fd)

    def wake(self) -> None:
        os.eventfd_write(self.notify_fd, 1)

    def configure(self, config: bytes) -> None:
        """A configuration other than before (lock held)."""
        self.config = config
        self.generation = (self.generation + 1) & 0xFFFF_FFFF
        if self.active:
            self._changed()

    def activate(self, features: int) -> None:
        """The driver is ready (lock held). `features`: those it accepted."""
        self.active = True
        self.wake()

    def reset(self) -> None:
        """Back to the state after creation (lock held)."""
        self.active = False
        for queue in self.queues:
            queue.reset()

    @abstractmethod
    def serve(self) -> None:
        """Handles all requests there are. QueueBroken stops the device (lock held)."""

    def watched(self) -> list[int]:
        """File descriptors whose readability makes the device serve (lock held)."""
        return []

    def serve_queue(self, queue: Queue, handle: Callable[[Chain], int | None]) -> None:
        """Takes requests until there are none. `handle` gives the number of bytes written into the request,
        or None to leave it and all behind it in the ring for later."""
        if not queue.ready:
            return
        queue.quiet()
        while True:
            blocked = False
            while (chain := queue.pop()) is not None:
                written = handle(chain)
                if written is None:
                    queue.undo_pop()
                    blocked = True
                    break
                queue.push(chain, written)
            settled = int(queue.publish()) if blocked else queue.settle()
            if settled & INTERRUPT:
                self._interrupt()
            if not settled & MORE:
                return

    def _work(self) -> None:
        watched: list[int] = []
        while True:
            if not watched or self._notified(watched):
                os.eventfd_read(self.notify_fd)
            stopping = self.stopping
            with self.lock:
                watched = self._attempt() if self.active else []
            if stopping:
                return

    def _attempt(self) -> list[int]:
        """Serves, then tells what to watch (lock held)."""
        try:
            self.serve()
            return self.watched()
        except QueueBroken as error:
            reason = str(error)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        self.active = False
        self._fail(reason)
        return []

    def _notified(self, watched: list[int]) -> bool:
        """Waits for a notification or one of `watched`; True if there was a notification."""
        poll = select.poll()
        poll.register(self.notify_fd, select.POLLIN)
        for fd in watched:
            poll.register(fd, select.POLLIN)
        return any(fd == self.notify_fd for fd, _ in poll.poll())
