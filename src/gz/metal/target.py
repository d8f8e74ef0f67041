# SPDX-License-Identifier: Apache-2.0
"""What code is generated for.

The JIT's machine is fake: what a CPU at EL2 would do goes through globals that the IR of the JIT target defines, all
of them 8-byte aligned and found by name. Callbacks are pointer slots, null until the JIT fills them in; calls through
a null slot do nothing and give 0.

    gz_jit_sysregs          [32768 x i64]   value of the system register with SysReg index i
    gz_jit_sysreg_hooks     [32768 x i8]    bit 0: reads go to on_read, bit 1: writes go to on_write
    gz_jit_on_read          ptr             i64 (i32 index)
    gz_jit_on_write         ptr             void (i32 index, i64 value)
    gz_jit_event_count      i64             barriers and maintenance so far
    gz_jit_events           [16384 x {ptr, i64, i64}]   ring: name ("tlbi ipas2e1is"), its length, argument (0: none)
    gz_jit_on_smc           ptr             void (ptr name, i64 length, ptr arguments, ptr results): "hvc", "smc" with
                                            8 x i64 in, "doorbell" with the page and 8 x i64, "svc" with
                                            the number and 6 x i64; 4 x i64 out
    gz_jit_on_text          ptr             void (ptr text, i64 length)
    gz_jit_on_number        ptr             void (i64 value, i32 base, i32 signed)
    gz_jit_on_panic_begin   ptr             void (ptr file, i64 length, i32 line); the text follows through on_text
    gz_jit_on_panic         ptr             void (); the message is complete; does not come back

Functions marked @extern are called through the slot `gz_jit_extern.<name>` (ptr), with the function's own signature;
a null slot is a panic. Storage and the program's roots are visible by their full names ("gz.core.vm.VMS"), other
functions and tables are private.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from enum import Enum

_ARM64 = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i8:8:32-i16:16:32-i64:64-i128:128-n32:64-S128-Fn32"
_X86_64 = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"


class Machine(Enum):
    """What the code may touch besides memory."""

    EL2 = "arm64, every instruction"
    ARM64_USER = "arm64 user space"
    X86_64_USER = "x86-64 user space"
    FAKE = "this process, with a fake CPU"


@dataclass(frozen=True)
class Target:
    """The emitter's choices. `debug`: DWARF is wanted."""

    name: str
    machine: Machine
    triple: str
    datalayout: str
    features: str | None = None
    debug: bool = True

    @property
    def fake(self) -> bool:
        """Is the CPU fake?"""
        return self.machine is Machine.FAKE

    @property
    def arm64(self) -> bool:
        """Is it AArch64?"""
        return self.triple.startswith("aarch64")


#: The core and bare payloads. `features` replaces what -mcpu would say; SMC assembles only with el3.
CORE = Target("core", Machine.EL2, "aarch64-none-elf", _ARM64, "+v8a,+strict-align,-fp-armv8,-neon,+el3")
#: The same code without what is for the debugger, which is most of the work when a line moves.
CORE_BARE = replace(CORE, name="core-bare", debug=False)
LINUX_ARM64 = Target("linux-arm64", Machine.ARM64_USER, "aarch64-linux-gnu", _ARM64)
LINUX_X86_64 = Target("linux-x86-64", Machine.X86_64_USER, "x86_64-linux-gnu", _X86_64)
#: Of this process; None where there is none.
NATIVE = {"x86_64": LINUX_X86_64, "aarch64": LINUX_ARM64}.get(platform.machine())
JIT_ARM64 = Target("jit-arm64", Machine.FAKE, "aarch64-linux-gnu", _ARM64, debug=False)
JIT_X86_64 = Target("jit-x86-64", Machine.FAKE, "x86_64-linux-gnu", _X86_64, debug=False)

TARGETS = {target.name: target for target in (CORE, LINUX_ARM64, LINUX_X86_64, JIT_ARM64, JIT_X86_64)}
