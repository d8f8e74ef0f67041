# SPDX-License-Identifier: Apache-2.0
"""The oracle beside the running core: after every call on the board, a host's or a guest's, its table of owners is what
the model says, now and then the host's and all guests' translations too.
"""

from __future__ import annotations

import os

import pytest
from core.oracle import MISSING, OK, UNOFFERED, WRONG
from core.random_host import Place, RandomHost
from obedient import OTHERS, TRANSFERS, Obedient
from outside import PAGE, RAM, SIZE, Outside

from gz.abi.calls import Call, smc64
from gz.abi.errors import Error

LOW = 0x5800_0000  # RAM that nothing else uses
GUEST_RAM = 0x5A00_0000
GUESTS = LOW + (64 << 12)
CALLS = int(os.environ.get("GZ_BOARD_CALLS", "2000"))
SEED = int(os.environ.get("GZ_SEED", "0"))
OFTEN = 100

MODELLED = [call for call in Call if call not in (Call.RUN, Call.IRQ_LINE, Call.CREATE_DEVICE)]
WEIGHTS = [1 if call in (Call.DESTROY_VM, Call.CREATE_VM, Call.GET_REGS, Call.SET_REGS) else 20 for call in MODELLED]


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 1), ("cortex-a76", 2), ("cortex-a76", 4), ("max", 2)])
def test_the_core_agrees_with_the_oracle_after_every_call(cpu: str, cpus: int) -> None:
    """M4, M5, M6, M7, H1, H3: calls of the host's, each CPU in turn. M16: of two protected guests and another one,
    which show, hide and give back what is theirs, shown, missing or nobody's."""
    with Outside(cpu, cpus) as board:
        core = next(pfn for pfn in range(RAM // PAGE, (RAM + SIZE) // PAGE) if not board.is_ram(pfn)) * PAGE
        odd = (0, core, core - PAGE, RAM + SIZE, RAM + SIZE - PAGE, 0x0900_0000, LOW + 1, 1 << 48, (1 << 64) - 1)
        host = RandomHost(board, SEED + cpus, Place(LOW, GUEST_RAM, odd, board.is_ram))
        for _ in range(4):  # the VMs that the host's calls are about
            assert host.make([smc64(Call.CREATE_VM), *[0] * 7]) == OK
        guests = [Obedient(host, board, GUESTS + number * 8 * PAGE, number < 2) for number in range(3)]
        good = 0
        for step in range(CALLS):
            if step % 3 == 0:
                guests[step // 3 % len(guests)].step()
            else:
                good += host.step(host.chance.choices(MODELLED, WEIGHTS)[0]) == OK
            assert board.expected(host.oracle.pages)
            if step % OFTEN == 0:
                host.compare()
        host.compare()
        assert good > CALLS // 12
        tally = guests[0].tally + guests[1].tally
        assert all(tally[function, OK] and tally[function, WRONG] for function in (*TRANSFERS, *OTHERS)), tally
        assert any(status == MISSING for _, status in tally)
        assert {status for (function, status), _ in guests[2].tally.items() if function in TRANSFERS} == {UNOFFERED}
        for vmid in range(1, 65):
            while board.call(smc64(Call.DESTROY_VM), vmid, 512) == Error.BUSY:
                pass
        assert board.expected({}) and board.missing() == set()
        assert board.free_frames == board.frames
