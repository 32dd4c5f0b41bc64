"""The counters of the mode engine, proved by z3 for all timer constants; the scaled tables show only small ones.

No constant is fixed: fill, drain, capacities, dwells, stays, limits, windows and counts are free integers. Each update
is written once, as a function that z3 unfolds and that the first tests compare with ``engine.advance`` on random tables
(times up to thousands of ticks), states and inputs. A theorem is an invariant with its base and step; ghosts count what
really happened. Every theorem has a planted slip that z3 must refute.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import z3

from safeguard.core.enums import Mode
from safeguard.modes.engine import advance
from safeguard.modes.spec import TableSpec
from safeguard.modes.state import ACKED, BUCKETS, CALM, CREDIT, ESTOPS, MODE, MOVING
from safeguard.modes.table import (
    ACK,
    ALL_CAUSES,
    CLEAR,
    DRAINED,
    PERSON,
    READY,
    STANDSTILL,
    STRATEGIES,
    ModeTable,
    compile_table,
    load_spec,
)
from tests.theory.z3_support import prove, refute

# -- the updates, for z3 and for plain integers ----------------------------------------------------------------------


def pick(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, for unknowns and for numbers."""
    return z3.If(condition, yes, no) if z3.is_expr(condition) else yes if condition else no


def least(a: Any, b: Any) -> Any:
    """The smaller."""
    return pick(a <= b, a, b)


def drained(level: Any, drain: Any) -> Any:
    """A level after a tick of draining."""
    return pick(level >= drain, level - drain, 0)


def bucket(level: Any, active: Any, fill: Any, drain: Any, full: Any) -> Any:
    """Level of a delayed cause after a tick; the cause acts in a tick in which it is active and the level is full."""
    return pick(active, least(level + fill, full), drained(level, drain))


def absence(age: Any, gone: Any, largest: Any) -> Any:
    """Ticks for which a capability has been missing, after a tick that leaves it missing or not."""
    return pick(gone, least(age + 1, largest), 0)


def run(count: Any, on: Any) -> Any:
    """Ticks in a row."""
    return pick(on, count + 1, 0)


def calmness(calm: Any, met: Any, dwell: Any) -> Any:
    """Ticks in a row in which the guards of a recovery held, counted up to its dwell."""
    return pick(met, least(calm + 1, dwell), 0)


def trips(estops: Any, trip: Any, beyond: Any) -> Any:
    """E-stops that count towards LOCKOUT, counted to one beyond what is survived."""
    return pick(trip, least(estops + 1, beyond + 1), estops)


def budget(credit: Any, back: Any, cost: Any) -> Any:
    """What automatic recoveries cost and time has not paid back, after a tick in which one came back or not."""
    return drained(credit, 1) + pick(back, cost, 0)


# -- the updates are the engine's ------------------------------------------------------------------------------------


def drawn(seed: int) -> ModeTable:
    """A built-in table with random times of up to thousands of ticks."""
    dice = random.Random(seed)
    spec: TableSpec = load_spec(STRATEGIES[seed % len(STRATEGIES)])

    def vary(rows: Any, *names: str, low: int = 1) -> tuple[Any, ...]:
        return tuple(row.model_copy(update={k: v for n in names for k, v in one(row, n, low).items()}) for row in rows)

    def one(row: Any, name: str, low: int) -> dict[str, int | None]:
        timed = getattr(row, f"{name}_s") is not None or getattr(row, f"{name}_ticks") is not None
        return {f"{name}_s": None, f"{name}_ticks": dice.choice([low, 2, 3, dice.randint(4, 5000)])} if timed else {}

    bridge = {"fill": dice.randint(1, 9), "drain": dice.randint(1, 5), "rearm_share": dice.random()}
    spec = spec.model_copy(
        update={
            "bridge": spec.bridge.model_copy(update=bridge),
            "lockout": spec.lockout.model_copy(update={"beyond": dice.randint(0, 4)}),
            "causes": vary(spec.causes, "bridge", "debounce"),
            "escalations": vary(spec.escalations, "moving"),
            "recoveries": vary(spec.recoveries, "dwell", low=0),
            "capabilities": vary(spec.capabilities, "dwell"),
            "configurations": vary(spec.configurations, "stay"),
            "flapping": spec.flapping and vary([spec.flapping], "window")[0],
        }
    )
    return compile_table(spec, 0.002)


class Sample:
    """One step of the engine from a random state: near the bounds of every counter, or anywhere below them."""

    def __init__(self, table: ModeTable, dice: random.Random) -> None:
        self.table = table
        cost, window = int(table.numbers[12]), int(table.numbers[13])
        self.cost, self.window, self.beyond = cost, window, int(table.numbers[7])
        self.s = self._state(dice)
        often = dice.choice([0.0, 0.02, 0.1])
        self.causes = sum(1 << i for i in range(ALL_CAUSES.bit_length()) if dice.random() < often)
        self.flags = sum(flag for flag in (ACK, STANDSTILL, READY, PERSON) if dice.random() < 0.5)
        ones = (1 << len(table.capabilities)) - 1
        self.after, report = np.empty(table.size, dtype=np.int64), np.empty(5, dtype=np.int64)
        shadow, available = dice.randint(0, ones) | dice.randint(0, ones), ones if dice.random() < 0.8 else 0
        inputs = (self.causes, self.flags, shadow, available)
        arguments: tuple[Any, ...] = (self.s, *inputs, *table.arrays, self.after, report)
        advance(*arguments)
        self.mode, self.next = Mode(int(self.s[MODE])), Mode(int(self.after[MODE]))
        self.heard = self.causes & ~int(table.numbers[9]) if self.flags & PERSON else self.causes
        self.still = bool(self.flags & STANDSTILL)

    def _state(self, dice: random.Random) -> Any:
        table, s = self.table, np.zeros(self.table.size, dtype=np.int64)

        def upto(bound: int) -> int:
            return dice.choice([0, bound, max(bound - 1, 0), dice.randint(0, bound)])

        s[MODE] = dice.choice([mode for mode in Mode if mode is not Mode.DEGRADED or len(table.capabilities)])
        s[ACKED], s[ESTOPS] = dice.randint(0, 1), upto(self.beyond + 1)
        s[CALM] = upto(int(table.recoveries[s[MODE], 2]))
        s[MOVING] = upto(max(int(table.escalations[s[MODE], 1]) - 1, 0))
        used = dice.random() < 0.5
        for b, (_, full, _) in enumerate(table.buckets.tolist()):
            s[BUCKETS + b] = upto(full) if used else 0
        count, gone = len(table.capabilities), 0
        if s[MODE] == Mode.DEGRADED:
            for c in range(count):
                stay = int(table.configurations[1 << c, 0])
                s[table.ages + c] = upto(stay)
                s[table.ages + count + c] = upto(int(table.capabilities[c, 2])) if s[table.ages + c] else 0
            gone = int((self.ages(s) > 0).sum())
        s[CREDIT] = upto(max(self.window - gone * self.cost, 0))
        return s

    def ages(self, s: Any) -> Any:
        """Ticks for which each capability has been missing."""
        return s[self.table.ages : self.table.ages + len(self.table.capabilities)]


def samples(seed: int, count: int = 6000) -> list[Sample]:
    """Random steps of one random table."""
    table, dice = drawn(seed), random.Random(1000 + seed)
    return [Sample(table, dice) for _ in range(count)]


SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_updates_are_what_the_engine_does(seed: int) -> None:
    """On random steps of random tables: buckets, moving, calm, e-stops, absences and budget as transcribed here."""
    kinds: set[str] = set()
    for one in samples(seed):
        for check in (_buckets, _moving, _calm, _estops, _absences):
            kinds |= check(one)
    assert {"filled", "expired", "counted", "jogged", "calm", "locked", "recovered"} <= kinds
    if len(drawn(seed).capabilities):
        assert {"returned", "kept", "refused"} <= kinds


def _buckets(one: Sample) -> set[str]:
    fill, drain = (int(x) for x in one.table.numbers[4:6])
    kinds: set[str] = set()
    for b, (bit, full, _) in enumerate(one.table.buckets.tolist()):
        level = bucket(int(one.s[BUCKETS + b]), bool(one.heard & bit), fill, drain, full)
        assert one.after[BUCKETS + b] == level
        if one.heard & bit and level == full:  # then it acts: its floor holds
            kinds.add("filled")
            assert one.next >= min(mode for mode in Mode if one.table.floors[mode] & bit)
    return kinds


def _moving(one: Sample) -> set[str]:
    target, limit, _ = one.table.escalations[one.mode].tolist()
    asked = one.heard & sum(int(one.table.floors[mode]) for mode in (Mode.HOLD, Mode.STOP, Mode.ESTOP))
    jogged = one.next is Mode.HOLD and bool(one.flags & PERSON) and not asked
    moving = run(int(one.s[MOVING]), not one.still)
    if target < 0:
        assert one.after[MOVING] == 0
        return set()
    if moving >= limit:
        assert one.next >= target > one.mode
        return {"expired"}
    assert one.after[MOVING] == (run(int(one.s[MOVING]), not one.still and not jogged) if one.next is one.mode else 0)
    return {"jogged"} if jogged else {"counted"}


def _calm(one: Sample) -> set[str]:
    """Nothing but a recovery leads from HOLD and above to less, or from CAUTIOUS to NOMINAL, and none does too soon."""
    target, guards, dwell, blocking, _ = one.table.recoveries[one.mode].tolist()
    levels = one.after[BUCKETS : BUCKETS + len(one.table.buckets)]
    low = all(level <= rearm for level, rearm in zip(levels, one.table.buckets[:, 2], strict=True))
    met = one.flags & (READY | STANDSTILL | PERSON) | (0 if one.heard & blocking else CLEAR) | (DRAINED if low else 0)
    expired = one.table.escalations[one.mode, 0] >= 0 and one.next > one.mode and not one.still
    holds = target >= 0 and not expired and not guards & ~met & ~ACK
    calm = calmness(int(one.s[CALM]), holds, dwell)
    if one.next is one.mode:
        assert one.after[CALM] == calm
        return {"calm"} if calm else set()
    assert one.after[CALM] == 0
    if one.next < one.mode and one.mode is not Mode.DEGRADED:
        assert holds
        assert calm >= dwell
        assert not guards & ACK or (one.flags & ACK and not one.s[ACKED])
        return {"recovered"}
    return set()


def _estops(one: Sample) -> set[str]:
    out = (Mode.ESTOP, Mode.LOCKOUT)
    trip = one.mode not in out and one.next in out and bool(one.heard & int(one.table.numbers[6]))
    estops = trips(int(one.s[ESTOPS]), trip, one.beyond)
    assert one.after[ESTOPS] == estops
    assert (one.next is Mode.LOCKOUT) == (one.mode is Mode.LOCKOUT or (trip and estops > one.beyond))
    return {"locked"} if trip and estops > one.beyond else set()


def _absences(one: Sample) -> set[str]:
    """Ages, and what a DEGRADED next mode implies: every stay is kept, and every return can be paid for."""
    before, after, kinds = one.ages(one.s), one.ages(one.after), set[str]()
    for age, later, (*_, largest) in zip(before.tolist(), after.tolist(), one.table.capabilities.tolist(), strict=True):
        assert later == absence(age, later > 0, largest)
    returned = int(((before > 0) & (after == 0)).sum())
    plain, charged = (budget(int(one.s[CREDIT]), back, one.cost) for back in (False, True))
    by_itself = one.mode is Mode.DEGRADED and one.next <= Mode.CAUTIOUS and not one.flags & PERSON
    if one.next is Mode.DEGRADED or by_itself:
        assert returned <= 1
        assert one.after[CREDIT] == (charged if returned else plain)
        kinds |= {"returned"} if returned else set()
    else:
        assert one.after[CREDIT] in ((plain, charged) if (before > 0).any() else (plain,))
    if one.next is not Mode.DEGRADED:
        assert not after.any()
        return kinds | ({"refused"} if one.mode is Mode.DEGRADED and one.next is Mode.HOLD else set())
    assert one.after[CREDIT] + one.cost * int((after > 0).sum()) <= one.window
    for mask, (stay, *_) in enumerate(one.table.configurations.tolist()):
        ages = [age for c, age in enumerate(after.tolist()) if mask >> c & 1]
        assert not stay or min(ages) <= stay
    return kinds | {"kept"}


# -- (a) the leaky bucket --------------------------------------------------------------------------------------------

fill, drain, full, level, n, p, spent = z3.Ints("fill drain full level n p spent")
on = z3.Bool("on")
BUCKET = (fill >= 1, drain >= 1, full >= 1)


def test_a_level_stays_within_its_bucket() -> None:
    """0 ≤ level ≤ full is inductive; without the cap, or without the floor at 0, it is not."""
    inside = z3.And(level >= 0, level <= full)
    later = bucket(level, on, fill, drain, full)
    prove(z3.And(later >= 0, later <= full), *BUCKET, inside)
    prove(inside, *BUCKET, level == 0)
    refute(level + fill <= full, *BUCKET, inside)
    refute(level - drain >= 0, *BUCKET, inside)


def test_a_steady_cause_trips_after_exactly_its_ticks() -> None:
    """After n active ticks the level is min(n fill, full): full for the first time in tick ⌈full/fill⌉.

    ``spent`` is n fill. The compiler makes full = fill N, so a bridge of N ticks is N ticks.
    """
    exact = level == least(spent, full)
    later = bucket(level, z3.BoolVal(True), fill, drain, full)
    prove(exact, *BUCKET, level == 0, spent == 0)
    prove(later == least(spent + fill, full), *BUCKET, exact, spent >= 0)
    prove((later == full) == (spent + fill >= full), *BUCKET, exact, spent >= 0)
    prove((n * fill >= p * fill) == (n >= p), fill >= 1)
    over = level + fill > full  # planted: full is not enough
    refute(over == (spent + fill >= full), *BUCKET, exact, spent >= 0)
    before = level == full  # planted: looks at the level before the tick
    refute(before == (spent + fill >= full), *BUCKET, exact, spent >= 0)


def test_a_cause_that_is_often_active_must_trip() -> None:
    """While it has not tripped, level ≥ fill k − drain m after k active and m other ticks; so that stays below full."""
    below = z3.And(level >= p, level >= 0, level < full)  # p is fill k − drain m
    later = bucket(level, on, fill, drain, full)
    potential = z3.If(on, p + fill, p - drain)
    untripped = z3.Not(z3.And(on, later == full))
    prove(z3.And(later >= potential, later >= 0, later < full), *BUCKET, below, untripped)
    prove(p < full, *BUCKET, below)
    emptied = z3.If(on, least(level + fill, full), 0)  # planted: one good tick forgives everything
    refute(emptied >= potential, *BUCKET, below, emptied < full)


def test_a_share_above_the_break_even_trips_in_time() -> None:
    """K active of every q ticks, K (fill + drain) > q drain: the potential gains, and ``full`` periods are enough."""
    k, q, periods = z3.Ints("k q periods")
    gain = fill * k - drain * (q - k)
    share = (*BUCKET, k >= 0, k <= q, q >= 1)
    prove(gain >= 1, *share, k * (fill + drain) > q * drain)
    prove(periods * p >= full, full >= 1, p >= 1, periods >= full)
    refute(gain >= 1, *share, k * (fill + drain) >= q * drain)  # planted: the break-even share itself


def test_a_share_below_the_break_even_never_trips_a_large_bucket() -> None:
    """Blocks that gain nothing: at most ``burst`` at their ends, 2 burst between, so full > 2 burst never trips.

    ``burst`` is fill k, what the k active ticks of a block bring; ``spent`` and ``lost`` what they and the other ticks
    of this block brought so far; ``begin`` the level at the start of the block.
    """
    begin, burst, lost = z3.Ints("begin burst lost")
    block = (*BUCKET, begin >= 0, begin <= burst, spent >= 0, lost >= 0, spent <= burst)
    highest = level <= z3.If(begin + spent - lost >= spent, begin + spent - lost, spent)
    later = bucket(level, on, fill, drain, full)
    brought, took = z3.If(on, spent + fill, spent), z3.If(on, lost, lost + drain)
    step = later <= z3.If(begin + brought - took >= brought, begin + brought - took, brought)
    prove(step, *block, level >= 0, highest)
    prove(level <= burst, *block, highest, spent == burst, lost >= burst)
    prove(level < full, *block, highest, full > 2 * burst)
    refute(level <= burst, *block, highest, spent == burst)  # planted: a block that gains


# -- (b) the longest stay --------------------------------------------------------------------------------------------

age, other, stay, longest, true = z3.Ints("age other stay longest true")
gone, gone_too = z3.Bools("gone gone_too")


def test_no_degraded_stay_is_longer_than_its_bound() -> None:
    """The age is the true time in ticks, and a tick that stays DEGRADED has age ≤ stay: so the true time is bounded.

    Ages are cut at the longest stay plus one; cut at the longest stay itself, the clock stands still.
    """
    counted = z3.And(age == true, true >= 0, true <= stay, stay >= 1, stay <= longest)
    later, truth = absence(age, gone, longest + 1), run(true, gone)
    prove(z3.And(later == truth, truth <= stay), counted, later <= stay)
    prove(age == true, age == 0, true == 0)
    cut = absence(age, gone, longest)
    refute(truth <= stay, counted, cut <= stay)
    refute(truth <= stay, counted)  # planted: the bound is not looked at


def test_the_younger_absence_is_the_time_without_both() -> None:
    """min(ages) counts the ticks in a row in which both were missing; the older one, or the sum, does not."""
    together = z3.And(true == least(age, other), age >= 0, other >= 0, age < longest, other < longest)
    ages = absence(age, gone, longest + 1), absence(other, gone_too, longest + 1)
    truth = run(true, z3.And(gone, gone_too))
    prove(least(*ages) == truth, together)
    refute(z3.If(ages[0] >= ages[1], ages[0], ages[1]) == truth, together)


# -- (c) escalation, (d) dwell ---------------------------------------------------------------------------------------

moving, limit, calm, dwell, quiet = z3.Ints("moving limit calm dwell quiet")
still, jogged, met = z3.Bools("still jogged met")


def test_a_stop_that_moves_escalates_after_exactly_its_limit() -> None:
    """The counter is the ticks in a row without standstill in which nobody jogged, below the limit until it fires.

    It fires before anybody is asked who may jog: a tick that makes the limit full is not a jogged one.
    """
    counted = z3.And(moving == true, moving >= 0, moving < limit)
    later, truth = run(moving, z3.Not(still)), run(true, z3.Not(still))
    fires = z3.And(z3.Not(still), later >= limit)
    prove(fires == (truth == limit), counted)
    unasked = z3.And(z3.Not(still), z3.Not(jogged))
    refute(later == run(true, unasked), counted, z3.Not(fires))  # planted: jogging counts as a stop that moves
    later, truth = run(moving, unasked), run(true, unasked)
    prove(z3.And(later == truth, later < limit, later >= 0), counted, z3.Not(fires))
    prove(counted, moving == 0, true == 0, limit >= 1)
    later, truth = run(moving, z3.Not(still)), run(true, z3.Not(still))
    slow = z3.And(z3.Not(still), later > limit)
    refute(slow == (truth == limit), counted)
    kept = z3.If(still, moving, moving + 1)  # planted: standstill does not set it back
    refute(kept == truth, counted)


def test_no_recovery_before_its_dwell() -> None:
    """The counter is the ticks in a row in which the guards held, cut at the dwell; at the dwell these are enough."""
    counted = z3.And(calm == least(quiet, dwell), quiet >= 0, dwell >= 0)
    later, truth = calmness(calm, met, dwell), run(quiet, met)
    prove(later == least(truth, dwell), counted)
    prove(truth >= dwell, counted, met, later >= dwell)
    prove(later >= dwell, counted, met, truth >= dwell)
    prove(counted, calm == 0, quiet == 0, dwell >= 0)
    kept = z3.If(met, least(calm + 1, dwell), calm)  # planted: a bad tick only pauses the count
    refute(kept == least(truth, dwell), counted)
    refute(truth >= dwell, counted, met, later >= dwell - 1)  # planted: one tick too soon


# -- (e) the flapping budget -----------------------------------------------------------------------------------------

credit, cost, window, longest, held, new, start, elapsed, count, recoveries = z3.Ints(
    "credit cost window longest held new start elapsed count recoveries"
)
back = z3.Bool("back")
BUDGET = (cost >= 1, window >= 1, credit >= 0, held >= 0, new >= 0, z3.Implies(back, held >= cost))
"""``held`` is cost times what is missing, ``new`` cost times what goes missing in this tick."""


def test_whatever_is_missing_can_be_paid_for() -> None:
    """Inductive: credit + cost × missing ≤ window, whether the tick stays DEGRADED or gives everything up.

    The return of this tick must be on the bill before what goes missing in it is accepted.
    """
    invariant = credit + held <= window
    later, missing = budget(credit, back, cost), held - z3.If(back, cost, 0) + new
    accepted = later + missing <= window
    prove(z3.And(later >= 0, later + missing <= window), *BUDGET, invariant, accepted)
    prove(z3.And(later >= 0, later <= window), *BUDGET, invariant)
    prove(invariant, *BUDGET, credit == 0, held == 0)
    unpaid = drained(credit, 1) + missing <= window  # planted: looks at the bill before this tick's return
    refute(later + missing <= window, *BUDGET, invariant, unpaid)


def test_no_window_has_more_recoveries_than_allowed() -> None:
    """Returns × cost ≤ credit + elapsed − credit at the start ≤ 2 window ≤ cost × recoveries.

    ``spent`` is cost × returns since any tick, ``elapsed`` the ticks since.
    """
    ledger = z3.And(spent <= credit + elapsed - start, credit >= 0, credit <= window, start >= 0)
    later, paid = budget(credit, back, cost), spent + z3.If(back, cost, 0)
    prove(paid <= later + elapsed + 1 - start, cost >= 1, ledger)
    prove(ledger, credit == start, elapsed == 0, spent == 0, start >= 0, start <= window)
    within = (ledger, spent == cost * count, elapsed >= 0, elapsed <= window, recoveries >= 1, cost >= 1)
    prove(spent <= 2 * window, ledger, elapsed <= window)
    prove(count <= recoveries, spent == cost * count, spent <= 2 * window, cost * recoveries >= 2 * window, cost >= 1)
    refute(count <= recoveries, *within, cost * recoveries < 2 * window)  # planted: the cost rounded down
    # What ``safeguard modes check`` finds on the real table, whose window may be another than is owed:
    owed = (ledger, spent == cost * count, elapsed <= longest, recoveries >= 1, cost >= 1)
    prove(count <= recoveries, *owed, cost * (recoveries + 1) > window + longest)
    refute(count <= recoveries, *owed, cost * (recoveries + 1) >= window + longest)  # planted: just one too many
    forgiving = z3.If(credit >= 2, credit - 2, 0) + z3.If(back, cost, 0)  # planted: pays back two a tick
    refute(paid <= forgiving + elapsed + 1 - start, cost >= 1, ledger)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_compiled_cost_is_the_one_of_the_proof(seed: int) -> None:
    """The cost is ⌈2 window/recoveries⌉ in every random table that can degrade, and full = fill × ticks."""
    strategy, table = STRATEGIES[seed % len(STRATEGIES)], drawn(seed)
    spec = load_spec(strategy)
    cost, window = table.numbers[12:14].tolist()
    if spec.flapping is None:
        assert (cost, window) == (0, 0)
        return
    assert cost == math.ceil(Fraction(2 * window, spec.flapping.recoveries))
    assert all(full % int(table.numbers[4]) == 0 for full in table.buckets[:, 1].tolist())


# -- (f) lockout -----------------------------------------------------------------------------------------------------

estops, beyond = z3.Ints("estops beyond")
trip = z3.Bool("trip")


def test_the_count_of_e_stops_only_grows_and_locks_in_time() -> None:
    """The count is the true one cut at beyond + 1; it never falls, and the e-stop after ``beyond`` of them locks."""
    counted = z3.And(estops == least(true, beyond + 1), true >= 0, beyond >= 0)
    later, truth = trips(estops, trip, beyond), true + z3.If(trip, 1, 0)
    prove(later == least(truth, beyond + 1), counted)
    prove(later >= estops, counted)
    prove((later > beyond) == (truth > beyond), counted)
    prove(counted, estops == 0, true == 0, beyond >= 0)
    refute((later >= beyond) == (truth > beyond), counted)
    cut = z3.If(trip, least(estops + 1, beyond), estops)  # planted: cut too low, so it never locks
    refute((cut > beyond) == (truth > beyond), counted)


@pytest.mark.parametrize("seed", SEEDS)
def test_lockout_is_absorbing(seed: int) -> None:
    """No timer and no recovery leaves LOCKOUT and no floor is above it; so no sampled step does."""
    table = drawn(seed)
    assert table.escalations[Mode.LOCKOUT, 0] < 0
    assert table.recoveries[Mode.LOCKOUT, 0] < 0
    assert not table.floors[Mode.LOCKOUT]
    locked = [one for one in samples(seed) if one.mode is Mode.LOCKOUT]
    assert len(locked) > 100
    assert {one.next for one in locked} == {Mode.LOCKOUT}
