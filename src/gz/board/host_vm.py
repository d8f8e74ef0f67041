# SPDX-License-Identifier: Apache-2.0
"""The host VM's software: Debian's kernel and a root file system in memory with busybox, Python, this package
and the agent as its only service.

/opt/gz holds this package and what was compiled for it, /init starts the agent on the virtio-serial port
named `gz.agent` and a shell on the serial console."""

from __future__ import annotations

import fnmatch
import importlib.util
import marshal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gz
from gz.board.debian import Debian, Package
from gz.board.images import cached, fingerprint
from gz.board.initramfs import Tree
from gz.board.modules import Kernel, read_kernel

FLAVOUR = "cloud-arm64"
PACKAGES = ("busybox-static", "python3.11", "python3-libfdt")
MODULES = ("virtio_mmio", "virtio_console", "virtio_blk", "virtio_rng")
PACKAGE_ROOT = "opt/gz"

# Of these packages, drawn in by dependencies, nothing is used in the host VM.
# fmt: off
UNUSED_PACKAGES = frozenset((
    "dpkg", "gcc-12-base", "libcom-err2", "libdb5.3", "libgssapi-krb5-2", "libk5crypto3", "libkeyutils1",
    "libkrb5-3", "libkrb5support0", "libnsl2", "libsqlite3-0", "libtirpc-common", "libtirpc3", "media-types",
    "readline-common", "tar",
))
UNUSED_FILES = (
    "etc/*", "var/*", "lib/udev/*", "usr/share/*", "usr/lib/*/gconv/*", "usr/lib/*/engines-3/*",
    "usr/lib/*/ossl-modules/*", "usr/lib/python3.11/config-*", "usr/lib/python3.11/distutils/*",
    "usr/lib/python3.11/ensurepip/*", "usr/lib/python3.11/idlelib/*", "usr/lib/python3.11/lib2to3/*",
    "usr/lib/python3.11/pydoc_data/*", "usr/lib/python3.11/sqlite3/*", "usr/lib/python3.11/test/*",
    "usr/lib/python3.11/turtle*", "usr/lib/python3.11/unittest/*", "usr/lib/python3.11/lib-dynload/_dbm*",
    "usr/lib/python3.11/lib-dynload/_sqlite3*", "usr/lib/python3.11/lib-dynload/nis*",
)
# fmt: on

INIT = """\
#!/bin/busybox sh
# The host VM's first process: devices, modules, then the agent for ever.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
export PATH=/bin:/sbin HOME=/root LC_ALL=C.UTF-8 PYTHONPATH=/opt/gz PYTHONDONTWRITEBYTECODE=1
hostname host
ip link set lo up
for module in $(cat /lib/modules/order); do insmod /lib/modules/$module.ko; done
until port=$(grep -lx gz.agent /sys/class/virtio-ports/*/name 2>/dev/null); do sleep 0.05; done
port=/dev/$(basename $(dirname $port))
until [ -c $port ]; do sleep 0.05; done
export TERM=linux PS1='host# '
while true; do setsid sh -c 'exec sh -i </dev/ttyAMA0 >/dev/ttyAMA0 2>&1'; sleep 1; done &
while true; do
    python3 -m gz.board.agent $port
    echo "gz: the agent ended with status $?, starting it again" >/dev/console
    sleep 0.2
done
"""


@dataclass(frozen=True)
class HostSoftware:
    """What a board boots: `kernel` and `initrd` are files in the image cache."""

    release: str
    kernel: Path
    initrd: Path


class Software:
    """Kernels and root file systems out of one package cache."""

    def __init__(self, debian: Debian | None = None) -> None:
        self.debian = debian or Debian()
        self.kernel_package = self.debian.kernel(FLAVOUR)

    @cached_property
    def kernel(self) -> Kernel:
        """Unpacked only when an image has to be built from it."""
        return read_kernel(self.debian.path(self.kernel_package))

    @property
    def release(self) -> str:
        return self.kernel_package.name.removeprefix("linux-image-")

    def kernel_file(self) -> Path:
        return cached("linux", fingerprint([self.kernel_package.sha256]), lambda: self.kernel.image)

    def host(self, compiled: Mapping[str, bytes] | None = None) -> HostSoftware:
        """The host VM; `compiled` are more files for /opt/gz, such as shared objects, by name."""
        packages = self.debian.closure(*PACKAGES)
        recipe = [
            self.kernel_package.sha256,
            *(p.sha256 for p in packages),
            INIT,
            *MODULES,
            *UNUSED_FILES,
            *sorted(UNUSED_PACKAGES),
            str(importlib.util.MAGIC_NUMBER),
        ]
        base = cached("host-base", fingerprint(recipe), lambda: self._host_base(packages))
        files = {**own_sources(), **(compiled or {})}
        parts = [base.name]
        for name, content in sorted(files.items()):
            parts += [name, content]

        def build() -> bytes:
            return base.read_bytes() + own_archive(files)

        return HostSoftware(self.release, self.kernel_file(), cached("host", fingerprint(parts), build))

    def _host_base(self, packages: list[Package]) -> bytes:
        tree = Tree()
        for name in ("bin", "sbin", "lib"):
            tree.link(name, f"usr/{name}")
        for name in ("proc", "sys", "dev", "run", "tmp", "root", "mnt"):
            tree.directory(name)
        tree.character_device("dev/console", 5, 1)
        for package in packages:
            if package.name not in UNUSED_PACKAGES:
                tree.package(self.debian.path(package), keep=used)
        compile_standard_library(tree)
        add_modules(tree, self.kernel, MODULES)
        tree.link("usr/bin/python3", "python3.11")
        tree.file("init", INIT.encode(), 0o755)
        return tree.archive()


def used(name: str) -> bool:
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in UNUSED_FILES)


def add_modules(tree: Tree, kernel: Kernel, names: tuple[str, ...]) -> None:
    """Put modules and what they need into /lib/modules, their order in /lib/modules/order."""
    order = kernel.load_order(*names)
    for name in order:
        tree.file(f"lib/modules/{name}.ko", kernel.modules[name])
    tree.file("lib/modules/order", "".join(f"{name}\n" for name in order).encode())


def own_sources() -> dict[str, bytes]:
    """This package's Python files by their name below /opt/gz."""
    root = Path(next(iter(gz.__path__)))
    return {f"gz/{path.relative_to(root)}": path.read_bytes() for path in sorted(root.rglob("*.py"))}


def own_archive(files: Mapping[str, bytes]) -> bytes:
    tree = Tree()
    for name, content in files.items():
        tree.file(f"{PACKAGE_ROOT}/{name}", content, 0o644 if name.endswith(".py") else 0o755)
        if name.endswith(".py"):
            add_bytecode(tree, f"{PACKAGE_ROOT}/{name}", content)
    return tree.archive()


def compile_standard_library(tree: Tree) -> None:
    """Put bytecode beside the library's sources: compiling them in an emulator costs seconds of every
    start."""
    for name, node in list(tree.nodes.items()):
        if name.startswith("usr/lib/python3") and name.endswith(".py"):
            add_bytecode(tree, name, node.content)


def add_bytecode(tree: Tree, name: str, source: bytes) -> None:
    """Add an unchecked hash-based .pyc (PEP 552), if this interpreter writes what Debian's 3.11 reads."""
    if importlib.util.MAGIC_NUMBER != PYTHON_311_MAGIC:
        return
    try:
        code = compile(source, f"/{name}", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return  # lib2to3's and the tests' deliberately broken files
    directory, _, last = name.rpartition("/")
    data = PYTHON_311_MAGIC + (0b01).to_bytes(4, "little") + importlib.util.source_hash(source) + marshal.dumps(code)
    tree.file(f"{directory}/__pycache__/{last.removesuffix('.py')}.cpython-311.pyc", data)


PYTHON_311_MAGIC = (3495).to_bytes(2, "little") + b"\r\n"
