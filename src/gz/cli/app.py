# SPDX-License-Identifier: Apache-2.0
"""The command line. Only declarations: what a command does is in the module of its name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gz.cli.report import command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than all else that --help does
    context_settings={"help_option_names": ["-h", "--help"]},
    help="GenieZone in Python: a type-1 hypervisor for Arm64, and virtual machines on it.",
)
board = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The emulated board and its host VM.")
bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What things cost, in instructions.")
app.add_typer(board, name="board")
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the consoles of host and guest.")]
HostCpus = Annotated[int, typer.Option("--host-cpus", min=1, max=8, help="CPUs of the board.")]


class CpuModel(StrEnum):
    CORTEX_A76 = "cortex-a76"
    CORTEX_A72 = "cortex-a72"
    NEOVERSE_N1 = "neoverse-n1"
    MAX = "max"


class MachineMap(StrEnum):
    VIRT = "virt"
    KVMTOOL = "kvmtool"
    CROSVM = "crosvm"


Cpu = Annotated[CpuModel, typer.Option("--cpu", help="CPU model of the board.")]


@app.command(context_settings={"allow_interspersed_args": False})
@command
def run(
    argv: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- CMD…]", help="Run this in the guest, then power off.", show_default=False),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, max=8, help="vCPUs of the guest.")] = 1,
    mem: Annotated[str, typer.Option(metavar="SIZE", help="Memory of the guest, as in 512M or 1G.")] = "512M",
    kernel: Annotated[
        Path | None,
        typer.Option(help="Linux Image (plain, gzip, EFI zboot), ELF file or raw binary; default: Debian's."),
    ] = None,
    firmware: Annotated[
        Path | None,
        typer.Option(help="What is in the guest's flash, say AAVMF_CODE.fd; starts --kernel if that is given."),
    ] = None,
    vars: Annotated[
        Path | None,
        typer.Option(help="With --firmware: the file where it stores its variables, made on first use."),
    ] = None,
    machine: Annotated[MachineMap, typer.Option(help="Where the guest finds RAM and devices.")] = MachineMap.VIRT,
    initrd: Annotated[Path | None, typer.Option(help="Initial root file system; default: busybox.")] = None,
    disk: Annotated[
        list[str] | None, typer.Option(metavar="FILE[,ro]", help="Raw disk image; may be repeated.")
    ] = None,
    params: Annotated[str, typer.Option(help="More kernel parameters.")] = "",
    protected: Annotated[
        bool, typer.Option("--protected", help="Hide the guest's memory from its host; not for stock kernels.")
    ] = False,
    pvmfw: Annotated[
        str | None,
        typer.Option(
            metavar="verify|FILE",
            help="With --protected: the core's firmware starts the guest; verify: only with just these files.",
        ),
    ] = None,
    cpu: Cpu = CpuModel.CORTEX_A76,
    host_cpus: HostCpus = 2,
    gdb: Annotated[
        int | None, typer.Option(metavar="PORT", help="Let gdb attach to the board at this TCP port.")
    ] = None,
    verbose: Verbose = False,
) -> int:
    """Boot board, core, host and guest, and attach the guest's console (leave with Ctrl-A x).

    With a command: run it in the guest, print exactly its output and exit with its exit status."""
    from gz.cli.run import Request, run_guest

    request = Request(
        tuple(argv or ()),
        cpus,
        mem,
        kernel,
        initrd,
        tuple(disk or ()),
        params,
        protected,
        machine.value,
        firmware,
        vars,
        pvmfw,
    )
    return run_guest(request, cpu=cpu.value, host_cpus=host_cpus, gdb=gdb, verbose=verbose)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@command
def test(context: typer.Context) -> int:
    """Run every test; more arguments go to pytest."""
    from gz.cli.develop import run_tests

    return run_tests(context.args)


@app.command()
@command
def check() -> int:
    """Check the sources with ruff and pyright."""
    from gz.cli.develop import check_sources

    return check_sources()


@app.command()
@command
def build(
    json: Json = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="With lines and variables for gdb, in core.elf beside the image.")
    ] = False,
) -> int:
    """Compile the core and say how large it is."""
    from gz.cli.build import build_core

    return build_core(json, debug)


@app.command(context_settings={"allow_interspersed_args": False})
@command
def debug(
    argv: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARG…]", help="More arguments for gdb.", show_default=False)
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead of Debian: the smallest host, and this payload as its guest."),
    ] = None,
    cpu: Cpu = CpuModel.CORTEX_A76,
    host_cpus: HostCpus = 2,
) -> int:
    """Debug the core with gdb: on the board that is up, else on a new one that waits at its first instruction."""
    from gz.cli.debug import debug_core

    return debug_core(argv or (), payload=payload, cpu=cpu.value, cpus=host_cpus)


@bench.command()
@command
def exits(json: Json = False) -> int:
    """Average instructions of exits, measured by a guest under -icount."""
    from gz.cli.bench import measure_exits

    return measure_exits(json)


@bench.command()
@command
def boot(json: Json = False) -> int:
    """Instructions of a guest's boot until init, beside the same kernel on the bare machine."""
    from gz.cli.bench import measure_boot

    return measure_boot(json)


@bench.command()
@command
def host(json: Json = False) -> int:
    """Instructions of the host's own work: compiling, processes, page faults, system calls."""
    from gz.cli.bench import measure_host

    return measure_host(json)


@bench.command()
@command
def memory(json: Json = False) -> int:
    """Instructions of the calls that give guests memory and take it back, with and without FEAT_S2FWB."""
    from gz.cli.bench_memory import measure_memory

    return measure_memory(json)


@bench.command()
@command
def requests(json: Json = False) -> int:
    """Instructions that the VMM takes for a request to a virtio device."""
    from gz.cli.bench_requests import measure_requests

    return measure_requests(json)


@board.command()
@command
def up(
    cpu: Cpu = CpuModel.CORTEX_A76,
    host_cpus: HostCpus = 2,
    mem: Annotated[str, typer.Option(metavar="SIZE", help="Memory of the board.")] = "2G",
    bare: Annotated[bool, typer.Option("--bare", help="Boot the host without the core.")] = False,
    gdb: Annotated[int | None, typer.Option(metavar="PORT", help="Let gdb attach at this TCP port.")] = None,
    vm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KERNEL[,initrd=FILE][,mem=SIZE][,cpus=N][,params=TEXT]",
            help="A guest that the core starts by itself, without host or VMM; its console is in the board's. "
            "KERNEL is an arm64 Image, or payload:NAME. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Start a board that stays."""
    from gz.cli.board import start_board

    return start_board(cpu=cpu.value, cpus=host_cpus, memory=mem, bare=bare, gdb=gdb, guests=vm or ())


@board.command()
@command
def down() -> int:
    """Power the board off."""
    from gz.cli.board import stop_board

    return stop_board()


@board.command()
@command
def status(json: Json = False) -> int:
    """Say whether a board is up and how its host is."""
    from gz.cli.board import print_status

    return print_status(json)


@board.command()
@command
def trace(json: Json = False) -> int:
    """Print what the core did last on each CPU."""
    from gz.cli.trace import print_trace

    return print_trace(json)


@board.command()
@command
def console() -> int:
    """Attach to the host's serial console (leave with Ctrl-A x)."""
    from gz.cli.board import attach_console

    return attach_console()


@board.command("exec", context_settings={"allow_interspersed_args": False})
@command
def execute(argv: Annotated[list[str], typer.Argument(metavar="CMD…", show_default=False)]) -> int:
    """Run a command in the host VM."""
    from gz.cli.board import execute_in_host

    return execute_in_host(argv)


@app.command(context_settings={"ignore_unknown_options": True})
@command
def show(
    name: Annotated[str, typer.Argument(help="A system register, exit, error, call or exception class; or a number.")],
    value: Annotated[str | None, typer.Argument(help="What the register holds.", show_default=False)] = None,
) -> int:
    """Explain a register, a syndrome (esr 0x93800046), an exit, an error or a call; and what guests get of it."""
    from gz.cli.show import show

    return show(name, value)


@app.command()
@command
def doctor(json: Json = False) -> int:
    """Say whether this machine has what gz needs, layer by layer."""
    from gz.cli.doctor import examine

    return examine(json)
