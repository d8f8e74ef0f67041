# SPDX-License-Identifier: Apache-2.0
"""`gz debug`: gdb on the core, with its symbols, its sources and the way through the vectors."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gz.board.host_vm import Software
from gz.board.qemu import Machine, Qemu, require_qemu
from gz.cli import inputs, products
from gz.cli.board import Record, current
from gz.cli.develop import source_tree
from gz.cli.report import UserError, progress, say
from gz.metal.build import BuildError, symbols

GDB = "gdb-multiarch"
SCRIPT = Path(__file__).with_name("gdb_script.py")
MEMORY = 2048  # MiB
HINTS = "break gz.core.host.sync, continue, backtrace, info locals; gz-world tells who runs below the core"


def debug_core(arguments: Sequence[str], *, payload: str | None, cpu: str, cpus: int) -> int:
    """gdb's exit status. A board started for it ends with it."""
    if shutil.which(GDB) is None:
        raise UserError(f"{GDB} is not installed: apt install {GDB}")
    if record := current():
        if payload:
            raise UserError("a board is up already, and no payload runs on it; end it with gz board down")
        core, target = of_board(record)
        return run_gdb(symbols_of(core), target, arguments)
    qemu = Qemu(machine(payload, cpu, cpus))
    try:
        assert qemu.machine.core is not None
        say(f"the board waits at its first instruction; its console goes to {qemu.directory / 'console.log'}")
        return run_gdb(symbols_of(qemu.machine.core), str(qemu.directory / "gdb"), arguments)
    finally:
        qemu.stop()


def machine(payload: str | None, cpu: str, cpus: int) -> Machine:
    """A board that waits for gdb: with Debian as the host, or with `payloads.host` and its guest."""
    require_qemu()
    inputs.room()
    with progress() as step:
        step("compiling the core")
        core = products.core()
        if payload:
            kernel, initrd = (products.payload(name).flat for name in ("host", payload))
        else:
            step("building the host's file system")
            host = Software().host(products.libraries())
            kernel, initrd = host.kernel, host.initrd
    return Machine(kernel, initrd, core=core, cpu=cpu, cpus=cpus, memory=MEMORY, halted=True)


def of_board(record: Record) -> tuple[Path, str]:
    """The image of the core that a board runs, and where its QEMU listens for gdb: QEMU's own options."""
    if not record.core:
        raise UserError("the board that is up runs without the core")
    words = Path(f"/proc/{record.pid}/cmdline").read_text().split("\0")
    core = Path(words[words.index("-kernel") + 1])
    if not core.with_suffix(".elf").exists():
        raise UserError(f"the core's symbols are gone: {core.with_suffix('.elf')}; start the board again")
    where = words[words.index("-gdb") + 1]
    return core, where if where.startswith("tcp:") else str(record.path / "gdb")


def symbols_of(core: Path) -> Path:
    """The ELF file of a core's image, with lines and variables unless the sources have changed since."""
    with progress() as step:
        step("compiling the core for the debugger")
        try:
            found, whole = symbols(core)
        except BuildError as error:
            raise UserError(f"the core does not compile:\n{error}") from None
    if not whole:
        say("the sources are not those of this core: functions have names, but no lines and variables")
    return found


def run_gdb(core: Path, target: str, arguments: Sequence[str]) -> int:
    root = source_tree()
    command = [GDB, "-nx", "-q", str(core)]
    for text in (f"directory {root}:{root / 'src'}", f"source {SCRIPT}", f"target remote {target}"):
        command += ["-ex", text]
    if "-batch" not in arguments:
        say(f"try: {HINTS}")
    # Ctrl-C is gdb's: it stops the machine. A handler of ours, unlike ignoring, does not reach the child.
    signal.signal(signal.SIGINT, go_on)
    return subprocess.call([*command, *arguments])


def go_on(_: int, __: FrameType | None) -> None:
    """The signal was for somebody else."""
