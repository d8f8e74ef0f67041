# SPDX-License-Identifier: Apache-2.0
"""Isolation tests that a host and tiny guests play step by step, each step on the host's next CPU, so that whatever one
CPU has kept of a VM meets the others. A line for each id of the list (docs/security.md).
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import PAGE_SIZE, RunPage
from gz.arm64.insn import hvc
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, export, log, panic, peek64, poke32, poke64, unroll, view
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.checks import PASS, verdict

#: RAM that nothing else uses, with 512 MiB in the machine: two programs, then pages that guests look at.
MEMORY = 0x5800_0000
BLOCKS = 60
FIRST, SECOND = MEMORY + 8 * PAGE_SIZE, MEMORY + 9 * PAGE_SIZE
LOOKS = 3
_REFUSALS = 8
_GPA = PAGE_SIZE  # of what a guest looks at; its program is at 0
_SIZE = BLOCKS * BLOCK_SIZE
_LIMIT = 20  # times that a guest may come back for nothing
_EL1 = 4  # CurrentEL
_UNKNOWN = 0xFFFF_0000_0000_0000

#: Tells what is at x0, again and again; x2 is a device's address.
_LOOK = (
    0xF940_0001,  # ldr x1, [x0]
    0xF900_0041,  # str x1, [x2]
    0x17FF_FFFE,  # b .-8
)
#: Tells its exception level.
_LEVEL = (
    0xD538_4241,  # mrs x1, CurrentEL
    0xF900_0041,  # str x1, [x2]
    0x17FF_FFFE,  # b .-8
)
#: Writes to a page at x6, cleans by set and way, gives the page back by a call of number x5, tells the answer, looks.
_SET_WAY = (
    0xF900_00C3,  # str x3, [x6]
    0xD508_7E44,  # dc cisw, x4
    0xD508_7A44,  # dc csw, x4
    0xD508_7644,  # dc isw, x4
    0xD503_3F9F,  # dsb sy
    0xAA05_03E0,  # mov x0, x5
    0xAA06_03E1,  # mov x1, x6
    0xAA1F_03E2,  # mov x2, xzr
    0xAA1F_03E3,  # mov x3, xzr
    0xD400_0002,  # hvc #0
    0xF900_00E0,  # str x0, [x7]
    0xF940_00C3,  # ldr x3, [x6]
    0x17FF_FFFF,  # b .-4
)


class Asked(Struct):
    """A call, and two of its results."""

    x: Array[u64] = array(6)
    status: u64
    value: u64
    count: u64
    """CPUs."""
    turn: u64


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(2 * PAGE_SIZE)
    second: Array[u8] = array(2 * PAGE_SIZE)
    region: Array[u8] = array(REGION_BUFFER_SIZE)


asked = storage(Asked)
pages = storage(Pages)


def make() -> None:
    x = asked.x
    asked.status, asked.value, _, _ = hvc(x[0], x[1], x[2], x[3], x[4], x[5])


@export
def job(cpu: u64, number: u64) -> u64:
    make()
    return 0


def call(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """On the next CPU: the status."""
    x = asked.x
    x[0] = SMC64_BASE + index
    x[1] = a
    x[2] = b
    x[3] = c
    x[4] = d
    x[5] = e
    asked.turn += 1
    cpu = asked.turn % asked.count
    if cpu == 0:
        make()
    elif cores.run(cpu, 0) != 0:
        panic("a CPU does not come back\n")
    return asked.status


def good(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """A call that has to succeed; gives x1."""
    status = call(index, a, b, c, d, e)
    if status != 0:
        panic(f"call {index} answered {0 - status}\n")
    return asked.value


def create(protected: bool) -> u64:
    vm = good(Call.CREATE_VM, 0, 0, 0, 0, 0)
    region = view(MemoryRegion, address(pages.region))
    region.slot = 0
    region.constituent_count = 0
    region.total_pages = BLOCKS * BLOCK_PAGES
    region.gpa = 0
    good(Call.MEMREGION_PURPOSE, vm, 0, _SIZE, Purpose.GUEST_MEMORY, 0)
    good(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0, 0)
    if protected:
        good(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
    return vm


def map_page(vm: u64, gpa: u64, page: u64) -> u64:
    return call(Call.MAP_GUEST, vm, 0, page // PAGE_SIZE, gpa // PAGE_SIZE, 1)


def set_register(vm: u64, register: u64, value: u64) -> u64:
    return call(Call.SET_ONE_REG, vm << 16, register, value, 0, 0)


def begin(vm: u64) -> None:
    """The vCPU, with the program that was written, x0 = _GPA and x2 = a device."""
    good(Call.MAP_GUEST, vm, 0, MEMORY // PAGE_SIZE, 0, 1)
    good(Call.CREATE_VCPU, vm << 16, u64(address(pages.run)), 0, 0, 0)
    set_register(vm, PC, 0)
    set_register(vm, PSTATE, BOOT_PSTATE)
    set_register(vm, X0, _GPA)
    set_register(vm, X0 + 4, VIRT.uart)


def end(vm: u64) -> None:
    call(Call.DESTROY_VCPU, vm << 16, 0, 0, 0, 0)
    good(Call.DESTROY_VM, vm, 0, 0, 0, 0)


def run(vm: u64) -> u64:
    """To an exit that is the guest's own: its reason."""
    for _ in range(_LIMIT):
        good(Call.RUN, vm << 16, 0, 0, 0, 0)
        if asked.value != ExitReason.IRQ and asked.value != ExitReason.GZ:
            return asked.value
    return ExitReason.UNKNOWN


def told(vm: u64) -> u64:
    """What the guest stored to the device; _UNKNOWN: it came back for something else."""
    if run(vm) != ExitReason.MMIO:
        return _UNKNOWN
    return view(RunPage, address(pages.run)).mmio.data


def missed(vm: u64, gpa: u64) -> bool:
    """The guest has no page there."""
    return run(vm) == ExitReason.EXCEPTION and view(RunPage, address(pages.run)).exception.fault_gpa == gpa


# The checks.


def write_look() -> None:
    for i, word in unroll(tuple(enumerate(_LOOK))):
        poke32(Va(MEMORY + 4 * i), word)


def reused_handle() -> u32:
    """A VM with the handle, and so the VMID, of another one never meets its translations, on no CPU."""
    right = True
    for _ in range(LOOKS):
        write_look()
        poke64(Va(FIRST), 0xAAAA)
        poke64(Va(SECOND), 0xBBBB)
        one = create(False)
        begin(one)
        map_page(one, _GPA, FIRST)
        for _ in range(2 * asked.count):
            right = told(one) == 0xAAAA and right
        end(one)
        other = create(False)
        begin(other)
        for _ in range(asked.count):
            right = missed(other, _GPA) and right
        map_page(other, _GPA, SECOND)
        for _ in range(2 * asked.count):
            right = told(other) == 0xBBBB and right
        end(other)
        right = other == one and right
    return verdict(right)


def set_and_way() -> u32:
    """A guest that cleans its caches so and gives the page back has it no more, on no CPU, and it is zeros."""
    right = True
    for _ in range(LOOKS):
        for i, word in unroll(tuple(enumerate(_SET_WAY))):
            poke32(Va(MEMORY + 4 * i), word)
        vm = create(False)
        begin(vm)
        map_page(vm, _GPA, FIRST)
        set_register(vm, X0 + 2 * 3, 0x5EC2)
        set_register(vm, X0 + 2 * 5, VendorCall.MEM_RELINQUISH)
        set_register(vm, X0 + 2 * 6, _GPA)
        set_register(vm, X0 + 2 * 7, VIRT.uart)
        right = run(vm) == ExitReason.HYPERCALL and right
        right = told(vm) == 0 and right
        for _ in range(asked.count):
            right = missed(vm, _GPA) and right
        right = peek64(Va(FIRST)) == 0 and right
        end(vm)
    return verdict(right)


def wild_state() -> u32:
    """No state that is not a guest's: EL2, EL3, AArch32, single step, illegal, reserved bits."""
    for i, word in unroll(tuple(enumerate(_LEVEL))):
        poke32(Va(MEMORY + 4 * i), word)
    vm = create(False)
    begin(vm)
    right = True
    for pstate in unroll((0x3C9, 0x3C8, 0x3CD, 0x3CC, 0x1D3, 0x1D0, 0x1DA, 1 << 20 | 0x3C5, 1 << 21 | 0x3C5, 1 << 40)):
        right = set_register(vm, PSTATE, pstate) != 0 and right
        right = told(vm) == _EL1 and right
    end(vm)
    return verdict(right)


def entry() -> u32:
    """Of a protected guest the host sets the start of the boot vCPU, before it has run, and sees nothing."""
    write_look()
    vm = create(True)
    begin(vm)
    good(Call.CREATE_VCPU, vm << 16 | 1, u64(address(pages.second)), 0, 0, 0)
    right = call(Call.SET_ONE_REG, vm << 16 | 1, PC, 0, 0, 0) != 0
    right = set_register(vm, PC, 0) == 0 and right
    run(vm)
    for register in unroll((PC, PSTATE, X0, X0 + 2 * 19)):
        right = set_register(vm, register, 0) != 0 and right
        right = call(Call.GET_ONE_REG, vm << 16, register, 0, 0, 0) != 0 and right
    call(Call.DESTROY_VCPU, vm << 16 | 1, 0, 0, 0, 0)
    end(vm)
    return verdict(right)


def map_more(vm: u64, pages_there: u64) -> u64:
    """Private pages, one in each block, until there is no memory for tables: how many there are then."""
    count = pages_there
    while count < BLOCKS - 1 and map_page(vm, count * BLOCK_SIZE, MEMORY + count * BLOCK_SIZE) == 0:
        count += 1
    return count


def no_memory() -> u32:
    """VMs until there can be no more, then private pages until there is no table for them, again and again while the
    VMs go: errors, without effect."""
    vm = create(True)
    most: u64 = 0
    while call(Call.CREATE_VM, 0, 0, 0, 0, 0) == 0:
        most = asked.value
    right = asked.status == u64(Error.NO_MEMORY)
    count: u64 = 0
    refusals: u64 = 0
    for other in range(1, most + 1):
        count = map_more(vm, count)
        page = Va(MEMORY + count * BLOCK_SIZE)
        poke64(page, 0x5EC2)
        right = exceptions.taken() == 0 and peek64(page) == 0x5EC2 and right
        refusals += 1 if asked.status == u64(Error.NO_MEMORY) else 0
        if other != vm:
            good(Call.DESTROY_VM, other, 0, 0, 0, 0)
    count = map_more(vm, count)
    last = Va(MEMORY + (count - 1) * BLOCK_SIZE)
    poke64(last, 0)
    right = exceptions.taken() != 0 and right
    good(Call.DESTROY_VM, vm, 0, 0, 0, 0)
    right = peek64(last) == 0 and exceptions.taken() == 0 and right
    return verdict(right and min(refusals, count) > _REFUSALS)


CHECKS = (
    ("M11", reused_handle),
    ("M12", set_and_way),
    ("C3", wild_state),
    ("H7", entry),
    ("M13 H8", no_memory),
)


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    asked.count = cores.count()
    for cpu in range(1, asked.count):
        if not cores.switch_on(cpu):
            panic("a CPU does not start\n")
    for name, check in unroll(CHECKS):
        if check() == PASS:
            log(f"PASS {name}")
        else:
            log(f"FAIL {name}")
