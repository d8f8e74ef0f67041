# SPDX-License-Identifier: Apache-2.0
"""CPUs that create, run, map, show, hide and destroy at the same time (H5, H6): nothing hangs, nothing is lost.

Runs in a process of its own: threads call compiled code past the JIT's guards, so a panic ends the process.
`GZ_STORM_CALLS` and `GZ_STORM_SEED` are for longer runs; docs/security.md has the record.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, threading
sys.path.insert(0, {here!r})
import gz.core.calls, gz.core.enter, gz.core.slots
import storm
from el2 import CORE, HIGH, HIGH_SIZE, LOW, PAGE
from caller import Host, finish

cpus, seed, count = map(int, sys.argv[1:])
host = Host(storm.storm)
host.reset()
contexts = host.start_cpus(cpus)
address = host.jit._engine.get_function_address("storm.storm")
function = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 4)(address)
good = [0] * cpus

def run(cpu):
    good[cpu] = function(contexts[cpu], seed + cpu * 7919, count, LOW + 64 * (cpu + 1) * PAGE)

threads = [threading.Thread(target=run, args=(cpu,)) for cpu in range(cpus)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert min(good) > count // 20, good
finish(host)
assert host.seen() == set((*range(LOW // PAGE, CORE // PAGE), *range(HIGH // PAGE, (HIGH + HIGH_SIZE) // PAGE)))
print("whole", cpus, "CPUs, seed", seed, "calls", count * cpus, "good", good)
"""


CALLS = int(os.environ.get("GZ_STORM_CALLS", "400000"))  # of all CPUs together
SEED = int(os.environ.get("GZ_STORM_SEED", "1"))


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_storm(cpus: int) -> None:
    program = PROGRAM.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", program, str(cpus), str(SEED), str(CALLS // cpus)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300 + CALLS / 10_000)
    assert result.returncode == 0 and result.stdout.startswith("whole"), f"seed {SEED}: {result.stdout}{result.stderr}"
    print(result.stdout)
