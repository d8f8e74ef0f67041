# SPDX-License-Identifier: Apache-2.0
"""What of its memory the guest of a protected VM shows to the host (MEM_SHARE, MEM_UNSHARE)."""

from __future__ import annotations

import gz.core.host_memory as host_memory
import gz.core.memory as memory
import gz.core.pages as pages
import gz.core.slots as slots
import gz.core.work as works
from gz.abi.errors import Error
from gz.abi.run import PAGE_SIZE
from gz.bits import Held, Ipa, Pa, i64, u64
from gz.core.platform import machine
from gz.core.vcpu import Vcpu
from gz.core.vm import Vm

#: Instructions, about, of a page.
_PAGE = 800


def show(vcpu: Vcpu, ipa: Ipa, count: u64) -> tuple[i64, u64]:
    """Of adjacent private pages: what stopped it, and how many the host can see now. FAULT: one is not there yet."""
    vm = slots.acquire(vcpu)
    works.begin(vm.work, 0)
    done: u64 = 0
    error: i64 = Error.NO_ERROR
    while error == Error.NO_ERROR and done < count and works.afford(vm.work, _PAGE):
        error = _show(vm, ipa + done * PAGE_SIZE)
        if error == Error.NO_ERROR:
            done += 1
    slots.release(vm)
    return error, done


def hide(vcpu: Vcpu, ipa: Ipa, count: u64) -> tuple[i64, u64]:
    """The same for pages that the host shall not see any more; when this returns it does not."""
    vm = slots.acquire(vcpu)
    works.begin(vm.work, 0)
    done: u64 = 0
    error: i64 = Error.NO_ERROR
    while error == Error.NO_ERROR and done < count and works.afford(vm.work, _PAGE):
        error = _hide(vm, ipa + done * PAGE_SIZE)
        if error == Error.NO_ERROR:
            done += 1
    if done != 0:
        host_memory.forget()
        if machine.forces_write_back == 0:
            _clean(vm, ipa, done)
    slots.release(vm)
    return error, done


def _clean(vm: Held[Vm], ipa: Ipa, count: u64) -> None:
    """A line that the host left dirty would be written back over what the guest stores past the caches."""
    for i in range(count):
        memory.clean(slots.output(vm, ipa + i * PAGE_SIZE), PAGE_SIZE)


def _page(vm: Held[Vm], ipa: Ipa) -> tuple[i64, Pa]:
    """A page of memory that begins private."""
    slot = slots.find(vm, ipa)
    if slot is None or not slots.is_private(vm, slot):
        return Error.INVALID_ARGS, Pa(0)
    page = slots.output(vm, ipa)
    return Error.FAULT if page == 0 else i64(Error.NO_ERROR), page


def _show(vm: Held[Vm], ipa: Ipa) -> i64:
    error, page = _page(vm, ipa)
    if error != Error.NO_ERROR:
        return error
    error = host_memory.prepare(vm.work, page, PAGE_SIZE)
    if error != Error.NO_ERROR:
        return error
    if not pages.show(page, 1, vm.vmid):
        host_memory.merge(page)
        return Error.INVALID_ARGS
    memory.clean(page, PAGE_SIZE)  # past the caches the host would see what the guest had there before
    host_memory.give(page, PAGE_SIZE)
    vm.private_count -= 1
    return Error.NO_ERROR


def _hide(vm: Held[Vm], ipa: Ipa) -> i64:
    error, page = _page(vm, ipa)
    if error != Error.NO_ERROR:
        return error
    error = host_memory.prepare(vm.work, page, PAGE_SIZE)
    if error != Error.NO_ERROR:
        return error
    if not pages.hide(page, 1, vm.vmid):
        host_memory.merge(page)
        return Error.INVALID_ARGS
    host_memory.withdraw(page, PAGE_SIZE)
    vm.private_count += 1
    return Error.NO_ERROR
