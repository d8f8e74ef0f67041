# SPDX-License-Identifier: Apache-2.0
"""Host VMs for tests: Debian on the core, with ways to run commands and guests in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gz.board.board import Board
from gz.board.channel import Completed, Process
from gz.board.errors import BoardError
from gz.board.guest import command_archive, guest_initrd, guest_kernel
from gz.board.host_vm import Software
from gz.board.qemu import Disk
from gz.board.vmm import LOUD, QUIET, TO_ERRORS, Guest, start_command
from gz.cli import products

MEMORY = 2048
BOOT_TIMEOUT = 240  # seconds; this machine may be slow and busy
GUEST_TIMEOUT = 240


@dataclass
class Host:
    """A host VM on the core."""

    board: Board
    software: Software
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, *argv: str, timeout: float = 60, stdin: bytes = b"") -> Completed:
        """A command in the host VM."""
        return self.board.run(list(argv), timeout=timeout, stdin=stdin)

    def shell(self, script: str, timeout: float = 60) -> str:
        """What the script printed; it must succeed."""
        done = self.run("sh", "-ec", script, timeout=timeout)
        assert done.status == 0, (script, done)
        return done.text

    def initrd(self, argv: Sequence[str]) -> str:
        """The default guest's root file system, as a file in the host VM; without a command it ends in a shell."""
        path = f"/run/test/initrd{next(self.numbers)}"
        self.board.host.put(path, guest_initrd(self.software).read_bytes() + (command_archive(argv) if argv else b""))
        return path

    def start(
        self,
        *argv: str,
        cpus: int = 1,
        memory: int = 256,
        disks: Sequence[str] = (),
        params: str = "",
        loud: bool = False,
    ) -> Process:
        """Start a guest that runs a command. `disks` are files of the host VM."""
        guest = Guest(
            self.board.disk("gz-kernel"),
            self.initrd(argv),
            cpus,
            memory,
            f"{LOUD if loud else QUIET} {params}".strip(),
            disks,
        )
        return start_command(self.board.host, guest, TO_ERRORS)

    def guest(self, *argv: str, stdin: bytes = b"", timeout: float = GUEST_TIMEOUT, **options: Any) -> Completed:
        """Run a command in a guest to its end."""
        process = self.start(*argv, **options)
        process.write(stdin)
        process.end_input()
        return process.wait(timeout)

    def huge_pages(self) -> int:
        """Pages of 2 MiB that a VM has, or had and has not given back: 0 when no guest runs."""
        pool = "/sys/kernel/mm/hugepages/hugepages-2048kB"
        return int(self.shell(f"cat {pool}/nr_hugepages").strip())


class Boards:
    """The boards of the session by CPU count and model; two at most are up at a time."""

    LIMIT = 2

    def __init__(self) -> None:
        self.software = Software()
        self.up: dict[tuple[int, str], Host] = {}

    def host(self, cpus: int = 2, cpu: str = "cortex-a76") -> Host:
        """A host VM that answers; one that died is replaced."""
        key = cpus, cpu
        host = self.up.pop(key, None)
        if host and not answers(host):
            host.board.stop()
            host = None
        if host is None:
            while len(self.up) >= self.LIMIT:
                self.up.pop(next(iter(self.up))).board.stop()
            board = Board(
                core=products.core(),
                compiled=products.libraries(),
                cpus=cpus,
                cpu=cpu,
                memory=MEMORY,
                disks=[Disk(guest_kernel(self.software), "gz-kernel", True)],
                software=self.software,
                boot_timeout=BOOT_TIMEOUT,
            )
            host = Host(board, self.software)
        self.up[key] = host
        return host

    def stop(self) -> None:
        for host in self.up.values():
            host.board.stop()
        self.up.clear()


def answers(host: Host) -> bool:
    try:
        return host.run("true", timeout=20).status == 0
    except (BoardError, TimeoutError):
        return False
