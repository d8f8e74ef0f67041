# SPDX-License-Identifier: Apache-2.0
"""`gz bench`: instructions under `-icount shift=0`, where a nanosecond of virtual time is one instruction."""

from __future__ import annotations

import json
import re
import socket

from gz.board.board import Board
from gz.board.errors import BoardError
from gz.board.guest import command_archive, guest_initrd, guest_kernel
from gz.board.host_vm import Software
from gz.board.qemu import Disk, Machine, Qemu, scratch_directory
from gz.board.vmm import Guest, start_command, start_console
from gz.cli import products
from gz.cli.report import progress

PAYLOAD = "payloads.exits"
OPERATIONS = ("hvc_psci_version", "mmio_read_vgic", "mmio_read_user", "eoi", "ipi", "timer")
BOOT_TIMEOUT = 600.0  # seconds
TIMEOUT = 300.0
MEMORY = 64  # MiB
BOOT_MEMORY = 1024
BOOT_PARAMS = "console=ttyAMA0 quiet loglevel=1 panic=-1"


def measure_exits(as_json: bool) -> int:
    """Run the payload twice, with the VMM and with the shortest one there can be, and print the counts."""
    with progress() as step:
        step("compiling the core and the payload")
        core, driver, short = products.core(), products.driver(), products.answering_driver()
        payload = Disk(products.image(PAYLOAD).image.flat, "gz-payload", True)
        software = Software()
        board = Board(
            core=core,
            compiled=driver,
            software=software,
            cpus=1,
            disks=[payload],
            icount=True,
            boot_timeout=BOOT_TIMEOUT,
            progress=step,
        )
        with board:
            step("measuring with the VMM")
            total = run_payload(board)
            step("measuring the core's part")
            name, library = next(iter(short.items()))
            board.host.put(f"/opt/gz/{name}", library, 0o755)
            alone = run_payload(board)
            options = " ".join(board.machine.options())
    figures: dict[str, object] = dict(total)
    figures["mmio_read_user"] = {"total": total["mmio_read_user"], "core": alone["mmio_read_user"]}
    if as_json:
        print(json.dumps({"core": figures, "options": options}))
        return 0
    print(f"Instructions, on QEMU with {options}:")
    for operation in OPERATIONS:
        print(f"  {operation:<18}{total[operation]:>8}")
    vmm = total["mmio_read_user"] - alone["mmio_read_user"]
    print(f"mmio_read_user is {alone['mmio_read_user']} of the core and {vmm} of the VMM in Python")
    return 0


def measure_boot(as_json: bool) -> int:
    """Boot the default guest on the core and on the bare machine; print its clock when it starts init.

    The clock is the kernel's own, from its first timer reading on, so the VMM's start is not in it."""
    with progress() as step:
        software = Software()
        step("booting the guest on the bare machine")
        bare = boot_bare(software)
        step("compiling the core")
        core, driver = products.core(), products.driver()
        with scratch_directory() as scratch:
            initrd = scratch / "initrd"
            initrd.write_bytes(guest_initrd(software).read_bytes() + command_archive(["dmesg"]))
            disks = [Disk(guest_kernel(software), "gz-kernel", True), Disk(initrd, "gz-initrd", True)]
            board = Board(
                core=core,
                compiled=driver,
                software=software,
                cpus=1,
                memory=2 * BOOT_MEMORY,
                disks=disks,
                icount=True,
                boot_timeout=BOOT_TIMEOUT,
                progress=step,
            )
            with board:
                step("booting the guest on the core")
                guest = Guest(board.disk("gz-kernel"), board.disk("gz-initrd"), memory=BOOT_MEMORY, params=BOOT_PARAMS)
                process = start_command(board.host, guest)
                process.end_input()
                on_core = init_clock(process.wait(TIMEOUT).text)
                options = " ".join(board.machine.options())
    figures = {"bare": bare, "core": on_core, "ratio": round(on_core / bare, 4), "options": options}
    if as_json:
        print(json.dumps(figures))
    else:
        print(f"Instructions of a boot until init, on QEMU with {options}:")
        print(f"  bare {bare:>14}\n  core {on_core:>14}\n  ratio {figures['ratio']:>13}")
    return 0


def boot_bare(software: Software) -> int:
    """The guest's kernel and root file system without anything below; its clock at init."""
    machine = Machine(
        guest_kernel(software), guest_initrd(software), BOOT_PARAMS, cpus=1, memory=BOOT_MEMORY, icount=True
    )
    qemu = Qemu(machine)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.settimeout(BOOT_TIMEOUT)
            console.connect(str(qemu.console))
            receive(console, "guest# ")
            console.sendall(b"dmesg | grep Run; echo E''ND\n")
            return init_clock(receive(console, "END"))
    except TimeoutError:
        raise BoardError("the guest does not boot on the bare machine") from None
    finally:
        qemu.stop()


def receive(console: socket.socket, end: str) -> str:
    text = ""
    while end not in text:
        data = console.recv(4096)
        if not data:
            raise BoardError("the guest went away while booting")
        text += data.decode(errors="replace")
    return text


def init_clock(log: str) -> int:
    """Nanoseconds in the kernel's log at the start of init."""
    found = re.search(r"\[ *(\d+)\.(\d{6})\] Run /init as init process", log)
    if not found:
        raise BoardError("the guest's log does not tell when init began")
    return (int(found[1]) * 1_000_000 + int(found[2])) * 1000


def run_payload(board: Board) -> dict[str, int]:
    """What the payload printed: operation and instructions."""
    guest = Guest(board.disk("gz-payload"), None, memory=MEMORY, params="")
    process = start_console(board.host, guest)
    process.end_input()
    done = process.wait(TIMEOUT)
    found = {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)\s*$", done.text, re.MULTILINE)}
    if done.status or set(OPERATIONS) - set(found):
        last = (done.stderr.decode(errors="replace").strip() or done.text.strip()).splitlines()[-1:]
        raise BoardError(f"the payload did not get through: {last[0] if last else 'no output'}")
    return found
