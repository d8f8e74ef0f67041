# SPDX-License-Identifier: Apache-2.0
"""The oracle beside the running core: after every call on the board its table of owners is what the model says (M4 to
M7), now and then the host's and all guests' translations too.
"""

from __future__ import annotations

import os

import pytest
from core.oracle import OK
from core.random_host import Place, RandomHost
from outside import PAGE, RAM, SIZE, Outside

from gz.abi.calls import Call, smc64
from gz.abi.errors import Error

LOW = 0x5800_0000  # RAM that nothing else uses
GUEST_RAM = 0x5A00_0000
CALLS = int(os.environ.get("GZ_BOARD_CALLS", "4000"))
SEED = int(os.environ.get("GZ_SEED", "0"))
OFTEN = 100

MODELLED = [call for call in Call if call not in (Call.RUN, Call.IRQ_LINE, Call.CREATE_DEVICE)]
WEIGHTS = [1 if call in (Call.DESTROY_VM, Call.CREATE_VM, Call.GET_REGS, Call.SET_REGS) else 20 for call in MODELLED]


@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_the_core_agrees_with_the_oracle_after_every_call(cpu: str) -> None:
    with Outside(cpu) as board:
        core = next(pfn for pfn in range(RAM // PAGE, (RAM + SIZE) // PAGE) if not board.is_ram(pfn)) * PAGE
        odd = (0, core, core - PAGE, RAM + SIZE, RAM + SIZE - PAGE, 0x0900_0000, LOW + 1, 1 << 48, (1 << 64) - 1)
        host = RandomHost(board, SEED, Place(LOW, GUEST_RAM, odd, board.is_ram))
        good = 0
        for step in range(CALLS):
            good += host.step(host.chance.choices(MODELLED, WEIGHTS)[0]) == OK
            assert board.expected(host.oracle.pages)
            if step % OFTEN == 0:
                host.compare()
        host.compare()
        assert good > CALLS // 8
        for vmid in range(1, 65):
            while board.call(smc64(Call.DESTROY_VM), vmid, 512) == Error.BUSY:
                pass
        assert board.expected({}) and board.missing() == set()
        assert board.free_frames == board.frames
