# SPDX-License-Identifier: Apache-2.0
"""Every register and number that is declared can be shown; what is said is what the declarations and the policy say."""

from __future__ import annotations

from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gz.arm64.sysreg import TABLE
from gz.cli.app import app
from gz.cli.report import UserError
from gz.cli.show import NUMBERS, SYNDROMES, explain, parse, show
from gz.core.identification import IDENTITIES, Identity
from gz.core.sysregs import POLICY, Policy


def text(name: str, value: int | None = None) -> str:
    return "\n".join(explain(name, value))


def test_a_store_that_faulted() -> None:
    shown = text("esr", 0x93800046)
    for line in ("31:26  EC           0x24  DATA_ABORT_LOWER", "translation at level 2", "a store of 4 bytes, w0"):
        assert line in shown, shown


def test_a_trapped_register_names_it_and_its_policy() -> None:
    # EC 0x18, MSR to ICC_SGI1R_EL1 (S3_0_C12_C11_5) from x1.
    shown = text("ESR_EL2", 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 1 << 5 | 11 << 1)
    assert "MSR to ICC_SGI1R_EL1" in shown and "interrupts between vCPUs" in shown


def test_fields_and_their_values() -> None:
    shown = text("hcr_el2", 0x80000001 | 1 << 39)
    assert "S3_4_C1_C1_0, read and written, 64 bits" in shown
    assert "      31  RW           0x1" in shown and "       1  SWIO         0x0" in shown
    assert "the bits 0x8000000000 have no name" in shown


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.register.name)
def test_what_guests_read_has_its_reason(identity: Identity) -> None:
    shown = text(identity.register.name)
    assert identity.reason in shown and all(name in shown for name in identity.keep)


@pytest.mark.parametrize(
    "policy", [row for row in POLICY if hasattr(row.register, "name")], ids=lambda row: str(row[0])
)
def test_what_traps_has_its_reason(policy: Policy) -> None:
    assert f": {policy.reason}" in text(policy.register.name)


def test_instructions_by_set_and_way_have_their_reason() -> None:
    assert "data of others must not be lost" in text("dcisw")


@pytest.mark.parametrize("name", TABLE)
def test_every_register_is_shown(name: str) -> None:
    shown = text(name.lower(), None if name in SYNDROMES else 0xFFFF_FFFF_FFFF_FFFF)
    assert shown.startswith(f"{name}  {TABLE[name].encoding}") and "guests: " in shown


@pytest.mark.parametrize("name", TABLE)
def test_every_register_is_shown_by_its_encoding(name: str) -> None:
    """Some encodings have a name for reads and one for writes."""
    assert text(TABLE[name].encoding).partition("  ")[2].startswith(TABLE[name].encoding)
    assert text(TABLE[name].encoding.lower()) == text(TABLE[name].encoding)


def test_registers_without_a_name() -> None:
    """As the op space in a guest has them (payloads.registers)."""
    assert "guests: read 0" in text("S3_0_C0_C7_7")
    assert "an undefined instruction" in text("s3_3_c15_c2_0") and "TIDCP" in text("S1_0_C11_C0_0")
    assert "data of others must not be lost" in text("S1_0_C7_C6_2")
    with pytest.raises(UserError):
        show("S3_8_C0_C0_0", None)


def test_registers_of_the_gic() -> None:
    assert "at 0x14 of the frame GICR" in text("gicr_waker") and "ProcessorSleep" in text("GICR_WAKER")
    assert "0x40  ENABLE" not in text("GICD_CTLR", 0x40) and "DS           0x1" in text("GICD_CTLR", 0x40)
    assert "SGI frame" in text("GICR_IPRIORITYR") and "at 0x6000" in text("GICD_IROUTER")
    with pytest.raises(UserError):
        show("GICD_NOTHING", None)


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_name_and_number_is_shown(kind: type[IntEnum]) -> None:
    for member in kind:
        line = f"{kind.__name__}.{member.name}  "
        assert line in text(member.name) and line in text(str(int(member)))


def test_calls_by_function_id() -> None:
    assert "the host's call RUN, SMC64" in text("0xfb001005")
    assert "function 0x55 of the vendor hypervisor, SMC32" in text("0x86000055")
    assert "errno 22" in text("INVALID_ARGS")
    assert "Error.INVALID_ARGS" in text("0xfffffff8") and "Error.INVALID_ARGS" in text("0xfffffffffffffff8")


@given(st.integers(0, 2**64 - 1))
def test_any_syndrome_can_be_shown(value: int) -> None:
    assert text("esr", value).startswith(f"ESR {value:#x}")
    assert "\n" not in text("esr", None).splitlines()[0]


@pytest.mark.parametrize(("name", "value"), [("nonsense", None), ("0x12345", None), ("esr", "zz"), ("esr", "1" * 30)])
def test_what_is_not_known_is_one_line(name: str, value: str | None) -> None:
    with pytest.raises(UserError) as error:
        show(name, value)
    assert "\n" not in str(error.value)


def test_the_command() -> None:
    runner = CliRunner()
    assert "PsciStatus.DENIED" in runner.invoke(app, ["show", "-3"]).stdout
    assert "CPU_ON_64" in runner.invoke(app, ["show", "0xc4000003"]).stdout
    assert runner.invoke(app, ["show", "esr", "what"]).exit_code == 1
    assert parse("-1") == 2**64 - 1
