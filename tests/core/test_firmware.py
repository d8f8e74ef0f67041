# SPDX-License-Identifier: Apache-2.0
"""Firmware of protected VMs: what lies behind the core's image is in the VM before its first instruction, the host
reads, writes and chooses nothing of it (H7, M1), and what it is handed depends on what it is (B2).
"""

from __future__ import annotations

import hashlib
import hmac
import random
from typing import Any

import libfdt
import pytest
from caller import GUEST_BASE, GUEST_RAM, RUN_PAGE, Host, declare, finish, make_vm
from el2 import BLOCK, CORE, FRAMES, HIGH, HIGH_SIZE, LOW, MIB, PAGE

import gz.core.firmware as firmware
import gz.core.guest_calls as guest_calls
import gz.core.reclaim as reclaim
import gz.core.tree as trees
from gz.abi.calls import Call, smc64
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.errors import Error
from gz.abi.firmware import CONFIG_MAGIC, FIRMWARE_MAX, Config, DiceInput, Handover
from gz.abi.guest import GENIEZONE_UID_WORDS, KVM_UID_WORDS, VendorCall
from gz.abi.memory import Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, x
from gz.arm64.fdt import SIZE_MAX
from gz.bits.annotation import type_of
from gz.core.vcpu import Vcpu
from gz.metal.values import view_at

BINARY = FRAMES + 4 * MIB
"""Where the loader put it, behind the frames that these tests use."""
SIZE = 5 * PAGE
CONTENTS = random.Random(5).randbytes(SIZE)
REGION = GUEST_BASE - 2 * BLOCK
ENTRY = REGION + 3 * PAGE
SEED = bytes(range(32))
RANDOM = 0x1234_5678_9ABC_DEF0
ALL = {*range(LOW // PAGE, CORE // PAGE), *range(HIGH // PAGE, (HIGH + HIGH_SIZE) // PAGE)}
PROTECTED = Capability.PROTECTED_VM


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(firmware.prepare, guest_calls.call, trees.open)


def start(host: Host, contents: bytes = CONTENTS, *, seed: bytes | None = SEED, rndr: bool = True) -> bytes:
    """As after a boot with this firmware; gives the seed that the host finds in its tree."""
    host.reset(frame_count=900)
    writer = libfdt.FdtSw()
    writer.finish_reservemap()
    with writer.add_node(""), writer.add_node("chosen"):
        if seed is not None:
            writer.property("rng-seed", seed)
    blob = bytes(writer.as_fdt().as_bytearray())
    at = host.jit.buffer(len(blob))
    at.memory[:] = blob
    tree = host.jit.buffer(trees.Tree.size)
    assert host.machine.fn(trees.open)(tree.address, at.address, SIZE_MAX)
    registers = host.jit.sysregs
    registers.ID_AA64ISAR0_EL1 = int(rndr) << 60
    registers.RNDR = RANDOM
    memory = host.machine.memory
    memory.fill(BINARY, len(contents), 0)
    memory.write_words(BINARY, [int.from_bytes(contents[i : i + 8], "little") for i in range(0, len(contents), 8)])
    platform = host.jit.storage("gz.core.platform.machine")
    platform.firmware.base, platform.firmware.size = BINARY, len(contents)
    host.machine.fn(firmware.prepare)(tree.address)
    changed = bytes(at.memory)
    return b"" if seed is None else changed[blob.index(seed) :][: len(seed)]


@pytest.fixture
def host(compiled: Host) -> Host:
    start(compiled)
    return compiled


def vm(host: Host, *, at: int = ENTRY) -> tuple[int, int]:
    """A VM with a region for firmware, and what the capability answers."""
    vmid = make_vm(host)
    assert declare(host, vmid, 1, REGION, 2 * BLOCK, Purpose.PROTECTED_FIRMWARE) == 0
    return vmid, host.call(smc64(Call.ENABLE_CAP), vmid, PROTECTED, ProtectedVm.SET_FIRMWARE, at)


def boot_vcpu(host: Host, vmid: int) -> Any:
    return view_at(type_of(Vcpu), host.vm(vmid).vcpus[0])


def test_its_size_is_told(host: Host) -> None:
    vmid = make_vm(host)
    assert host.good(Call.ENABLE_CAP, vmid, PROTECTED, ProtectedVm.GET_FIRMWARE_SIZE) == SIZE + PAGE
    assert host.vm(vmid).protected == 0


@pytest.mark.parametrize("contents", [b"\1" * (PAGE + 8), b"\1" * FIRMWARE_MAX])
def test_what_does_not_fit_is_not_offered(compiled: Host, contents: bytes) -> None:
    start(compiled, contents)
    vmid, status = vm(compiled)
    assert compiled.good(Call.ENABLE_CAP, vmid, PROTECTED, ProtectedVm.GET_FIRMWARE_SIZE) == 0
    assert status == Error.NOT_SUPPORTED and compiled.vm(vmid).protected == 0


def test_the_host_chooses_arguments_and_no_entry(host: Host) -> None:
    vmid, status = vm(host)
    boot = vmid << 16
    assert status == 0 and host.vm(vmid).protected == 1
    assert boot_vcpu(host, vmid).context.elr == ENTRY
    for entry in (GUEST_BASE, ENTRY + 4, 0, ENTRY):
        assert host.call(smc64(Call.SET_ONE_REG), boot, PC, entry) == Error.NOT_SUPPORTED
    for n in range(8):
        host.good(Call.SET_ONE_REG, boot, x(n), n)
    host.good(Call.SET_ONE_REG, boot, PSTATE, BOOT_PSTATE)
    host.good(Call.DESTROY_VCPU, boot)
    host.good(Call.CREATE_VCPU, boot, RUN_PAGE)
    assert boot_vcpu(host, vmid).context.elr == ENTRY, "a new boot vCPU starts there too"
    host.good(Call.ENABLE_CAP, vmid, PROTECTED, ProtectedVm.PROTECT)
    host.good(Call.RUN, boot)
    assert boot_vcpu(host, vmid).context.elr == ENTRY
    assert host.call(smc64(Call.ENABLE_CAP), vmid, PROTECTED, ProtectedVm.SET_FIRMWARE, ENTRY) == Error.INVALID_ARGS
    finish(host)


@pytest.mark.parametrize(
    "at", [0, GUEST_BASE, ENTRY + 8, REGION - PAGE, REGION + 2 * BLOCK - SIZE, REGION + 2 * BLOCK, (1 << 64) - PAGE]
)
def test_an_address_without_room_is_refused(host: Host, at: int) -> None:
    vmid, status = vm(host, at=at)
    assert status == Error.INVALID_ARGS
    assert (host.vm(vmid).protected, host.vm(vmid).firmware_size) == (0, 0)
    finish(host)


def test_it_comes_before_the_first_page_and_once(host: Host) -> None:
    vmid, status = vm(host)
    assert status == 0
    assert host.call(smc64(Call.ENABLE_CAP), vmid, PROTECTED, ProtectedVm.SET_FIRMWARE, REGION) == Error.INVALID_ARGS
    host.good(Call.ENABLE_CAP, vmid, PROTECTED, ProtectedVm.SET_FIRMWARE, ENTRY)
    host.good(Call.DESTROY_VM, vmid, 0)
    vmid = make_vm(host)
    assert declare(host, vmid, 1, REGION, BLOCK, Purpose.PROTECTED_FIRMWARE) == 0
    host.good(Call.MAP_GUEST, vmid, 1, GUEST_RAM // PAGE, REGION // PAGE, 1)
    assert host.call(smc64(Call.ENABLE_CAP), vmid, PROTECTED, ProtectedVm.SET_FIRMWARE, REGION) == Error.INVALID_ARGS
    assert host.vm(vmid).firmware_size == 0
    finish(host)


@pytest.mark.parametrize(
    "slot, base, purpose", [(1, REGION - BLOCK, 2), (1, REGION, 1), (1, REGION, 0), (2, REGION, 1)]
)
def test_its_region_cannot_be_swapped_for_another(host: Host, slot: int, base: int, purpose: int) -> None:
    """Or the host's own program would lie where the boot vCPU starts."""
    vmid, status = vm(host)
    assert status == 0
    host.call(smc64(Call.MEMREGION_PURPOSE), vmid, base, BLOCK, purpose)
    memory = host.machine.memory
    buffer = LOW + 6 * PAGE
    memory.write32(buffer, slot)
    memory.write64(buffer + 8, BLOCK // PAGE)
    memory.write64(buffer + 16, base)
    assert host.call(smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, buffer) == Error.INVALID_ARGS
    assert declare(host, vmid, 1, REGION, 2 * BLOCK, Purpose.PROTECTED_FIRMWARE) == 0, "the same again is no change"
    finish(host)


@pytest.mark.parametrize("batch", [1, 7, 512])
def test_the_guest_finds_it_whatever_the_host_put_there(host: Host, batch: int) -> None:
    vmid, status = vm(host)
    assert status == 0
    memory = host.machine.memory
    memory.fill(GUEST_RAM, 512 * PAGE, 0xE5)
    first = 0
    while first < 512:
        count = min(batch, 512 - first)
        host.good(Call.MAP_GUEST, vmid, 1, GUEST_RAM // PAGE + first, REGION // PAGE + first, count)
        first += count
    assert host.seen() == ALL - {*range(GUEST_RAM // PAGE, GUEST_RAM // PAGE + 512)}
    assert memory.read(GUEST_RAM, 3 * PAGE) == bytes(3 * PAGE)
    assert memory.read(GUEST_RAM + 3 * PAGE, SIZE) == CONTENTS
    page = memory.read(GUEST_RAM + 3 * PAGE + SIZE, PAGE)
    config = Config.view(memoryview(bytearray(page)), 0)
    assert (config.magic, config.version, config.flags) == (CONFIG_MAGIC, 0x1_0000, 0)
    assert (config.entries[0].offset, config.entries[0].length, config.entries[1].length) == (32, 71, 0)
    assert not any(page[config.total_size :])
    assert memory.read(GUEST_RAM + 3 * PAGE + SIZE + PAGE, 100 * PAGE) == bytes(100 * PAGE)
    memory.fill(GUEST_RAM, 512 * PAGE, 0x11)  # the guest's own use of it
    host.good(Call.MAP_GUEST, vmid, 1, GUEST_RAM // PAGE, REGION // PAGE, 1)
    assert memory.read(GUEST_RAM, PAGE) == b"\x11" * PAGE, "what is there stays"
    host.good(Call.DESTROY_VM, vmid, 0)
    assert memory.read(GUEST_RAM, 512 * PAGE) == bytes(512 * PAGE)
    finish(host)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt, secret, "sha512"), info + b"\1", "sha512")


def handed_over(host: Host) -> tuple[bytes, bytes]:
    """CDI_Attest and CDI_Seal as a VM gets them."""
    config = Config.view(memoryview(bytearray(bytes(host.jit.storage("gz.core.firmware.firmware").config))), 0)
    start = Config.offset("handover")
    raw = bytes(host.jit.storage("gz.core.firmware.firmware").config)[start : start + config.entries[0].length]
    assert raw[:4] == b"\xa2\x01\x58\x20" and raw[36:39] == b"\x02\x58\x20"
    assert Handover.offset("seal") == 39
    return raw[4:36], raw[39:71]


def test_secrets_are_those_of_the_open_profile(compiled: Host) -> None:
    changed = start(compiled)
    entropy = RANDOM.to_bytes(8, "little") * 8 + hashlib.sha512(SEED).digest()
    root = hkdf(entropy, b"", b"gz root")[:32]
    inputs = hashlib.sha512(CONTENTS).digest() + bytes(128) + b"\2" + bytes(64)
    assert DiceInput.size == len(inputs) == 257
    attest = hkdf(root, hashlib.sha512(inputs).digest(), b"CDI_Attest")[:32]
    seal = hkdf(root, hashlib.sha512(inputs[128:]).digest(), b"CDI_Seal")[:32]
    assert handed_over(compiled) == (attest, seal)
    assert changed == hkdf(entropy, b"", b"gz host")[:32] != SEED, "the host cannot do the same sum"
    kept = compiled.jit.storage("gz.core.firmware.firmware")
    assert not any(kept.secret) and not any(kept.entropy)


def test_other_firmware_or_another_boot_gets_other_secrets(compiled: Host) -> None:
    start(compiled)
    attest, seal = handed_over(compiled)
    flipped = bytearray(CONTENTS)
    flipped[-1] ^= 1
    start(compiled, bytes(flipped))
    assert handed_over(compiled)[0] != attest and handed_over(compiled)[1] == seal
    start(compiled, seed=SEED[::-1])
    assert handed_over(compiled)[0] != attest and handed_over(compiled)[1] != seal


@pytest.mark.parametrize("seed, rndr, offered", [(None, True, True), (SEED, False, True), (None, False, False)])
def test_without_random_numbers_there_is_none(compiled: Host, seed: bytes | None, rndr: bool, offered: bool) -> None:
    start(compiled, seed=seed, rndr=rndr)
    vmid = make_vm(compiled)
    size = compiled.good(Call.ENABLE_CAP, vmid, PROTECTED, ProtectedVm.GET_FIRMWARE_SIZE)
    assert (size != 0) == offered


def test_it_sees_genie_zones_identity(host: Host) -> None:
    """Others see KVM's, whose services these are."""
    vmid, status = vm(host)
    assert status == 0
    plain = make_vm(host)
    for number, words in ((vmid, GENIEZONE_UID_WORDS), (plain, KVM_UID_WORDS)):
        vcpu = boot_vcpu(host, number)
        vcpu.context.x[0] = VendorCall.CALL_UID
        host.machine.fn(guest_calls.call)(vcpu)
        assert tuple(vcpu.context.x[i] for i in range(4)) == words


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_calls_puts_anything_else_at_the_entry(host: Host, seed: int) -> None:
    """A host that tries all it can before the first RUN: the boot vCPU starts at the entry, and what lies there is the
    firmware, reached by nobody else."""
    chance = random.Random(seed)
    memory = host.machine.memory
    vmid, status = vm(host)
    assert status == 0
    boot = vmid << 16
    places = [REGION, REGION + BLOCK, REGION + 3 * PAGE, ENTRY, ENTRY + SIZE, GUEST_BASE, GUEST_BASE + BLOCK]
    succeeded = 0
    for _ in range(800):
        at, slot, page = chance.choice(places), chance.randrange(4), GUEST_RAM // PAGE + chance.randrange(2048)
        match chance.choice(("declare", "map", "map", "map", "protect", "register", "vcpu", "relinquish")):
            case "declare":
                size = chance.choice((PAGE, BLOCK, 2 * BLOCK))
                purpose = chance.choice(list(Purpose))
                host.call(smc64(Call.MEMREGION_PURPOSE), vmid, at, size, purpose)
                memory.write32(LOW + 6 * PAGE, slot)
                memory.write64(LOW + 6 * PAGE + 8, size // PAGE)
                memory.write64(LOW + 6 * PAGE + 16, at)
                host.call(smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, LOW + 6 * PAGE)
            case "map":
                gfn, count = at // PAGE + chance.randrange(8), chance.choice((1, 2, 9))
                if page in host.seen():
                    memory.fill(page * PAGE, PAGE, 0xE5)
                succeeded += host.call(smc64(Call.MAP_GUEST), vmid, slot, page, gfn, count) == 0
            case "protect":
                sub = chance.choice(list(ProtectedVm))
                host.call(smc64(Call.ENABLE_CAP), vmid, PROTECTED, sub, at)
            case "register":
                register = chance.choice((PC, PSTATE, x(0), x(9)))
                host.call(smc64(Call.SET_ONE_REG), boot, register, chance.choice((GUEST_BASE, BOOT_PSTATE, 0)))
            case "vcpu":
                host.call(smc64(Call.DESTROY_VCPU), boot)
                host.call(smc64(Call.CREATE_VCPU), boot, RUN_PAGE)
            case _:
                if host.vm(vmid).vcpus[0]:
                    host.machine.fn(reclaim.relinquish)(boot_vcpu(host, vmid), at)
    assert succeeded
    if ENTRY // PAGE not in host.mapped(vmid):
        host.good(Call.MAP_GUEST, vmid, 1, GUEST_RAM // PAGE + 3000, ENTRY // PAGE, 1)
    assert host.vm(vmid).firmware == ENTRY and boot_vcpu(host, vmid).context.elr == ENTRY
    mapped, seen = host.mapped(vmid), host.seen()
    there = [gfn for gfn in range(ENTRY // PAGE, (ENTRY + SIZE) // PAGE) if gfn in mapped]
    assert ENTRY // PAGE in there
    for gfn in there:
        offset = gfn * PAGE - ENTRY
        assert memory.read(mapped[gfn] * PAGE, PAGE) == CONTENTS[offset : offset + PAGE]
        assert mapped[gfn] not in seen
    finish(host)
