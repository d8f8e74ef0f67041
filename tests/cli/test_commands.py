# SPDX-License-Identifier: Apache-2.0
"""The commands as users meet them: outputs, exit statuses, one line for what is wrong, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gz.board.qemu import PROGRAM
from gz.state import state_directory

TIMEOUT = 300


class Gz:
    """Runs the command line with temporary files of its own."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "TMPDIR": str(temporary), "GZ_STATE": str(state_directory())}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "gz", *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, stdin: bytes = b"", **environment: str) -> tuple[int, bytes, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(stdin, TIMEOUT)
        return process.returncode, out, err.decode()

    def left_behind(self) -> list[str]:
        """Files and QEMUs that are still there."""
        files = [str(path) for path in self.temporary.iterdir()]
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                line = (directory / "cmdline").read_bytes()
            except OSError:
                continue
            if PROGRAM.encode() in line and str(self.temporary).encode() in line:
                files.append(line.replace(b"\0", b" ").decode())
        return files


@pytest.fixture
def gz(tmp_path: Path) -> Iterator[Gz]:
    gz = Gz(tmp_path)
    yield gz
    for process in gz.processes:
        process.kill()
        process.wait()


def refused(gz: Gz, *arguments: str, **environment: str) -> str:
    """The one line of a refusal."""
    status, out, err = gz.run(*arguments, stdin=b"", **environment)
    lines = [line for line in err.splitlines() if line.startswith("gz: error: ")]
    assert status not in (0, None) and out == b"" and len(lines) == 1, (status, out, err)
    assert "Traceback" not in err and not gz.left_behind()
    return lines[0]


def test_the_commands_output_and_nothing_else(gz: Gz):
    status, out, err = gz.run("run", "--", "sh", "-c", "cat; echo two; echo three >&2; exit 5", stdin=b"one\n")
    assert (status, out) == (5, b"one\ntwo\n"), err
    assert "three" in err
    assert not gz.left_behind()


def test_a_disk_of_the_user(gz: Gz, tmp_path_factory: pytest.TempPathFactory):
    disk = tmp_path_factory.mktemp("disks") / "a,b.img"
    disk.write_bytes(b"before" + bytes(4090))
    script = "head -c 6 /dev/vda; printf after >/dev/vda; sync"
    status, out, err = gz.run("run", "--mem", "256M", "--cpus", "2", "--disk", str(disk), "--", "sh", "-c", script)
    assert (status, out) == (0, b"before"), err
    assert disk.read_bytes()[:6] == b"aftere"


def test_a_shell_without_a_terminal(gz: Gz):
    status, out, err = gz.run("run", "--params", "some=param", stdin=b"cat /proc/cmdline; poweroff -f\n")
    assert status == 0 and b"some=param" in out, (out, err)
    assert not gz.left_behind()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--kernel", "/no/such"], "kernel /no/such: No such file"),
        (["--kernel", "/etc/passwd"], "a text file"),
        (["--initrd", "/no/such"], "initrd /no/such: No such file"),
        (["--initrd", "/etc/passwd"], "not a cpio archive"),
        (["--disk", "/no/such"], "disk /no/such: No such file"),
        (["--mem", "16M"], "at least 64M"),
        (["--mem", "9999G"], "memory"),
        (["--mem", "lots"], "not a memory size"),
        (["--gdb", "99999"], "not a TCP port"),
        (["--protected"], "Debian's kernel cannot be protected"),
        (["--pvmfw", "verify"], "add --protected"),
        (["--protected", "--kernel", "/no/such", "--firmware", "/no/such"], "leave --firmware away"),
        (["--vars", "/no/such"], "--vars is for --firmware"),
        (["--firmware", "/no/such"], "firmware /no/such: No such file"),
        (["--firmware", "/etc/passwd"], "firmware /etc/passwd: a text file"),
        (["--protected", "--kernel", "/no/such", "--pvmfw", "/no/such"], "pvmfw /no/such: No such file"),
    ],
)
def test_wrong_arguments(gz: Gz, arguments: list[str], reason: str):
    assert reason in refused(gz, "run", *arguments, "--", "true")


def test_no_qemu(gz: Gz, tmp_path_factory: pytest.TempPathFactory):
    assert "apt install qemu-system-arm" in refused(gz, "run", PATH=str(tmp_path_factory.mktemp("empty")))


def test_a_state_directory_that_cannot_be(gz: Gz):
    assert "/proc/none" in refused(gz, "run", "--", "true", GZ_STATE="/proc/none")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk(gz: Gz, tmp_path_factory: pytest.TempPathFactory):
    state = tmp_path_factory.mktemp("state")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(state)], check=True)
    try:
        assert "space" in refused(gz, "run", "--", "true", GZ_STATE=str(state)).lower()
    finally:
        subprocess.run(["umount", str(state)], check=True)


def test_files_larger_than_the_guests_memory(gz: Gz, tmp_path_factory: pytest.TempPathFactory):
    initrd = tmp_path_factory.mktemp("files") / "initrd"
    initrd.write_bytes(b"070701")
    os.truncate(initrd, 64 << 20)
    assert f"{initrd} have 64 MiB" in refused(gz, "run", "--mem", "64M", "--initrd", str(initrd))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_at_any_moment(gz: Gz, number: signal.Signals):
    """At a random moment of the first half minute: compiling, booting, running."""
    process = gz.start("run", "--", "sleep", "1000")
    moment = random.uniform(0.5, 30)
    time.sleep(moment)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, (moment, err)
    assert out == b"" and b"Traceback" not in err and b"gz: interrupted" in err, (moment, err)
    assert not gz.left_behind(), moment


def test_killed(gz: Gz):
    """Even SIGKILL leaves no QEMU."""
    process = gz.start("run", "--", "sleep", "1000")
    deadline = time.monotonic() + TIMEOUT
    while not any(PROGRAM in line for line in gz.left_behind()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(PROGRAM in line for line in gz.left_behind()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_board_that_stays(gz: Gz, tmp_path_factory: pytest.TempPathFactory):
    status, out, _ = gz.run("board", "status")
    if status == 0:
        pytest.skip("somebody's board is up")
    assert b"gz board up" in out
    assert "gz board up" in refused(gz, "board", "console")
    status, _, err = gz.run("board", "up", "--host-cpus", "1")
    assert status == 0, err
    try:
        assert "up already" in gz.run("board", "up")[2]
        facts = json.loads(gz.run("board", "status", "--json")[1])
        assert facts["up"] and facts["core"] and "-smp 1" in facts["options"]
        assert gz.run("board", "exec", "sh", "-c", "cat; exit 4", stdin=b"text") == (4, b"text", "")
        status, out, err = gz.run(
            "run", "--host-cpus", "1", "--mem", "256M", "--", "sh", "-c", "cat; exit 5", stdin=b"in"
        )
        assert (status, out) == (5, b"in") and "board that is up" in err and "starting QEMU" not in err
        assert gz.run("board", "exec", "sh", "-c", "ls -d /run/gz-run*")[1] == b""
    finally:
        status, _, err = gz.run("board", "down")
    assert status == 0 and not gz.left_behind(), err


def test_build_and_doctor_print_json(gz: Gz):
    status, out, err = gz.run("build", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert set(facts) == {"text_bytes", "image_bytes", "worst_stack_bytes", "seconds"} and all(facts.values())
    status, out, _ = gz.run("doctor", "--json")
    findings = json.loads(out)
    assert {"system", "qemu", "memory"} <= {finding["layer"] for finding in findings}
    assert status == (0 if all(finding["good"] for finding in findings) else 1)


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = ("rich.console", "qemu", "llvmlite", "elftools")
    code = f"import sys, gz.cli.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
