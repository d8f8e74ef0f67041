# SPDX-License-Identifier: Apache-2.0
"""Which test plays which number of the public interface; what none plays, and why."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest

import gz.abi
from gz.abi.calls import Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.device import IoeventfdFlag, IrqfdFlag, IrqType
from gz.abi.devices import DeviceType
from gz.abi.errors import Error
from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent, Watch
from gz.abi.guest import PtpCounter, VendorCall, VendorStatus
from gz.abi.memory import Access, Purpose

ROOT = Path(__file__).parents[2]
_SMALL = 0xFF  # such numbers may stand there for something else
OTHERS = ("kvm",)
"""Modules of another interface."""

CALLS = "tests/core/test_calls.py"
EXITS = "tests/core/test_exits.py"
GUEST = "tests/core/test_guest_calls.py"
PROTECTED = "tests/core/test_protected.py"
FIRMWARE = "tests/core/test_firmware.py"
VM = "tests/driver/test_vm.py"
WATCHED = "payloads/watched.py"
ACCESS = "tests/core/test_memory_access.py"
DRIVER = "payloads/driver.py"
"""Plays the generations of the kernel's driver; tests/payloads/test_driver.py looks at what it saw."""

#: Number → file, function, and what it is called there if not by its name.
PLAYED: tuple[tuple[Any, ...], ...] = (
    (Call.CREATE_VM, DRIVER, "create_vm"),
    (Call.DESTROY_VM, DRIVER, "end"),
    (Call.CREATE_VCPU, DRIVER, "play"),
    (Call.DESTROY_VCPU, DRIVER, "end"),
    (Call.SET_MEMREGION, DRIVER, "add_memory"),
    (Call.RUN, DRIVER, "enter"),
    (Call.GET_REGS, CALLS, "test_reserved_numbers"),
    (Call.SET_REGS, CALLS, "test_reserved_numbers"),
    (Call.GET_ONE_REG, PROTECTED, "test_registers_are_the_start_of_the_boot_vcpu_alone"),
    (Call.SET_ONE_REG, DRIVER, "start_registers"),
    (Call.IRQ_LINE, DRIVER, "raise_line"),
    (Call.CREATE_DEVICE, DRIVER, "add_device"),
    (Call.PROBE, DRIVER, "probe"),
    (Call.ENABLE_CAP, DRIVER, "create_vm"),
    (Call.INFORM_EXIT, DRIVER, "signalled"),
    (Call.MEMREGION_PURPOSE, DRIVER, "add_memory"),
    (Call.SET_DTB_CONFIG, DRIVER, "play"),
    (Call.MAP_GUEST, DRIVER, "supply"),
    (Call.MAP_GUEST_BLOCK, DRIVER, "supply"),
    (Call.GET_STATISTICS, DRIVER, "payload"),
    (Capability.BLOCK_DEMAND_PAGING, DRIVER, "create_vm"),
    (Capability.DEMAND_PAGING, DRIVER, "create_vm"),
    (Capability.IDLE, DRIVER, "create_vm"),
    (Capability.QUERY_BLOCK_BATCH, DRIVER, "probe"),
    (Capability.QUERY_DESTROY_BATCH, DRIVER, "probe"),
    (Capability.PROTECTED_VM, DRIVER, "play"),
    (ProtectedVm.SET_FIRMWARE, "payloads/verified.py", "create"),
    (ProtectedVm.GET_FIRMWARE_SIZE, DRIVER, "play"),
    (ProtectedVm.PROTECT, "payloads/protected.py", "create"),
    (DeviceType.VGICV3_DISTRIBUTOR, DRIVER, "play"),
    (DeviceType.VGICV3_REDISTRIBUTOR, DRIVER, "play"),
    (Error.NO_ERROR, CALLS, "test_devices", "== OK"),
    (Error.NO_MEMORY, PROTECTED, "test_frames_run_out"),
    (Error.INVALID_ARGS, CALLS, "test_buffers_that_are_not_the_hosts"),
    (Error.NOT_SUPPORTED, CALLS, "test_there_is_no_firmware"),
    (Error.NOT_IMPLEMENTED, CALLS, "test_reserved_numbers"),
    (Error.BUSY, CALLS, "test_all_pages_come_back"),
    (ExitReason.MMIO, DRIVER, "run"),
    (ExitReason.HYPERCALL, DRIVER, "run"),
    (ExitReason.IRQ, DRIVER, "run"),
    (ExitReason.EXCEPTION, DRIVER, "run"),
    (ExitReason.FAIL_ENTRY, CALLS, "test_a_vcpu_that_runs_is_left_alone"),
    (ExitReason.SYSTEM_EVENT, DRIVER, "run"),
    (ExitReason.GZ, DRIVER, "run"),
    (ExitReason.IDLE, DRIVER, "run"),
    (ExitReason.IPI, DRIVER, "run"),
    (ExceptionCode.PAGE_FAULT, DRIVER, "run"),
    *((code, "tests/payloads/test_exceptions.py", "HEARD") for code in ExceptionCode if 1 < code < 6),
    *((kind, WATCHED, "ALL") for kind in Watch),
    (Capability.WATCH_EXCEPTIONS, WATCHED, "watch"),
    (Capability.MEMORY_ACCESS, ACCESS, "change", "MEMORY_ACCESS"),
    (Access.READ_WRITE, ACCESS, "test_the_numbers", "READ_WRITE"),
    (Access.READ_ONLY, ACCESS, "test_the_numbers", "READ_ONLY"),
    (Access.NONE, ACCESS, "test_the_numbers", "NONE"),
    (ExitReason.DEBUG, WATCHED, "serve"),
    (SystemEvent.SHUTDOWN, DRIVER, "event"),
    (SystemEvent.RESET, DRIVER, "event"),
    (SystemEvent.CRASH, EXITS, "test_system_event"),
    (VendorCall.CALL_UID, "payloads/driven.py", "identity"),
    (VendorCall.FEATURES, PROTECTED, "test_features_of_both_kinds"),
    (VendorCall.PTP, "payloads/driven.py", "identity"),
    (VendorCall.HYP_MEMINFO, PROTECTED, "test_features_of_both_kinds"),
    (VendorCall.MEM_SHARE, PROTECTED, "test_ranges_are_shown_and_hidden", "SHARE"),
    (VendorCall.MEM_UNSHARE, PROTECTED, "test_ranges_are_shown_and_hidden", "UNSHARE"),
    (VendorCall.MMIO_GUARD_INFO, PROTECTED, "test_features_of_both_kinds"),
    (VendorCall.MMIO_GUARD_ENROLL, PROTECTED, "test_features_of_both_kinds"),
    (VendorCall.MMIO_GUARD_MAP, PROTECTED, "test_unguarded_device_access_is_a_fault_of_the_guest"),
    (VendorCall.MMIO_GUARD_UNMAP, PROTECTED, "test_unguarded_device_access_is_a_fault_of_the_guest"),
    (VendorCall.MMIO_RGUARD_MAP, PROTECTED, "test_ranges_of_devices"),
    (VendorCall.MMIO_RGUARD_UNMAP, PROTECTED, "test_ranges_of_devices"),
    (VendorCall.MEM_RELINQUISH, "payloads/driven.py", "balloon"),
    (VendorCall.MEM_PRIVATE, PROTECTED, "test_a_guest_learns_what_is_private"),
    (VendorStatus.SUCCESS, PROTECTED, "test_a_guest_learns_what_is_private", "== 0"),
    (VendorStatus.NOT_SUPPORTED, PROTECTED, "test_features_of_both_kinds", "UNSUPPORTED"),
    (VendorStatus.INVALID_PARAMETER, PROTECTED, "test_features_of_both_kinds", "INVALID"),
    (PtpCounter.VIRTUAL, "payloads/driven.py", "identity"),
    (PtpCounter.PHYSICAL, VM, "test_ptp_is_answered", "(1, 9, 0)"),
    (Purpose.NONE, "payloads/verified.py", "create"),
    (Purpose.GUEST_MEMORY, DRIVER, "add_memory"),
    (Purpose.PROTECTED_FIRMWARE, FIRMWARE, "vm"),
    (Purpose.STATIC_SWIOTLB, PROTECTED, "test_bounce_pool_and_later_regions_stay_shared", "(1, 4)"),
)

ANSWERED_ABOVE = "the driver alone answers it"
NEVER_LEFT = "the core never leaves with it"
OF_IOCTLS = "of the kernel driver's ioctls; no hypercall carries it"

NOT_PLAYED: tuple[tuple[IntEnum | IntFlag, str], ...] = (
    (Capability.GPA_SIZE, ANSWERED_ABOVE),
    (Error.FAULT, "inside the core: a page that the host has to supply first"),
    (ExitReason.UNKNOWN, NEVER_LEFT),
    (ExitReason.INTERNAL_ERROR, NEVER_LEFT),
    (ExitReason.SHUTDOWN, NEVER_LEFT),
    (ExceptionCode.UNKNOWN, NEVER_LEFT),
    (ExceptionCode.SERROR, "nothing on the emulated machine makes an SError"),
    (SystemEvent.WAKEUP, NEVER_LEFT),
    (SystemEvent.SUSPEND, NEVER_LEFT),
    (SystemEvent.SEV_TERM, NEVER_LEFT),
    (SystemEvent.S2IDLE, NEVER_LEFT),
    (VendorStatus.NOT_REQUIRED, "an answer of hypervisors whose guests need no guard"),
    *((number, OF_IOCTLS) for kind in (IrqType, IrqfdFlag, IoeventfdFlag) for number in kind),
)


def numbers() -> list[IntEnum | IntFlag]:
    """Every member of every enumeration of the interface."""
    modules = [module.name for module in pkgutil.iter_modules(gz.abi.__path__) if module.name not in OTHERS]
    found: list[IntEnum | IntFlag] = []
    for name in modules:
        module = importlib.import_module(f"gz.abi.{name}")
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, (IntEnum, IntFlag))
                and value.__module__ == module.__name__
            ):
                found += list(value)
    return found


def key(number: IntEnum | IntFlag) -> tuple[type, str]:
    """Members of two enumerations may be equal as numbers."""
    return type(number), str(number.name)


def function(file: str, name: str) -> str:
    """Its source, or that of a constant; LookupError if the file has neither."""
    text = (ROOT / file).read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min(part.lineno for part in (node, *node.decorator_list))
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.unparse(node)
    raise LookupError(f"{file} has no {name}")


def test_every_number_has_its_place() -> None:
    places = [key(row[0]) for row in (*PLAYED, *NOT_PLAYED)]
    assert len(places) == len(set(places))
    assert set(places) == {key(number) for number in numbers()}


@pytest.mark.parametrize("row", PLAYED, ids=lambda row: f"{type(row[0]).__name__}.{row[0].name}")
def test_its_test_names_it(row: tuple[Any, ...]) -> None:
    number, file, name, *needle = row
    text = function(file, name)
    ways = needle or [f"{type(number).__name__}.{number.name}", f"{int(number):#x}"][: 1 + (number > _SMALL)]
    assert any(way.lower() in text.lower() for way in ways), f"{name} does not mention {ways[0]}"


@pytest.mark.parametrize("reason", [ExitReason.UNKNOWN, ExitReason.INTERNAL_ERROR, ExitReason.SHUTDOWN])
def test_what_the_core_never_says_is_not_in_it(reason: ExitReason) -> None:
    assert not [
        path.name for path in (ROOT / "src/gz/core").glob("*.py") if f"ExitReason.{reason.name}" in path.read_text()
    ]
