# SPDX-License-Identifier: Apache-2.0
"""Prints docs/memory.md from the table in gz.core.pages: `PYTHONPATH=src python3 docs/memory.py > docs/memory.md`."""

from __future__ import annotations

from gz.core.pages import TRANSITIONS, State, Transition

STATES = {
    State.HOST: ("yes", "no", "the host's alone"),
    State.LENT: ("yes", "one, at one address", "the host's, or shown to it by a protected guest"),
    State.SHARED: ("yes", "no", "the host's, used by the core: run pages, mailboxes, call buffers (1 to 15 users)"),
    State.CORE: ("no", "no", "the core's alone, from boot on"),
    State.PRIVATE: ("no", "one, at one address", "a protected guest's alone"),
}
TRANSITION_CAUSES = {
    Transition.LEND: "SET_MEMREGION, MAP_GUEST, MAP_GUEST_BLOCK: memory that stays shared",
    Transition.TAKE_BACK: "DESTROY_VM; ENABLE_CAP 0x9281; MEM_RELINQUISH, after wiping",
    Transition.SHARE: "CREATE_VCPU, ENABLE_CAP 0x9201, and every call that names a buffer",
    Transition.UNSHARE: "the end of what SHARE was for",
    Transition.KEEP: "boot: image, frames, this table",
    Transition.DONATE: "the mapping calls: ordinary memory and firmware of a protected VM",
    Transition.RECLAIM: "DESTROY_VM, MEM_RELINQUISH: after wiping; a mapping call that fails: never left the host",
    Transition.SHOW: "MEM_SHARE",
    Transition.HIDE: "MEM_UNSHARE",
}


def page() -> str:
    lines = [
        "# Whose memory it is",
        "",
        "Printed by docs/memory.py from the table in src/gz/core/pages.py; a test compares.",
        "",
        "Every page of RAM has one 16-bit entry, in one of these states:",
        "",
        "| State | Host reaches it | Guests that reach it | |",
        "|---|---|---|---|",
    ]
    lines += [f"| {state.name} | {' | '.join(STATES[state])} |" for state in State]
    lines += ["", "An entry changes along these rows, all pages of a call or none; what is no row is refused:", ""]
    lines += ["| Transition | From | To | Because of |", "|---|---|---|---|"]
    for (transition, before), (after, _, _) in TRANSITIONS.items():
        lines.append(f"| {transition.name} | {before.name} | {after.name} | {TRANSITION_CAUSES[transition]} |")
    lines += ["", "As a table, state by transition:", ""]
    lines.append(f"| | {' | '.join(transition.name for transition in Transition)} |")
    lines.append("|---" * (1 + len(Transition)) + "|")
    for before in State:
        cells = [
            TRANSITIONS[transition, before][0].name if (transition, before) in TRANSITIONS else "–"
            for transition in Transition
        ]
        lines.append(f"| **{before.name}** | {' | '.join(cells)} |")
    lines += [
        "",
        "LENT and PRIVATE carry the number of the guest; only that one's page is taken back, reclaimed, shown or "
        "hidden.",
        "SHARED counts its users: the last UNSHARE makes the page HOST, a sixteenth SHARE is refused.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
