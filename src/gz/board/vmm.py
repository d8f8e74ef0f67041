# SPDX-License-Identifier: Apache-2.0
"""Starting the VMM in the host VM, with a guest's streams on a command's or on a console's."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from gz.board.channel import Channel, Process

# A shell hands the streams on: 3, 4 and 5 are the command's, the guest's console goes where $0 says.
WITH_PORTS = 'exec 3<&0 4>&1 5>&2 </dev/null >"$0" 2>&5 && exec python3 -m gz.vmm "$@"'
PORTS = ("gz.stdin=fd:3", "gz.stdout=fd:4", "gz.stderr=fd:5", "gz.status=status")
TO_ERRORS = "/proc/self/fd/5"
NOWHERE = "/dev/null"

SIZE_FILE = "/run/gz.size"
"""In the host VM, of the one terminal that shows a console."""

# The last console named is where the user types. hvc0 carries whole lines, the UART single characters, each an
# exit to the VMM; only the UART shows what happens before the kernel has loaded its modules.
QUIET = "console=ttyAMA0 console=hvc0 quiet loglevel=1 panic=-1"
LOUD = "console=ttyAMA0 panic=-1"


@dataclass(frozen=True)
class Guest:
    """`kernel`, `firmware` or both, `variables`, `initrd` and `disks` ("PATH" or "PATH,ro") are the host VM's files;
    `memory` in MiB."""

    kernel: str | None = None
    initrd: str | None = None
    cpus: int = 1
    memory: int = 512
    params: str = QUIET
    disks: Sequence[str] = ()
    protected: bool = False
    machine: str = "virt"
    firmware: str | None = None
    variables: str | None = None
    pvmfw: bool = False

    def options(self) -> list[str]:
        """The VMM's options for it."""
        options = ["--machine", self.machine, "--cpus", str(self.cpus), "--mem", f"{self.memory}M"]
        options += ["--params", self.params]
        if self.kernel is not None:
            options += ["--kernel", self.kernel]
        if self.firmware is not None:
            options += ["--firmware", self.firmware]
        if self.variables is not None:
            options += ["--vars", self.variables]
        if self.initrd is not None:
            options += ["--initrd", self.initrd]
        if self.protected:
            options += ["--protected"]
        if self.pvmfw:
            options += ["--pvmfw"]
        for disk in self.disks:
            options += ["--disk", disk]
        return options


def start_command(host: Channel, guest: Guest, console: str = NOWHERE) -> Process:
    """The guest runs the command in its root file system; its streams and status are the process's."""
    ports = [word for port in PORTS for word in ("--port", port)]
    return host.start(["sh", "-c", WITH_PORTS, console, *guest.options(), *ports])


def start_console(host: Channel, guest: Guest, size: tuple[int, int] | None = None) -> Process:
    """The guest's console is on the process's standard streams, which a terminal of `size`, columns and rows, shows."""
    command = ["python3", "-m", "gz.vmm", *guest.options()]
    if size is None:
        return host.start(command)
    host.put(SIZE_FILE, size_text(size))
    return host.start([*command, "--size-file", SIZE_FILE])


def resize_console(host: Channel, process: Process, size: tuple[int, int]) -> None:
    """Tells the VMM, whose guest's console the terminal shows, that this has another size now."""
    host.put(SIZE_FILE, size_text(size))
    process.signal(signal.SIGWINCH)


def size_text(size: tuple[int, int]) -> bytes:
    return b"%d %d\n" % size
