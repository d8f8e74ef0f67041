# SPDX-License-Identifier: Apache-2.0
"""Layouts and numbers against the values of the public headers, written out."""

from __future__ import annotations

import errno
import struct

import pytest

from gz.abi import calls, device, doorbell, guest, registers
from gz.abi.calls import Call, VcpuTuple
from gz.abi.devices import DeviceRequest
from gz.abi.errors import ERRNO, Error, errno_of, status
from gz.abi.exits import ExitReason
from gz.abi.memory import CONSTITUENTS_MAX, MAILBOX_SIZE, Constituent, MemoryRegion
from gz.abi.run import HwState, MmioExit, RunPage
from gz.arm64.sysreg import SysRegs
from gz.bits.layout import LayoutMeta


def offsets(layout: LayoutMeta, names: str) -> list[int]:
    return [layout.offset(name) for name in names.split()]


def test_run_page() -> None:
    assert RunPage.size == 264
    assert offsets(RunPage, "exit_reason immediate_exit padding") == [0, 4, 5]
    assert offsets(RunPage, "mmio fail_entry exception hypercall internal system_event") == [8] * 6
    assert offsets(MmioExit, "phys_addr data length reg_nr is_write") == [0, 8, 16, 24, 28]


def test_run_page_union() -> None:
    """The same bytes read through each member, at the offsets that clients use."""
    page = bytearray(4096)
    struct.pack_into("<IB3xQ8sQIB", page, 0, 0x92920001, 1, 0x900_0018, b"\x78\x56\x34\x12", 4, 9, 1)
    run = RunPage.view(memoryview(page), 0)
    assert ExitReason(run.exit_reason) is ExitReason.MMIO
    assert run.immediate_exit == 1
    assert (run.mmio.phys_addr, run.mmio.data, run.mmio.length) == (0x900_0018, 0x1234_5678, 4)
    assert (run.mmio.reg_nr, run.mmio.is_write) == (9, 1)
    struct.pack_into("<IIQ240x", page, 8, 1, 7, 0x8000_0000)
    assert (run.exception.exception, run.exception.error_code) == (1, 7)
    assert run.exception.fault_gpa == 0x8000_0000
    assert len(run.exception.reserved) == 30
    struct.pack_into("<II16Q", page, 8, 2, 3, *range(16))
    assert (run.system_event.type, run.system_event.ndata, run.system_event.data[15]) == (2, 3, 15)
    run.hypercall.args[7] = 0x1122_3344_5566_7788
    assert page[64:72] == bytes.fromhex("8877665544332211")


def test_hwstate() -> None:
    assert offsets(HwState, "nr_lrs lr vtimer_offset vtimer_delay vtimer_migrate") == [0, 8, 136, 144, 152]


def test_memory_region() -> None:
    buffer = struct.pack("<IIQQ", 3, 2, 8, 0x8000_0000) + struct.pack("<QII", 0x4_5000, 6, 0xFFFF)
    region = MemoryRegion.view(memoryview(bytearray(buffer)), 0)
    assert (region.slot, region.constituent_count, region.total_pages, region.gpa) == (3, 2, 8, 0x8000_0000)
    run = Constituent.view(memoryview(bytearray(buffer)), MemoryRegion.size)
    assert (run.address, run.page_count) == (0x4_5000, 6)
    assert CONSTITUENTS_MAX == 510
    assert MAILBOX_SIZE == 4096


def test_device_request() -> None:
    assert DeviceRequest.size == 48
    names = "type id flags base window_size attr_addr attr_size"
    assert offsets(DeviceRequest, names) == [0, 4, 8, 16, 24, 32, 40]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("CREATE_VM", 0x00009201),
        ("CHECK_EXTENSION", 0x00009203),
        ("CREATE_VCPU", 0x00009241),
        ("SET_USER_MEMORY_REGION", 0x40209246),
        ("IRQ_LINE", 0x40089261),
        ("IRQFD", 0x40209276),
        ("IOEVENTFD", 0x40409279),
        ("RUN", 0x00009280),
        ("ENABLE_CAP", 0x403092A3),
        ("GET_ONE_REG", 0x401092AB),
        ("SET_ONE_REG", 0x401092AC),
        ("CREATE_DEVICE", 0xC03092E0),
        ("SET_DTB_CONFIG", 0x401092FF),
    ],
)
def test_ioctl_numbers(name: str, number: int) -> None:
    assert getattr(device, name) == number


def test_call_numbers() -> None:
    assert calls.smc32(Call.CREATE_VM) == 0xBB001000
    assert calls.smc64(Call.CREATE_VM) == 0xFB001000
    assert calls.smc32(Call.GET_STATISTICS) == 0xBB001013
    assert calls.smc64(Call.MAP_GUEST_BLOCK) == 0xFB001012
    assert [call.name for call in Call][5:9] == ["RUN", "GET_REGS", "SET_REGS", "GET_ONE_REG"]
    assert [int(call) for call in Call] == list(range(20))
    for call in Call:
        assert calls.call_of(calls.smc32(call)) is calls.call_of(calls.smc64(call)) is call
    for function in (0, 0xBB000FFF, 0xBB001014, 0xFB001014, 0x3B001000, 0x1_BB00_1000):
        assert calls.call_of(function) is None


def test_vcpu_tuple() -> None:
    assert int(VcpuTuple(VMID=0x1234, VCPU=7)) == 0x12340007


def test_errors() -> None:
    assert set(ERRNO) == set(Error)
    assert errno_of(0) == 0
    assert errno_of((-33) % (1 << 64)) == errno_of((-33) % (1 << 32)) == errno.EAGAIN
    assert errno_of((-24) % (1 << 64)) == errno.EOPNOTSUPP
    assert errno_of((1 << 64) - 1) == errno.EINVAL
    assert status(0xFFFF_FFFF_FFFF_FFFB) == Error.NO_MEMORY


def test_core_register_ids() -> None:
    assert registers.X0 == 0x6030_0000_0010_0000
    assert registers.x(30) == 0x6030_0000_0010_003C
    assert registers.SP == 0x6030_0000_0010_003E
    assert registers.PC == 0x6030_0000_0010_0040
    assert registers.PSTATE == 0x6030_0000_0010_0042
    assert registers.SP_EL1 == 0x6030_0000_0010_0044
    assert registers.ELR_EL1 == 0x6030_0000_0010_0046
    assert registers.SPSR_EL1 == 0x6030_0000_0010_0048
    assert registers.CoreFrame.offset("v") // 4 == 0x54
    assert registers.FPSR == 0x6020_0000_0010_00D4
    assert registers.FPCR == 0x6020_0000_0010_00D5
    with pytest.raises(ValueError, match="X31"):
        registers.x(31)


def test_system_register_ids() -> None:
    """KVM's numbers of the timer, from Linux' uapi header."""
    assert registers.system_register(3, 3, 14, 3, 1) == 0x6030_0000_0013_DF19
    register = SysRegs.MPIDR_EL1
    encoding = (register.op0, register.op1, register.crn, register.crm, register.op2)
    assert registers.system_register(*encoding) == 0x6030_0000_0013_C005


def test_uids() -> None:
    assert guest.KVM_UID_WORDS == (0xB66FB428, 0xE911C52E, 0x564BCAA9, 0x743A004D)
    assert guest.GENIEZONE_UID_WORDS == (0xD04E137E, 0x8D48823B, 0xC169EE8C, 0xE7DB1192)


def test_doorbell_is_one_page() -> None:
    assert doorbell.DOORBELL_SIZE == 4096
    assert doorbell.STORE_OFFSET % 8 == 0
