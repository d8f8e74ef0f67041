# SPDX-License-Identifier: Apache-2.0
"""The image on QEMU before any host runs: what it refuses, and how it dies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gz.arm64.image import MAGIC, ImageHeader
from gz.board.qemu import HOST_KERNEL, PROGRAM
from gz.metal.build import SOURCES, build
from gz.metal.symbols import Symbols

pytestmark = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="needs QEMU")

TIMEOUT = 60


def boot(core: Path, *, kernel: Path | None = None, arguments: str = "", **options: str) -> list[str]:
    """The lines on the serial port. A machine that does not power off is a subprocess.TimeoutExpired."""
    machine = {"gic-version": "3", "virtualization": "on"} | {k.replace("_", "-"): v for k, v in options.items()}
    command = ["-M", "virt," + ",".join(f"{k}={v}" for k, v in machine.items()), "-cpu", "cortex-a76", "-m", "512"]
    command += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", str(core)]
    if kernel is not None:
        extra = f",bootargs={arguments}" if arguments else ""
        command += ["-device", f"guest-loader,addr={HOST_KERNEL:#x},kernel={kernel}{extra}"]
    done = subprocess.run(
        [PROGRAM, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture(scope="module")
def core() -> Path:
    return build("gz.core").image.flat


def header(image_size: int, text_offset: int = 0, flags: int = 0xA, magic: int = MAGIC) -> bytes:
    """A kernel that does nothing but stay where it is: b ."""
    blob = bytearray(4096)
    view = ImageHeader.view(memoryview(blob))
    view.code0 = 0x1400_0000
    view.text_offset, view.image_size, view.flags, view.magic = text_offset, image_size, flags, magic
    return bytes(blob)


def test_no_el2(core: Path) -> None:
    """Entered at EL1, it says so and powers off by the conduit that is there."""
    (line,) = boot(core, virtualization="off")
    assert line.startswith("gz: the core was entered at EL1")


def test_no_kernel(core: Path) -> None:
    assert boot(core) == ['gz: no host kernel: /chosen has no module "multiboot,kernel" in RAM']


@pytest.mark.parametrize(
    "kernel, complaint",
    [
        (b"\x1f\x8b" + bytes(4094), "not an arm64 Image, or compressed"),
        (header(0x1000, flags=0xB), "big-endian or older"),
        (header(0), "big-endian or older"),
        (header(1 << 40), "no room in RAM for the host kernel"),
        (header((1 << 64) - 1, text_offset=4096), "no room in RAM for the host kernel"),
        (header(0x1000, text_offset=(1 << 64) - 4096), "no room in RAM for the host kernel"),
        (bytes(16), "no host kernel"),
    ],
)
def test_unusable_kernel(core: Path, tmp_path: Path, kernel: bytes, complaint: str) -> None:
    (tmp_path / "kernel").write_bytes(kernel)
    (line,) = boot(core, kernel=tmp_path / "kernel")
    assert line.startswith("gz: ") and complaint in line


def test_gicv2_is_not_enough(core: Path, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(header(0x1000))
    lines = boot(core, kernel=tmp_path / "kernel", gic_version="2")
    assert any("no GICv3 in the device tree" in line for line in lines)


#: Which of DEATHS happens is told by the length of the kernel's arguments.
DAMAGE = """
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import sys
from pathlib import Path
import gz.core.boot, gz.core.hole as hole, gz.core.image as image, gz.metal.compiler as compiler
from gz.bits import Pa, Va, u64
from gz.core.platform import machine
from gz.core.tree import Tree
from gz.metal import noinline, panic, peek64, poke64

@noinline
def act(at: u64, which: u64) -> None:
    {acts}

def find(t: Tree, limit: u64) -> Pa:
    act(limit, machine.kernel_arguments_size)
    return Pa(limit)

hole.find = find
compiler.compile_program("gz.core", Path(sys.argv[1]))
"""

WRITE, READ = 1 << 6, 0
PERMISSION, TRANSLATION = 0xF, 0x7  # DFSC, level 3

#: What the core does, and the end of ESR_EL2 for it: None is a panic of its own.
DEATHS = {
    "a panic": ('panic(f"the end {at:#x} {at - at - 1:d} {1}")', None),
    "its own code": ("poke64(image.image_start(), at)", WRITE | PERMISSION),
    "its constants": ("poke64(image.rodata_start(), at)", WRITE | PERMISSION),
    "a guard page": ("poke64(image.stacks_start() + 0xFF8, at)", WRITE | TRANSLATION),
    "code in the window": ("poke64(Va((1 << 46) + 0x4020_0000), at)", WRITE | TRANSLATION),
    "an unmapped address": ("poke64(Va(at), peek64(Va(at - 8)))", READ | 0x4),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("damaged")
    script = directory / "damage.py"
    acts = [f"if which == {n}:\n        {act}" for n, (act, _) in enumerate(DEATHS.values(), 1)]
    script.write_text(DAMAGE.replace("{acts}", "\n    ".join(acts)))
    environment = {"PYTHONPATH": str(SOURCES.parent), "PATH": ""}
    subprocess.run([sys.executable, script, directory], check=True, env=environment)
    (directory / "kernel").write_bytes(header(0x1000))
    return directory


@pytest.mark.parametrize("death", DEATHS)
def test_death(damaged: Path, death: str) -> None:
    """The registers, the place and who called; then the machine is off."""
    number = list(DEATHS).index(death) + 1
    arguments = "x" * number
    text = "\n".join(boot(damaged / "core.img", kernel=damaged / "kernel", arguments=arguments))
    assert "core panic: " in text, text
    expected = DEATHS[death][1]
    if expected is None:
        assert "the end 0x10000000000 18446744073709551615 1" in text
        assert "damage.py:15: " in text
    else:
        found = re.search(r"ESR (0x[0-9a-f]+) \(class 0x25, ", text)
        assert found and int(found[1], 16) & 0x7F == expected, text
    backtrace = Symbols(damaged / "core.elf").annotate(text)
    for name in ("__main__.act (damage.py:", "core/boot.py:"):
        assert name in backtrace, backtrace
    assert "__main__.act+0x" in text and "start+0x" in text, "the core knows the names itself"
