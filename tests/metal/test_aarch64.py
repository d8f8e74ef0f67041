# SPDX-License-Identifier: Apache-2.0
"""Random whole functions at EL2 under QEMU against the same in this process, which test_differential holds to the
model. Calls that fail a check are left out: at EL2 the first would be the last."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bare_hello
import model
from generator import HEAD, Generator
from test_differential import fill, load, random_value

from gz.bits.annotation import LAYOUTS
from gz.core import memory
from gz.metal import Program, image
from gz.metal.assembly import pieces
from gz.metal.target import CORE

SEED = int(os.environ.get("GZ_FUZZ_SEED", "1"))
PROGRAMS = int(os.environ.get("GZ_FUZZ_AARCH64_PROGRAMS", "40"))
CALLS = 10

DRIVER = """
from gz.bits import Va, storage
from gz.metal import address, export, log, noinline, peek8, poke8

INPUTS = table(u8, {inputs})
STATE = storage(State{n})


def prepare(call: u64) -> None:
    for i in range(State{n}.size):
        poke8(address(STATE) + i, INPUTS[call * State{n}.size + i])


def digest(result: u64) -> u64:
    found: u64 = 0xCBF2_9CE4_8422_2325 ^ result
    for i in range(State{n}.offset("other")):
        found = (found ^ peek8(address(STATE) + i)) * 0x100_0000_01B3
    other = STATE.other
    return found if other is None else found + 1


{runners}


@export
def start() -> None:
{prints}
"""


def runner(name: str, number: int, call: str, pair: bool) -> str:
    value = f"u64({call})"
    lines = [f"def {name}() -> u64:", f"    prepare({number})"]
    if pair:
        lines += [f"    a, b = {call}", "    return digest(u64(a) * 2 + u64(b))"]
    else:
        lines += [f"    return digest({value})"]
    return "\n".join(["@noinline", *lines])


def generate(seed: int) -> tuple[str, list[str]]:
    """A module's text and the names of its runners: one for each call that comes to its end."""
    rng = random.Random(f"aarch64 {seed}")
    generator = Generator(rng, seed)
    functions = [generator.function() for _ in range(PROGRAMS)]
    text = HEAD.replace("{n}", str(seed)) + "\n\n" + "\n".join(generator.metal)
    layout = getattr(load(seed, text), f"State{seed}")
    names: dict[str, Any] = dict(model.NAMES)
    exec("\n".join(generator.model), names)
    inputs = bytearray()
    runners: list[tuple[str, str]] = []
    for function in functions:
        for _ in range(CALLS):
            memory = bytearray(layout.size)
            expected = fill(rng, layout.view(memory))
            before = bytes(memory)
            arguments = [random_value(rng, kind) for kind in function.parameters]
            try:
                names[function.name](expected, *arguments)
            except model.Failed:
                continue
            listed = ", ".join(f"{kind}({number})" for kind, number in zip(function.parameters, arguments, strict=True))
            number = len(runners)
            call = f"{function.name}(STATE{', ' if listed else ''}{listed})"
            runners.append((f"run{number}", runner(f"run{number}", number, call, function.pair)))
            inputs += before
    prints = "\n".join(f'    log(f"{name} {{{name}():#x}}")' for name, _ in runners)
    driver = DRIVER.replace("{inputs}", repr(list(inputs))).replace("{n}", str(seed))
    driver = driver.replace("{runners}", "\n\n\n".join(body for _, body in runners)).replace("{prints}", prints)
    return text + "\n" + driver, [name for name, _ in runners]


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="needs qemu-system-aarch64")
def test_functions_at_el2_do_what_they_do_here(tmp_path: Path) -> None:
    text, names = generate(SEED)
    LAYOUTS.pop(f"State{SEED}", None)
    module = load(SEED, text)
    try:
        jit = Program(roots=[getattr(module, name) for name in names]).jit()
        here = [f"{name} {jit.fn(getattr(module, name))():#x}" for name in names]
        hooks = [bare_hello.write, bare_hello.write_number, bare_hello.stop]
        # Copies of structs call the core's memcpy.
        ir = Program(roots=[module.start, *hooks, memory.memcpy]).ir(CORE)
    finally:
        LAYOUTS.pop(f"State{SEED}", None)
    built = image.build(ir, pieces("bare_hello"), tmp_path)
    machine = "-M virt,virtualization=on,gic-version=3 -cpu cortex-a76 -m 128 -nic none -display none -serial stdio"
    command = ["qemu-system-aarch64", *machine.split(), "-kernel", str(built.flat)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as qemu:
        assert qemu.stdout is not None
        there = [qemu.stdout.readline().strip() for _ in names]
        qemu.kill()
    assert len(names) > PROGRAMS
    assert there == here, f"seed {SEED}\n{text}"
