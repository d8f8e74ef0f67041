# SPDX-License-Identifier: Apache-2.0
"""A guest that moves its interrupts and its CPUs about while they are in use: none is lost, none comes twice."""

from __future__ import annotations

import re

from hosts import Host

MOVES = """
irq=$(grep virtio1 /proc/interrupts | cut -d: -f1 | tr -d ' ')
sum=$(md5sum </dev/vda)
(for i in 1 2 3 4 5 6; do
    echo 1 >/proc/sys/vm/drop_caches
    [ "$(dd if=/dev/vda bs=64k 2>/dev/null | md5sum)" = "$sum" ] || echo wrong
done) &
for i in $(seq 50); do
    echo 1 >/proc/irq/$irq/smp_affinity
    echo 2 >/proc/irq/$irq/smp_affinity
done
wait
grep virtio1 /proc/interrupts
"""
PLUGS = """
for i in 1 2 3; do
    echo 0 >/sys/devices/system/cpu/cpu1/online
    nproc
    echo 1 >/sys/devices/system/cpu/cpu1/online
    nproc
done
dmesg | grep -E 'BUG|WARNING|stall|lockup'
"""


def test_an_interrupt_in_use_moves_between_vcpus(host: Host):
    """Its route is rewritten while it is pending or active in the other one's list register."""
    host.shell("mkdir -p /run/test; head -c 2097152 /dev/urandom >/run/test/moved")
    done = host.guest("sh", "-c", MOVES, cpus=2, disks=["/run/test/moved,ro"])
    host.shell("rm /run/test/moved")
    line = re.fullmatch(r" *\d+: +(\d+) +(\d+) +GICv3 .*virtio1\n", done.text)
    assert line, done
    assert int(line[1]) and int(line[2]), done


def test_vcpus_come_and_go(host: Host):
    """CPU_OFF, AFFINITY_INFO, CPU_ON."""
    done = host.guest("sh", "-c", PLUGS, cpus=2)
    assert done.text.split() == ["1", "2"] * 3, done
