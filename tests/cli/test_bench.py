# SPDX-License-Identifier: Apache-2.0
"""How measurements are shown, and what is no measurement."""

from __future__ import annotations

import pytest

from gz.board.errors import BoardError
from gz.cli import bench

FIGURES = {
    name: {operation: base + number for number, operation in enumerate(bench.OPERATIONS[2])}
    | {bench.USER: {"total": base + 1000, "core": base + 500}}
    for name, base in (("core", 100), ("kvm_vhe", 2000))
}


@pytest.mark.parametrize("cpus", list(bench.OPERATIONS))
def test_a_column_for_each_hypervisor(cpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    operations = bench.OPERATIONS[cpus]
    bench.print_exits(cpus, "-M virt -icount shift=0", FIGURES)
    lines = capsys.readouterr().out.splitlines()
    assert "QEMU: -M virt -icount shift=0" in lines
    table = lines[-len(operations) - 2 :]
    assert table[0].split() == ["core", "kvm_vhe"]
    rows = {line[:20].strip(): line[20:].split() for line in table[1:]}
    assert list(rows) == [
        word
        for operation in operations
        for word in ([operation, "without the VMM"] if operation == bench.USER else [operation])
    ]
    assert rows["hvc_psci_version"] == ["100", "2000"]
    assert rows[bench.USER] == ["1100", "3000"] and rows["without the VMM"] == ["600", "2500"]
    assert len({len(line) for line in table}) == 1


def test_a_row_for_each_work(capsys: pytest.CaptureFixture[str]) -> None:
    bench.print_host(
        {"bare": {"fork": 1000}, "core": {"fork": 1004}}, {"fork": 1.004}, {"bare": "-M a", "core": "-M b"}
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["QEMU, bare: -M a", "QEMU, core: -M b"]
    assert [line.split() for line in lines[3:]] == [["bare", "core", "ratio"], ["fork", "1000", "1004", "1.004"]]


def test_the_kernels_clock_at_init() -> None:
    log = "[    0.000000] Booting Linux\n[    1.234567] Run /init as init process\n[    2.0] more"
    assert bench.init_clock(log) == 1_234_567_000
    with pytest.raises(BoardError, match="does not tell when init began"):
        bench.init_clock("[    1.0] Kernel panic")
