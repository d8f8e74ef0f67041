# SPDX-License-Identifier: Apache-2.0
"""Kernel modules of a Debian kernel package and the order in which they load.

The package carries no modules.dep (depmod makes it on installation), so dependencies come from each module's
.modinfo section ("depends=", "softdep=pre: …")."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from gz.board import deb
from gz.board.errors import BoardError


@dataclass(frozen=True)
class Kernel:
    """`release` as uname -r says it, the boot image, and every module by name."""

    release: str
    image: bytes
    modules: dict[str, bytes]

    def load_order(self, *names: str) -> list[str]:
        """`names` and what they depend on, each after its dependencies. BoardError for an unknown module."""
        order: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            if name not in self.modules:
                raise BoardError(f"kernel {self.release} has no module {name}")
            for needed in dependencies(self.modules[name]):
                if needed in self.modules:
                    visit(needed)
            order.append(name)

        for name in names:
            visit(name)
        return order


def read_kernel(path: Path) -> Kernel:
    """The kernel in the linux-image package at `path`."""
    image, release = b"", ""
    modules: dict[str, bytes] = {}
    for entry in deb.entries(path):
        if entry.content is None:
            continue
        if entry.name.startswith("boot/vmlinuz-"):
            release, image = entry.name.removeprefix("boot/vmlinuz-"), entry.content
        elif entry.name.endswith(".ko"):
            modules[module_name(entry.name)] = entry.content
    if not image:
        raise BoardError(f"{path}: no kernel in this package")
    return Kernel(release, image, modules)


def module_name(path: str) -> str:
    """The kernel treats - and _ in module names alike."""
    return path.rpartition("/")[2].removesuffix(".ko").replace("-", "_")


def dependencies(module: bytes) -> list[str]:
    """The modules that have to be there first."""
    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    except ELFError:
        raise BoardError("not a kernel module") from None
    names: list[str] = []
    for item in (section.data() if section else b"").split(b"\0"):
        key, _, value = item.decode("ascii", "replace").partition("=")
        if key == "depends":
            names += [name for name in value.split(",") if name]
        elif key == "softdep" and value.startswith("pre:"):
            names += value.removeprefix("pre:").partition("post:")[0].split()
    return [module_name(name) for name in names]
