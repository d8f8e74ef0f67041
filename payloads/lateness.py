# SPDX-License-Identifier: Apache-2.0
"""A host that lets its guest, payloads.alarms in this same image, and itself wait for timers in every way there is.

Prints for each way by how many microseconds the latest interrupt came behind its deadline. A guest that the host had
put aside cannot have it before the RUN after that. With a second CPU each RUN is on the other one.
"""

from __future__ import annotations

from gz.abi.calls import Call
from gz.abi.capabilities import Capability
from gz.abi.exits import ExitReason
from gz.arm64.gic import SPURIOUS
from gz.arm64.insn import wfi, yield_
from gz.arm64.timer import CNT_CTL
from gz.bits import Struct, Va, storage, u8, u32, u64
from gz.metal import export, log, panic, unroll
from gz.vmm.maps import VIRT
from payloads import alarms, cores, exceptions, interrupts, machines, start, timers  # noqa: F401 - parts of all
from payloads.alarms import Order
from payloads.console import put
from payloads.gic_interface import CONTROL, distributor, end, find, open_interface, private, take
from payloads.host_call import call

#: What an alarm's host does meanwhile.
SLEEPS, POLLS, PUTS_ASIDE = range(3)
#: Name, vCPU whose timers are looked at, IDLE exits, how it waits, what the host does.
_ALARMS = (
    ("the vCPU waits in the core", 0, False, Order.WAIT, SLEEPS),
    ("the vCPU is suspended in the core", 0, False, Order.SUSPEND, SLEEPS),
    ("the vCPU waits, the host sleeps", 0, True, Order.WAIT, SLEEPS),
    ("the vCPU waits, the host polls", 0, True, Order.WAIT, POLLS),
    ("the vCPU is suspended, the host sleeps", 0, True, Order.SUSPEND, SLEEPS),
    ("the vCPU computes", 0, True, Order.SPIN, SLEEPS),
    ("the vCPU is put aside", 0, True, Order.SPIN, PUTS_ASIDE),
    ("the second vCPU waits, the first computes", 1, True, Order.WAIT, SLEEPS),
    ("the second vCPU is suspended, the first computes", 1, True, Order.SUSPEND, SLEEPS),
    ("the second vCPU computes as the first", 1, True, Order.SPIN, SLEEPS),
)
#: Name, what the guest does while the host waits for its own timer.
_OWN = (
    ("a guest computes", Order.COMPUTE),
    ("a guest calls", Order.CALL),
    ("a guest sleeps in the core", Order.SLEEP),
    ("a guest has timers fire", Order.STORM),
)
_ROUNDS = 20
_LONG, _SHORT = 1000, 100  # microseconds of a RUN
_LONGER = 200  # microseconds that a vCPU is put aside behind its deadline
_OWN_SHORTEST = 50
_OWN_STEP = 13
_NEVER = 0xFFFF_FFFF_FFFF_FFFF
_ON = CNT_CTL(ENABLE=1)
_GUEST_JOB, _TURN_JOB, _OPEN_JOB = range(3)
_PARKED_FOR = 20  # times that the first vCPU was busy meanwhile
_IDLES_MAX = 3  # before it is on, when it goes off, before it is on again
_COMPARISONS = 100  # of 200 looks each


class Vcpu(Struct):
    deadline: u64
    """Of its alarm, as the physical counter counts."""
    entered: u64
    """When it was last run."""
    wakes: u64
    """It sleeps until then; 0: it can run."""
    reason: u64
    orders: u32
    answers: u32
    idles: u32


class Play(Struct):
    actor: u32
    order: u32
    manner: u32
    left: u32  # rounds
    aside: u32  # the actor was put aside in this round
    wrong: u32  # answers that are not 0
    late: u64  # ticks, the most
    turns: u64


class Turn(Struct):
    """What a CPU is to do, by CPU."""

    vcpu: u32
    physical: u32  # the timer
    until: u64
    late: u64  # of the host's own timer, ticks, the most


VCPUS = storage(Vcpu, machines.VCPUS_MAX)
TURNS = storage(Turn, cores.CPUS_MAX)
play = storage(Play)


def microseconds(ticks: u64) -> u64:
    """Rounded up."""
    return (ticks + timers.ticks(1) - 1) // timers.ticks(1)


# On any CPU.


def turn(cpu: u64) -> None:
    """Runs a vCPU with the host's own timer set; it has to end the RUN in time."""
    own = TURNS[cpu]
    physical = own.physical != 0
    timers.set_deadline(physical, own.until)
    timers.set_control(physical, _ON)
    vcpu = VCPUS[own.vcpu]
    vcpu.entered = timers.now(True)
    vcpu.reason = machines.run(0, own.vcpu)
    intid = take()
    now = timers.now(True)
    timers.set_control(physical, 0)
    if intid == timers.intid(physical):
        end(intid)
        own.late = max(own.late, now - max(own.until, vcpu.entered))
    elif intid != SPURIOUS:
        panic(f"interrupt {intid} is not the timer's\n")


def open_timers(cpu: u64) -> None:
    open_interface(cpu)
    private(cpu).ISENABLER0 = timers.bit(False) | timers.bit(True)


@export
def job(cpu: u64, number: u64) -> u64:
    """On the guest's second vCPU, or the host's second CPU."""
    if number == _GUEST_JOB:
        alarms.serve(cpu)
    elif number == _TURN_JOB:
        turn(cpu)
    else:
        open_timers(cpu)
    return 0


# The first CPU.


def prepare(cpu: u64, index: u32, until: u64, physical: bool) -> None:
    own = TURNS[cpu]
    own.vcpu = index
    own.until = until
    own.physical = 1 if physical else 0


def run(index: u32, until: u64, physical: bool) -> u64:
    """One RUN, on each CPU in turn; gives the reason of its end."""
    cpu = play.turns % cores.count()
    play.turns += 1
    prepare(cpu, index, until, physical)
    if cpu == 0:
        turn(0)
    elif cores.run(cpu, _TURN_JOB) != 0:
        panic("a CPU does not answer\n")
    return VCPUS[index].reason


def sleep(until: u64) -> None:
    timers.set_deadline(False, until)
    timers.set_control(False, _ON)
    while take() == SPURIOUS:
        wfi()
    timers.set_control(False, 0)
    end(timers.intid(False))


def start_second() -> u32:
    VCPUS[1].wakes = 0
    return Order.START


def next_order(index: u32) -> u32:
    vcpu = VCPUS[index]
    vcpu.orders += 1
    if index == 0 and play.actor != 0 and vcpu.orders == 1:
        return start_second()
    if play.order == Order.COMPARE:
        if VCPUS[0].answers + VCPUS[1].answers == 2 * machines.VCPUS_MAX:
            return Order.END
        if vcpu.orders != 2 - index:
            return Order.BUSY
        times: u32 = _COMPARISONS if cores.count() > 1 else 1
        return Order.COMPARE | times * alarms.TIMES
    if index != play.actor:
        if play.order == Order.PARK and VCPUS[1].idles != 0:
            play.left -= 1
            return start_second() if play.left == 0 else u32(Order.BUSY)
        return Order.BUSY
    if play.order == Order.PARK:
        return Order.PARK if vcpu.orders == 1 else Order.END
    if play.left == 0:
        return Order.END
    play.left -= 1
    play.aside = 0
    return play.order | (alarms.PHYSICAL if play.left % 2 != 0 else 0)


def access(index: u32) -> None:
    page = machines.run_page(0, index)
    vcpu = VCPUS[index]
    match page.mmio.phys_addr:
        case alarms.ORDER:
            page.mmio.data = next_order(index)
        case alarms.DEADLINE:
            vcpu.deadline = page.mmio.data
        case alarms.TAKEN:
            if page.mmio.data < vcpu.deadline:
                panic("a timer came before its time\n")
            due = max(vcpu.deadline, vcpu.entered) if play.order == Order.SPIN else vcpu.deadline
            play.late = max(play.late, page.mmio.data - due)
        case alarms.ANSWER:
            vcpu.answers += 1
            if page.mmio.data != 0:
                play.wrong += 1
        case VIRT.uart:
            put(u8(page.mmio.data))
        case _:
            page.mmio.data = 0


def serve(index: u32) -> bool:
    """What its RUN came back with. False: it was the end of the guest."""
    vcpu = VCPUS[index]
    reason = vcpu.reason
    if reason == ExitReason.MMIO:
        access(index)
    elif reason == ExitReason.EXCEPTION:
        machines.supply(0, index)
    elif reason == ExitReason.SYSTEM_EVENT:
        return False
    elif reason == ExitReason.IDLE:
        vcpu.idles += 1
        if play.order == Order.PARK and vcpu.idles > _IDLES_MAX:
            panic("a vCPU that is off is woken\n")
        if play.manner != POLLS:
            vcpu.wakes = timers.now(True) + machines.hwstate(0, index).vtimer_delay
    elif reason == ExitReason.IPI:
        for i in range(machines.VCPUS_MAX):
            VCPUS[i].wakes = 0
    elif reason == ExitReason.IRQ:
        if play.manner == PUTS_ASIDE and play.aside == 0 and vcpu.deadline > timers.now(True):
            play.aside = 1
            while timers.now(True) < vcpu.deadline + timers.ticks(_LONGER):
                yield_()
    elif reason != ExitReason.GZ:
        panic(f"RUN came back with {reason:#x}\n")
    return True


def choose(last: u32) -> u32:
    """Who slept long enough, else who is next; VCPUS_MAX: all sleep."""
    now = timers.now(True)
    for i in range(machines.VCPUS_MAX):
        if VCPUS[i].wakes != 0 and VCPUS[i].wakes <= now:
            VCPUS[i].wakes = 0
            return u32(i)
    for i in range(machines.VCPUS_MAX):
        index = (last + 1 + u32(i)) % machines.VCPUS_MAX
        if VCPUS[index].wakes == 0:
            return index
    return machines.VCPUS_MAX


def soonest(limit: u64) -> u64:
    for i in range(machines.VCPUS_MAX):
        if VCPUS[i].wakes != 0:
            limit = min(limit, VCPUS[i].wakes)
    return limit


def schedule() -> None:
    """One vCPU after the other, to the end of the guest."""
    last: u32 = 0
    while True:
        index = choose(last)
        if index == machines.VCPUS_MAX:
            sleep(soonest(_NEVER))
        else:
            last = index
            length: u64 = _SHORT if play.manner == PUTS_ASIDE or play.order == Order.COMPARE else _LONG
            run(index, soonest(timers.now(True) + timers.ticks(length)), False)
            if not serve(index):
                return


def swap() -> None:
    """Both vCPUs at the same time, each time on the other CPU, to the end of the guest."""
    while True:
        for first in range(machines.VCPUS_MAX):
            until = timers.now(True) + timers.ticks(_SHORT)
            prepare(0, u32(first), until, False)
            prepare(1, 1 - u32(first), until, False)
            cores.ask(1, _TURN_JOB)
            turn(0)
            if not cores.wait(1):
                panic("a CPU does not answer\n")
            play.turns += 1
            goes_on = serve(0)
            if not serve(1) or not goes_on:
                return


def open_guest(actor: u32, idle: bool, order: u32, manner: u32, rounds: u32) -> None:
    for i in range(machines.VCPUS_MAX):
        vcpu = VCPUS[i]
        vcpu.wakes = 0 if i == 0 else _NEVER
        vcpu.deadline = 0
        vcpu.orders = 0
        vcpu.answers = 0
        vcpu.idles = 0
    play.actor = actor
    play.order = order
    play.manner = manner
    play.left = rounds
    play.late = 0
    play.wrong = 0
    play.turns = 0
    for i in range(cores.CPUS_MAX):
        TURNS[i].late = 0
    machines.create(0, 0)
    machines.create_vcpu(0, 1)
    if idle:
        call(Call.ENABLE_CAP, machines.HANDLES[0], Capability.IDLE, 0, 0, 0)


def close_guest() -> None:
    machines.destroy_vcpu(0, 1)
    machines.destroy(0)


def own_late() -> u64:
    late: u64 = 0
    for i in range(cores.CPUS_MAX):
        late = max(late, TURNS[i].late)
    return microseconds(late)


def wait_for_own() -> None:
    """For the host's timers, while the guest does what it was told to once."""
    rounds: u32 = 0
    while rounds < _ROUNDS:
        run(0, timers.now(True) + timers.ticks(_OWN_SHORTEST + _OWN_STEP * u64(rounds)), rounds % 2 != 0)
        serve(0)
        if VCPUS[0].reason == ExitReason.IRQ and VCPUS[0].orders != 0:
            rounds += 1


@export
def payload(tree: Va) -> None:
    """Without a device tree it is the guest."""
    if tree == 0:
        find(tree)
        distributor().CTLR = CONTROL
        alarms.serve(0)
        return
    find(tree)
    distributor().CTLR = CONTROL
    machines.open_tree(tree)
    open_timers(0)
    for cpu in range(1, cores.count()):
        if not cores.switch_on(cpu) or cores.run(cpu, _OPEN_JOB) != 0:
            panic("a CPU does not start\n")
    for name, actor, idle, order, manner in unroll(_ALARMS):
        open_guest(actor, idle, order, manner, _ROUNDS)
        schedule()
        log(f"{name}: {microseconds(play.late)} late, {own_late()} own, {play.wrong} wrong")
        close_guest()
    open_guest(1, True, Order.PARK, SLEEPS, _PARKED_FOR)
    schedule()
    log(f"a vCPU is off with its timers on: {VCPUS[1].idles} idles, {play.wrong} wrong")
    close_guest()
    open_guest(1, True, Order.COMPARE, SLEEPS, 0)
    if cores.count() == 1:
        schedule()
    else:
        swap()
    log(
        f"vCPUs compare the time: {VCPUS[0].answers + VCPUS[1].answers} answers, {play.wrong} wrong, {play.turns} turns"
    )
    close_guest()
    for name, order in unroll(_OWN):
        open_guest(0, False, order, SLEEPS, 1)
        wait_for_own()
        log(f"{name}: {own_late()} own")
        close_guest()
