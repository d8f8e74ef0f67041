# SPDX-License-Identifier: Apache-2.0
"""The custodian: a process beside each VMM that outlives it and gives the VM's memory back.

The core keeps a guest's pages until DESTROY_VM, whatever becomes of the VMM, and the pages must not return to
the host's kernel before. So the custodian, not the VMM, creates the VM, and destroys it when the VMM asks or
is gone; then it removes the huge page files, which until then keep the pages even if nobody has them mapped.
Should the custodian die, the VMM does its work; should both, the next VMM that starts, by the record in
/run."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gz.abi.calls import DESTROY_BATCH_PAGES, VCPUS_MAX, Call, VcpuTuple
from gz.abi.errors import Error, status
from gz.driver.doorbell import Core
from gz.driver.interface import CallError, DriverError
from gz.driver.record import RUN, Process, Record, locked

_ANSWER = struct.Struct("<qH")
"""x0 and vmid of CREATE_VM."""
_DONE = b"d"
_HELD = b"h"


class Custodian:
    """Made by the VMM; `vmid` is the VM it looks after, `pages` the directory for its huge page files."""

    def __init__(self, core: Core, huge_mount: Path, run: Path = RUN) -> None:
        self._core = core
        self._records = run / "vms"
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(run):
            recover(core, self._records)
            name = self._free_name()
            self._path = self._records / f"{name}.json"
            self.pages = huge_mount / name
            self._socket, child = socket.socketpair()
            vmm = os.pidfd_open(os.getpid())
            self._pid = os.fork()
            if self._pid == 0:
                _live(core, child, vmm, self._path, self.pages)
            os.close(vmm)
            child.close()
            answer = self._receive(_ANSWER.size)
            if len(answer) < _ANSWER.size:
                raise DriverError("the process that looks after the VM died as it started")
            x0, self.vmid = _ANSWER.unpack(answer)
            if x0:
                self._wait()
                raise CallError(Call.CREATE_VM, x0)

    def close(self) -> None:
        """Destroys the VM and removes its files. DriverError if the core does not let go of it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        answer = self._receive(1)
        self._wait()
        if not answer:
            record = Record.load(self._path)
            answer = _DONE if record is None or clean_up(self._core, self._path, record) else _HELD
        if answer != _DONE:
            raise DriverError(f"the core does not let go of VM {self.vmid}; its memory stays set aside")

    def _free_name(self) -> str:
        number = 0
        while (self._records / f"{os.getpid()}-{number}.json").exists():
            number += 1
        return f"{os.getpid()}-{number}"

    def _receive(self, size: int) -> bytes:
        with suppress(OSError):
            return self._socket.recv(size, socket.MSG_WAITALL)
        return b""

    def _wait(self) -> None:
        self._socket.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def destroy(core: Core, vmid: int) -> bool:
    """Makes the core forget a VM; False if it does not."""
    for index in range(VCPUS_MAX):
        core.call(Call.DESTROY_VCPU, int(VcpuTuple(VMID=vmid, VCPU=index)))
    while (answer := status(core.call(Call.DESTROY_VM, vmid, DESTROY_BATCH_PAGES)[0])) == Error.BUSY:
        pass
    return answer == Error.NO_ERROR


def clean_up(core: Core, path: Path, record: Record) -> bool:
    """Destroys a record's VM, then removes its files, then the record; False if the core keeps the VM."""
    if record.vmid is not None and not destroy(core, record.vmid):
        return False
    _remove(Path(record.pages))
    path.unlink(missing_ok=True)
    return True


def _remove(pages: Path) -> None:
    """A directory of files; most of them may be gone."""
    with suppress(FileNotFoundError):
        for file in pages.iterdir():
            file.unlink(missing_ok=True)
        pages.rmdir()


def recover(core: Core, records: Path) -> list[Path]:
    """Cleans up after VMs that lost both their VMM and their custodian (lock held); gives their records."""
    found: list[Path] = []
    known = {path: record for path in records.glob("*.json") if (record := Record.load(path)) is not None}
    living = {record.vmid for record in known.values() if record.custodian.alive or record.vmm.alive}
    for path, record in known.items():
        if record.custodian.alive or record.vmm.alive:
            continue
        if record.vmid in living or record.vmid is None or core.call(Call.GET_STATISTICS, record.vmid)[0]:
            # The number is another VM's by now, or nobody's: what is left are the files.
            record = replace(record, vmid=None)
        if clean_up(core, path, record):
            found.append(path)
    return found


def _live(core: Core, channel: socket.socket, vmm: int, path: Path, pages: Path) -> None:
    """The custodian's life; does not return."""
    ok = False
    try:
        _detach(channel.fileno(), vmm)
        ok = _serve(core, channel, vmm, path, pages)
    except BaseException as error:
        with suppress(OSError), open("/dev/kmsg", "w") as log:
            log.write(f"gz: the custodian of {path.stem} failed: {error!r}\n")
    finally:
        os._exit(0 if ok else 1)


def _serve(core: Core, channel: socket.socket, vmm: int, path: Path, pages: Path) -> bool:
    parent, myself = Process.of(os.getppid()), Process.of(os.getpid())
    if parent is None or myself is None:
        return False
    pages.mkdir(mode=0o700)
    record = Record(parent, myself, None, str(pages))
    record.save(path)
    x0, x1, _, _ = core.call(Call.CREATE_VM, 0)
    failed = status(x0)
    if failed:
        clean_up(core, path, record)
        channel.send(_ANSWER.pack(failed, 0))
        return True
    record = Record(parent, myself, x1 & 0xFFFF, str(pages))
    record.save(path)
    with suppress(OSError):
        channel.send(_ANSWER.pack(0, record.vmid or 0))
    _wait_for_the_end(channel, vmm)
    done = clean_up(core, path, record)
    with suppress(OSError):
        channel.send(_DONE if done else _HELD)
    return done


def _wait_for_the_end(channel: socket.socket, vmm: int) -> None:
    """Until the VMM says so, or is dead with all its threads: a socket that closed alone could mean that one
    of them is still in RUN."""
    poll = select.poll()
    poll.register(vmm, select.POLLIN)
    poll.register(channel, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if vmm in ready:
            return
        if channel.fileno() in ready:
            if ready[channel.fileno()] & select.POLLHUP:
                poll.unregister(channel)  # closed without a word: the VMM is dying
            else:
                return  # end of its data: the VMM asks


def _detach(*keep: int) -> None:
    """Leaves the VMM's terminal, streams and files to the VMM alone."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    last = 2
    for fd in sorted(keep):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
    with suppress(OSError):
        Path("/proc/self/comm").write_text("gz-custodian")
