# SPDX-License-Identifier: Apache-2.0
"""The device tree of a guest that has no VMM: CPUs, RAM, GICv3, timer and PL011 of the "virt" machine.

All but RAM, the number of CPUs and /chosen is the same for every guest and made at build time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import gz.core.memory as memory
import gz.core.tree_writer as writer
from gz.abi.calls import VCPUS_MAX
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE
from gz.arm64.fdt import FdtHeader, FdtReservation, FdtToken
from gz.bits import Pa, Va, sizeof, table, u8, u64
from gz.core.memory import memcpy
from gz.core.platform import BootGuest
from gz.core.tree import text
from gz.metal import address
from gz.vmm.maps import VIRT

#: What a tree takes beside the kernel's arguments.
SIZE = 0x1000

_GIC, _CLOCK = 1, 2
_SPI, _PPI, _LEVEL = 0, 1, 4
_TIMER_PPIS = (13, 14, 11, 10)  # secure, physical, virtual, hypervisor
_CLOCK_HZ = 24_000_000

Value = bytes | str | Sequence[str] | Sequence[int]


def _pairs(*values: int) -> list[int]:
    """Numbers of two cells."""
    return [cell for value in values for cell in (value >> 32, value & 0xFFFF_FFFF)]


#: Nodes below the root, by name; "" is the root's own properties.
_NODES: dict[str, dict[str, Value]] = {
    "": {
        "#address-cells": [2],
        "#size-cells": [2],
        "compatible": "linux,dummy-virt",
        "interrupt-parent": [_GIC],
    },
    "psci": {"compatible": ["arm,psci-1.0", "arm,psci-0.2"], "method": "hvc"},
    "timer": {
        "compatible": "arm,armv8-timer",
        "interrupts": [cell for ppi in _TIMER_PPIS for cell in (_PPI, ppi, _LEVEL)],
        "always-on": b"",
    },
    f"intc@{VIRT.gicd:x}": {
        "compatible": "arm,gic-v3",
        "#interrupt-cells": [3],
        "interrupt-controller": b"",
        "reg": _pairs(VIRT.gicd, DISTRIBUTOR_SIZE, VIRT.redistributors, VCPUS_MAX * REDISTRIBUTOR_SIZE),
        "phandle": [_GIC],
    },
    "apb-pclk": {
        "compatible": "fixed-clock",
        "#clock-cells": [0],
        "clock-frequency": [_CLOCK_HZ],
        "phandle": [_CLOCK],
    },
    VIRT.uart_path[1:]: {
        "compatible": ["arm,pl011", "arm,primecell"],
        "reg": _pairs(VIRT.uart, VIRT.uart_size),
        "interrupts": [_SPI, VIRT.uart_spi, _LEVEL],
        "clocks": [_CLOCK, _CLOCK],
        "clock-names": ["uartclk", "apb_pclk"],
    },
}
_CPUS: dict[str, Value] = {"#address-cells": [1], "#size-cells": [0]}
_CPU: dict[str, Value] = {"device_type": "cpu", "compatible": "arm,armv8", "enable-method": "psci"}
_OWN_NAMES = ("device_type", "reg", "bootargs", "stdout-path", "linux,initrd-start", "linux,initrd-end")
_NAMES = tuple(dict.fromkeys([*_OWN_NAMES, *(name for node in (*_NODES.values(), _CPUS, _CPU) for name in node)]))
_OFFSETS = {name: sum(len(other) + 1 for other in _NAMES[:i]) for i, name in enumerate(_NAMES)}
_DEVICE_TYPE, _REG, _BOOTARGS, _STDOUT, _INITRD_START, _INITRD_END = (_OFFSETS[name] for name in _OWN_NAMES)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _encoded(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    strings = [value] if isinstance(value, str) else [part for part in value if isinstance(part, str)]
    if strings:
        return b"".join(string.encode() + b"\0" for string in strings)
    return struct.pack(f">{len(value)}I", *value)


def _begin(name: str) -> bytes:
    return struct.pack(">I", FdtToken.BEGIN_NODE) + _padded(name.encode() + b"\0")


def _properties(node: Mapping[str, Value]) -> bytes:
    blob = b""
    for name, value in node.items():
        data = _encoded(value)
        blob += struct.pack(">III", FdtToken.PROP, len(data), _OFFSETS[name]) + _padded(data)
    return blob


def _node(path: str) -> bytes:
    """A node with all below it."""
    name = path.rpartition("/")[2]
    inner = b"".join(_node(other) for other in _NODES if path and other.rpartition("/")[0] == path)
    return _begin(name) + _properties(_NODES[path]) + inner + struct.pack(">I", FdtToken.END_NODE)


def _cpu(index: int) -> bytes:
    return _begin(f"cpu@{index}") + _properties({**_CPU, "reg": [index]}) + struct.pack(">I", FdtToken.END_NODE)


#: Of equal size each: the first ones are taken.
_CPU_NODES = table(u8, list(b"".join(_cpu(index) for index in range(VCPUS_MAX))))
_CPUS_HEAD = table(u8, list(_begin("cpus") + _properties(_CPUS)))
#: The root, still open.
_COMMON = table(
    u8,
    list(_begin("") + _properties(_NODES[""]) + b"".join(_node(path) for path in _NODES if path and "/" not in path)),
)
_STRINGS = text("".join(f"{name}\0" for name in _NAMES))
_MEMORY = text(f"memory@{VIRT.ram:x}")
_MEMORY_TYPE = text("memory\0")
_CHOSEN = text("chosen")
_UART = text(f"{VIRT.uart_path}\0")


def write(guest: BootGuest, to: Pa, initrd: u64) -> u64:
    """Write the tree to `to`, with `SIZE` bytes and the arguments'; its size. `initrd`: the ramdisk's IPA."""
    blob: Va = memory.va(to)
    structure: u64 = sizeof(FdtHeader) + sizeof(FdtReservation)
    memory.memset(blob, 0, structure)
    writer.open(blob + structure, 0)
    writer.data(address(_COMMON), len(_COMMON))
    writer.data(address(_CPUS_HEAD), len(_CPUS_HEAD))
    writer.data(address(_CPU_NODES), len(_CPU_NODES) // VCPUS_MAX * guest.cpus)
    writer.token(FdtToken.END_NODE)
    writer.begin(_MEMORY)
    writer.property(_DEVICE_TYPE, len(_MEMORY_TYPE))
    writer.data(address(_MEMORY_TYPE), len(_MEMORY_TYPE))
    writer.pad()
    writer.property(_REG, 16)
    writer.number(VIRT.ram, 2)
    writer.number(guest.memory.size, 2)
    writer.token(FdtToken.END_NODE)
    _chosen(guest, initrd)
    writer.token(FdtToken.END_NODE)
    writer.token(FdtToken.END)
    strings = structure + writer.output.size
    memcpy(blob + strings, address(_STRINGS), len(_STRINGS))
    return writer.header(blob, sizeof(FdtHeader), structure, strings, len(_STRINGS), 0)


def _chosen(guest: BootGuest, initrd: u64) -> None:
    writer.begin(_CHOSEN)
    writer.property(_STDOUT, len(_UART))
    writer.data(address(_UART), len(_UART))
    writer.pad()
    writer.property(_BOOTARGS, guest.arguments_size + 1)
    writer.data(guest.arguments, guest.arguments_size)
    writer.byte(0)
    writer.pad()
    if guest.initrd.size != 0:
        writer.property(_INITRD_START, 8)
        writer.number(initrd, 2)
        writer.property(_INITRD_END, 8)
        writer.number(initrd + guest.initrd.size, 2)
    writer.token(FdtToken.END_NODE)
