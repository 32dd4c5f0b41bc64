"""What is folded out of decisions is what the decisions say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.audit.records.events import Fallback, FaultDetected, Health, NearMiss, Violation
from safeguard.core.enums import Authority, Cause, Enforcement, Mode, RecordKind
from safeguard.core.types import Margins, Observation, RobotState
from safeguard.spans import Event
from tests.unit.audit_runs import (
    JOINTS,
    MARGINS,
    PERIOD,
    UPPER,
)
from tests.unit.events_support import DWELL, FAST, GO, NARROW, STOP, TABLE, Step, at, heard, held, made, parsed

# -- any run --------------------------------------------------------------------------------------------

KINDS_OF_TICK: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([Mode.NOMINAL, Mode.DEGRADED, Mode.HOLD, Mode.ESTOP]),
        "causes": st.sampled_from([(), (Cause.POLICY_LATE,), (Cause.STATE_STALE, Cause.ESTOP)]),
        "source": st.sampled_from([GO, STOP, "terminal_stop"]),
        "authority": st.sampled_from([Authority.POLICY, Authority.OPERATOR]),
        "margins": st.sampled_from([MARGINS, NARROW, replace(MARGINS, position=float("nan"))]),
        "q": st.sampled_from([0.0, 3.0]),
        "v": st.sampled_from([0.0, 0.1, 3.0, float("nan")]),
    }
)
RUNS = st.lists(st.tuples(KINDS_OF_TICK, st.integers(1, 2 * DWELL)), max_size=30)


def steps_of(stretches: Sequence[tuple[dict[str, Any], int]]) -> list[Step]:
    """The ticks of stretches that each say how long they last."""
    told = [what for what, ticks in stretches for _ in range(ticks)]
    return [at(tick, **what) for tick, what in enumerate(told)]


def spans(found: list[list[Event]]) -> dict[tuple[RecordKind, str], list[str]]:
    """Phases of everything that begins and ends, in order."""
    phases: dict[tuple[RecordKind, str], list[str]] = {}
    for kind, body in (event for tick in found for event in tick if "phase" in event[1]):
        name = str(body.get("cause", body.get("limit", "")))
        phases.setdefault((kind, name), []).append(str(body["phase"]))
    return phases


@settings(deadline=None, max_examples=60)
@given(RUNS)
def test_begins_and_ends_are_paired(stretches: list[tuple[dict[str, Any], int]]) -> None:
    """Whatever happens, what begins ends before it begins again, each body fits its model, and a tick brings few."""
    found = heard(made(), steps_of(stretches))
    for phases in spans(found).values():
        told = [phase for phase in phases if phase != "standstill"]
        assert told == ["begin", "end"] * (len(told) // 2)
        assert all(phases[k - 1] == "begin" for k, phase in enumerate(phases) if phase == "standstill")
    for tick in found:
        assert len(tick) <= len(Cause) + 11
        for kind, body in tick:
            parsed(kind, body)


@settings(deadline=None, max_examples=60)
@given(RUNS)
def test_the_quick_way_leaves_nothing_out(stretches: list[tuple[dict[str, Any], int]]) -> None:
    """Ticks in which nothing is looked at are those in which nothing happens."""
    steps = steps_of(stretches)
    assert heard(made(), steps) == heard(made(), steps, slow=True)


@settings(deadline=None, max_examples=60)
@given(RUNS)
def test_mode_changes_are_those_of_the_decisions(stretches: list[tuple[dict[str, Any], int]]) -> None:
    """There is one record for each decision whose mode is not that of the one before, and no other."""
    steps, events = steps_of(stretches), made()
    events.begin(Mode.ESTOP)
    found = heard(events, steps)
    before = [Mode.ESTOP, *(one.mode for one, _ in steps)]
    wanted = [(was, is_) for was, is_ in itertools.pairwise(before) if was is not is_]
    bodies = [parsed(kind, body) for tick in found for kind, body in tick if kind is RecordKind.MODE_CHANGE]
    assert [(body.before, body.after) for body in bodies] == wanted


# -- planted runs ---------------------------------------------------------------------------------------


def bodies(steps: Iterable[Step], kind: RecordKind) -> list[Any]:
    """The bodies of one kind, the end of the episode included."""
    return [parsed(found, body) for tick in heard(made(), steps) for found, body in tick if found is kind]


def test_a_flickering_cause_is_one_fault() -> None:
    """A cause of every other tick begins once, counts how often it came, and ends once it is clear for the dwell."""
    flicker = [at(k, causes=(Cause.POLICY_LATE,) if k % 2 == 0 else ()) for k in range(40)]
    begin, end = bodies([*flicker, *held(20, 40)], RecordKind.FAULT_DETECTED)
    assert isinstance(begin, FaultDetected)
    assert (begin.phase, begin.component, begin.detail) == ("begin", "deadline", "no chunk for 60 ms")
    assert (end.times, end.ticks, end.duration_ns, end.ended) == (20, 39, 39 * PERIOD, "clear")


def test_a_fault_says_what_the_mode_machine_did() -> None:
    """``worst_mode`` is the gravest mode since the cause began; BOOT counts for nothing."""
    late = (Cause.POLICY_LATE,)
    steps = [at(0, Mode.BOOT, late), at(1, Mode.HOLD, late), at(2, Mode.CAUTIOUS, late), *held(10, 3)]
    _, end = bodies(steps, RecordKind.FAULT_DETECTED)
    assert (end.worst_mode, end.mode) == (Mode.HOLD, Mode.NOMINAL)


def test_what_is_open_ends_with_the_episode() -> None:
    """A cause, a near miss and a stop that are still there are cut off by the end, and say so."""
    steps = [at(0), *held(3, 1, mode=Mode.ESTOP, causes=(Cause.ESTOP,), source=STOP, margins=NARROW)]
    ends = [body for kind, body in heard(made(), steps)[-1] if kind is not RecordKind.EFFECT]
    assert all(body["ended"] == "episode" for body in ends)
    assert all(body["ticks"] == 3 for body in ends)
    assert len(ends) == 5  # the cause, two near misses, the self-collision, the fallback


@pytest.mark.parametrize(
    ("mode", "source", "kind"),
    [
        (Mode.DEGRADED, STOP, "bridge"),
        (Mode.HOLD, STOP, "hold"),
        (Mode.STOP, STOP, "brake"),
        (Mode.ESTOP, "terminal_stop", "terminal_stop"),
    ],
)
def test_a_fallback_has_a_type_and_a_time_to_the_safe_state(mode: Mode, source: str, kind: str) -> None:
    """The stop begins, stands still after 4 ticks and is over when the policy moves: three records."""
    steps = [*held(2), *held(4, 2, mode=mode, source=source), *held(6, 6, mode=mode, source=source, v=0.0)]
    begin, stood, end = bodies([*steps, *held(8, 12)], RecordKind.FALLBACK)
    assert isinstance(begin, Fallback)
    assert (begin.type, begin.certificate, begin.table) == (kind, "cc" * 32, TABLE.digest)
    assert (stood.phase, stood.standstill_ticks, stood.standstill_ns) == ("standstill", 4, 4 * PERIOD)
    assert (end.type, end.ticks, end.standstill_ns, end.ended) == (kind, 10, 4 * PERIOD, "policy")


def test_a_fallback_tells_its_gravest_type_and_who_took_over() -> None:
    """A bridge that becomes a terminal stop was one; a person who jogs ends it."""
    stops = [at(1, source=STOP), at(2, Mode.HOLD, source=STOP), at(3, Mode.STOP, source="terminal_stop")]
    jog = held(8, 4, mode=Mode.HOLD, authority=Authority.OPERATOR)
    begin, end = bodies([at(0), *stops, *jog], RecordKind.FALLBACK)
    assert (begin.type, end.type, end.ended, end.standstill_ns) == ("bridge", "terminal_stop", "operator", None)


def test_before_anything_has_moved_a_stop_is_no_fallback() -> None:
    """The hold that every episode starts with takes the body from nobody."""
    assert bodies(held(20, mode=Mode.HOLD, source=STOP), RecordKind.FALLBACK) == []


def test_a_standstill_that_nobody_can_trust_does_not_count() -> None:
    """With a stale measurement nothing is said to stand."""
    steps = [at(0), *held(5, 1, mode=Mode.HOLD, source=STOP, v=0.0, causes=(Cause.STATE_STALE,))]
    assert [body.phase for body in bodies(steps, RecordKind.FALLBACK)] == ["begin", "end"]


def test_a_near_miss_has_hysteresis_and_a_worst() -> None:
    """A margin around the threshold is one near miss; it tells the joint that is nearest and the smallest margin."""
    values = [0.0009, 0.0011, 0.0004, 0.0011, 0.0009, *[0.0014] * 10, *[0.0016] * 10]
    steps = [at(k, margins=replace(MARGINS, position=value), q=2.8) for k, value in enumerate(values)]
    begin, end = bodies(steps, RecordKind.NEAR_MISS)
    assert isinstance(begin, NearMiss)
    assert (begin.limit, begin.at, begin.value, begin.least) == ("position", JOINTS[0], 0.0009, 0.001)
    assert (end.value, end.ticks, end.ended) == (0.0004, 15, "clear")


def test_every_kind_of_margin_can_be_near() -> None:
    """Position, velocity, torque and clearance each have a threshold, and name a joint or a pair."""
    tight = Margins(0.0, 0.0, 0.0, 0.0, "a|b")
    found = [body for body in bodies([at(0, margins=tight, v=2.0)], RecordKind.NEAR_MISS) if body.phase == "begin"]
    assert [body.limit for body in found] == ["position", "velocity", "torque", "clearance"]
    assert [found[1].at, found[3].at] == [JOINTS[1], "a|b"]
    assert bodies([at(0)], RecordKind.NEAR_MISS) == []


def test_a_violation_is_of_the_measured_state() -> None:
    """Beyond a limit of position or speed, or through another link: where, by how much, for how long."""
    steps = [at(0), at(1, q=3.0), at(2, q=3.1), at(3, v=-3.0), *held(10, 4)]
    place, speed = (
        [body for body in bodies(steps, RecordKind.VIOLATION) if body.limit == limit]
        for limit in ("position", "velocity")
    )
    assert isinstance(place[1], Violation)
    assert (place[0].at, place[0].value, place[0].bound) == (JOINTS[0], 3.0, UPPER[0])
    assert (place[1].value, place[1].ticks) == (3.1, 2)
    assert place[1].beyond == pytest.approx(3.1 - UPPER[0])
    assert (speed[0].at, speed[0].bound, speed[0].beyond) == (JOINTS[1], -FAST, pytest.approx(3.0 - FAST))
    (touch, _) = bodies([at(0, margins=NARROW)], RecordKind.VIOLATION)
    assert (touch.limit, touch.at, touch.beyond) == ("self_collision", MARGINS.nearest, 0.001)


def test_a_measurement_in_doubt_is_called_so() -> None:
    """The record names the causes that say that the state is not to be trusted; others are no doubt."""
    step = at(0, causes=(Cause.STATE_INVALID, Cause.POLICY_LATE), q=3.0)
    assert bodies([step], RecordKind.VIOLATION)[0].doubted == [Cause.STATE_INVALID]


def test_a_measurement_without_joints_costs_nothing() -> None:
    """What has not the joints' shape is beyond nothing and stands nowhere."""
    bare = Observation(RobotState(np.zeros(0), np.zeros(0), 0))
    narrow = replace(MARGINS, position=0.0)
    steps = [at(0), (at(1, Mode.HOLD, source=STOP, margins=narrow)[0], bare)]
    found = heard(made(), steps)
    assert [kind for kind, _ in found[1]] == [RecordKind.MODE_CHANGE, RecordKind.NEAR_MISS, RecordKind.FALLBACK]
    assert found[1][1][1]["at"] == ""


def test_without_enforcement_events_are_marked() -> None:
    """What would have been says that it was not sent."""
    bare = Enforcement.MONITOR_ONLY
    steps = [at(0, enforcement=bare), at(1, Mode.HOLD, source=STOP, enforcement=bare)]
    steps[1] = replace(steps[1][0], source=GO), steps[1][1]
    (begin, _) = bodies(steps, RecordKind.FALLBACK)
    assert (begin.enforcement, begin.sent) == (bare, False)


def test_health_comes_at_its_interval() -> None:
    """Every 25 ticks of 2 ms there is one, with what was measured since; a clock that goes back starts anew."""
    steps = held(76)
    found = bodies(steps, RecordKind.HEALTH)
    assert [body.ticks for body in found] == [26, 25, 25]
    assert isinstance(found[0], Health)
    assert (found[0].longest_record_ns, found[0].longest_tick_ns, found[0].overruns) == (30_000, 210_006, 0)
    events = made()
    assert sum(len(events.after(one, seen, 10**9)) for one, seen in steps[:2]) == 1  # the change of mode
    assert events.after(*steps[3], 0) == events.after(*steps[4], PERIOD) == ()
    late, seen = at(80)
    slow = replace(late, timings=replace(late.timings, total=3_000_000))
    (kind, body), _ = events.after(slow, seen, 10**9)  # the other is an effect
    assert (kind, body["overruns"], body["ticks"]) == (RecordKind.HEALTH, 1, 5)
