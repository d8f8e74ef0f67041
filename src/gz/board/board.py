# SPDX-License-Identifier: Apache-2.0
"""A running board: QEMU, the core if one is given, the host VM, and the channel to its agent.

with Board(cpus=2, core=image) as board:
    print(board.run(["uname", "-a"]).text)
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from gz.board.channel import Channel, Completed
from gz.board.errors import BoardError
from gz.board.host_vm import Software
from gz.board.qemu import BootGuest, Disk, Machine, Qemu

BOOTARGS = "console=ttyAMA0 panic=-1"
BOOT_TIMEOUT = 180.0  # seconds
GREETING_TIMEOUT = 0.2
END_TIMEOUT = 2.0

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Shows no progress."""


class Board:
    """`cpus` of `cpu`, `memory` in MiB, the user's `disks`; `compiled` are files for the host's /opt/gz by
    name.

    `core` is the arm64 Image of the core, which starts the `guests` by itself; None boots the host on the
    bare machine. With `icount` virtual nanoseconds are instructions (-icount shift=0) and everything random is the same
    every time (-seed 1)."""

    def __init__(
        self,
        *,
        core: Path | None = None,
        cpus: int = 2,
        memory: int = 2048,
        cpu: str = "cortex-a76",
        disks: Sequence[Disk] = (),
        compiled: Mapping[str, bytes] | None = None,
        icount: bool = False,
        bootargs: str = "",
        virtualization: bool = True,
        gdb: int | None = None,
        survive: bool = False,
        boot_timeout: float = BOOT_TIMEOUT,
        guests: Sequence[BootGuest] = (),
        software: Software | None = None,
        progress: Progress = silent,
    ) -> None:
        if software is None:
            progress("fetching Debian packages")
            software = Software()
        self.software = software
        progress("building the host's file system")
        host = self.software.host(compiled)
        self.machine = Machine(
            host.kernel,
            host.initrd,
            f"{BOOTARGS} {bootargs}".strip(),
            core,
            cpus,
            memory,
            cpu,
            disks,
            icount,
            virtualization,
            gdb,
            guests=guests,
        )
        progress("starting QEMU")
        self.qemu = Qemu(self.machine, survive=survive)
        self.channel: Channel | None = None
        try:
            progress("booting the host VM")
            self.channel = self._connect(boot_timeout)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        why = self.last_words() if isinstance(error, BoardError) else None
        self.stop()
        if why:
            raise BoardError(why) from None

    @property
    def host(self) -> Channel:
        """The channel to the agent; BoardError once the board has stopped."""
        if self.channel is None:
            raise BoardError("the board is not running")
        return self.channel

    def run(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: dict[str, str] | None = None,
    ) -> Completed:
        """Run a command in the host VM to its end."""
        return self.host.run(argv, stdin=stdin, timeout=timeout, env=env)

    def python(self, source: str, *, timeout: float | None = None) -> Completed:
        """Run Python source in the host VM, with this package importable."""
        return self.run(["python3", "-c", source], timeout=timeout)

    def disk(self, serial: str) -> str:
        """The block device in the host VM of the disk with this serial."""
        found = self.run(
            [
                "sh",
                "-c",
                'cd /sys/block; for d in *; do [ "$(cat $d/serial 2>/dev/null)" = "$0" ] && echo $d; done; true',
                serial,
            ]
        ).text.split()
        if not found:
            raise BoardError(f"the host VM has no disk {serial}")
        return f"/dev/{found[0]}"

    def stop(self) -> None:
        """Power everything off; nothing of the board is left. Does nothing the second time."""
        if self.channel:
            self.channel.close()
            self.channel = None
        self.qemu.stop()

    def _connect(self, timeout: float) -> Channel:
        channel = Channel(self.qemu.control)
        try:
            deadline = time.monotonic() + timeout
            while not self._greeted(channel):
                if time.monotonic() > deadline:
                    last = self.qemu.console_text().strip().rpartition("\n")[2].strip() or "nothing on its console"
                    raise BoardError(f"the host VM did not come up within {timeout:g} s; its last words: {last}")
        except BaseException:
            channel.close()
            raise
        return channel

    def _greeted(self, channel: Channel) -> bool:
        try:
            if channel.hello(GREETING_TIMEOUT):
                return True
        except BoardError:
            pass  # the connection is gone because QEMU is
        else:
            if self.qemu.running() and not any(sign in self.qemu.console_text() for sign in FATAL):
                return False
        raise BoardError(self.last_words() or "the board stopped while booting")

    def last_words(self) -> str | None:
        """Why the board stopped by what its console says; None if it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.qemu.process.wait(END_TIMEOUT)  # it may be about to
        lines = [line.strip() for line in self.qemu.console_text().splitlines() if line.strip()]
        for before, line in pairwise(["", *lines]):
            if any(sign in line for sign in FATAL):
                # The core says first what and where, then that it panics.
                reason = f"{before}; {line}" if line.startswith(CORE_PANIC) else line
                return f"the board stopped: {reason}"
        if self.qemu.running():
            return None
        return f"the board stopped: {lines[-1] if lines else self.qemu.complaint()}"


# On the console, from the core and from Linux: nothing comes after these.
CORE_PANIC = "core panic:"
FATAL = ("Kernel panic - not syncing", CORE_PANIC)
