# SPDX-License-Identifier: Apache-2.0
"""Guests' disks, and several guests, at once and one after another."""

from __future__ import annotations

from hosts import Host


def test_a_disk_both_ways(host: Host) -> None:
    """64 MiB read and written through virtio-blk, compared by checksum on both sides."""
    size = 64
    host.shell(f"mkdir -p /run/test; dd if=/dev/urandom of=/run/test/from bs=1M count={size}")
    host.shell(f"truncate -s {size}M /run/test/to")
    expected = host.shell("sha256sum /run/test/from").split()[0]
    script = "set -e; sha256sum /dev/vda; dd if=/dev/vda of=/dev/vdb bs=1M 2>/dev/null; sync; sha256sum /dev/vdb"
    done = host.guest("sh", "-c", script, disks=["/run/test/from,ro", "/run/test/to"])
    assert done.stdout.decode().split() == [expected, "/dev/vda", expected, "/dev/vdb"], done
    assert host.shell("sha256sum /run/test/to").split()[0] == expected
    host.shell("rm /run/test/from /run/test/to")


def test_a_read_only_disk_stays_as_it_is(host: Host) -> None:
    host.shell("dd if=/dev/zero of=/run/test/zeros bs=1M count=1")
    done = host.guest("sh", "-c", "cat /sys/block/vda/ro; echo x >/dev/vda && sync", disks=["/run/test/zeros,ro"])
    assert done.stdout.startswith(b"1\n") and done.status != 0
    assert not host.shell("tr -d '\\0' </run/test/zeros")


def test_two_guests_at_the_same_time(host: Host) -> None:
    guests = [host.start("sh", "-c", f"sleep 2; echo guest {number}") for number in (1, 2)]
    for number, process in enumerate(guests, 1):
        process.end_input()
        done = process.wait(300)
        assert (done.status, done.text) == (0, f"guest {number}\n"), done
    assert host.huge_pages() == 0


def test_ten_guests_one_after_another(host: Host) -> None:
    """All memory comes back to the host."""
    free = "awk '/MemFree/ { print $2 }' /proc/meminfo"
    host.guest("true")
    before = int(host.shell(f"sync; echo 3 >/proc/sys/vm/drop_caches; {free}"))
    for number in range(10):
        done = host.guest("echo", str(number), memory=128)
        assert (done.status, done.text) == (0, f"{number}\n"), done
        assert host.huge_pages() == 0
    after = int(host.shell(f"sync; echo 3 >/proc/sys/vm/drop_caches; {free}"))
    # The initrds of ten guests stay in /run; a guest's 128 MiB would show.
    assert before - after < 64 * 1024, (before, after)
