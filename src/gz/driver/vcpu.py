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
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, HwState, MmioExit, RunPage
from gz.driver.interface import INTERRUPTED, CallError

if TYPE_CHECKING:
    from gz.driver.vm import DoorbellVm

KICK = signal.SIGUSR1
"""Its handler does nothing: that the signal is taken makes the thread execute its store again."""

MMIO = int(ExitReason.MMIO)
IMMEDIATE_EXIT = RunPage.offset("immediate_exit")
IS_WRITE = RunPage.offset("mmio") + MmioExit.offset("is_write")
ADDRESS_WORD = (RunPage.offset("mmio") + MmioExit.offset("phys_addr")) // 8
DATA_WORD = (RunPage.offset("mmio") + MmioExit.offset("data")) // 8
LENGTH_WORD = (RunPage.offset("mmio") + MmioExit.offset("length")) // 8
DELAY_WORD = (HWSTATE_OFFSET + HwState.offset("vtimer_delay")) // 8
OFFSET_WORD = (HWSTATE_OFFSET + HwState.offset("vtimer_offset")) // 8
MIGRATE_WORD = (HWSTATE_OFFSET + HwState.offset("vtimer_migrate")) // 4


def install_kick() -> None:
    """Makes KICK harmless; only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(KICK, lambda number, frame: None)


class Alarm:
    """A thread sleeps on it until it is rung; a ring nobody waits for ends the next sleep at once."""

    def __init__(self) -> None:
        self._token = threading.Lock()
        self._token.acquire()

    def ring(self) -> None:
        if self._token.locked():
            with suppress(RuntimeError):  # somebody else was quicker
                self._token.release()

    def sleep(self, seconds: float) -> None:
        self._token.acquire(timeout=seconds)


class DoorbellVcpu:
    """`pages`: run page and hardware state, at `address` in this process."""

    def __init__(self, vm: DoorbellVm, index: int, pages: memoryview, address: int) -> None:
        self.index = index
        self.page = pages[:PAGE_SIZE]
        self.alarm = Alarm()
        self._vm = vm
        self._core = vm.core
        self._tuple = int(VcpuTuple(VMID=vm.vmid, VCPU=index))
        self._run = vm.core.runner(self._tuple, address)
        self._words = pages.cast("Q")
        self._half_words = pages.cast("I")
        self._record = RunPage.view(pages, 0)
        self._thread: int | None = None
        self._served: dict[int, Callable[[], bool]] = {
            ExitReason.IRQ: lambda: True,
            ExitReason.GZ: lambda: True,
            ExitReason.IDLE: self._idle,
            ExitReason.IPI: self._wake_all,
            ExitReason.EXCEPTION: self._exception,
            ExitReason.HYPERCALL: self._hypercall,
        }

    def enter(self) -> int:
        run, page, words, doorbells = self._run, self.page, self._words, self._vm.ioeventfds
        if self._thread is None:
            self._thread = threading.get_ident()
        while True:
            reason = run()
            if reason == MMIO:
                if page[IS_WRITE]:
                    address = words[ADDRESS_WORD]
                    if address in doorbells and doorbells.signal(address, words[LENGTH_WORD], words[DATA_WORD]):
                        continue
                return MMIO
            served = self._served.get(reason)
            if served is None or not served():
                return reason
            # RUN looks too, so a kick that comes later ends the next one at once. INFORM_EXIT would be wrong: it
            # repeats exits that a signal kept from the VMM, and here none gets lost.
            if page[IMMEDIATE_EXIT]:
                page[IMMEDIATE_EXIT] = 0
                return INTERRUPTED

    def kick(self) -> None:
        self.page[IMMEDIATE_EXIT] = 1
        self.alarm.ring()
        if self._thread is not None:
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._thread, KICK)

    def set_register(self, register: int, value: int) -> None:
        self._vm.call(Call.SET_ONE_REG, self._tuple, register, value)

    def get_register(self, register: int) -> int:
        return self._vm.call(Call.GET_ONE_REG, self._tuple, register)[1]

    def _idle(self) -> bool:
        """Sleeps as gzvm version 13 does: only if the core asked for a timer, and until anything happens."""
        delay = self._words[DELAY_WORD]
        if self._half_words[MIGRATE_WORD] and delay:
            self.alarm.sleep(delay / self._core.frequency)
        return True

    def _wake_all(self) -> bool:
        self._vm.wake()
        return True

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
        return False
