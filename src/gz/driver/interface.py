# SPDX-License-Identifier: Apache-2.0
"""What a VMM may ask of a hypervisor, whatever carries the question: doorbell, /dev/gzvm or /dev/kvm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gz.abi.calls import Call
from gz.abi.devices import DeviceType
from gz.abi.errors import Error, errno_of, status
from gz.abi.memory import Access, Purpose

INTERRUPTED = 0
"""`Vcpu.enter` came back because of `Vcpu.kick`."""


class DriverError(Exception):
    """The host cannot carry guests, or not this one; the text says why and what to do."""


class CallError(DriverError):
    """A hypercall that failed. `errno` is what the kernel's driver would have given."""

    def __init__(self, call: Call, x0: int) -> None:
        value = status(x0)
        name = next((error.name for error in Error if error == value), f"status {value}")
        super().__init__(f"{call.name} failed: {name}")
        self.call = call
        self.status = value
        self.errno = errno_of(x0)


class Vcpu(Protocol):
    """A virtual CPU. One thread runs it; any thread may kick it."""

    index: int
    page: memoryview
    """The run page (`gz.abi.run.RunPage`), valid after `enter` until the next one."""

    again: Callable[[], int]
    """`enter` once more: gives ExitReason.MMIO, or what `settle` makes one of the others of. The frequent way."""

    def enter(self) -> int:
        """Runs the guest until there is something for the VMM: an `ExitReason`, or INTERRUPTED."""
        ...

    def settle(self, reason: int) -> int:
        """What `enter` gives for an answer of `again`; may run the guest."""
        ...

    def set_register(self, register: int, value: int) -> None:
        """`register`: an id of `gz.abi.registers`."""
        ...

    def get_register(self, register: int) -> int: ...

    def kick(self) -> None:
        """Makes the `enter` that goes on, or else the next one, return INTERRUPTED."""
        ...


class Vm(Protocol):
    """A virtual machine, made in the order of gzvm: memory, devices, vCPUs, tree, registers, run."""

    def add_memory(self, slot: int, gpa: int, size: int, purpose: Purpose) -> memoryview:
        """Gives the guest `size` bytes at `gpa`, both multiples of 2 MiB; they come writable, all zero."""
        ...

    def set_access(self, slot: int, access: Access) -> bool:
        """What the guest does in the slot by itself from now on, its vCPUs running or not; what it may not is an MMIO
        exit. False: this carrier cannot, and the slot stays as it is."""
        ...

    def create_device(self, kind: DeviceType, base: int, size: int) -> None: ...

    def create_vcpu(self, index: int) -> Vcpu: ...

    def enable_capability(self, capability: int, *arguments: int) -> int:
        """Gives the capability's answer."""
        ...

    def set_dtb(self, gpa: int, size: int) -> None: ...

    def irq_line(self, spi: int, level: int) -> None:
        """Drives the line of an SPI, numbered from 0 (INTID 32)."""
        ...

    def irqfd(self, fd: int, spi: int) -> None:
        """Each event on the eventfd `fd` raises the SPI once."""
        ...

    def ioeventfd(self, address: int, size: int, fd: int, data: int | None = None) -> None:
        """Guest writes of `size` bytes (0: any) at `address` (of the value `data`, if given) signal the
        eventfd `fd` and do not reach the VMM."""
        ...

    def close(self) -> None:
        """Destroys the VM and gives all its memory back. Its vCPUs must not be running."""
        ...
