# SPDX-License-Identifier: Apache-2.0
"""`gz bench requests`: what the VMM takes for a request to a virtio device, by benchmarks/requests.py."""

from __future__ import annotations

import json

from gz.board.board import Board
from gz.board.errors import BoardError
from gz.cli import products
from gz.cli.bench import BOOT_TIMEOUT, TIMEOUT, versions_of
from gz.cli.report import progress


def measure_requests(as_json: bool) -> int:
    """In the host VM and without a core: nothing of it is the core's."""
    with progress() as step:
        board = Board(compiled=products.libraries(), cpus=1, icount=True, boot_timeout=BOOT_TIMEOUT, progress=step)
        with board:
            step("measuring")
            done = board.python((products.ROOT / "benchmarks" / "requests.py").read_text(), timeout=TIMEOUT)
            if done.status:
                raise BoardError(f"the measurement did not get through: {done.stderr.decode(errors='replace').strip()}")
            figures: dict[str, int] = json.loads(done.text)
            options, versions = " ".join(board.machine.options()), versions_of(board)
    if as_json:
        print(json.dumps({**figures, "options": options, "versions": versions}))
    else:
        print("Instructions of the VMM for a request, the median, from looking at the ring to asking for the next one.")
        print("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
        print(f"QEMU: {options}")
        for name, count in figures.items():
            print(f"{name:<20}{count:>10}")
    return 0
