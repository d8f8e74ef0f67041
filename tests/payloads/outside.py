# SPDX-License-Identifier: Apache-2.0
"""The emulated board from outside: its RAM is a file that this process has mapped too, the core's objects in it.

`payloads.remote` is the host; its calls are made from here, and after each one what the core keeps can be compared.
"""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from core.oracle import entry_of
from core.walker import leaves
from emulator import image

from gz.board.qemu import HOST_INITRD, HOST_KERNEL, PROGRAM, RAM
from gz.core.frames import FramePool
from gz.core.memory import RAM_WINDOW
from gz.core.pages import Ownership
from gz.core.stage2 import Stage2
from gz.core.vm import Vm
from payloads.remote import EXCHANGE, Exchange

PAGE = 4096
SIZE = 512 << 20
PATIENCE = 30.0  # seconds that a call may take
CORE_STATE = 3
#: As the core sets it: 40 bits from level 1 on, 4 KiB granule, write-back, inner shareable.
VTCR = 1 << 31 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 24


class Ram:
    """Physical memory of the board."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self.bytes = mmap.mmap(opened.fileno(), SIZE)
        self.words = memoryview(self.bytes).cast("Q")

    def read64(self, pa: int) -> int:
        if pa % 8 == 0:
            return self.words[(pa - RAM) // 8]
        return int.from_bytes(self.read(pa, 8), "little")

    def write64(self, pa: int, value: int) -> None:
        self.words[(pa - RAM) // 8] = value

    def read32(self, pa: int) -> int:
        return int.from_bytes(self.read(pa, 4), "little")

    def write32(self, pa: int, value: int) -> None:
        self.bytes[pa - RAM : pa - RAM + 4] = value.to_bytes(4, "little")

    def write_words(self, pa: int, values: Sequence[int]) -> None:
        self.bytes[pa - RAM : pa - RAM + 8 * len(values)] = struct.pack(f"<{len(values)}Q", *values)

    def read(self, pa: int, size: int) -> bytes:
        return self.bytes[pa - RAM : pa - RAM + size]


class Outside:
    """The board with the core and `payloads.remote` on it."""

    def __init__(self, cpu: str = "cortex-a76", cpus: int = 1) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="gz-outside-", dir="/dev/shm")
        file = Path(self.directory.name) / "ram"
        file.touch()
        core, kernel = image("gz.core"), image("payloads.remote")
        options = ["-machine", "virt,gic-version=3,virtualization=on,memory-backend=ram", "-cpu", cpu, "-m", "512"]
        options += ["-smp", str(cpus)]
        options += ["-object", f"memory-backend-file,id=ram,size=512M,mem-path={file},share=on"]
        options += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", str(core)]
        options += ["-device", f"guest-loader,addr={HOST_KERNEL:#x},kernel={kernel},bootargs=quiet"]
        options += ["-device", f"guest-loader,addr={HOST_INITRD:#x},initrd={kernel}"]
        self.process = subprocess.Popen(
            [PROGRAM, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.said = ""
        assert self.process.stdout is not None
        while "host: ready" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.memory = Ram(file)
        self.cpus, self.calls = cpus, 0
        self.x: list[int] = []
        self._find_objects(core.with_suffix(".elf"))
        self.first = self._entries()

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def _find_objects(self, elf: Path) -> None:
        names = subprocess.run(["nm", str(elf)], capture_output=True, text=True, check=True).stdout
        found = re.search(r"gz: core at (0x[0-9a-f]+)", self.said)
        assert found, self.said
        start = int(found[1], 16)
        symbols = {name: int(value, 16) for value, _, name in (line.split(None, 2) for line in names.splitlines())}

        def place(name: str) -> int:
            return start + symbols[name] - symbols["__image_start"]

        ownership = place("gz.core.pages.ownership")
        bank = ownership + Ownership.offset("banks")
        base, count, entries = struct.unpack("<3Q", self.memory.read(bank, 24))
        assert (base, count) == (RAM, SIZE // PAGE), "one bank"
        self.table, self.table_size = entries - RAM_WINDOW, 2 * count
        self.host_root = self.memory.read64(place("gz.core.host_memory.HOST") + Stage2.offset("root"))
        self.vms = place("gz.core.vm.VMS")
        self.pool_free = place("gz.core.frames.pool") + FramePool.offset("free_count")
        self.frames = self.free_frames

    @property
    def free_frames(self) -> int:
        return self.memory.read64(self.pool_free)

    def _entries(self) -> bytes:
        return self.memory.read(self.table, self.table_size)

    def is_ram(self, pfn: int) -> bool:
        index = pfn - RAM // PAGE
        return 0 <= index < SIZE // PAGE and self.first[2 * index] & 15 != CORE_STATE

    def call(self, *arguments: int) -> int:
        """The status of a call; results are in `x`. Each CPU makes one in turn."""
        memory = self.memory
        words = [*arguments, *([0] * (8 - len(arguments)))]
        memory.write_words(EXCHANGE + Exchange.offset("arguments"), [word & (1 << 64) - 1 for word in words])
        self.calls += 1
        memory.write64(EXCHANGE + Exchange.offset("cpu"), self.calls % self.cpus)
        asked = memory.read64(EXCHANGE) + 1
        memory.write64(EXCHANGE, asked)
        deadline = time.monotonic() + PATIENCE
        while memory.read64(EXCHANGE + Exchange.offset("answered")) != asked:
            time.sleep(0.00005)
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(f"no answer to {[hex(word) for word in words]}: {self.process.communicate()[0]}")
        self.x = list(struct.unpack("<4Q", memory.read(EXCHANGE + Exchange.offset("results"), 32)))
        return self.x[0] - (1 << 64) if self.x[0] >> 63 else self.x[0]

    def entry(self, pa: int) -> int:
        return int.from_bytes(self.memory.read(self.table + 2 * ((pa - RAM) // PAGE), 2), "little")

    def owners(self) -> dict[int, tuple[str, int]]:
        now = self._entries()
        if now == self.first:
            return {}
        entries = struct.unpack(f"<{self.table_size // 2}H", now)
        found = ((RAM // PAGE + index, entry_of(raw)) for index, raw in enumerate(entries) if raw)
        return {pfn: owner for pfn, owner in found if owner}

    def expected(self, owners: dict[int, tuple[str, int]]) -> bool:
        """Whether the whole table says just this."""
        table = bytearray(self.first)
        for pfn, (kind, number) in owners.items():
            raw = {"lent": 1 | number << 8, "shared": 2 | number << 4, "private": 4 | number << 8}[kind]
            at = 2 * (pfn - RAM // PAGE)
            table[at : at + 2] = raw.to_bytes(2, "little")
        return bytes(table) == self._entries()

    def _read(self, pa: int) -> int:
        return self.memory.read64(pa)

    def missing(self) -> set[int]:
        gone: set[int] = set()
        seen = RAM // PAGE
        for ipa, pa, size, _ in leaves(self._read, VTCR, self.host_root):
            assert ipa == pa
            gone.update(range(seen, min(ipa, RAM + SIZE) // PAGE))
            seen = max(seen, (ipa + size) // PAGE)
        return {pfn for pfn in gone if self.is_ram(pfn)}

    def mapped(self, vmid: int) -> dict[int, int]:
        root = self.memory.read64(self.vms + (vmid - 1) * Vm.size + Vm.offset("stage2") + Stage2.offset("root"))
        return {
            (ipa + at) // PAGE: (pa + at) // PAGE
            for ipa, pa, size, _ in leaves(self._read, VTCR, root)
            for at in range(0, size, PAGE)
        }
