# SPDX-License-Identifier: Apache-2.0
"""Virtio console with several ports (VIRTIO 1.3, 5.3): port 0 is hvc0, the others are named byte streams."""

from __future__ import annotations

import os
import select
import struct
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from gz.vmm.memory import GuestMemory
from gz.vmm.streams import Output
from gz.vmm.terminal import Size
from gz.vmm.virtio.device import VirtioDevice
from gz.vmm.virtio.queue import Chain, Queue, QueueBroken
from gz.vmm.virtio.shared import INTERRUPT, MORE

F_SIZE = 1 << 0
F_MULTIPORT = 1 << 1
QUEUE_SIZE = 128
READ_MAX = 0x8000
"""Bytes taken from an input at once."""
WRITE_MAX = 0x10_0000
"""Bytes one request may write; Linux sends 32 KiB at most."""
MESSAGES_MAX = 16
"""Control messages per port that may wait for the guest to make room."""
CONTROL_RECEIVE, CONTROL_TRANSMIT = 2, 3

_CONTROL = struct.Struct("<IHH")
"""Port number, event, value (5.3.6.2)."""
_SIZE = struct.Struct("<HH")
"""Columns and rows, behind a RESIZE; older Linux takes them for rows and columns."""
_CONFIG = struct.Struct("<HHII")
"""Columns and rows, greatest number of ports, emergency write (not offered) (5.3.4)."""


class Event(IntEnum):
    """Control messages (5.3.6.2)."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


@dataclass
class Port:
    """One pair of byte streams. `input`: a file descriptor the guest reads; `output`: where its bytes go."""

    name: str
    input: int | None = None
    output: Output | None = None
    open: bool = field(default=False, init=False)
    """The guest has it open, so it takes input."""
    ended: bool = field(default=False, init=False)
    """The input gave its last byte."""

    @property
    def closed(self) -> bool:
        """Nothing will come and nothing is taken: for Linux a port closed here also blocks its writers."""
        return self.ended and self.output is None


class Console(VirtioDevice):
    """`ports[0]` is the console proper, its name is not told to the guest, but how large it is if there is a `size`."""

    KIND = 3
    NAME = "console"

    def __init__(self, memory: GuestMemory, ports: list[Port], size: Size | None = None) -> None:
        # Queues: receive and transmit of port 0, of the control channel, of port 1, … (5.3.2).
        queues = [QUEUE_SIZE] * (2 * len(ports) + 2)
        features = F_MULTIPORT | (F_SIZE if size else 0)
        super().__init__(memory, features, queues, _CONFIG.pack(0, 0, len(ports), 0))
        self.ports = ports
        self._size = size
        self._sized = False
        """There is a size that the guest has not been told."""
        self._has_console = False
        """The guest has port 0, and wants to know its size."""
        self._multiport = False
        self._wants_size = False
        self._messages: deque[bytes] = deque()
        for port in ports:
            if port.output is not None:
                port.output.when_room(self.wake)
        if size is not None:
            size.when_changed(self._resize)
            self._resize()

    def activate(self, features: int) -> None:
        self._multiport = bool(features & F_MULTIPORT)
        self._wants_size = bool(features & F_SIZE)
        # Without F_MULTIPORT there is one port, always open.
        self.ports[0].open = not self._multiport
        super().activate(features)

    def reset(self) -> None:
        super().reset()
        self._messages.clear()
        self._sized = self._has_console = False
        for port in self.ports:
            port.open = False

    def stop(self) -> None:
        if self._size is not None:
            self._size.forget(self._resize)
        for port in self.ports:
            if port.output is not None:
                port.output.forget(self.wake)
        super().stop()

    def serve(self) -> None:
        count = len(self.ports) if self._multiport else 1
        for number in range(count):
            port = self.ports[number]
            self.serve_queue(self._transmit(number), lambda chain, port=port: self._take_output(port, chain))
        if self._multiport:
            self.serve_queue(self.queues[CONTROL_TRANSMIT], self._take_control)
        for number in range(count):
            self._feed(number)
        if self._multiport:
            self.serve_queue(self.queues[CONTROL_RECEIVE], self._give_control)

    def watched(self) -> list[int]:
        return [
            port.input
            for number, port in enumerate(self.ports)
            if port.input is not None and port.open and not port.ended and self._receive(number).pending
        ]

    def _receive(self, number: int) -> Queue:
        return self.queues[0 if number == 0 else 2 * number + 2]

    def _transmit(self, number: int) -> Queue:
        return self.queues[1 if number == 0 else 2 * number + 3]

    def _take_output(self, port: Port, chain: Chain) -> int | None:
        length = sum(map(len, chain.readable))
        if length > WRITE_MAX:
            raise QueueBroken(f"{length} bytes in one write to port {port.name}")
        if port.output is not None:
            # What the guest wrote before it powered off is kept, however slow the reader.
            if not self.stopping and port.output.room < length and port.output.room < WRITE_MAX // 32:
                return None
            for part in chain.readable:
                port.output.write(part)
        return 0

    def _feed(self, number: int) -> None:
        """Moves input to the guest while there are both bytes and buffers."""
        port, queue = self.ports[number], self._receive(number)
        if port.input is None or not port.open or port.ended or not queue.ready:
            return
        while True:
            while queue.pending and _readable(port.input):
                chain = queue.pop()
                assert chain is not None, "pending says there is one"
                if chain.room == 0:
                    raise QueueBroken(f"an input buffer of port {port.name} has no room")
                data = _read(port.input, min(chain.room, READ_MAX))
                if not data:
                    queue.undo_pop()
                    port.ended = True
                    if port.closed:
                        self._send(number, Event.PORT_OPEN, 0)
                    break
                queue.push(chain, chain.write(data))
            enough = queue.pending or port.ended
            settled = int(queue.publish()) if enough else queue.settle()
            if settled & INTERRUPT:
                self._interrupt()
            if enough:
                queue.quiet()
                return
            if not settled & MORE:
                return

    def _take_control(self, chain: Chain) -> int:
        message = chain.read(_CONTROL.size)
        if len(message) < _CONTROL.size:
            raise QueueBroken(f"a control message of {len(message)} bytes")
        number: int
        number, event, value = _CONTROL.unpack(message)
        if event == Event.DEVICE_READY:
            if value == 1:
                for added in range(len(self.ports)):
                    self._send(added, Event.PORT_ADD, 1)
        elif number >= len(self.ports):
            raise QueueBroken(f"control message {event} for port {number} of {len(self.ports)}")
        elif event == Event.PORT_READY and value == 1:
            if number == 0:
                self._send(0, Event.CONSOLE_PORT, 1)
                self._has_console = self._sized = self._wants_size
            else:
                self._send(number, Event.PORT_NAME, 1, self.ports[number].name.encode())
            self._send(number, Event.PORT_OPEN, 0 if self.ports[number].closed else 1)
        elif event == Event.PORT_OPEN:
            self.ports[number].open = value == 1
        return 0

    def _send(self, number: int, event: Event, value: int, text: bytes = b"") -> None:
        if not self._multiport:
            return
        if len(self._messages) >= MESSAGES_MAX * len(self.ports):
            raise QueueBroken("it asks for control messages and does not take them")
        self._messages.append(_CONTROL.pack(number, event, value) + text)

    def _give_control(self, chain: Chain) -> int | None:
        if self._messages:
            return chain.write(self._messages.popleft())
        if self._sized and self._size is not None:
            self._sized = False
            return chain.write(_CONTROL.pack(0, Event.RESIZE, 0) + _SIZE.pack(*self._size.columns_rows))
        return None

    def _resize(self) -> None:
        """Tells the guest in both ways: Linux looks for one with several ports and for the other without."""
        assert self._size is not None, "who calls"
        with self.lock:
            self.configure(_CONFIG.pack(*self._size.columns_rows, len(self.ports), 0))
            self._sized = self._has_console  # many changes are one message
        self.wake()


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _read(fd: int, limit: int) -> bytes:
    """b"" at the end, which an error is too."""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
