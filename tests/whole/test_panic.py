# SPDX-License-Identifier: Apache-2.0
"""A core that panics under a busy host: nothing runs on, and the console says why."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gz.board.board import Board
from gz.board.errors import BoardError
from gz.metal.build import SOURCES
from gz.metal.symbols import Symbols

#: A core that panics when the host asks whether a CPU is off, and then stays, so that one can look at it.
DAMAGE = """
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import sys
from pathlib import Path
from typing import NoReturn
import gz.core.boot, gz.core.power as power, gz.metal.compiler as compiler
from gz.arm64.insn import wfi
from gz.bits import u64
from gz.metal import panic

def affinity_info(function: u64, mpidr: u64, level: u64) -> u64:
    panic(f"asked about {mpidr:#x}")

def off() -> NoReturn:
    while True:
        wfi()

power._affinity_info = affinity_info
power.off = off
compiler.compile_program("gz.core", Path(sys.argv[1]))
"""


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    script = tmp_path / "damage.py"
    script.write_text(DAMAGE)
    environment = {"PYTHONPATH": str(SOURCES.parent), "PATH": ""}
    subprocess.run([sys.executable, script, tmp_path], check=True, env=environment)
    return tmp_path / "core.img"


def test_all_cpus_stop(damaged: Path):
    with Board(core=damaged, cpus=3) as board:
        tick = "while :; do echo tick >/dev/console; done"
        script = f"({tick}) & ({tick}) & sleep 1; taskset 1 sh -c 'echo 0 >/sys/devices/system/cpu/cpu2/online'"
        with pytest.raises((BoardError, TimeoutError)):
            board.run(["sh", "-c", script], timeout=20)
        console = board.qemu.console_text()
        assert console.count("tick") > 10
        last = Symbols(damaged.with_suffix(".elf")).annotate(console[console.rindex("tick") :])
        assert "damage.py:13: asked about 0x2" in last
        assert "core panic: on CPU 0x0" in last
        assert "called from" in last and "core/power.py:" in last
        time.sleep(2)
        assert board.qemu.console_text() == console and board.qemu.running()
