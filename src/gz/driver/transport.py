# SPDX-License-Identifier: Apache-2.0
"""What carries a guest: the core below this host, by its doorbell or by the kernel's gzvm driver, or the host's kernel
by /dev/kvm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gz.abi import device as gzvm
from gz.abi import doorbell, kvm
from gz.driver.doorbell import TREE
from gz.driver.interface import DriverError, Vm

Log = Callable[[str], object]


# Only what is used is imported: in an emulated host that saves a noticeable part of a guest's start.
def _open_doorbell(log: Log) -> Vm:
    from gz.driver.vm import open_vm

    return open_vm(log)


def _open_kvm(log: Log) -> Vm:
    from gz.driver.kvm import open_kvm

    return open_kvm(log)


def _open_gzvm(log: Log) -> Vm:
    from gz.driver.gzvm import open_gzvm

    return open_gzvm(log)


AUTO = "auto"
TRANSPORTS: dict[str, Callable[[Log], Vm]] = {"doorbell": _open_doorbell, "gzvm": _open_gzvm, "kvm": _open_kvm}


def open_guest(transport: str, log: Log) -> Vm:
    """A new, empty VM by the transport of that name, or by the one that this host has. `log` takes one line for
    people. DriverError if there cannot be one."""
    return TRANSPORTS[choose() if transport == AUTO else transport](log)


def choose(tree: Path = TREE, device: Path = Path(kvm.PATH), driver: Path = Path(gzvm.PATH)) -> str:
    """The core's doorbell first. DriverError if there is none of them."""
    if (tree / doorbell.NODE / doorbell.PROPERTY).exists():
        return "doorbell"
    if driver.exists():
        return "gzvm"
    if device.exists():
        return "kvm"
    raise DriverError(
        f"nothing here can carry a guest: this host's device tree has no doorbell of the core, and there is no {device}"
    )
