# SPDX-License-Identifier: Apache-2.0
"""The console: ports announced, bytes both ways, ends of input, and guests that misbehave."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ring import BASE, Driver, Ring, make_memory, settles, wait_used

from gz.vmm.streams import Output
from gz.vmm.terminal import Size, size_in
from gz.vmm.virtio.console import F_SIZE, Console, Event, Port
from gz.vmm.virtio.mmio import CONFIG, Reg


@dataclass
class Setup:
    """A console with port 0 (output only), a port to read, a port to write. Rings in the order of the queues."""

    driver: Driver
    to_guest: int
    from_guest: int
    console: int
    outputs: list[Output]
    rings: list[Ring] = field(default_factory=list[Ring])
    stopped: bool = False

    def stop(self) -> None:
        self.driver.device.stop()
        self.stopped = True

    def control(self, number: int, event: Event, value: int) -> None:
        self.rings[3].data_at = BASE + 0x18_0000
        self.rings[3].add([struct.pack("<IHH", number, event, value)], [])
        self.driver.notify(3)
        wait_used(self.rings[3], 1)

    def messages(self, count: int) -> list[tuple[int, Event, int, bytes]]:
        """The next messages from the device."""
        places: dict[int, int] = {}
        for _ in range(count):
            head, (at,) = self.rings[2].add([], [32])
            places[head] = at
        self.driver.notify(2)
        result: list[tuple[int, Event, int, bytes]] = []
        for head, length in wait_used(self.rings[2], count):
            data = bytes(self.driver.memory.at(places[head], length))
            number, event, value = struct.unpack("<IHH", data[:8])
            result.append((number, Event(event), value, data[8:]))
        return result


SIZES = [(80, 24)]
"""Columns and rows of the terminal; the last ones count."""
sized = pytest.mark.parametrize("setup", ["sized"], indirect=True)


@pytest.fixture
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    before = signal.getsignal(signal.SIGWINCH)
    memory = make_memory()
    guest_reads, to_guest = os.pipe()
    from_guest, guest_writes = os.pipe()
    console, console_writes = os.pipe()
    outputs = [Output(console_writes, "console"), Output(guest_writes, "gz.stdout")]
    ports = [
        Port("hvc0", None, outputs[0]),
        Port("gz.stdin", guest_reads, None),
        Port("gz.stdout", None, outputs[1]),
    ]
    size = Size(lambda: SIZES[-1]) if getattr(request, "param", None) == "sized" else None
    setup = Setup(Driver(memory, Console(memory, ports, size)), to_guest, from_guest, console, outputs)
    setup.rings = setup.driver.bring_up(8)
    yield setup
    if not setup.stopped:
        setup.stop()
    for output in outputs:
        assert output.close(5)
    for fd in (guest_reads, from_guest, guest_writes, console, console_writes):
        os.close(fd)
    signal.signal(signal.SIGWINCH, before)
    del SIZES[1:]


def resize(columns: int, rows: int) -> None:
    SIZES.append((columns, rows))
    os.kill(os.getpid(), signal.SIGWINCH)


def configured(setup: Setup) -> tuple[int, int]:
    transport = setup.driver.transport
    return transport.read(CONFIG, 2), transport.read(CONFIG + 2, 2)


@sized
def test_the_size_is_told_when_there_is_a_console(setup: Setup) -> None:
    assert setup.driver.features() & F_SIZE and configured(setup) == (80, 24)
    setup.control(0, Event.PORT_READY, 1)
    told = (0, Event.RESIZE, 0, struct.pack("<HH", 80, 24))
    assert setup.messages(3) == [(0, Event.CONSOLE_PORT, 1, b""), (0, Event.PORT_OPEN, 1, b""), told]


@sized
def test_changes_of_the_size_are_told(setup: Setup) -> None:
    generation = setup.driver.get(Reg.CONFIG_GENERATION)
    resize(100, 30)
    assert settles(lambda: configured(setup) == (100, 30))
    assert setup.driver.get(Reg.CONFIG_GENERATION) == generation + 1
    assert setup.driver.get(Reg.INTERRUPT_STATUS) & 2
    setup.control(0, Event.PORT_READY, 1)
    assert setup.messages(3)[2] == (0, Event.RESIZE, 0, struct.pack("<HH", 100, 30))
    resize(132, 43)
    assert setup.messages(1) == [(0, Event.RESIZE, 0, struct.pack("<HH", 132, 43))]


@sized
def test_a_guest_that_takes_no_messages_costs_nothing_however_often_the_size_changes(setup: Setup) -> None:
    setup.control(0, Event.PORT_READY, 1)
    setup.messages(3)
    for rows in range(1, 1000):
        resize(80, rows)
    assert settles(lambda: configured(setup) == (80, 999))
    assert setup.messages(1) == [(0, Event.RESIZE, 0, struct.pack("<HH", 80, 999))]
    head, _ = setup.rings[2].add([], [32])
    setup.driver.notify(2)
    assert not settles(setup.rings[2].used, 0.05), head


@sized
def test_who_did_not_ask_is_not_told(setup: Setup) -> None:
    setup.rings = setup.driver.bring_up(8, drop=F_SIZE)
    setup.control(0, Event.PORT_READY, 1)
    setup.messages(2)
    resize(100, 30)
    assert settles(lambda: configured(setup) == (100, 30))
    setup.rings[2].add([], [32])
    setup.driver.notify(2)
    assert not settles(setup.rings[2].used, 0.05)


@sized
def test_sizes_that_cannot_be(setup: Setup) -> None:
    resize(1 << 20, -1)
    assert settles(lambda: configured(setup) == (0xFFFF, 0))


def test_without_terminal_there_is_no_size(setup: Setup) -> None:
    assert not setup.driver.features() & F_SIZE


def test_the_size_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "size"
    path.write_text("132 43\n")
    assert size_in(str(path)) == (132, 43)
    size = Size(lambda: size_in(str(tmp_path / "none")))
    assert size.columns_rows == (0, 0)
    for text in ("", "80", "80 x", "1 2 3"):
        path.write_text(text)
        with pytest.raises(ValueError):
            size_in(str(path))


def test_config_counts_the_ports(setup: Setup) -> None:
    assert setup.driver.transport.read(CONFIG + 4, 4) == 3


def test_ports_are_announced_and_named(setup: Setup) -> None:
    setup.control(0, Event.DEVICE_READY, 1)
    assert setup.messages(3) == [(number, Event.PORT_ADD, 1, b"") for number in range(3)]
    setup.control(0, Event.PORT_READY, 1)
    assert setup.messages(2) == [(0, Event.CONSOLE_PORT, 1, b""), (0, Event.PORT_OPEN, 1, b"")]
    setup.control(2, Event.PORT_READY, 1)
    assert setup.messages(2) == [(2, Event.PORT_NAME, 1, b"gz.stdout"), (2, Event.PORT_OPEN, 1, b"")]


def test_output_is_exact(setup: Setup) -> None:
    data = os.urandom(3000)
    ring = setup.rings[7]
    for start in range(0, len(data), 1000):
        ring.add([data[start : start + 10], data[start + 10 : start + 1000]], [])
    setup.driver.notify(7)
    wait_used(ring, 3)
    found = b""
    while len(found) < len(data):
        found += os.read(setup.from_guest, 4096)
    assert found == data


def test_the_console_has_its_own_stream(setup: Setup) -> None:
    setup.rings[1].add([b"login: "], [])
    setup.driver.notify(1)
    assert os.read(setup.console, 100) == b"login: "


def test_input_waits_until_the_port_is_open(setup: Setup) -> None:
    ring = setup.rings[4]
    head, (at,) = ring.add([], [100])
    setup.driver.notify(4)
    os.write(setup.to_guest, b"hello")
    assert not settles(ring.used, 0.05)
    setup.control(1, Event.PORT_OPEN, 1)
    assert wait_used(ring, 1) == [(head, 5)]
    assert bytes(setup.driver.memory.at(at, 5)) == b"hello"


def test_input_waits_for_buffers(setup: Setup) -> None:
    setup.control(1, Event.PORT_OPEN, 1)
    os.write(setup.to_guest, b"0123456789")
    got = b""
    for _ in range(3):
        _, (at,) = setup.rings[4].add([], [4])
        setup.driver.notify(4)
        ((_, length),) = wait_used(setup.rings[4], 1)
        got += bytes(setup.driver.memory.at(at, length))
    assert got == b"0123456789"


def test_the_end_of_input_closes_the_port_behind_the_last_byte(setup: Setup) -> None:
    setup.control(1, Event.PORT_OPEN, 1)
    os.write(setup.to_guest, b"last")
    os.close(setup.to_guest)
    setup.rings[4].add([], [100])
    setup.rings[4].add([], [100])
    setup.driver.notify(4)
    assert wait_used(setup.rings[4], 1)[0][1] == 4
    assert setup.messages(1) == [(1, Event.PORT_OPEN, 0, b"")]
    # Who asks later hears that it is closed.
    setup.control(1, Event.PORT_READY, 1)
    assert setup.messages(2) == [(1, Event.PORT_NAME, 1, b"gz.stdin"), (1, Event.PORT_OPEN, 0, b"")]


def test_a_console_without_keyboard_stays_open() -> None:
    """Its output still works: Linux lets nobody write to a port that is closed here."""
    memory = make_memory()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = Output(os.open(os.devnull, os.O_WRONLY), "null")
    driver = Driver(memory, Console(memory, [Port("hvc0", nothing, output)]))
    rings = driver.bring_up(4)
    rings[0].add([], [8])
    _, (at,) = rings[2].add([], [8])
    rings[3].add([struct.pack("<IHH", 0, Event.PORT_OPEN, 1)], [])
    driver.notify(3)
    wait_used(rings[3], 1)
    assert settles(lambda: driver.device.ports[0].ended)  # type: ignore[attr-defined]
    rings[3].add([struct.pack("<IHH", 0, Event.PORT_READY, 1)], [])
    rings[2].add([], [8])
    driver.notify(3)
    wait_used(rings[2], 2)
    assert struct.unpack("<IHH", memory.at(at, 8)) == (0, Event.CONSOLE_PORT, 1)
    assert struct.unpack("<IHH", memory.at(at + 16, 8)) == (0, Event.PORT_OPEN, 1)
    driver.device.stop()
    output.close()


def test_a_slow_reader_stops_only_its_port(setup: Setup) -> None:
    ring, block = setup.rings[7], b"x" * 0x8000
    ring.memory.at(BASE + 0x10_0000, len(block))[:] = block
    for index in range(16):
        ring.descriptor(index, BASE + 0x10_0000, len(block))
        ring.offer(index)
    setup.driver.notify(7)
    assert not settles(lambda: not setup.driver.device.queues[7].pending, 0.2)
    setup.rings[1].add([b"still here"], [])
    setup.driver.notify(1)
    assert os.read(setup.console, 100) == b"still here"
    total = 0
    while total < 16 * len(block):
        total += len(os.read(setup.from_guest, 1 << 16))
    assert len(wait_used(ring, 16)) == 16


def test_stopping_keeps_what_was_written(setup: Setup) -> None:
    for _ in range(4):
        setup.rings[1].add([b"bye\n"], [])
    setup.stop()
    found = b""
    while len(found) < 16:
        found += os.read(setup.console, 100)
    assert found == b"bye\n" * 4


@pytest.mark.parametrize(
    ("ring", "out", "message"),
    [
        (3, b"short", "a control message of 5 bytes"),
        (3, struct.pack("<IHH", 99, Event.PORT_READY, 1), "for port 99 of 3"),
    ],
)
def test_bad_messages_stop_the_device(setup: Setup, ring: int, out: bytes, message: str) -> None:
    setup.rings[ring].add([out], [])
    setup.driver.notify(ring)
    assert settles(setup.driver.broken)
    assert message in setup.driver.lines[0]


def test_messages_do_not_pile_up(setup: Setup) -> None:
    for _ in range(40):
        if setup.driver.broken():
            break
        setup.rings[3].data_at = BASE + 0x18_0000
        setup.rings[3].add([struct.pack("<IHH", 0, Event.DEVICE_READY, 1)], [])
        setup.driver.notify(3)
        settles(lambda: not setup.driver.device.queues[3].pending or setup.driver.broken())
    assert settles(setup.driver.broken)
    assert "does not take them" in setup.driver.lines[0]


def test_a_huge_write_stops_the_device(setup: Setup) -> None:
    for index in range(3):
        setup.rings[1].descriptor(index, BASE, 0x8_0000, 1 if index < 2 else 0, index + 1)
    setup.rings[1].offer(0)
    setup.driver.notify(1)
    assert settles(setup.driver.broken)
    assert "1572864 bytes in one write" in setup.driver.lines[0]
    assert setup.driver.get(Reg.MAGIC_VALUE)
