# SPDX-License-Identifier: Apache-2.0
"""What the KVM transport needs of the host's kernel: ioctls, a vCPU's shared page, and the compiled loop."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gz.abi.kvm import PATH, KvmRequest
from gz.bits.layout import Struct
from gz.bits.view import address_of
from gz.driver.doorbell import LIBRARY
from gz.driver.interface import DriverError


class KvmError(DriverError):
    """An ioctl of /dev/kvm that failed; `errno` says why."""

    def __init__(self, request: KvmRequest, number: int) -> None:
        super().__init__(f"KVM_{request.name} failed: {os.strerror(number)}")
        self.request = request
        self.errno = number


class Kernel(Protocol):
    def ioctl(self, file: int, request: int, argument: int | bytearray) -> int:
        """An argument in memory is updated. OSError."""
        ...

    def share(self, file: int, size: int) -> memoryview:
        """The pages that a vCPU's file shares; `close` of the file does not unmap them."""
        ...

    def runner(self, vcpu: int, run: memoryview, page: memoryview) -> Callable[[], int]:
        """`gz.driver.kvm_run.kvm_run` on a vCPU's file, its shared page and its gzvm run page."""
        ...

    def close(self, file: int) -> None: ...


class Linux:
    """The kernel of this host. DriverError if the driver's compiled part is not there."""

    def __init__(self, library: Path = LIBRARY) -> None:
        if not library.exists():
            raise DriverError(f"{library} is missing: the installation is incomplete")
        word = ctypes.c_uint64
        self._run: Any = ctypes.CDLL(str(library)).kvm_run  # lets other threads run meanwhile
        self._run.restype, self._run.argtypes = ctypes.c_int64, (word, word, word)

    def open(self, path: str = PATH) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DriverError(f"cannot open {path}: {error.strerror}") from None

    def ioctl(self, file: int, request: int, argument: int | bytearray) -> int:
        return fcntl.ioctl(file, request, argument)

    def share(self, file: int, size: int) -> memoryview:
        return memoryview(mmap.mmap(file, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))

    def runner(self, vcpu: int, run: memoryview, page: memoryview) -> Callable[[], int]:
        arguments = (vcpu, address_of(run), address_of(page))
        return partial(self._run, *map(ctypes.c_uint64, arguments))

    def close(self, file: int) -> None:
        os.close(file)


def filled(layout: type[Struct], **values: int) -> bytearray:
    """A structure for an ioctl; what is not given is zero."""
    memory = bytearray(layout.size)
    view = layout.view(memory)
    for name, value in values.items():
        setattr(view, name, value)
    return memory
