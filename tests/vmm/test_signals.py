# SPDX-License-Identifier: Apache-2.0
"""Signals to a VMM: at any moment they end it, and what it holds is given back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import POWER_OFF, RESET, FakeVm, Guest, WaitForInterrupt
from images import make_image

from gz.vmm import __main__ as vmm
from gz.vmm.signals import ENDING, Interrupted, Signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in ENDING]
    yield
    for number, handler in zip(ENDING, before, strict=True):
        signal.signal(number, handler)


def end_this_process(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class SignalledVm(FakeVm):
    """A signal comes while this VM is given back."""

    def close(self) -> None:
        assert not self.closed
        end_this_process()
        end_this_process(signal.SIGINT)
        super().close()


def resets(vm: FakeVm) -> Guest:
    yield RESET


def powers_off(vm: FakeVm) -> Guest:
    yield POWER_OFF


def waits(vm: FakeVm) -> Guest:
    end_this_process(signal.SIGHUP)
    yield WaitForInterrupt()


@pytest.mark.parametrize(
    ("kind", "guest", "status"),
    [
        (SignalledVm, resets, 128 + signal.SIGINT),
        (SignalledVm, powers_off, 128 + signal.SIGINT),
        (FakeVm, waits, 128 + signal.SIGHUP),
        (FakeVm, powers_off, 0),
    ],
)
def test_a_signal_ends_the_vmm(
    kind: type[FakeVm], guest: object, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Image").write_bytes(make_image(0x10_0000))
    opened: list[FakeVm] = []

    def open_guest(transport: str, log: object) -> FakeVm:
        assert len(opened) < 3, "a signal was lost"
        opened.append(kind([guest]))  # pyright: ignore[reportArgumentType]
        return opened[-1]

    monkeypatch.setattr(vmm, "open_guest", open_guest)
    monkeypatch.setattr(sys, "argv", ["gz.vmm", "--kernel", str(tmp_path / "Image"), "--mem", "16M"])
    assert vmm.main() == status
    assert len(opened) == 1 and opened[0].closed


def test_signals_wait_for_a_block_that_heeds_them() -> None:
    signals = Signals()
    end_this_process()
    with pytest.raises(Interrupted) as raised, signals.heeded():
        pytest.fail("a signal that waited is taken first")
    assert raised.value.number == signal.SIGTERM


def test_only_the_first_one_interrupts() -> None:
    signals = Signals()
    cleaned = False
    with pytest.raises(Interrupted), signals.heeded():
        try:
            end_this_process()
        finally:
            end_this_process()
            cleaned = True
    assert cleaned
