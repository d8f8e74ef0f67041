# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - a mutant is a line of its own
"""Mistakes of a core that keeps memory apart: a check, a flush, a wipe or a lock left out. The tests have to notice each.

`python tests/core/core_mutants.py` tries all of them and prints the score of docs/security.md; numbers as arguments
choose.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutation import Mutant, score

_PAGES, _STAGE2, _SLOTS = "core/pages.py", "core/stage2.py", "core/slots.py"
_MAPPING, _RECLAIM = "core/mapping.py", "core/reclaim.py"
_SHARING, _HOST_MEMORY, _CALLS = "core/sharing.py", "core/host_memory.py", "core/calls.py"
_VM, _LIFECYCLE, _ONE_REG, _EXITS = "core/vm.py", "core/lifecycle.py", "core/one_reg.py", "core/exits.py"

#: The modules that look at each file, the most likely to notice first.
TESTS = {
    _PAGES: ("isolation", "protected", "pages"),
    _STAGE2: ("stage2", "coherency", "calls", "isolation", "protected", "pieces"),
    _SLOTS: ("protected", "calls", "pieces", "firmware", "isolation"),
    _MAPPING: ("protected", "calls", "coherency", "pieces", "isolation"),
    _RECLAIM: ("protected", "calls", "pieces"),
    _SHARING: ("protected", "calls"),
    _HOST_MEMORY: ("protected", "host", "calls"),
    _CALLS: ("isolation", "calls", "protected", "pieces"),
    _VM: ("isolation", "calls", "protected", "firmware", "stolen_time"),
    _LIFECYCLE: ("protected", "firmware", "memory_access", "calls"),
    _ONE_REG: ("calls", "protected", "firmware"),
    _EXITS: ("exits", "protected"),
    "core/frames.py": ("frames", "stage2", "isolation"),
    "core/faults.py": ("protected", "exits"),
    "core/guest_calls.py": ("protected", "guest_calls"),
    "core/stolen_time.py": ("stolen_time", "coherency"),
    "core/memory.py": ("frames", "coherency", "protected"),
    "core/lock.py": ("races",),
    "core/host.py": ("host", "protected"),
    "core/recorders.py": ("extensions",),
    "core/vgic_reset.py": ("calls",),
}


def _without(file: str, test: str) -> Mutant:
    """`test`, an if of one line, never holds, in a way that no compiler sees through."""
    condition = test.removeprefix("if ").partition(":")[0]
    return Mutant(file, test, test.replace(condition, f"({condition}) and not ({condition})", 1))


def _always(file: str, test: str) -> Mutant:
    condition = test.removeprefix("if ").partition(":")[0]
    return Mutant(file, test, test.replace(condition, f"({condition}) or not ({condition})", 1))


MUTANTS = (
    # The table of owners.
    _without(_PAGES, "if row.guest & _NAMED != 0 and guest != page.GUEST:"),
    Mutant(_PAGES, "bank.entries + 2 * index if count <= bank.page_count - index else Va(0)", "bank.entries + 2 * index"),
    Mutant(_PAGES, "if u64(base) & ((1 << PAGE_SHIFT) - 1) != 0 or count == 0:", "if count == 0:"),
    Mutant(_PAGES, "return 0 if page.COUNT == 1 else _ILLEGAL", "return 0"),
    _without(_PAGES, "if _step(transition, peek16(at), guest) == _ILLEGAL:"),
    Mutant(_PAGES, "elif legal and _are(first, end, u64(before) * _REPEAT):", "elif legal:"),
    # Stage 2.
    Mutant(_STAGE2, 'dmb("ishst")  # a walker that finds', "pass  #"),
    Mutant(_STAGE2, 'tlbi("ipas2e1is", u64(at) >> _TLBI_SHIFT)', "pass"),
    Mutant(_STAGE2, 'dsb("ishst")\n        tlbi("vmalls12e1is")\n    else:', 'dsb("ishst")\n    else:'),
    Mutant(_STAGE2, 'tlbi("vmalle1is")', "pass"),
    Mutant(_STAGE2, 'dsb("ish")\n    coherency.settle()\n    _back(previous, control)\n    _free_chain', "coherency.settle()\n    _back(previous, control)\n    _free_chain"),
    Mutant(_STAGE2, "coherency.settle()\n    _back(previous, control)\n    _free_chain", "_back(previous, control)\n    _free_chain"),
    Mutant(_STAGE2, "poke64(entry, 0)\n    flush(s)\n", "poke64(entry, 0)\n"),
    Mutant(_STAGE2, "poke64(entry, 0)\n    flush(s)\n", "flush(s)\n"),
    Mutant(_STAGE2, 'dsb("ishst")\n    isb()\n    return made', "return made"),
    Mutant(_STAGE2, "    if dead != 0:\n        flush(s)", "    if dead != 0 and dead == 0:\n        flush(s)"),
    Mutant(_STAGE2, "sysreg.TCR_EL1 = control | TCR_EL1(EPD0=1, EPD1=1)", "pass"),
    Mutant(_STAGE2, "u64(ipa) < end and size <= end - u64(ipa)", "u64(ipa) < end"),
    _without(_STAGE2, "if u64(output(first)) & ((u64(1) << (shift + TABLE_BITS)) - 1) != 0:"),
    _without(_STAGE2, "if mapped != leaf(Pa(u64(pa) - offset), shift, attributes):"),
    Mutant(_STAGE2, 'tlbi("vmalle1")', "pass"),
    Mutant(_STAGE2, "if not _split(s, ipa) or not _split(s, end):\n        return Error.NO_MEMORY\n", "if not _split(s, ipa):\n        return Error.NO_MEMORY\n"),
    # Slots and what is mapped into them.
    Mutant(_SLOTS, "slot.mapped != 0 or vm.growth.number != 0 or not _is_free(vm, number, base, page_count):", "slot.mapped != 0:"),
    Mutant(_SLOTS, "slot.mapped != 0 or vm.growth.number != 0 or not", "not"),
    # Calls that take several turns.
    Mutant(_STAGE2, "if is_reserved(peek64(entry)) and ready(peek64(entry)) == 0:", "if is_reserved(peek64(entry)):"),
    _without(_CALLS, "if vm.work.stage == Stage.END:"),
    _without(_MAPPING, "if stage2.is_reserved(leaf) and stage2.ready(leaf) == 0:"),
    _without(_RECLAIM, "if leaf & VALID == 0 and stage2.ready(leaf) == 0:"),
    _without(_SLOTS, "if slot.page_count != 0 and vm.protected != 0 and slot.purpose != purpose:"),
    Mutant(_SLOTS, "return vm.started != 0 or (vm", "return (vm"),
    Mutant(_SLOTS, "(vm.firmware_size != 0 and contains(slot, vm.firmware, 1))", "(vm.firmware_size != 0 and vm.firmware_size == 0)"),
    Mutant(_SLOTS, "count == 0 or count > BLOCK_PAGES or gfn", "count == 0 or gfn"),
    Mutant(_SLOTS, "first < slot.page_count and page_count <= slot.page_count - first", "first < slot.page_count"),
    _always(_MAPPING, "if pfn < _PFN_LIMIT:"),
    _always(_MAPPING, "if first < _PFN_LIMIT:"),
    Mutant(_MAPPING, "        reclaim.reclaim(vm, base, size)\n    return error", "        pass\n    return error"),
    Mutant(_RECLAIM, "host_memory.merge(base)", "pass"),
    Mutant(_MAPPING, "        memory.clean(base, size)", "        pass"),
    Mutant(_MAPPING, "    coherency.refetch()\n    here", "    here"),
    Mutant(_MAPPING, "    coherency.refetch()\n    stage2.commit", "    stage2.commit"),
    Mutant(_MAPPING, "if gone != 0:\n        host_memory.forget()", "if gone != 0 and gone == 0:\n        host_memory.forget()"),
    Mutant(_RECLAIM, "memory.zero(base, size)", "pass"),
    Mutant(_RECLAIM, "memory.clean(base, size)", "pass"),
    Mutant(_RECLAIM, "_wipe(page, PAGE_SIZE)", "pass"),
    Mutant(_RECLAIM, "_wipe(base, size)\n    _hand_over", "_hand_over"),
    Mutant(_RECLAIM, "_wipe(base + first, done - first)", "pass"),
    Mutant(_RECLAIM, "    if _is_hidden(page):\n        error", "    if page == 0:\n        error"),
    Mutant(_MAPPING, "if run == 0 or run > total - end:", "if run == 0:"),
    Mutant(_MAPPING, "return Error.NO_ERROR if end == total else i64(Error.INVALID_ARGS)", "return Error.NO_ERROR"),
    Mutant(_MAPPING, "if vm.protected != 0:  # nobody said", "if vm.protected > 1:  # nobody said"),
    Mutant(_SLOTS, " or popcount(purpose) > 1", ""),
    Mutant(_RECLAIM, "if vm.private_count != 0 and vm.private_count == vm.lent_count:", "if vm.private_count != 0:"),
    Mutant(_SLOTS, "and base + size <= stolen_time()", ""),
    Mutant(_SLOTS, " and not vgic.occupies(\n        vm, base, page_count << PAGE_SHIFT\n    )", ""),
    Mutant("core/vgic_reset.py", "return aligned and not slots.overlap(vm, SLOTS_MAX, base, size)", "return aligned"),
    # Sharing, and the host's stage 2.
    Mutant(_SHARING, "if slot is None or not slots.is_private(vm, slot):", "if slot is None:"),
    Mutant(_SHARING, "    if done != 0:\n        host_memory.forget()", "    if done > count:\n        host_memory.forget()"),
    Mutant(_SHARING, "host_memory.withdraw(page, PAGE_SIZE)", "pass"),
    Mutant(_HOST_MEMORY, "poke64(entry, descriptor | stage2.PREPARED)", "pass"),
    Mutant(_HOST_MEMORY, "stage2.flush(HOST)", "pass"),
    # The calls.
    _without(_CALLS, "if vm.last_run[cpu.index] != 0:"),
    Mutant(_CALLS, "    if status != Error.NO_ERROR:\n        pages.unshare(run_page, _RUN_PAGES)", "    if status > 0:\n        pages.unshare(run_page, _RUN_PAGES)"),
    Mutant(_CALLS, 'assert status == Error.NO_ERROR, "a vCPU of a closed VM runs"\n    pages.unshare(run_page, _RUN_PAGES)', "pass"),
    Mutant(_CALLS, "pages.unshare(vm.mailbox, 1)\n        stage2.flush", "pass\n        stage2.flush"),
    Mutant(_CALLS, "        stage2.flush(vm.stage2)\n", ""),
    Mutant(_CALLS, "at % PAGE_SIZE > PAGE_SIZE - DeviceRequest.size or ", ""),
    Mutant(_CALLS, "context.x[2] != REGION_BUFFER_SIZE or ", ""),
    Mutant(_CALLS, "pages.unshare(vm.mailbox, 1)\n    vm.mailbox = mailbox", "pass\n    vm.mailbox = mailbox"),
    Mutant(_CALLS, "if granule != BLOCK_SIZE or not pages.share(mailbox, 1):", "if granule != BLOCK_SIZE:"),
    Mutant(_CALLS, "vmid - 1 < VM_COUNT_MAX and index < VCPU_COUNT_MAX", "vmid - 1 < VM_COUNT_MAX"),
    Mutant(_CALLS, "if used == vms.LIVE or (used == vms.ENDING and index == Call.DESTROY_VM):", "if used == vms.LIVE or used == vms.ENDING:"),
    Mutant(_CALLS, "vm.used = vms.ENDING", "pass"),
    Mutant(_CALLS, "return Error.BUSY if budget != 0 else Error.INVALID_ARGS", "return Error.BUSY"),
    Mutant(_CALLS, "    if not vms.close(vm):  # a vCPU runs\n        return Error.INVALID_ARGS\n", "    vms.close(vm)\n"),
    Mutant(_VM, "if vmid == 0 or vmid > VM_COUNT_MAX:", "if vmid == 0:"),
    Mutant(_VM, "    vm.protected = 0\n", ""),
    Mutant(_VM, "    vm.stolen = Pa(0)\n", ""),
    Mutant(_VM, "    vm.mailbox = Pa(0)\n", ""),
    Mutant(_VM, "        slot.page_count = 0\n", ""),
    Mutant(_VM, "    vm.announced.pending = 0\n", ""),
    Mutant(_VM, "    vm.firmware_size = 0\n", ""),
    Mutant(_VM, "    if vm.guard != 0:\n        frames.free(vm.guard)\n", ""),
    _always(_VM, "if load_acquire(vm.used) == LIVE:"),
    # What of a protected VM is the host's business.
    _without(_LIFECYCLE, "if index == 0 and vm.protected != 0 and vm.started != 0:"),
    Mutant(_LIFECYCLE, "if vm.started != 0 or vm.lent_count != 0 or not", "if vm.started != 0 or not"),
    Mutant(_LIFECYCLE, "if vm.started != 0 or vm.lent_count != 0 or not", "if vm.lent_count != 0 or not"),
    Mutant(_LIFECYCLE, "            for k in range(first, 31):\n                context.x[k] = 0\n", ""),
    Mutant(_LIFECYCLE, "slot.purpose != Purpose.PROTECTED_FIRMWARE or ", ""),
    Mutant(_LIFECYCLE, " or not slots.are_open(vm):", ":"),
    _without(_LIFECYCLE, "if size > (slot.page_count << PAGE_SHIFT) - (entry - slot.base):"),
    Mutant(_LIFECYCLE, "    vm.watched = 0\n", ""),
    Mutant(_ONE_REG, "if vcpu.vm.started != 0 or vcpu.index != 0:", "if vcpu.index != 0:"),
    Mutant(_ONE_REG, "if vcpu.vm.started != 0 or vcpu.index != 0:", "if vcpu.vm.started != 0:"),
    Mutant(_ONE_REG, "return vcpu.vm.firmware_size == 0", "return True"),
    Mutant(_ONE_REG, "return pstate & ~u64(_SETTABLE) == 0", "return True"),
    Mutant(_ONE_REG, "return index == _PSTATE or index < _X + 2 * lifecycle.BOOT_ARGUMENTS", "return True"),
    Mutant(_EXITS, "shown = _ARGUMENTS if vcpu.vm.protected == 0 else _ARGUMENTS_USED", "shown = _ARGUMENTS"),
    Mutant(_EXITS, "if vcpu.vm.protected == 0:\n        write_once(record.data[0]", "if vcpu.vm.protected < 2:\n        write_once(record.data[0]"),
    Mutant(_EXITS, "write_once(record.data, (value << unused) >> unused)", "write_once(record.data, value)"),
    Mutant(_EXITS, "write_once(record.reserved[i], 0)", "pass"),
    _without("core/faults.py", "if vcpu.vm.protected != 0 and not guard.permits(vcpu.vm, ipa):"),
    Mutant("core/guest_calls.py", " or count > (stage2.limit() - u64(ipa)) // PAGE_SIZE:", ":"),
    Mutant("core/guest_calls.py", " or slots.find(vm, ipa) is not None:", ":"),
    # Frames, caches, locks.
    Mutant("core/recorders.py", 'hint("psb csync")', "pass"),
    Mutant("core/recorders.py", "sysreg.PMBLIMITR_EL1 = 0", "pass"),
    Mutant("core/recorders.py", "        sysreg.TRFCR_EL1 = 0\n", ""),
    Mutant("core/recorders.py", "and PMBIDR_EL1(sysreg.PMBIDR_EL1).P == 0", ""),
    _without("core/one_reg.py", "if mode != Mode.EL0T and mode != Mode.EL1T and mode != Mode.EL1H:"),
    Mutant("core/frames.py", "    memory.zero(frame, FRAME_SIZE)\n", ""),
    Mutant("core/frames.py", "    memory.zero(run, count * FRAME_SIZE)\n", ""),
    Mutant("core/stolen_time.py", "& ~u64(stage2.WRITABLE)", "& ~u64(0)"),
    Mutant("core/stolen_time.py", "memory.clean(frame, frames.FRAME_SIZE)", "pass"),
    Mutant("core/memory.py", "at = Va(u64(va(base)) & ~(line - 1))\n    end = va(base) + size", "at = Va(u64(va(base)) & ~(line - 1))\n    end = va(base) + size - line"),
    Mutant("core/memory.py", "    dsb(\"sy\")\n", ""),
    Mutant("core/lock.py", "return read_once(lock.taken) == 0 and exchange(lock.taken, 1) == 0", "return exchange(lock.taken, 1) == 0 or True"),
    Mutant("core/host.py", "if abort.ISV != 0 and abort.WnR != 0 and abort.S1PTW == 0:", "if abort.ISV != 0 and abort.WnR != 0:"),
)


def onlookers(mutant: Mutant) -> list[str]:
    return [f"tests/core/test_{name}.py" for name in TESTS[mutant.file]]


if __name__ == "__main__":
    score(MUTANTS, onlookers)
