# SPDX-License-Identifier: Apache-2.0
"""A protected guest below stock Debian: who reads its memory dies, alone, and afterwards it is zeros (M1, M8)."""

from __future__ import annotations

import pytest
from hosts import Host

from gz.board.vmm import Guest, start_console
from gz.board.wire import Kind
from gz.metal.build import build

#: In the host VM, beside the VMM: the guest's memory is a file of huge pages, which others may map.
NEIGHBOUR = """
import glob, mmap, os, subprocess, sys, time
HIDDEN, SHOWN, BLOCK, GO = 8 << 20, (8 << 20) + 5 * 4096, 2 << 20, b"\\x60" * 8
path, = glob.glob("/run/gz/huge/**/slot0", recursive=True)
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 16 << 20)
print(memory[SHOWN : SHOWN + 8].hex())
TRY = "import mmap; f = open({path!r}, 'r+b'); m = mmap.mmap(f.fileno(), 16 << 20); {attempt}"
for at in (HIDDEN, SHOWN - 4096, SHOWN + 4096, HIDDEN + BLOCK - 4096, 2 << 20):
    for attempt in (f"print(m[{at}])", f"m[{at}] = 1"):
        print(subprocess.run([sys.executable, "-c", TRY.format(path=path, attempt=attempt)]).returncode)
CALL = "import mmap, os; f = open({path!r}, 'r+b'); m = memoryview(mmap.mmap(f.fileno(), 16 << 20)); {call}"
OUT = "os.write(os.open('/dev/shm/out', os.O_CREAT | os.O_WRONLY), m[{at}:][:4096])"
IN = "os.readv(os.open('/dev/urandom', os.O_RDONLY), [m[{at}:][:4096]])"
for call in (OUT, IN):
    program = CALL.format(path=path, call=call.format(at=HIDDEN))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    print(done.stderr.decode().splitlines()[-1])
memory[SHOWN : SHOWN + 8] = GO
while os.path.exists(path):
    time.sleep(0.1)
secret = memory[HIDDEN : HIDDEN + BLOCK]
print(sum(1 for byte in secret if byte), sum(1 for byte in secret[5 * 4096 : 6 * 4096] if byte))
"""
SIGBUS = -7


@pytest.fixture(scope="module")
def program() -> bytes:
    return build("payloads.hidden").image.flat.read_bytes()


def test_private_memory(host: Host, program: bytes) -> None:
    host.board.host.put("/run/test/hidden", program)
    guest = Guest("/run/test/hidden", None, memory=16, protected=True)
    process = start_console(host.board.host, guest)
    seen = b""
    events = process.events(240)
    while b"shown" not in seen:
        kind, data = next(events)
        seen += data if kind is Kind.OUTPUT else b""
    shown, *ends, out, into, left = host.run("python3", "-c", NEIGHBOUR, timeout=120).text.split("\n")[:14]
    assert b"0 1 shown" in seen
    assert shown == "c25ee7c25ee7c25e"
    assert [int(end) for end in ends] == [SIGBUS] * 10, "only who touches it dies"
    assert out == into == "OSError: [Errno 14] Bad address", "system calls fail"
    seen += b"".join(data for kind, data in events if kind is Kind.OUTPUT)
    assert b"0 changed" in seen and process.status == 0
    assert left == "4096 4096", "zeros but for what it showed"
    assert host.shell("dmesg | grep -cE 'Oops|Internal error|BUG:' || true").strip() == "0"
    assert host.huge_pages() == 0
