# SPDX-License-Identifier: Apache-2.0
"""Whoever dies, somebody gives the VM back: real processes, with a core that keeps a diary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gz.abi.calls import Call
from gz.abi.errors import Error
from gz.driver.custodian import Custodian, recover
from gz.driver.interface import CallError, DriverError
from gz.driver.record import Process, Record


class Diary:
    """A core whose calls and VMs are lines of a file, so that other processes see them."""

    def __init__(self, path: Path, vmid: int = 5) -> None:
        self.path = path
        self.vmid = vmid
        self.answers: dict[Call, list[int]] = {}

    def call(self, call: Call, *arguments: int) -> tuple[int, int, int, int]:
        with self.path.open("a") as diary:
            diary.write(json.dumps([call.name, *arguments]) + "\n")
        if call is Call.GET_STATISTICS:
            alive = any(line[0] == "CREATE_VM" for line in self.lines())
            return (0 if alive else int(Error.INVALID_ARGS)), 0, 0, 0
        answers = self.answers.get(call)
        return (answers.pop(0) if answers else 0) & (1 << 64) - 1, self.vmid, 0, 0

    def lines(self) -> list[list[object]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def count(self, name: str) -> int:
        return sum(line[0] == name for line in self.lines())


class Place:
    """A run directory and a stand-in for the hugetlbfs mount."""

    def __init__(self, path: Path) -> None:
        self.run = path / "run"
        self.huge = path / "huge"
        self.huge.mkdir()
        self.diary = Diary(path / "diary")

    def custodian(self) -> Custodian:
        return Custodian(self.diary, self.huge, self.run)  # type: ignore[arg-type]

    def records(self) -> list[Path]:
        return list((self.run / "vms").glob("*.json"))

    def clean(self) -> bool:
        return not self.records() and not list(self.huge.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def wait(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


DESTROYED = [*[["DESTROY_VCPU", 5 << 16 | index] for index in range(8)], ["DESTROY_VM", 5, 128]]


def test_closing_destroys_then_frees(place: Place) -> None:
    custodian = place.custodian()
    assert custodian.vmid == 5 and custodian.pages.is_dir()
    (custodian.pages / "slot0").write_bytes(b"x")
    record = Record.load(place.records()[0])
    assert record is not None and record.vmid == 5 and record.pages == str(custodian.pages)
    assert record.vmm == Process.of(os.getpid()) and record.custodian.alive
    custodian.close()
    assert place.diary.lines() == [["CREATE_VM", 0], *DESTROYED]
    assert place.clean()


def test_destroying_goes_on_while_the_core_is_busy(place: Place) -> None:
    place.diary.answers[Call.DESTROY_VM] = [Error.BUSY, Error.BUSY]
    place.custodian().close()
    assert place.diary.count("DESTROY_VM") == 3 and place.clean()


def test_what_the_core_keeps_is_not_freed(place: Place) -> None:
    place.diary.answers[Call.DESTROY_VM] = [Error.INVALID_ARGS]
    custodian = place.custodian()
    with pytest.raises(DriverError, match="the core does not let go of VM 5"):
        custodian.close()
    assert custodian.pages.is_dir() and len(place.records()) == 1


def test_a_refused_vm_leaves_nothing(place: Place) -> None:
    place.diary.answers[Call.CREATE_VM] = [Error.NO_MEMORY]
    with pytest.raises(CallError, match="CREATE_VM failed: NO_MEMORY"):
        place.custodian()
    assert place.clean()


def test_two_vms_of_one_vmm(place: Place) -> None:
    first, second = place.custodian(), place.custodian()
    assert first.pages != second.pages
    first.close()
    assert second.pages.is_dir() and len(place.records()) == 1
    second.close()
    assert place.clean()


VMM = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_custodian import Diary
from gz.driver.custodian import Custodian
custodian = Custodian(Diary(Path({diary!r})), Path({huge!r}), Path({run!r}))
(custodian.pages / "slot0").write_bytes(b"x")
print("ready", flush=True)
time.sleep(60)
"""


def start_vmm(place: Place) -> subprocess.Popen[str]:
    program = VMM.format(
        tests=str(Path(__file__).parent), diary=str(place.diary.path), huge=str(place.huge), run=str(place.run)
    )
    vmm = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert vmm.stdout is not None and vmm.stdout.readline() == "ready\n"
    return vmm


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_vmm_is_cleaned_up_after(place: Place, number: signal.Signals) -> None:
    vmm = start_vmm(place)
    # All of its process group, as a terminal would.
    os.killpg(vmm.pid, number)
    vmm.wait(5)
    assert wait(place.clean)
    assert place.diary.lines()[1:] == DESTROYED


def test_the_custodian_lets_go_of_the_vmms_streams(place: Place) -> None:
    vmm = start_vmm(place)
    vmm.kill()
    assert vmm.stdout is not None and vmm.stdout.read() == ""
    assert wait(place.clean)


def test_a_dead_custodian_is_replaced_by_the_vmm(place: Place) -> None:
    custodian = place.custodian()
    pid = custodian._pid  # pyright: ignore[reportPrivateUsage]
    os.kill(pid, signal.SIGKILL)
    assert wait(lambda: not Process.of(pid))
    custodian.close()
    assert place.diary.lines()[1:] == DESTROYED and place.clean()


def test_both_dead_is_made_good_by_the_next(place: Place) -> None:
    vmm = start_vmm(place)
    record = Record.load(place.records()[0])
    assert record is not None
    os.kill(record.custodian.pid, signal.SIGKILL)
    assert wait(lambda: not record.custodian.alive)
    vmm.kill()
    vmm.wait(5)
    assert not place.clean() and place.diary.count("DESTROY_VM") == 0
    place.diary.vmid = 6
    custodian = place.custodian()
    assert ["DESTROY_VM", 5, 128] in place.diary.lines()
    custodian.close()
    assert place.clean()


def test_recovery_spares_the_living_and_reused_numbers(place: Place) -> None:
    custodian = place.custodian()
    (living,) = place.records()
    record = Record.load(living)
    assert record is not None
    dead = Process(2**22 + 1, 1)
    pages = place.huge / "old"
    pages.mkdir()
    # Its VM was destroyed and the number given to another before the record could be removed.
    Record(dead, dead, record.vmid, str(pages)).save(living.with_name("old.json"))
    living.with_name("torn.json").write_text("{")
    assert recover(place.diary, living.parent) == [living.with_name("old.json")]  # type: ignore[arg-type]
    assert place.diary.count("DESTROY_VM") == 0 and not pages.exists() and custodian.pages.is_dir()
    living.with_name("torn.json").unlink()
    custodian.close()


def test_processes_are_told_apart() -> None:
    myself = Process.of(os.getpid())
    assert myself is not None and myself.alive
    assert not Process(myself.pid, myself.started + 1).alive
    assert Process.of(2**22 + 1) is None
