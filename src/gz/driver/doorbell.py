# SPDX-License-Identifier: Apache-2.0
"""The doorbell page, found in the device tree and mapped, and the compiled calls that ring it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gz.abi import doorbell as abi
from gz.abi.calls import DRIVER_VERSION, Call, smc64
from gz.driver.interface import CallError, DriverError

TREE = Path("/proc/device-tree")
LIBRARY = Path(__file__).with_name("_driver.so")
"""Compiled from `gz.driver.call` and `gz.driver.kvm_run`."""

Results = tuple[int, int, int, int]


class Core(Protocol):
    """How calls reach the core, and what user space cannot do in Python."""

    frequency: int
    """Counter ticks per second."""

    def call(self, call: Call, *arguments: int) -> Results:
        """x1… in, x0-x3 out; x0 is not looked at."""
        ...

    def runner(self, vcpu: int, page_address: int, shared_address: int) -> Callable[[], int]:
        """What runs a vCPU until the driver has something to do, and gives the exit reason or INTERRUPTED.
        The addresses, in this process, are those of its run page and of the VM's `gz.driver.shared.Shared`."""
        ...

    def wake(self, shared_address: int) -> object:
        """Ends the sleep of the VM's idle vCPUs, or their next one."""
        ...

    def irq_line(self, vcpu: int, number: int, level: int) -> int:
        """IRQ_LINE; gives x0."""
        ...

    def counter(self, physical: bool) -> int: ...


class Doorbell:
    """DriverError if this host has no core below it, or user space may not reach it."""

    def __init__(self, tree: Path = TREE, library: Path = LIBRARY) -> None:
        address, size = find(tree)
        if not library.exists():
            raise DriverError(f"{library} is missing: the installation is incomplete")
        quick = ctypes.PyDLL(str(library))  # keeps the GIL: calls that are over at once
        slow = ctypes.CDLL(str(library))
        self._page = _map(address, size)
        page = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        word = ctypes.c_uint64
        self._page_address = word(page + abi.STORE_OFFSET)
        self._call = _function(slow.doorbell_call, None, word, ctypes.c_void_p)
        self._run = slow.doorbell_run
        self._run.restype = word  # and no argument types: its one argument needs no conversion
        self.wake = _function(quick.doorbell_wake, None, word)
        self._call3 = _function(quick.doorbell_call3, word, word, word, word, word, word)
        self._counters = (
            _function(quick.virtual_counter, word),
            _function(quick.physical_counter, word),
        )
        self.frequency: int = _function(quick.counter_frequency, word)()
        self._check(Call.PROBE, self.call(Call.PROBE, *DRIVER_VERSION))

    def call(self, call: Call, *arguments: int) -> Results:
        frame = (ctypes.c_uint64 * 8)(smc64(call), *arguments)
        self._call(self._page_address, ctypes.addressof(frame))
        return frame[0], frame[1], frame[2], frame[3]

    def runner(self, vcpu: int, page_address: int, shared_address: int) -> Callable[[], int]:
        entry = (ctypes.c_uint64 * 4)(self._page_address.value, vcpu, page_address, shared_address)
        return partial(self._run, ctypes.byref(entry))

    def irq_line(self, vcpu: int, number: int, level: int) -> int:
        return self._call3(self._page_address, _IRQ_LINE, vcpu, number, level)

    def counter(self, physical: bool) -> int:
        return self._counters[physical]()

    def _check(self, call: Call, results: Results) -> None:
        if results[0]:
            raise CallError(call, results[0])


_IRQ_LINE = smc64(Call.IRQ_LINE)


def find(tree: Path = TREE) -> tuple[int, int]:
    """Physical address and size of the doorbell page by the host's device tree."""
    node = tree / abi.NODE
    try:
        compatible = (node / "compatible").read_bytes().split(b"\0")
        data = (node / abi.PROPERTY).read_bytes()
    except FileNotFoundError:
        raise DriverError(
            "no hypervisor below this kernel (its device tree has no doorbell); start it on the core"
        ) from None
    except OSError as error:
        raise DriverError(f"cannot read {error.filename}: {error.strerror}") from None
    if not {name.encode() for name in abi.COMPATIBLE} & set(compatible) or len(data) != 16:
        raise DriverError(f"the device tree's node {abi.NODE} is not one of a core that has a doorbell")
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big")


def _map(address: int, size: int) -> mmap.mmap:
    # O_SYNC: device memory, so that each store reaches the page as it was written.
    try:
        fd = os.open("/dev/mem", os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(f"cannot open /dev/mem: {error.strerror}; guests need root") from None
    try:
        return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=address)
    except OSError as error:
        raise DriverError(f"cannot map the doorbell at {address:#x}: {error.strerror}") from None
    finally:
        os.close(fd)


def _function(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype = result
    function.argtypes = arguments
    return function
