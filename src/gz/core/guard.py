# SPDX-License-Identifier: Apache-2.0
"""The MMIO guard of a protected VM: the pages at which it means to talk to the VMM. Any other is a fault of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.lock as lock
import gz.core.memory as memory
from gz.arm64.descriptors import PAGE_SHIFT
from gz.bits import Array, Held, Ipa, Struct, array, u64
from gz.core.lock import Lock
from gz.metal import held, inline, releases, view

if TYPE_CHECKING:
    from gz.core.vm import Vm

WINDOWS_MAX = 255
#: Instructions, about, of a change.
_PAGE = 300
_WINDOW = 20


class Window(Struct):
    first: u64  # page
    count: u64


class Guard(Struct):
    """A frame of zeros is one that permits nothing."""

    lock: Lock
    window_count: u64
    windows: Array[Window] = array(WINDOWS_MAX)


@inline
def _acquire(vm: Vm) -> Held[Guard]:
    guard = view(Guard, memory.va(vm.guard))
    lock.acquire(guard.lock)
    return held(guard)


@inline
@releases
def _release(guard: Held[Guard]) -> None:
    lock.release(guard.lock)


def effort(vm: Vm) -> u64:
    """Instructions, about, that a change takes; what other vCPUs do meanwhile counts little."""
    return _PAGE + _WINDOW * view(Guard, memory.va(vm.guard)).window_count


def permits(vm: Vm, ipa: Ipa) -> bool:
    guard = _acquire(vm)
    found = _find(guard, u64(ipa) >> PAGE_SHIFT) != WINDOWS_MAX
    _release(guard)
    return found


def _find(guard: Held[Guard], page: u64) -> u64:
    """The window with this page, or WINDOWS_MAX."""
    for i in range(guard.window_count):
        window = guard.windows[i]
        if page - window.first < window.count:
            return i
    return WINDOWS_MAX


def permit(vm: Vm, ipa: Ipa) -> bool:
    """Accesses to this page go to the VMM. False: there are too many windows."""
    page = u64(ipa) >> PAGE_SHIFT
    guard = _acquire(vm)
    done = _find(guard, page) != WINDOWS_MAX or _permit(guard, page)
    _release(guard)
    return done


def _permit(guard: Held[Guard], page: u64) -> bool:
    for i in range(guard.window_count):
        window = guard.windows[i]
        if window.first + window.count == page:
            window.count += 1
            return True
        if page + 1 == window.first:
            window.first = page
            window.count += 1
            return True
    return _add(guard, page, 1)


def _add(guard: Held[Guard], first: u64, count: u64) -> bool:
    if guard.window_count == WINDOWS_MAX:
        return False
    window = guard.windows[guard.window_count]
    window.first = first
    window.count = count
    guard.window_count += 1
    return True


def refuse(vm: Vm, ipa: Ipa) -> bool:
    """Accesses to this page fault. False: there are too many windows."""
    page = u64(ipa) >> PAGE_SHIFT
    guard = _acquire(vm)
    index = _find(guard, page)
    done = index == WINDOWS_MAX or _refuse(guard, index, page)
    _release(guard)
    return done


def _refuse(guard: Held[Guard], index: u64, page: u64) -> bool:
    window = guard.windows[index]
    before = page - window.first
    behind = window.count - before - 1
    if before != 0 and behind != 0 and not _add(guard, page + 1, behind):
        return False
    if before == 0:
        window.first = page + 1
        window.count = behind
    else:
        window.count = before
    if window.count == 0:
        last = guard.windows[guard.window_count - 1]
        window.first = last.first
        window.count = last.count
        guard.window_count -= 1
    return True
