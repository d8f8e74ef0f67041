# SPDX-License-Identifier: Apache-2.0
"""/dev/kvm's numbers and layouts, as a C compiler sees them in the kernel's headers for arm64."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from gz.abi import device, kvm, registers
from gz.bits.layout import LayoutMeta
from gz.metal import zig

LAYOUTS: dict[str, tuple[LayoutMeta, dict[str, str]]] = {
    "struct kvm_enable_cap": (kvm.KvmEnableCap, {"cap": "cap", "args": "args"}),
    "struct kvm_create_device": (kvm.KvmCreateDevice, {"type": "type", "fd": "fd", "flags": "flags"}),
    "struct kvm_device_attr": (kvm.KvmDeviceAttribute, {"group": "group", "attribute": "attr", "address": "addr"}),
    "struct kvm_vcpu_init": (kvm.KvmVcpuInit, {"target": "target", "features": "features"}),
    "struct kvm_userspace_memory_region": (
        device.IoctlMemoryRegion,
        {"slot": "slot", "gpa": "guest_phys_addr", "memory_size": "memory_size", "user_address": "userspace_addr"},
    ),
    "struct kvm_irq_level": (device.IoctlIrqLine, {"irq": "irq", "level": "level"}),
    "struct kvm_irqfd": (device.IoctlIrqfd, {"fd": "fd", "gsi": "gsi", "flags": "flags"}),
    "struct kvm_ioeventfd": (
        device.IoctlIoeventfd,
        {"datamatch": "datamatch", "address": "addr", "length": "len", "fd": "fd", "flags": "flags"},
    ),
    "struct kvm_one_reg": (device.IoctlOneReg, {"id": "id", "address": "addr"}),
}
"""Ours and the names of their fields there."""

RUN = {
    "immediate_exit": "immediate_exit",
    "exit_reason": "exit_reason",
    "mmio": "mmio",
    "fail_entry": "fail_entry",
    "internal": "internal",
    "system_event": "system_event",
    "no_syndrome": "arm_nisv",
}
MEMBERS: dict[str, tuple[LayoutMeta, dict[str, str]]] = {
    "mmio": (kvm.KvmMmio, {"phys_addr": "phys_addr", "data": "data", "length": "len", "is_write": "is_write"}),
    "fail_entry": (kvm.KvmFailEntry, {"reason": "hardware_entry_failure_reason", "cpu": "cpu"}),
    "internal": (kvm.KvmInternalError, {"suberror": "suberror", "ndata": "ndata", "data": "data"}),
    "system_event": (kvm.KvmSystemEvent, {"type": "type", "ndata": "ndata", "data": "data"}),
    "arm_nisv": (kvm.KvmNoSyndrome, {"esr_iss": "esr_iss", "fault_ipa": "fault_ipa"}),
}


def expectations() -> dict[str, int]:
    """C expression to our value."""
    found = {f"KVM_{request.name}": int(request) for request in kvm.KvmRequest}
    found |= {f"KVM_EXIT_{reason.name}": int(reason) for reason in kvm.KvmExit}
    found |= {f"KVM_CAP_{capability.name}": int(capability) for capability in kvm.KvmCapability}
    found |= {f"1 << KVM_ARM_VCPU_{feature.name}": int(feature) for feature in kvm.KvmVcpuFeature}
    found |= {
        "KVM_API_VERSION": kvm.API_VERSION,
        "KVM_DEV_TYPE_ARM_VGIC_V3": kvm.VGIC_V3,
        "KVM_DEV_ARM_VGIC_GRP_ADDR": kvm.VgicGroup.ADDRESS,
        "KVM_DEV_ARM_VGIC_GRP_NR_IRQS": kvm.VgicGroup.IRQ_COUNT,
        "KVM_DEV_ARM_VGIC_GRP_CTRL": kvm.VgicGroup.CONTROL,
        "KVM_DEV_ARM_VGIC_CTRL_INIT": kvm.VGIC_INIT,
        "KVM_VGIC_V3_ADDR_TYPE_DIST": kvm.VgicAddress.DISTRIBUTOR,
        "KVM_VGIC_V3_ADDR_TYPE_REDIST": kvm.VgicAddress.REDISTRIBUTORS,
        "KVM_IRQFD_FLAG_DEASSIGN": device.IrqfdFlag.DEASSIGN,
        "KVM_IOEVENTFD_FLAG_DATAMATCH": device.IoeventfdFlag.DATAMATCH,
        "KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT": int(device.IrqNumber(TYPE=device.IrqType.SPI)),
        "KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.pc)": registers.PC,
        "KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.pstate)": registers.PSTATE,
        "KVM_REG_ARM64 | KVM_REG_SIZE_U32 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(fp_regs.fpcr)": registers.FPCR,
    }
    for name, (layout, fields) in LAYOUTS.items():
        found[f"sizeof({name})"] = layout.size
        found |= {f"offsetof({name}, {there})": layout.offset(ours) for ours, there in fields.items()}
    for ours, there in RUN.items():
        found[f"offsetof(struct kvm_run, {there})"] = kvm.KvmRun.offset(ours)
    for member, (layout, fields) in MEMBERS.items():
        start = f"offsetof(struct kvm_run, {member})"
        found[f"sizeof(((struct kvm_run *)0)->{member})"] = layout.size
        found |= {
            f"offsetof(struct kvm_run, {member}.{there}) - {start}": layout.offset(ours)
            for ours, there in fields.items()
        }
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What the compiler makes of the expressions, in their order."""
    directory: Path = tmp_path_factory.mktemp("kvm")
    source = "#include <stddef.h>\n#include <linux/kvm.h>\nconst unsigned long long values[] = {\n"
    source += "".join(f"(unsigned long long)({expression}),\n" for expression in expectations()) + "};\n"
    (directory / "values.c").write_text(source)
    headers = zig.zig().parent / "lib" / "libc" / "include"
    includes = [f"-I{headers / name}" for name in ("aarch64-linux-any", "any-linux-any")]
    target = ["--target=aarch64-linux-gnu", "-ffreestanding", *includes]
    zig.run(
        "clang", [*target, f"-I{zig.zig().parent / 'lib' / 'include'}", "-c", "values.c", "-o", "values.o"], directory
    )
    with (directory / "values.o").open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".rodata")
        assert section is not None
        data = section.data()
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def test_numbers_and_layouts(compiled: list[int]) -> None:
    expected = expectations()
    assert len(compiled) == len(expected) > 60
    wrong = {
        expression: (ours, theirs)
        for (expression, ours), theirs in zip(expected.items(), compiled, strict=True)
        if int(ours) != theirs
    }
    assert not wrong
