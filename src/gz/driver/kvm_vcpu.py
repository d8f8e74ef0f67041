# SPDX-License-Identifier: Apache-2.0
"""A vCPU of KVM, with its exits as gzvm would report them."""

from __future__ import annotations

import errno
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from gz.abi.device import IoctlOneReg
from gz.abi.exits import ExceptionCode, ExitReason
from gz.abi.kvm import KvmExit, KvmRequest, KvmRun
from gz.abi.registers import RegisterId
from gz.abi.run import PAGE_SIZE, RunPage
from gz.bits.view import address_of
from gz.driver.interface import INTERRUPTED
from gz.driver.kernel import KvmError, filled
from gz.driver.vcpu import KICK

if TYPE_CHECKING:
    from gz.driver.kvm import KvmVm

MMIO = int(ExitReason.MMIO)
IMMEDIATE_EXIT = KvmRun.offset("immediate_exit")
REASONS: dict[int, ExitReason] = {
    KvmExit.EXCEPTION: ExitReason.EXCEPTION,
    KvmExit.DEBUG: ExitReason.DEBUG,
    KvmExit.SHUTDOWN: ExitReason.SHUTDOWN,
    KvmExit.FAIL_ENTRY: ExitReason.FAIL_ENTRY,
    KvmExit.INTERNAL_ERROR: ExitReason.INTERNAL_ERROR,
    KvmExit.SYSTEM_EVENT: ExitReason.SYSTEM_EVENT,
    KvmExit.ARM_NISV: ExitReason.EXCEPTION,
}
"""MMIO, the frequent one, is carried over in `kvm_run`."""


class KvmVcpu:
    """`file`: what CREATE_VCPU gave; `size`: bytes that it shares."""

    def __init__(self, vm: KvmVm, index: int, file: int, size: int) -> None:
        self.index = index
        self.page = memoryview(bytearray(PAGE_SIZE))
        self._vm = vm
        self._file = file
        self._run = vm.kernel.share(file, size)
        self._state = KvmRun.view(self._run)
        self._record = RunPage.view(self.page)
        self.again = vm.kernel.runner(file, self._run, self.page)
        self._thread: int | None = None

    def enter(self) -> int:
        if self._thread is None:
            self._vm.finish()
            self._thread = threading.get_ident()
        return self.settle(self.again())

    def settle(self, reason: int) -> int:
        if reason == MMIO:
            return MMIO
        if reason == -errno.EINTR:
            self._run[IMMEDIATE_EXIT] = 0
            return INTERRUPTED
        if reason < 0:
            raise KvmError(KvmRequest.RUN, -reason)
        return self._carry_over(reason)

    def kick(self) -> None:
        self._run[IMMEDIATE_EXIT] = 1
        if self._thread is not None:
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._thread, KICK)

    def set_register(self, register: int, value: int) -> None:
        self._one_register(KvmRequest.SET_ONE_REG, register, value)

    def get_register(self, register: int) -> int:
        return self._one_register(KvmRequest.GET_ONE_REG, register, 0)

    def close(self) -> None:
        """The mapping goes with its last view."""
        del self._state, self.again, self._run

    def _one_register(self, request: KvmRequest, register: int, value: int) -> int:
        memory = bytearray(value.to_bytes(1 << RegisterId(register).SIZE, "little"))
        argument = filled(IoctlOneReg, id=register, address=address_of(memory))
        self._vm.request(request, argument, self._file)
        return int.from_bytes(memory, "little")

    def _carry_over(self, exit_reason: int) -> int:
        """The exit in the words of gzvm, in `page`."""
        state, record = self._state, self._record
        match exit_reason:
            case KvmExit.SYSTEM_EVENT:
                record.system_event.type = state.system_event.type
                record.system_event.ndata = state.system_event.ndata
                for number, value in enumerate(state.system_event.data):
                    record.system_event.data[number] = value
            case KvmExit.FAIL_ENTRY:
                record.fail_entry.reason = state.fail_entry.reason
                record.fail_entry.cpu = state.fail_entry.cpu
            case KvmExit.INTERNAL_ERROR:
                record.internal.suberror = state.internal.suberror
                record.internal.ndata = state.internal.ndata
                for number, value in enumerate(state.internal.data):
                    record.internal.data[number] = value
            case KvmExit.ARM_NISV:
                record.exception.exception = ExceptionCode.UNKNOWN
                record.exception.error_code = state.no_syndrome.esr_iss & 0xFFFF_FFFF
                record.exception.fault_gpa = state.no_syndrome.fault_ipa
            case _:
                pass  # the reason says it all
        return REASONS.get(exit_reason, ExitReason.UNKNOWN)
