# SPDX-License-Identifier: Apache-2.0
"""`python3 -m gz.vmm`: a guest with its consoles on this terminal.

Exit status: 0 if the guest powered off, or what it wrote to its status port; 1 if it could not be started or
failed; 2 for a wrong command line; 128 + n if signal n ended it."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

from gz.driver.interface import DriverError
from gz.driver.transport import open_guest
from gz.vmm.exits import End, Ending
from gz.vmm.firmware import Variables, create_variables
from gz.vmm.loader import LoadError
from gz.vmm.machine import Machine, Streams
from gz.vmm.options import STATUS, Options, UsageError, open_port, parse
from gz.vmm.signals import Interrupted, Signals
from gz.vmm.streams import Output
from gz.vmm.terminal import Size, Terminal, size_in
from gz.vmm.virtio.block import DiskError
from gz.vmm.virtio.console import Port

FLUSH_SECONDS = 5.0
"""How long a reader that does not read may delay the end after a signal."""


class StatusPort:
    """Collects the decimal number the guest writes."""

    def __init__(self, name: str) -> None:
        self._from_guest, to_me = os.pipe()
        os.set_blocking(self._from_guest, False)
        self.output = Output(to_me, name)
        self.port = Port(name, None, self.output)

    def value(self) -> int | None:
        """The exit status; None if the guest wrote none that is one."""
        self.output.close()
        try:
            text = os.read(self._from_guest, 64).strip()
        except BlockingIOError:
            return None
        return int(text) if text.isdigit() and int(text) < 256 else None


def log(line: str) -> None:
    """One line for people, on a terminal that may be in raw mode."""
    end = "\r\n" if sys.stderr.isatty() else "\n"
    sys.stderr.write(f"gz: {line}{end}")
    sys.stderr.flush()


def main() -> int:
    options = parse()
    signals = Signals()
    try:
        return _run(options, signals)
    except (DriverError, LoadError, DiskError, UsageError) as error:
        log(str(error))
        return 1
    except Interrupted as signalled:
        log(f"ended by {signal.Signals(signalled.number).name}")
        return 128 + signalled.number


def _run(options: Options, signals: Signals) -> int:
    output = Output(1, "console")
    status = next((StatusPort(option.name) for option in options.ports if option.kind == STATUS), None)
    outputs = [output]
    terminal = None
    patience: float | None = FLUSH_SECONDS
    try:
        if os.isatty(0):
            terminal = Terminal(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
        size = None
        if options.size_file is not None:
            size = Size(partial(size_in, options.size_file))
        elif terminal is not None:
            size = Size(lambda: os.get_terminal_size(0))
        streams = Streams(output, terminal.fd if terminal else 0, options.consoles, size)
        with signals.heeded():  # opening a pipe may take for ever
            ports = [status.port if status and option.kind == STATUS else open_port(option) for option in options.ports]
        outputs += [port.output for port in ports if port.output is not None]
        end = _live(options, streams, ports, signals)
        patience = None
    finally:
        signals.leave(signal.SIG_DFL if patience is None else signal.SIG_IGN)
        for stream in outputs:
            stream.close(patience)
        if terminal is not None:
            terminal.close()
    if end.ending is Ending.FAILED:
        log(end.why)
        return 1
    if status is None:
        return 0
    value = status.value()
    if value is None:
        log(f"the guest {end.ending.value} without saying how it went")
        return 1
    return value


def _live(options: Options, streams: Streams, ports: list[Port], signals: Signals) -> End:
    """The guest's lives: a reset starts the next one from nothing but what firmware stored. Gives how the last one
    ended."""
    plan = options.plan
    variables = None
    if plan.firmware is not None:
        if plan.variables is not None:
            create_variables(Path(plan.variables), Path(plan.firmware))
        variables = Variables(plan.variables, plan.machine.flash_size)
    while True:
        vm = open_guest(options.transport, log)
        machine = None
        try:
            with signals.heeded():
                machine = Machine(vm, plan, streams, ports, log, variables)
                end = machine.run()
        finally:
            if machine is not None:
                machine.close()
            del machine
            vm.close()
        with signals.heeded():  # one that came meanwhile ends the waiting for readers too, and there is no next life
            if end.ending is not Ending.RESET or any(port.kind == STATUS for port in options.ports):
                return end  # a command is not run twice


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads that wait for a reader or a key must not keep the process.
    os._exit(code)
