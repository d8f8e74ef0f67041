# SPDX-License-Identifier: Apache-2.0
"""Memory whose physical addresses the core may know: huge pages, which stay where they are."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gz.abi.memory import BLOCK_SIZE
from gz.abi.run import PAGE_SIZE
from gz.driver.interface import DriverError

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
HUGE_MOUNT = Path("/run/gz/huge")
MEMINFO = Path("/proc/meminfo")

_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1
"""A pagemap entry (Linux, Documentation/admin-guide/mm/pagemap.rst)."""


class Block(Protocol):
    """Memory that does not move."""

    view: memoryview
    address: int
    """This process's address of it."""

    def physical(self, offset: int) -> int:
        """Host-physical address of a byte; contiguous up to the next multiple of 2 MiB of `offset`."""
        ...

    def close(self) -> None:
        """Unmaps it once no view is left."""
        ...


class Pages(Protocol):
    """Where blocks come from; all of one VM, and all given back by one `custodian`."""

    def allocate(self, name: str, size: int) -> Block:
        """`size` bytes, a multiple of 2 MiB, all zero."""
        ...


class HugeFile:
    """A file of 2 MiB pages. The pages are reserved at once and filled in when first touched."""

    def __init__(self, path: Path, size: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self._mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise DriverError(
                    f"the host cannot set {size >> 20} MiB aside in huge pages;"
                    " give the guest less memory or the host more"
                ) from None
            raise DriverError(f"cannot map {size >> 20} MiB of huge pages: {error.strerror}") from None
        finally:
            os.close(fd)
        self.view = memoryview(self._mapping)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self._frames: dict[int, int] = {}

    def physical(self, offset: int) -> int:
        block = offset // BLOCK_SIZE
        frame = self._frames.get(block)
        if frame is None:
            self.view[block * BLOCK_SIZE]  # a load makes the kernel supply the page
            frame = self._frames[block] = page_frame(self.address + block * BLOCK_SIZE)
        return frame * PAGE_SIZE + offset % BLOCK_SIZE

    def close(self) -> None:
        self.view.release()
        with suppress(BufferError):  # whoever has a view still keeps the mapping until it lets go
            self._mapping.close()


class HugePages:
    """The files of one VM, in `directory` of a hugetlbfs mount."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def allocate(self, name: str, size: int) -> HugeFile:
        return HugeFile(self._directory / name, size)


class AnonymousBlock:
    """Memory of this process that may move: KVM follows it by the page tables. In huge pages where there are any."""

    def __init__(self, size: int) -> None:
        """`size` bytes, all zero, at a multiple of 2 MiB as huge pages want it. DriverError if the host has not so
        many: the kernel would give them, and end some process when the guest touches them."""
        spare = spare_memory()
        if size > spare:
            raise DriverError(
                f"the host has {spare >> 20} MiB to spare, the guest wants {size >> 20};"
                " give the guest less memory or the host more"
            )
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._mapping = mmap.mmap(-1, size + BLOCK_SIZE, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise DriverError(f"the host has no {size >> 20} MiB for the guest: {error.strerror}") from None
        with suppress(OSError):  # a kernel without them
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        skipped = -start % BLOCK_SIZE
        self.address = start + skipped
        self._whole = memoryview(self._mapping)
        self.view = self._whole[skipped : skipped + size]

    def close(self) -> None:
        """Unmaps it once no view is left."""
        self.view.release()
        self._whole.release()
        with suppress(BufferError):  # whoever has a view still keeps the mapping until it lets go
            self._mapping.close()


class SharedBlock:
    """Memory of this process in one mapping of just this size, as the kernel's gzvm driver asks for. Shared, so that no
    page of it is the kernel's page of zeros when the driver looks for where it lies."""

    def __init__(self, size: int) -> None:
        """`size` bytes, all zero. DriverError if the host has not so many."""
        try:
            self._mapping = mmap.mmap(-1, size)
        except OSError as error:
            raise DriverError(f"the host has no {size >> 20} MiB for the guest: {error.strerror}") from None
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self.view = memoryview(self._mapping)

    def close(self) -> None:
        """Unmaps it once no view is left."""
        self.view.release()
        with suppress(BufferError):  # whoever has a view still keeps the mapping until it lets go
            self._mapping.close()


class Arena:
    """Small zeroed pieces of one block, for what calls name by physical address."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._next = 0

    def take(self, size: int) -> tuple[memoryview, int, int]:
        """Whole contiguous pages: their bytes, this process's address, the physical address."""
        offset = self._next
        self._next = -(-(offset + size) // PAGE_SIZE) * PAGE_SIZE
        assert self._next <= BLOCK_SIZE, "an arena is one huge page"
        block = self._block
        return block.view[offset : offset + size], block.address + offset, block.physical(offset)

    def close(self) -> None:
        self._block.close()


def spare_memory() -> int:
    """Bytes that processes can still have without others losing theirs: memory and swap space."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return sum(int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))


def page_frame(address: int) -> int:
    """The frame number behind an address of this process. DriverError if the kernel does not tell."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entry = struct.unpack("=Q", os.pread(pagemap.fileno(), 8, address // PAGE_SIZE * 8))[0]
    if not entry & _PRESENT or not entry & _FRAME:
        raise DriverError("the kernel does not tell physical addresses; guests need root")
    return entry & _FRAME


def prepare_huge_pages() -> Path:
    """Mounts hugetlbfs and lets it take pages as needed and give them back; gives the mount point."""
    limit = POOL / "nr_overcommit_hugepages"
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // BLOCK_SIZE
        if int(limit.read_text()) < total:
            limit.write_text(str(total))
    except FileNotFoundError:
        raise DriverError("the host's kernel has no huge pages of 2 MiB") from None
    except OSError as error:
        raise DriverError(f"cannot set {limit}: {error.strerror}; guests need root") from None
    HUGE_MOUNT.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.path.ismount(HUGE_MOUNT):
        _mount("hugetlbfs", HUGE_MOUNT, "hugetlbfs", "pagesize=2M,mode=0700")
    return HUGE_MOUNT


def _mount(source: str, target: Path, kind: str, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), bytes(target), kind.encode(), 0, options.encode()) != 0:
        raise DriverError(f"cannot mount {kind} at {target}: {os.strerror(ctypes.get_errno())}")
