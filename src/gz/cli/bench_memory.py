# SPDX-License-Identifier: Apache-2.0
"""`gz bench memory`: what the memory calls cost, measured by a payload that is the core's host."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from gz.board.errors import BoardError
from gz.board.qemu import Machine, Qemu, qemu_version
from gz.cli import products
from gz.cli.report import progress

PAYLOAD = "memory"
CPUS = ("cortex-a76", "max")  # without FEAT_S2FWB and with it
MEMORY = 1024  # MiB
TIMEOUT = 120.0  # seconds
BLOCK_PAGES = 512
NOTES = {
    "kept": "KiB of RAM that the core keeps: 0.1 % and 512 KiB at most",
    "large_vm": "create, map and destroy 512 MiB in huge pages",
    "large_vm_tables": "bytes that the core spends on it",
    "private_page": "given to a protected VM and taken back, without the scrub",
    "scrub": "zeros in 4 KiB, to the point of coherency",
}


@dataclass(frozen=True)
class Figures:
    counts: dict[str, int]
    options: str


def measure_memory(as_json: bool) -> int:
    """Run the payload on each CPU model and print the counts side by side."""
    figures: dict[str, Figures] = {}
    with progress() as step:
        step("compiling the core and the payload")
        core, payload = products.core(), products.payload(PAYLOAD).flat
        for cpu in CPUS:
            step(f"measuring on {cpu}")
            machine = Machine(payload, payload, "quiet", core=core, cpus=1, memory=MEMORY, cpu=cpu, icount=True)
            figures[cpu] = Figures(evaluate(console_of(machine)), " ".join(machine.options()))
    if as_json:
        columns = {cpu: {**column.counts, "options": column.options} for cpu, column in figures.items()}
        print(json.dumps({**columns, "versions": {"qemu": qemu_version()}}))
    else:
        print_memory(figures, qemu_version())
    return 0


def console_of(machine: Machine) -> str:
    """What a machine prints until it is off."""
    qemu = Qemu(machine)
    text = ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.settimeout(TIMEOUT)
            console.connect(str(qemu.console))
            while data := console.recv(4096):
                text += data.decode(errors="replace")
        return qemu.console_text() or text
    except TimeoutError:
        raise BoardError("the payload did not come to its end") from None
    finally:
        qemu.stop()


def evaluate(text: str) -> dict[str, int]:
    """The payload's figures, and those that follow from them."""
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)\s*$", text, re.MULTILINE)}
    kept = re.search(r"(\d+) KiB of \d+ MiB", text)
    if kept is None or "large_vm_tables" not in counts:
        raise BoardError("the payload did not get through")
    scrub = counts["destroy_private_block"] // BLOCK_PAGES
    page = counts["map_private_page"] + counts["destroy_private_page"] - scrub
    return {**counts, "private_page": page, "scrub": scrub, "kept": int(kept[1])}


def print_memory(figures: Mapping[str, Figures], qemu: str) -> None:
    print("Average instructions of one call, from the host's side.")
    for column in figures.values():
        print(f"QEMU: {column.options}")
    print(f"Versions: qemu {qemu}")
    print(f"{'':<24}" + "".join(f"{cpu:>12}" for cpu in figures))
    for name in next(iter(figures.values())).counts:
        row = "".join(f"{column.counts[name]:>12}" for column in figures.values())
        print(f"{name:<24}{row}" + (f"  {NOTES[name]}" if name in NOTES else ""))
