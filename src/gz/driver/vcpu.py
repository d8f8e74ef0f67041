# SPDX-License-Identifier: Apache-2.0
"""A vCPU through the doorbell: the loop around RUN, and all exits that are the driver's own business."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from gz.abi.calls import Call, VcpuTuple
from gz.abi.exits import ExceptionCode, ExitReason
from gz.abi.guest import PtpCounter, VendorCall
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, HwState, RunPage
from gz.driver.interface import CallError

if TYPE_CHECKING:
    from gz.driver.doorbell import Core
    from gz.driver.vm import DoorbellVm

KICK = signal.SIGUSR1
"""Its handler does nothing: that the signal is taken makes the thread execute its store again."""

IMMEDIATE_EXIT = RunPage.offset("immediate_exit")
OFFSET_WORD: int = (HWSTATE_OFFSET + HwState.offset("vtimer_offset")) // 8


def install_kick() -> None:
    """Makes KICK harmless; only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(KICK, lambda number, frame: None)


class DoorbellVcpu:
    """`pages`: run page and hardware state, at `address` in this process; `shared_address`: the VM's `Shared`."""

    def __init__(self, vm: DoorbellVm, index: int, pages: memoryview, address: int, shared_address: int) -> None:
        self.index = index
        self.page = pages[:PAGE_SIZE]
        self._vm = vm
        self._core: Core = vm.core
        self._tuple = int(VcpuTuple(VMID=vm.vmid, VCPU=index))
        self.again = vm.core.runner(self._tuple, address, shared_address)
        self._words = pages.cast("Q")
        self._record = RunPage.view(pages, 0)
        self._thread: int | None = None
        self._served: dict[int, Callable[[], bool]] = {
            ExitReason.EXCEPTION: self._exception,
            ExitReason.HYPERCALL: self._hypercall,
        }

    def enter(self) -> int:
        if self._thread is None:
            self._thread = threading.get_ident()
        return self.settle(self.again())

    def settle(self, reason: int) -> int:
        while (served := self._served.get(reason)) is not None and served():
            reason = self.again()
        return reason

    def kick(self) -> None:
        # INFORM_EXIT would be wrong: it repeats exits that a signal kept from the VMM, and here none gets lost.
        self.page[IMMEDIATE_EXIT] = 1
        self._vm.wake()
        if self._thread is not None:
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._thread, KICK)

    def set_register(self, register: int, value: int) -> None:
        self._vm.call(Call.SET_ONE_REG, self._tuple, register, value)

    def get_register(self, register: int) -> int:
        return self._vm.call(Call.GET_ONE_REG, self._tuple, register)[1]

    def _exception(self) -> bool:
        record = self._record.exception
        if record.exception != ExceptionCode.PAGE_FAULT:
            return False
        try:
            return self._vm.map_block(record.fault_gpa)
        except CallError as error:
            self._vm.log(f"vCPU {self.index}: {record.fault_gpa:#x} cannot be mapped: {error}")
            return False

    def _hypercall(self) -> bool:
        args = self._record.hypercall.args
        match args[0]:
            case VendorCall.PTP:
                now = time.time_ns()
                ticks = 0
                if args[1] == PtpCounter.VIRTUAL:
                    ticks = self._core.counter(physical=False) - self._words[OFFSET_WORD]
                elif args[1] == PtpCounter.PHYSICAL:
                    ticks = self._core.counter(physical=True)
                for index, value in enumerate((now >> 32, now, ticks >> 32, ticks)):
                    args[index] = value & 0xFFFF_FFFF
                return True
            case VendorCall.MEM_RELINQUISH:
                # The page is the host's again, in a huge page that stays as it is until the VM ends.
                return True
            case _:
                return False
