# SPDX-License-Identifier: Apache-2.0
"""What a VM holds, written down in /run for whoever has to clean up: a file per VM, gone with the VM.

/run is empty after a start of the host, as the core is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

RUN = Path("/run/gz")


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by its start time (clock ticks since boot)."""

    pid: int
    started: int

    @staticmethod
    def of(pid: int) -> Process | None:
        """None if there is no such process, or only its zombie."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text.rpartition(")")[2].split()  # from field 3 on (proc(5)); the name may hold anything
        return None if fields[0] in "ZX" else Process(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self


@dataclass(frozen=True)
class Record:
    """`vmid` is None before CREATE_VM. `pages`: the directory of the VM's huge page files."""

    vmm: Process
    custodian: Process
    vmid: int | None
    pages: str

    def save(self, path: Path) -> None:
        """Replaces the file in one step."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        os.replace(new, path)

    @staticmethod
    def load(path: Path) -> Record | None:
        """None if there is no whole record."""
        try:
            data = json.loads(path.read_text())
            return Record(Process(**data["vmm"]), Process(**data["custodian"]), data["vmid"], data["pages"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


@contextmanager
def locked(run: Path) -> Generator[None]:
    """Keeps other VMMs from starting or cleaning up meanwhile."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
