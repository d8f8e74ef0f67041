# SPDX-License-Identifier: Apache-2.0
"""`gz show`: what a name or number of the architecture or of the interface means, from the declarations the core is
compiled from; for what a guest reads and traps on, what it gets and why."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import TypeVar

from gz.abi import calls
from gz.abi.capabilities import Capability
from gz.abi.errors import ERRNO, Error
from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent
from gz.abi.guest import VendorCall
from gz.arm64 import features, gic, gic_interface, registers, syndrome, timer
from gz.arm64.operations import DC
from gz.arm64.psci import Psci, PsciStatus
from gz.arm64.smccc import FunctionId, Owner, ParavirtTime, Smccc, Trng
from gz.arm64.syndrome import (
    ESR_EL2,
    FAULT_TYPE_MASK,
    SYSREG_MASK,
    CallIss,
    DataAbort,
    ExceptionClass,
    FaultStatus,
    FpIss,
    InstructionAbort,
    SysRegTrap,
    Wfx,
    WfxInstruction,
    register_iss,
)
from gz.arm64.sysreg import TABLE, SysReg
from gz.bits import Register
from gz.cli.report import UserError
from gz.core.identification import IDENTITIES
from gz.core.register_policy import disposition_of
from gz.core.speculation import WORKAROUNDS
from gz.core.sysregs import POLICY

Name = TypeVar("Name", bound=IntEnum)

SYNDROMES = {"ESR", "ESR_EL1", "ESR_EL2"}
NUMBERS: tuple[type[IntEnum], ...] = (
    ExitReason,
    Error,
    Psci,
    Smccc,
    Trng,
    ParavirtTime,
    VendorCall,
    calls.Call,
    SystemEvent,
    ExceptionCode,
    PsciStatus,
    Capability,
    ExceptionClass,
)
"""What numbers and names stand for."""

ISS: dict[int, type[Register]] = {
    ExceptionClass.WFX: Wfx,
    ExceptionClass.FP: FpIss,
    ExceptionClass.SVC64: CallIss,
    ExceptionClass.HVC64: CallIss,
    ExceptionClass.SMC64: CallIss,
    ExceptionClass.BRK64: CallIss,
    ExceptionClass.SYSREG: SysRegTrap,
    ExceptionClass.INSTRUCTION_ABORT_LOWER: InstructionAbort,
    ExceptionClass.INSTRUCTION_ABORT_SAME: InstructionAbort,
    ExceptionClass.DATA_ABORT_LOWER: DataAbort,
    ExceptionClass.DATA_ABORT_SAME: DataAbort,
}
VALUES: dict[tuple[type[Register], str], type[IntEnum]] = {
    (ESR_EL2, "EC"): ExceptionClass,
    (Wfx, "TI"): WfxInstruction,
}
REGISTERS = {name.upper(): register for name, register in TABLE.items()}
"""The manual writes some of them in small letters."""
RIGHTS = {"rw": "read and written", "ro": "read only", "wo": "write only"}

KINDS: dict[str, type[Register]] = {
    name: kind
    for module in (features, gic, gic_interface, registers, syndrome, timer)
    for name, kind in vars(module).items()
    if inspect.isclass(kind) and issubclass(kind, Register) and kind.FIELDS
}
"""Registers with named fields; those of one layout share it."""
FRAMES = {"GICD_": (gic.Gicd,), "GICR_": (gic.Gicr, gic.GicrSgi)}
"""The GIC's registers in memory, by what their names begin with."""
ENCODING = re.compile(r"S([0-3])_([0-7])_C(\d|1[0-5])_C(\d|1[0-5])_([0-7])")
_IMPLEMENTATIONS_OWN = (11, 15)  # CRn, with op0 1 and 3 (DDI 0487, C5.1.2)
SHARED = {
    "ICC_SRE_EL1": "ICC_SRE",
    "ICC_SRE_EL2": "ICC_SRE",
    "TTBR0_EL1": "TTBR_EL1",
    "TTBR1_EL1": "TTBR_EL1",
    "TTBR0_EL2": "TTBR_EL1",
    "ESR_EL1": "ESR_EL2",
    "SPSR_EL1": "SPSR",
    "SPSR_EL2": "SPSR",
    "ZCR_EL1": "ZCR",
    "ZCR_EL2": "ZCR",
    **{f"CNT{timer_name}": "CNT_CTL" for timer_name in ("V_CTL_EL0", "P_CTL_EL0", "HP_CTL_EL2", "HV_CTL_EL2")},
    "ICC_SGI0R_EL1": "ICC_SGI1R_EL1",
    "ICC_ASGI1R_EL1": "ICC_SGI1R_EL1",
}


def show(name: str, value: str | None) -> int:
    """Prints what is known; UserError if that is nothing."""
    number = None if value is None else parse(value)
    lines = list(explain(name, number))
    if not lines:
        raise UserError(
            f"{name} is no system register, exit, error, exception class or call that gz knows; try ESR_EL2 0x93800046"
        )
    print("\n".join(lines))
    return 0


def parse(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise UserError(f"{text!r} is not a number; write it as 0x2a or 42") from None
    if not -(1 << 63) <= number < 1 << 64:
        raise UserError(f"{text} does not fit into 64 bits")
    return number & ((1 << 64) - 1)


def explain(name: str, number: int | None) -> Iterator[str]:
    """Lines about a name, or about a number in its stead."""
    wanted = name.upper()
    if number is not None and wanted in SYNDROMES:
        yield from of_syndrome(number)
        return
    if wanted == "ESR":
        wanted = "ESR_EL2"
    if wanted in REGISTERS:
        yield from of_register(REGISTERS[wanted], number)
    elif encoding := ENCODING.fullmatch(wanted):
        yield from of_encoding(*map(int, encoding.groups()), value=number)
    elif wanted in KINDS or wanted[:5] in FRAMES:
        yield from of_memory(wanted)
        if wanted in KINDS:
            yield f"{wanted}: {summary(KINDS[wanted])}"
            yield from fields(KINDS[wanted], number)
    if number is not None:
        return
    instruction = wanted.removeprefix("DC").strip().lower()
    if instruction in DC:
        yield f"DC {instruction.upper()}: a cache maintenance instruction"
        yield from of_trap(_sys_iss(instruction))
    yield from of_names(wanted)
    if wanted[:1].isdigit() or wanted.startswith("-"):
        yield from of_number(parse(name))


def of_register(register: SysReg, value: int | None) -> Iterator[str]:
    """Encoding, access, fields, and what a guest gets."""
    yield f"{register.name}  {register.encoding}, {RIGHTS[register.access]}, {register.width} bits"
    kind = KINDS.get(SHARED.get(register.name, register.name))
    if kind is not None:
        yield from fields(kind, value)
    elif value is not None:
        yield f"  {value:#x}; its fields are not declared"
    yield from of_guest(register)


def of_encoding(op0: int, op1: int, crn: int, crm: int, op2: int, value: int | None) -> Iterator[str]:
    """A register, or an instruction of op0 1, by its numbers; many have no name here."""
    for register in TABLE.values():
        if (register.op0, register.op1, register.crn, register.crm, register.op2) == (op0, op1, crn, crm, op2):
            yield from of_register(register, value)
            return
    yield f"S{op0}_{op1}_C{crn}_C{crm}_{op2}  has no name that gz knows"
    if (op0, op1, crn) == (3, 0, 0) and crm:
        yield "guests: read 0; the features that it would tell of are hidden"
    elif op0 & 1 and crn in _IMPLEMENTATIONS_OWN:
        yield "guests: an undefined instruction: implementation defined, the host's (HCR_EL2.TIDCP)"
    else:
        yield from of_trap(int(SysRegTrap(Op0=op0, Op1=op1, CRn=crn, CRm=crm, Op2=op2)))


def of_memory(name: str) -> Iterator[str]:
    """Where a register of the GIC lies."""
    for window in FRAMES.get(name[:5], ()):
        if name[5:] in window.fields:
            frame = "SGI frame of the redistributor" if window is gic.GicrSgi else f"frame {name[:4]}"
            yield f"{name}  at {window.offset(name[5:]):#x} of the {frame}; the core emulates the GIC for guests"


def of_guest(register: SysReg) -> Iterator[str]:
    """The policy for guests: the row of core/identification.py or core/sysregs.py."""
    for identity in IDENTITIES:
        if identity.register is register:
            yield f"guests: read what the CPU has, as far as the core keeps it up: {identity.reason}"
            if identity.keep:
                yield f"  as they are    {', '.join(identity.keep)}"
            if identity.keep_mask:
                yield f"  as they are    the bits {identity.keep_mask:#x}"
            if identity.limit:
                yield f"  at most        {', '.join(f'{field} {most}' for field, most in identity.limit.items())}"
            if identity.least:
                yield f"  from           {', '.join(f'{field} {least}' for field, least in identity.least.items())} on"
            if identity.fixed:
                yield f"  always         {', '.join(f'{field} {value}' for field, value in identity.fixed.items())}"
            yield "  all else reads 0"
            return
    if (register.op0, register.op1, register.crn) == (3, 0, 0) and register.crm:
        yield "guests: read 0; the features that it would tell of are hidden"
        return
    disposition = disposition_of(register)
    if disposition is None:
        yield from of_trap(register_iss(register))
    else:
        yield f"guests: {disposition.fate.value}: {disposition.reason}"


def of_trap(key: int) -> Iterator[str]:
    """What becomes of a trapped register or instruction, by the ISS bits that name it."""
    for policy in POLICY:
        if policy.key == key & SYSREG_MASK:
            rights = {1: "reads", 2: "writes", 3: "reads and writes", 4: "first accesses"}[policy.access]
            yield f"guests: {rights} trap; {policy.handler.__name__.replace('_', ' ')}: {policy.reason}"
            return
    yield "guests: as on the bare machine, or an undefined instruction if it traps: the core's policy has no row for it"


def of_syndrome(value: int) -> Iterator[str]:
    """An exception syndrome, down to the fields of its ISS."""
    esr = ESR_EL2(value)
    yield f"ESR {value:#x}"
    yield from fields(ESR_EL2, value)
    kind = ISS.get(esr.EC)
    if kind is None:
        return
    yield f"ISS, as {kind.__name__}:"
    iss = int(esr.ISS)
    yield from fields(kind, iss)
    if kind is SysRegTrap:
        names = [name for name, register in TABLE.items() if register_iss(register) == iss & SYSREG_MASK]
        yield f"  {'MRS from' if SysRegTrap(iss).Read else 'MSR to'} {' or '.join(names) or 'a register without name'}"
        yield from of_guest(TABLE[names[0]]) if names else of_trap(iss)
    if kind in (DataAbort, InstructionAbort):
        yield f"  fault: {fault(iss & 0x3F)}"
    if kind is DataAbort and DataAbort(iss).ISV:
        abort = DataAbort(iss)
        register = f"{'x' if abort.SF else 'w'}{abort.SRT}" if abort.SRT != 31 else "the zero register"
        yield f"  a {'store' if abort.WnR else 'load'} of {1 << abort.SAS} bytes, {register}"


def fault(status: int) -> str:
    """A fault status in words."""
    plain = member(FaultStatus, status)
    if plain is not None and (plain > FaultStatus.PERMISSION or status & 3):
        return words(plain.name)
    table = member(FaultStatus, status & FAULT_TYPE_MASK)
    if table is not None:
        return f"{words(table.name)} at level {status & 3}"
    return f"fault status {status:#x}, which is reserved"


def fields(kind: type[Register], value: int | None) -> Iterator[str]:
    """One line a field: position, name, and the value and its meaning if there is one."""
    known = 0
    for name, bits in kind.FIELDS.items():
        known |= bits.mask
        place = f"{bits.high}" if bits.width == 1 else f"{bits.high}:{bits.low}"
        if value is None:
            yield f"  {place:>6}  {name}"
            continue
        part = (value & bits.mask) >> bits.low
        values = bits.kind or VALUES.get((kind, name))
        value_name = None if values is None else member(values, part)
        meaning = "" if value_name is None else f"  {value_name.name}"
        yield f"  {place:>6}  {name:<12} {part:#x}{meaning}"
    if value is not None and value & ~known:
        yield f"  the bits {value & ~known:#x} have no name"


def of_names(wanted: str) -> Iterator[str]:
    for kind in NUMBERS:
        if wanted in kind.__members__:
            yield from of_member(kind[wanted])


def of_number(number: int) -> Iterator[str]:
    """What a number may stand for; function ids also by their owner."""
    signed = number - (1 << 64) if number >> 63 else number
    low = number - (1 << 32) if number >> 31 == 1 else signed
    found = False
    for kind in NUMBERS:
        for candidate in kind:
            if candidate in (number, signed, low):
                found = True
                yield from of_member(candidate)
    for base, form in ((calls.SMC32_BASE, "SMC32"), (calls.SMC64_BASE, "SMC64")):
        if base <= number < base + calls.CALL_COUNT:
            found = True
            yield f"{number:#x}  the host's call {calls.Call(number - base).name}, {form}"
    if not found and number >> 31 == 1:
        function = FunctionId(number)
        named = member(Owner, function.OWNER)
        owner = f"owner {function.OWNER}" if named is None else words(named.name)
        yield f"{number:#x}  function {function.NUMBER:#x} of the {owner}, {'SMC64' if function.SMC64 else 'SMC32'}"


def member(kind: type[Name], number: int) -> Name | None:
    """The name of a number, if it has one."""
    return next((candidate for candidate in kind if candidate == number), None)


def of_member(entry: IntEnum) -> Iterator[str]:
    kind = type(entry)
    shown = f"{int(entry):#x}" if entry >= 0 else str(int(entry))
    yield f"{kind.__name__}.{entry.name}  {shown}  ({summary(kind)})"
    if isinstance(entry, calls.Call):
        yield f"  function ids {calls.SMC32_BASE + entry:#x} and {calls.SMC64_BASE + entry:#x}"
    if isinstance(entry, Smccc):
        yield from of_workaround(entry)
    if isinstance(entry, Error):
        yield f"  drivers make errno {ERRNO[entry]} of it"


def of_workaround(call: Smccc) -> Iterator[str]:
    for row in WORKAROUNDS:
        if row.call is call:
            parts = ", ".join(f"{part:#x}" for part in row.safe_parts)
            yield f"  {row.reason}"
            yield f"  guests: told to call it if a CPU needs it: not by {row.safe_by}, not Arm's parts {parts}"


def summary(kind: type) -> str:
    """The first line of its description, or of its file's."""
    text = kind.__doc__ if "__doc__" in vars(kind) and kind.__doc__ else None
    if text is None or text.startswith("An enumeration"):
        text = inspect.getdoc(inspect.getmodule(kind)) or kind.__name__
    return text.strip().splitlines()[0].removesuffix(".")


def words(name: str) -> str:
    return name.lower().replace("_", " ")


def _sys_iss(instruction: str) -> int:
    row = DC[instruction]
    return int(SysRegTrap(Op0=1, Op1=row.op1, CRn=row.crn, CRm=row.crm, Op2=row.op2))
