# SPDX-License-Identifier: Apache-2.0
"""`gz bench`: instructions under `-icount shift=0`, where a nanosecond of virtual time is one instruction."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gz.board.board import Board
from gz.board.errors import BoardError
from gz.board.guest import command_archive, guest_initrd, guest_kernel
from gz.board.host_vm import Software
from gz.board.qemu import Disk, Machine, Qemu, qemu_version, scratch_directory
from gz.board.vmm import Guest, start_command, start_console
from gz.cli import products
from gz.cli.report import progress
from gz.metal.build import ROOT

PAYLOAD = "payloads.exits"
USER = "mmio_read_user"
SINGLE = ("hvc_psci_version", "id_register", "mmio_read_vgic", USER, "eoi", "ipi_self", "timer")
OPERATIONS = {1: SINGLE, 2: (*SINGLE, "ipi_other")}
"""By the number of CPUs of the machine and of the guest."""
BOOT_TIMEOUT = 600.0  # seconds
TIMEOUT = 300.0
MEMORY = 64  # MiB
BOOT_MEMORY = 1024
BOOT_PARAMS = "console=ttyAMA0 quiet loglevel=1 panic=-1"

Figures = Mapping[str, Any]
"""Operation to instructions; of USER {"total": with the VMM, "core": without}."""


@dataclass(frozen=True)
class Hypervisor:
    """What carries the guest: the core, or the host's own KVM in a mode that the kernel names by `says`."""

    name: str
    says: str = ""
    bootargs: str = ""


HYPERVISORS = (
    Hypervisor("core"),
    Hypervisor("kvm_vhe", "VHE mode initialized successfully"),
    Hypervisor("kvm_nvhe", "Hyp mode initialized successfully", "kvm-arm.mode=nvhe"),
)


def measure_exits(as_json: bool) -> int:
    """Run the payload below each hypervisor, under the same VMM, and print the counts side by side."""
    with progress() as step:
        step("compiling the core and the payload")
        core, driver, short = products.core(), products.libraries(), products.answering_driver()
        payload = Disk(products.image(PAYLOAD).image.flat, "gz-payload", True)
        software = Software()
        machines: list[dict[str, Any]] = []
        versions: dict[str, str] = {}
        for cpus in OPERATIONS:
            figures: dict[str, Figures] = {}
            options = ""
            for hypervisor in HYPERVISORS:

                def step_of(text: str, of: str = f"{hypervisor.name}, {cpus} CPUs") -> None:
                    step(f"{of}: {text}")

                board = Board(
                    core=None if hypervisor.says else core,
                    compiled=driver,
                    software=software,
                    cpus=cpus,
                    disks=[payload],
                    icount=True,
                    bootargs=hypervisor.bootargs,
                    boot_timeout=BOOT_TIMEOUT,
                    progress=step_of,
                )
                with board:
                    if hypervisor.says and hypervisor.says not in board.run(["dmesg"]).text:
                        raise BoardError(f"the host's KVM did not start as {hypervisor.name}")
                    figures[hypervisor.name] = measure(board, short, cpus, step_of)
                    options, versions = " ".join(board.machine.options()), versions_of(board)
            machines.append({"cpus": cpus, "options": options, "figures": figures})
    if as_json:
        print(json.dumps({"machines": machines, "versions": versions}))
    else:
        print("Average instructions as the guest counts them, a few of its loop included; of two runs the better one.")
        print("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
        for machine in machines:
            print_exits(**machine)
    return 0


def measure(board: Board, short: Mapping[str, bytes], cpus: int, step: Callable[[str], None]) -> dict[str, Any]:
    """The payload's counts with the VMM; of the exit to user space also those with the shortest VMM there can be."""
    step("measuring with the VMM")
    total = run_payload(board, cpus)
    step("measuring without the VMM")
    for name, library in short.items():
        board.host.put(f"/opt/gz/{name}", library, 0o755)
    alone = run_payload(board, cpus)
    return {**total, USER: {"total": total[USER], "core": alone[USER]}}


def versions_of(board: Board) -> dict[str, str]:
    """Of what takes part."""
    linux, python = board.run(["sh", "-c", "uname -r; python3 -V"]).text.splitlines()
    return {"qemu": qemu_version(), "linux": linux, "python": python.removeprefix("Python ")}


def print_exits(cpus: int, options: str, figures: Mapping[str, Figures]) -> None:
    """A row for each operation, a column for each hypervisor."""
    print(f"\nQEMU: {options}")
    print(f"{'':<20}" + "".join(f"{name:>10}" for name in figures))
    for operation in OPERATIONS[cpus]:
        counts = [column[operation] for column in figures.values()]
        if operation == USER:
            rows = {USER: [count["total"] for count in counts]}
            rows["  without the VMM"] = [count["core"] for count in counts]
        else:
            rows = {operation: counts}
        for label, row in rows.items():
            print(f"{label:<20}" + "".join(f"{count:>10}" for count in row))


def measure_boot(as_json: bool) -> int:
    """Boot the default guest on the core and on the bare machine; print its clock when it starts init.

    The clock is the kernel's own, from its first timer reading on, so the VMM's start is not in it."""
    with progress() as step:
        software = Software()
        step("booting the guest on the bare machine")
        bare = boot_bare(software)
        step("compiling the core")
        core, driver = products.core(), products.libraries()
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


def measure_host(as_json: bool) -> int:
    """What the host's own work costs above the core, beside the same kernel at EL1 of a machine without EL2."""
    workload = (ROOT / "benchmarks" / "workload.py").read_text()
    with progress() as step:
        step("compiling the core")
        core = products.core()
        software = Software()
        figures: dict[str, dict[str, int]] = {}
        options: dict[str, str] = {}
        for name, below in (("bare", None), ("core", core)):
            board = Board(
                core=below,
                software=software,
                cpus=1,
                icount=True,
                virtualization=below is not None,
                boot_timeout=BOOT_TIMEOUT,
                progress=lambda text, name=name: step(f"{name}: {text}"),
            )
            with board:
                step(f"{name}: measuring")
                done = board.python(workload, timeout=TIMEOUT)
                if done.status:
                    raise BoardError(f"the workload did not get through: {done.stderr.decode(errors='replace')}")
                figures[name] = json.loads(done.text)
                options[name] = " ".join(board.machine.options())
    ratios = {work: round(figures["core"][work] / bare, 4) for work, bare in figures["bare"].items()}
    if as_json:
        print(json.dumps({**figures, "ratio": ratios, "options": options}))
    else:
        print_host(figures, ratios, options)
    return 0


def print_host(
    figures: Mapping[str, Mapping[str, int]], ratios: Mapping[str, float], options: Mapping[str, str]
) -> None:
    print("Instructions of the host's own work, the shortest of several rounds.")
    for name, text in options.items():
        print(f"QEMU, {name}: {text}")
    print(f"{'':<20}{'bare':>14}{'core':>14}{'ratio':>10}")
    for work, ratio in ratios.items():
        print(f"{work:<20}{figures['bare'][work]:>14}{figures['core'][work]:>14}{ratio:>10}")


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


def run_payload(board: Board, cpus: int) -> dict[str, int]:
    """What the payload printed: operation and instructions."""
    guest = Guest(board.disk("gz-payload"), None, cpus=cpus, memory=MEMORY, params="")
    process = start_console(board.host, guest)
    process.end_input()
    done = process.wait(TIMEOUT)
    found = {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)\s*$", done.text, re.MULTILINE)}
    if done.status or set(OPERATIONS[cpus]) - set(found):
        last = (done.stderr.decode(errors="replace").strip() or done.text.strip()).splitlines()[-1:]
        raise BoardError(f"the payload did not get through: {last[0] if last else 'no output'}")
    return found
