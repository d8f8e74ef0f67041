# SPDX-License-Identifier: Apache-2.0
"""The default guest: Debian's kernel and a small root file system in memory that runs one command, or a
shell.

A command's standard streams are the virtio-serial ports gz.stdin, gz.stdout and gz.stderr; its exit status is
written as a decimal number to gz.status. Then the guest powers off by PSCI. Without a command a shell runs on
the console."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gz.board.host_vm import Software, add_modules
from gz.board.images import cached, fingerprint
from gz.board.initramfs import Tree

MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng")
COMMAND = "gz/command"
TERMINAL = "gz/terminal"
PORTS = ("gz.stdin", "gz.stdout", "gz.stderr", "gz.status")

INIT = """\
#!/bin/busybox sh
# The guest's first process.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname guest
ip link set lo up
if ! grep -qw nomodules /proc/cmdline; then
    for module in $(cat /lib/modules/order); do insmod /lib/modules/$module.ko 2>/dev/null; done
fi
cd /root

port() {
    # Waits up to ten seconds for the port of this name.
    for attempt in $(seq 200); do
        found=$(grep -lx "$1" /sys/class/virtio-ports/*/name 2>/dev/null) && break
        sleep 0.05
    done
    [ -n "$found" ] || { echo "gz: no virtio-serial port $1" >/dev/console; poweroff -f; }
    echo /dev/$(basename $(dirname $found))
}

if [ -e /gz/command ]; then
    # The last port to appear: once it is there the others are connected.
    status=$(port gz.status)
    sh /gz/command <$(port gz.stdin) >$(port gz.stdout) 2>$(port gz.stderr)
    echo $? >$status
else
    # The last console named is the one where the user types.
    console=$(tr ' ' '\\n' </proc/cmdline | sed -n 's/^console=\\([^,]*\\).*/\\1/p' | tail -n 1)
    [ -c /dev/$console ] || console=console
    export TERM=linux PS1='guest# '
    # Opens it as the controlling terminal, for job control. The size lasts only while it is open.
    setsid sh -c "exec </dev/$console >/dev/$console 2>&1; [ ! -e /gz/terminal ] || stty $(cat /gz/terminal)
        exec sh -i"
fi
sync
poweroff -f
"""


def guest_kernel(software: Software) -> Path:
    """Debian's kernel, an arm64 Image."""
    return software.kernel_file()


def guest_initrd(software: Software) -> Path:
    """The root file system without a command: it ends in a shell."""
    packages = software.debian.closure("busybox-static")

    def build() -> bytes:
        tree = Tree()
        for name in ("bin", "sbin", "lib"):
            tree.link(name, f"usr/{name}")
        for name in ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "gz"):
            tree.directory(name)
        tree.character_device("dev/console", 5, 1)
        for package in packages:
            tree.package(software.debian.path(package), keep=lambda name: name == "bin/busybox")
        add_modules(tree, software.kernel, MODULES)
        tree.file("init", INIT.encode(), 0o755)
        return tree.archive()

    recipe = [software.kernel_package.sha256, *(package.sha256 for package in packages), INIT, *MODULES]
    return cached("guest", fingerprint(recipe), build)


def terminal_archive(rows: int, columns: int) -> bytes:
    """An archive to append to the root file system: the size of the user's terminal, for the shell."""
    tree = Tree()
    tree.file(TERMINAL, f"rows {rows} cols {columns}\n".encode())
    return tree.archive()


def command_archive(argv: Sequence[str]) -> bytes:
    """An archive to append to the root file system: the guest runs this command and powers off."""
    tree = Tree()
    tree.file(COMMAND, f"exec {shlex.join(argv)}\n".encode(), 0o755)
    return tree.archive()
