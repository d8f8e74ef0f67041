# SPDX-License-Identifier: Apache-2.0
"""A vCPU's thread: runs the guest and serves its exits. Every MMIO access comes here: the path is short."""

from __future__ import annotations

import struct
import threading
import traceback
from collections.abc import Callable

from gz.abi.exits import ExitReason
from gz.abi.run import MmioExit, RunPage
from gz.driver.interface import INTERRUPTED, Vcpu
from gz.vmm.bus import GRANULE_BITS, Bus
from gz.vmm.exits import End, Ending, handle

MMIO = int(ExitReason.MMIO)
MMIO_RECORD = RunPage.offset("mmio")
DATA_WORD = (MMIO_RECORD + MmioExit.offset("data")) // 8
ACCESS = struct.Struct("<QQQIB")
"""A whole MmioExit; reading its fields one by one takes as many instructions for each."""
assert [MmioExit.offset(name) for name in ("phys_addr", "data", "length", "reg_nr", "is_write")] == [0, 8, 16, 24, 28]
WORD = (1 << 64) - 1
MASKS = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}


class VcpuThread:
    """`end` is called from the thread when the guest's life is over for some reason; it must not wait."""

    def __init__(self, vcpu: Vcpu, bus: Bus, end: Callable[[End], None], log: Callable[[str], object]) -> None:
        self._vcpu = vcpu
        self._bus = bus
        self._end = end
        self._log = log
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"vcpu {vcpu.index}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread at its next exit, which is made to come soon."""
        self._stopping = True
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            self._vcpu.kick()
            self._thread.join(0.5)

    def _work(self) -> None:
        try:
            self._run()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            self._end(End(Ending.FAILED, f"vCPU {self._vcpu.index}: {what}"))

    def _run(self) -> None:
        vcpu, bus = self._vcpu, self._bus
        again, settle, windows = vcpu.again, vcpu.settle, bus.windows
        page, access = vcpu.page, ACCESS.unpack_from
        words = page.cast("Q")
        record = RunPage.view(page, 0)
        reason = vcpu.enter()
        while True:
            if reason == MMIO:
                address, data, size, _, is_write = access(page, MMIO_RECORD)
                window = windows.get(address >> GRANULE_BITS)
                if window is None:
                    words[DATA_WORD] = bus.unmatched(address, size, data & MASKS[size] if is_write else None)
                elif is_write:
                    window[2](address - window[0], size, data & MASKS[size])
                else:
                    words[DATA_WORD] = window[1](address - window[0], size) & WORD  # a load takes its size of it
            elif reason != INTERRUPTED:
                end = handle(reason, vcpu.index, record, self._log)
                if end is not None:
                    self._end(end)
                    return
            if self._stopping:
                return
            reason = again()
            if reason != MMIO:
                reason = settle(reason)
