# SPDX-License-Identifier: Apache-2.0
"""The PL011 (DDI 0183) of a guest that has no VMM, as far as sending goes: it has always sent.

What it says goes to the core's console, in whole lines with the guest's name before them. Nothing else has a device:
reads are 0, stores have no effect.
"""

from __future__ import annotations

import gz.core.console as console
import gz.core.lock as lock
import gz.core.vgic as vgic
from gz.abi.run import MmioExit
from gz.arm64.pl011 import FR, PERIPHERAL_ID, PRIMECELL_ID, Interrupt
from gz.bits import Array, Held, Struct, Va, array, table, u8, u32, u64
from gz.core.lock import Lock
from gz.core.platform import BootGuest
from gz.core.tree import text
from gz.core.vm import Vm
from gz.metal import address, held, inline, read_once, releases, write_once
from gz.vmm.maps import VIRT

_LINE_MAX = 160
_NEWLINE = 0x0A
_RETURN = 0x0D
_WORD = 4

_FR = int(FR(RXFE=1, TXFE=1, CTS=1, DSR=1, DCD=1))
_TX = int(Interrupt(TX=1))
_DR_OFFSET, _FR_OFFSET, _IMSC_OFFSET, _RIS_OFFSET, _MIS_OFFSET = 0x000, 0x018, 0x038, 0x03C, 0x040
_ID_OFFSET = 0xFE0
_IDS = table(u8, [*PERIPHERAL_ID, *PRIMECELL_ID])
_SEPARATOR = text(": ")
_END = text("\n")


class Uart(Struct):
    lock: Lock  # its guest may have several vCPUs
    mask: u32  # UARTIMSC
    length: u32
    line: Array[u8] = array(_LINE_MAX)


@inline
def _acquire(uart: Uart) -> Held[Uart]:
    lock.acquire(uart.lock)
    return held(uart)


@inline
@releases
def _release(uart: Held[Uart]) -> None:
    lock.release(uart.lock)


def report(guest: BootGuest, line: Va, length: u64) -> None:
    """A line of its own, or one about it."""
    console.write(guest.name, guest.name_size)
    console.write(address(_SEPARATOR), len(_SEPARATOR))
    console.write(line, length)
    console.write(address(_END), len(_END))


def serve(uart: Uart, guest: BootGuest, vm: Vm, access: MmioExit) -> bool:
    """An access of the guest's to what is neither memory nor its GIC. True: one of its vCPUs may have been woken."""
    at = read_once(access.phys_addr)
    if at < VIRT.uart or at >= VIRT.uart + VIRT.uart_size:
        return False
    offset = at - VIRT.uart
    locked = _acquire(uart)
    if read_once(access.is_write) != 0:
        _write(locked, guest, vm, offset, u32(read_once(access.data)))
    else:
        write_once(access.data, _read(locked, offset))
    _release(locked)
    return offset == _IMSC_OFFSET


def _write(uart: Held[Uart], guest: BootGuest, vm: Vm, offset: u64, value: u32) -> None:
    if offset == _DR_OFFSET:
        _put(uart, guest, u8(value & 0xFF))
    elif offset == _IMSC_OFFSET:
        uart.mask = value
        vgic.irq_line(vm, 0, VIRT.uart_spi, 1 if value & _TX != 0 else 0)


def _read(uart: Held[Uart], offset: u64) -> u64:
    if offset == _FR_OFFSET:
        return _FR
    if offset == _IMSC_OFFSET:
        return uart.mask
    if offset == _RIS_OFFSET:
        return _TX
    if offset == _MIS_OFFSET:
        return uart.mask & _TX
    if offset >= _ID_OFFSET and offset < _ID_OFFSET + _WORD * len(_IDS):
        return _IDS[(offset - _ID_OFFSET) // _WORD]
    return 0


def _put(uart: Held[Uart], guest: BootGuest, byte: u8) -> None:
    if byte == _RETURN:
        return
    if byte != _NEWLINE:
        uart.line[uart.length] = byte
        uart.length += 1
    if byte == _NEWLINE or uart.length == _LINE_MAX:
        report(guest, address(uart.line), uart.length)
        uart.length = 0
