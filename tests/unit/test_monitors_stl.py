"""Requirements in past-time signal temporal logic: semantics, signals, missing values, bounds."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from safeguard.core.config import FormulaConfig
from safeguard.core.enums import Cause, Level, Mode
from safeguard.core.errors import ConfigError
from safeguard.core.types import Evidence, Margins, Observation, Proposal, RobotState, Sensor
from safeguard.monitors.stl import Requirement
from safeguard.monitors.stl.grammar import parse
from safeguard.monitors.stl.online import Margin, Peak, build
from tests.conftest import ROOT
from tests.unit.monitors_support import decision
from tests.unit.stl_support import (
    TICK,
    Row,
    Tree,
    evidence,
    formulas,
    holds,
    requirement,
    robustness,
    run,
    text,
    traces,
    traces_with_holes,
)

LARGEST = 1e12


def margins(formula: str, values: list[float]) -> list[float]:
    """The robustness of a formula about q.a, tick by tick; NaN where it is unknown."""
    return [0.0 - verdict.score for verdict in run(requirement(formula), [(x, 0.0, 0.0) for x in values])]


# -- semantics --------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(formulas, traces_with_holes)
def test_online_robustness_is_the_definition(tree: Tree, trace: list[Row]) -> None:
    """At every tick the score is minus what the definition gives on the whole past, missing values included."""
    expected = robustness(tree, trace)
    for verdict, value in zip(run(requirement(text(tree)), trace), expected, strict=True):
        if isnan(value):
            assert isnan(verdict.score)
        else:
            assert verdict.score == max(-LARGEST, min(LARGEST, -value))


@settings(max_examples=200)
@given(formulas, st.lists(st.tuples(*[st.integers(-9, 9).map(float)] * 3), min_size=1, max_size=10))
def test_the_sign_is_sound(tree: Tree, trace: list[Row]) -> None:
    """Robustness above 0: the formula is true. Below 0, and only then, an alarm: it is false."""
    for t, verdict in enumerate(run(requirement(text(tree)), trace)):
        if verdict.score < 0.0:
            assert holds(tree, trace, t)
        if verdict.score > 0.0:
            assert not holds(tree, trace, t)
        assert (verdict.cause is Cause.MONITOR_WARN) == (verdict.score > 0.0)


@given(st.lists(st.integers(-5, 5), max_size=80), st.integers(0, 20))
def test_the_wedge_is_a_sliding_maximum(values: list[int], span: int) -> None:
    """The peak is the largest of the last span + 1 values, for any sequence."""
    peak = Peak(span)
    for t, value in enumerate(values):
        assert peak.push((float(value), t))[0] == max(values[max(0, t - span) : t + 1])


class _Counted(float):
    """Counts how often it is compared."""

    compared = 0

    def __le__(self, other: float) -> bool:
        _Counted.compared += 1
        return float(self) <= other


@pytest.mark.parametrize("kind", ["rising", "falling", "sawtooth", "noise"])
def test_a_push_costs_little_whatever_the_signal(kind: str) -> None:
    """At most 4 comparisons a push on average, and never more than twice the wedge's bits plus 4."""
    span, n = 1000, 6000
    signals: dict[str, Any] = {
        "rising": range(n),
        "falling": range(n, 0, -1),
        "sawtooth": [2000 if t % 1000 == 999 else -(t % 1000) for t in range(n)],
        "noise": np.random.default_rng(1).integers(0, 10**6, n).tolist(),
    }
    peak = Peak(span)
    costs: list[int] = []
    for t, value in enumerate(signals[kind]):
        _Counted.compared = 0
        peak.push((_Counted(value), t))
        costs.append(_Counted.compared)
    assert sum(costs) <= 4 * n
    assert max(costs) <= 2 * span.bit_length() + 4
    assert max(costs) >= 1


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("once[0:0.004](q.a > 0)", [1, 2, 3, 3]),
        ("once[0.002:0.004](q.a > 0)", [-LARGEST, 1, 2, 3]),
        ("historically[0.004:0.004](q.a > 0)", [LARGEST, LARGEST, 1, 2]),
        ("previously(q.a > 0)", [-LARGEST, 1, 2, 3]),
        ("not previously(not q.a > 0)", [LARGEST, 1, 2, 3]),
        ("q.a < 9 since[0.002:0.006](q.a > 0)", [-LARGEST, 1, 2, 3]),
        ("historically(q.a > 0)", [1, 1, 1, -1]),
        ("once(q.a > 0)", [1, 2, 3, 3]),
    ],
)
def test_windows_are_cut_at_the_first_tick(formula: str, expected: list[float]) -> None:
    """What an episode's first ticks cannot look back on does not count: once of nothing is false, always true."""
    assert margins(formula, [1.0, 2.0, 3.0, -1.0]) == expected


def test_zero_margin_is_no_alarm() -> None:
    """At a robustness of exactly 0 either may be the case; the alarm is for less than 0 only."""
    at, past = run(requirement("q.a < 1"), [(1.0, 0.0, 0.0), (1.125, 0.0, 0.0)])
    assert (at.level, at.score, at.cause) == (Level.OK, 0.0, None)
    assert (past.level, past.score) == (Level.WARN, 0.125)


# -- memory, reset, determinism ---------------------------------------------------------------------------------

_DEEP = "historically[0:0.05](once[0.01:0.04](q.a > 0 since[0.01:0.06](v.b < 1))) or once(previously(q.a < v.b))"


def _growth(step: Callable[[list[float]], object]) -> int:
    """How many bytes 9,000 ticks after the first 1,000 leave behind."""
    values: list[list[float]] = np.random.default_rng(3).normal(size=(10_000, 2)).tolist()
    tracemalloc.start()
    try:
        for row in values[:1000]:
            step(row)
        before = tracemalloc.get_traced_memory()[0]
        for row in values[1000:]:
            step(row)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_episode() -> None:
    """An evaluator of every operator keeps less than one byte a tick; one that kept its margins would show."""
    parsed = parse(_DEEP, 0.002)
    node = build(parsed.formula, tuple(parsed.signals), [])
    kept: list[Margin] = []
    assert _growth(node.step) < 9_000
    assert _growth(lambda row: kept.append(node.step(row))) > 9_000


@given(formulas, traces, traces_with_holes)
def test_reset_forgets_the_episode(tree: Tree, trace: list[Row], before: list[Row]) -> None:
    """After a reset a requirement answers as a new one does, whatever it saw, and twice the same."""
    used = requirement(text(tree))
    run(used, before)
    assert run(used, trace) == run(requirement(text(tree)), trace)


# -- verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rung", "level", "cause"),
    [
        ("warn", Level.WARN, Cause.MONITOR_WARN),
        ("degrade", Level.DEGRADE, Cause.MONITOR_DEGRADE),
        ("stop", Level.STOP, Cause.MONITOR_STOP),
    ],
)
def test_the_rung_says_what_an_alarm_causes(rung: str, level: Level, cause: Cause) -> None:
    """Broken: level and cause of the rung, and a detail with formula, margin and deciding comparison. Else OK."""
    monitor = requirement("q.a < 1 and abs(v.b) < 2", rung=rung)
    fine, broken = run(monitor, [(0.5, 1.0, 0.0), (0.5, -2.5, 0.0)])
    assert (fine.level, fine.cause, fine.score, fine.threshold) == (Level.OK, None, -0.5, 0.0)
    assert (broken.monitor, broken.level, broken.cause, broken.score) == ("requirement.r", level, cause, 0.5)
    assert broken.detail == "q.a < 1 and abs(v.b) < 2: margin -0.5, decided by abs(v.b) < 2"


def test_the_detail_names_what_decided_in_the_past() -> None:
    """The comparison that decides is followed through windows, delays and since."""
    trace = [(0.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 0.0), (5.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    windows = run(requirement("once[0:0.002](historically[0:0.004](v.b < 1 and q.a < 2))"), trace)
    assert [v.detail.partition(": ")[2] for v in windows[2:]] == [
        "margin -2, decided by v.b < 1",
        "margin -2, decided by v.b < 1",
        "margin -3, decided by q.a < 2",
    ]
    since = run(requirement("v.b < 2 since[0.002:0.004](q.a > 4)"), trace)
    assert since[0].detail.endswith(": margin -inf, nothing happened yet")
    assert since[2].detail.endswith(": margin -4, decided by q.a > 4")
    assert (since[4].level, since[4].score) == (Level.OK, -1.0)


# -- missing values ---------------------------------------------------------------------------------------------


def test_a_missing_value_is_an_alarm_as_long_as_the_window_holds_it() -> None:
    """A sensor that is gone for one tick makes a window of three ticks unknown for three ticks, then it recovers."""
    rows = [(0.0, 0.0, 1.0), (0.0, 0.0, nan), *[(0.0, 0.0, 1.0)] * 4]
    verdicts = run(requirement("historically[0:0.004](sensor.s[1] > 0)", rung="stop"), rows)
    assert [isnan(verdict.score) for verdict in verdicts] == [False, True, True, True, False, False]
    assert [verdict.cause for verdict in verdicts[1:4]] == [Cause.MONITOR_STOP] * 3
    assert verdicts[1].detail.endswith("unknown, sensor.s[1] missing or not finite")
    assert verdicts[2].detail.endswith("unknown, a value that it looks back on was missing")


@pytest.mark.parametrize(
    ("formula", "unknown"),
    [
        ("sensor.s[1] < 1 since[0.004:0.008](q.a > -1)", [4, 5, 6, 7]),
        ("q.a > -1 since[0.004:0.008](sensor.s[1] < 1)", [6, 7, 8]),
        ("q.a > -1 since[0:0](sensor.s[1] < 1)", [4]),
        ("sensor.s[1] < 1 since[0:0](q.a > -1)", []),
        ("sensor.s[1] < 1 since (q.a > -1)", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("q.a > -1 since (sensor.s[1] < 1)", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("previously(sensor.s[1] < 1)", [5]),
        ("once[0.004:0.006](sensor.s[1] < 1)", [6, 7]),
    ],
)
def test_an_operator_is_unknown_for_as_long_as_it_looks_back(formula: str, unknown: list[int]) -> None:
    """One missing value at tick 4 makes exactly those ticks unknown whose interval covers it."""
    rows = [(0.0, 0.0, nan if tick == 4 else 0.0) for tick in range(12)]
    verdicts = run(requirement(formula), rows)
    assert [tick for tick, verdict in enumerate(verdicts) if isnan(verdict.score)] == unknown


def test_an_unbounded_window_stays_unknown() -> None:
    """Nobody can say any more that something always held, until the episode ends."""
    monitor = requirement("historically(sensor.s[1] > 0)")
    rows = [(0.0, 0.0, 1.0), (0.0, 0.0, nan), *[(0.0, 0.0, 1.0)] * 50]
    assert all(isnan(verdict.score) for verdict in run(monitor, rows)[1:])
    assert run(monitor, rows[:1])[0].level is Level.OK


def test_the_first_tick_has_neutral_margins() -> None:
    """Without a previous decision margins are +∞, effort and mode 0 in the first tick, and missing in any other."""
    for formula in ("margin.clearance > 0.05", "margin.torque > 0", "effort < 1", "mode < 3"):
        first, second = run(requirement(formula), [(0.0, 0.0, 0.0)] * 2)
        assert first.level is Level.OK
        assert isnan(second.score)
        assert second.cause is Cause.MONITOR_WARN


def test_a_decision_in_the_first_tick_counts() -> None:
    """Neutral values stand in for a missing decision only."""
    first = replace(evidence((0.0, 0.0, 0.0), 0), previous=decision(2.0))
    assert requirement("effort < 1").check(first).score == 1.0


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_not_finite_is_missing(value: float) -> None:
    """A measured value that is not finite makes the formula unknown, also where speeds are compared."""
    for formula in ("v.b < 1", "speed < 1", "not speed > 1"):
        assert isnan(run(requirement(formula), [(0.0, value, 0.0)])[0].score)


# -- signals ----------------------------------------------------------------------------------------------------


def _full(now: int = 4 * TICK) -> Evidence:
    state = RobotState(np.array([0.25, -0.5]), np.array([1.0, -3.0]), now - TICK)
    sensors = {"wrench": Sensor(np.array([[1.0, 2.0], [3.0, 4.0]]), now), "door": Sensor(np.array(7.0), now)}
    current = Proposal(np.zeros((1, 2)), now - 5 * TICK, now, "guest", 0)
    previous = decision(0.5)
    result = replace(previous.filter, margins=Margins(0.1, 0.2, 0.3, 0.4, "a|b"))
    previous = replace(previous, filter=result, mode=Mode.STOP)
    return Evidence(Observation(state, sensors), now, None, current, previous)


@pytest.mark.parametrize(
    ("signal", "value"),
    [
        ("q.a", 0.25),
        ("v.b", -3.0),
        ("speed", 3.0),
        ("margin.position", 0.1),
        ("margin.velocity", 0.2),
        ("margin.torque", 0.3),
        ("margin.clearance", 0.4),
        ("effort", 0.5),
        ("mode", 4.0),
        ("age.state", 0.002),
        ("age.proposal", 0.01),
        ("sensor.wrench[2]", 3.0),
        ("sensor.door", 7.0),
        ("sensor.door[0]", 7.0),
        ("2 * abs(v.b) - (q.a + 1) / 2", 5.375),
    ],
)
def test_signals_read_the_evidence(signal: str, value: float) -> None:
    """Every signal is what its name says, in SI units."""
    assert requirement(f"{signal} < 0").check(_full()).score == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("signal", ["sensor.wrench", "sensor.wrench[4]", "sensor.gone[0]", "sensor.gone"])
def test_a_sensor_of_another_size_is_missing(signal: str) -> None:
    """No index for several numbers, an index past the end and an absent sensor are alarms."""
    assert isnan(requirement(f"{signal} < 0").check(_full()).score)


def test_without_a_chunk_its_age_counts_from_the_first_tick() -> None:
    """While no chunk is followed, age.proposal is the time since the episode began; a reset begins again."""
    monitor = requirement("age.proposal < 0.003")
    rows = [(0.0, 0.0, 0.0)] * 3
    for _ in range(2):
        scores = [verdict.score for verdict in run(monitor, rows)]
        assert scores == pytest.approx([-0.003, -0.001, 0.001], abs=1e-12)


def test_names_with_other_characters_are_quoted() -> None:
    """A joint named left-hip is q.'left-hip'; dots need no quotes."""
    formula = FormulaConfig(name="hip", formula="q.'left-hip' - q.arm.1 < 1")
    monitor = Requirement(formula, ("left-hip", "arm.1"), 0.002)
    assert monitor.check(evidence((2.0, 0.0, 0.0), 0)).score == 1.0


_VECTORS = arrays(np.float64, array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3), elements=st.floats())


@given(_VECTORS, _VECTORS, _VECTORS, st.integers(-(2**63), 2**63 - 1))
def test_nothing_in_the_evidence_raises(q: Any, v: Any, s: Any, t: int) -> None:
    """Any shape, any number and any stamp gives a verdict."""
    odd = Evidence(Observation(RobotState(q, v, t), {"s": Sensor(s, t)}), 0)
    formula = "q.a + v.b - sensor.s[1] < 1 or once[0:0.01](speed < 1) or age.state < 1 or sensor.s > 0"
    assert requirement(formula).check(odd).monitor == "requirement.r"


# -- the grammar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "same"),
    [
        ("q.a < 1 or q.a > 2 and v.b < 3", "(q.a < 1) or ((q.a > 2) and (v.b < 3))"),
        ("q.a < 1 and v.b < 2 implies q.a > 0 or v.b > 0", "not (q.a < 1 and v.b < 2) or (q.a > 0 or v.b > 0)"),
        ("q.a < 1 implies q.a > 0 implies v.b > 0", "q.a < 1 implies (q.a > 0 implies v.b > 0)"),
        ("not q.a < 1 and v.b < 1", "(not (q.a < 1)) and v.b < 1"),
        ("not not not q.a < 1", "not (q.a < 1)"),
        ("-1 < q.a < 1", "-1 < q.a and q.a < 1"),
        ("2 > q.a + q.a - (1 - v.b) / 2", "q.a * 2 + 0.5 * v.b < 2.5"),
        ("abs(q.a - v.b) <= .5e0", "q.a - v.b <= 0.5 and -(q.a - v.b) <= 0.5"),
        ("not q.a < 1 since[0:0.004] v.b > 0", "(not (q.a < 1)) since[0.0:4e-3](v.b > 0)"),
        ("historically[0:0.004](q.a\n  < 1)", "not once[0:0.004](not q.a < 1)"),
        ("1 < abs(-2) * q.a", "1 < 2 * q.a"),
    ],
)
@given(trace=traces)
def test_ways_to_say_the_same(formula: str, same: str, trace: list[Row]) -> None:
    """Precedence, chains, signs and scaling mean what they look like."""
    one, other = run(requirement(formula), trace), run(requirement(same), trace)
    assert [verdict.score for verdict in one] == [verdict.score for verdict in other]


@pytest.mark.parametrize(
    ("formula", "column", "message"),
    [
        ("q.a < ", 7, "found the end, expected a signal"),
        ("q.a", 4, "found the end, expected a comparison"),
        ("not q.a", 8, "expected a comparison"),
        ("q.a and v.b < 1", 5, "found 'and', expected a comparison"),
        ("q.a or v.b < 1", 5, "found 'or', expected a comparison"),
        ("q.a implies v.b < 1", 5, "found 'implies', expected a comparison"),
        ("q.a < 1 and v.b", 16, "expected a comparison"),
        ("q.a < 1 v.b", 9, "expected and, or, implies, since or the end"),
        ("q.a < 1 @", 9, "found '@'"),
        ("(q.a < 1", 9, r"expected '\)'"),
        ("(q.a < 1) + 1 < 2", 11, r"at '\+' a number was expected"),
        ("abs(q.a < 1) < 2", 5, "at 'q.a' a number was expected"),
        ("q.a * v.b < 1", 5, "not linear"),
        ("q.a / v.b < 1", 5, "only a number other than 0"),
        ("q.a / 0 < 1", 5, "only a number other than 0"),
        ("0 * q.a < 1", 3, "scaled by 0"),
        ("1 < 2", 3, "compares numbers only"),
        ("q.a < 1e999", 7, "expected a signal, a number"),
        ("q.a == 1", 5, r"abs\(x - y\) <= tolerance"),
        ("q.a < 1 && v.b < 1", 9, "write 'and'"),
        ("Once(q.a < 1)", 1, "write 'once'"),
        ("always(q.a < 1)", 1, r"looks into the future.*once\[0.2:0.2\]\(X\) implies once\[0:0.2\]\(Y\)"),
        ("q.a < 1 until v.b < 1", 9, "looks into the future"),
        ("once[0.004:0.002](q.a < 1)", 12, "from the smaller number"),
        ("once[-1:0](q.a < 1)", 6, "a number of seconds ago"),
        ("once[0,1](q.a < 1)", 7, "expected ':'"),
        ("once[0:0.003](q.a < 1)", 8, "0.003 s is not a whole number of ticks of 0.002 s; nearest: 0.002 or 0.004"),
        ("once[0:1e9](q.a < 1)", 8, r"60000 ticks \(120 s\)"),
        ("once q.a < 1", 6, r"expected '\('"),
        ("q.a < 1 since v.b < 1 since v.b < 2", 23, "parentheses"),
        ("sensor.s[1.5] < 1", 10, "number of an element"),
        ("sensor.s[99999999999] < 1", 10, "number of an element"),
        ("abs < 1", 5, r"expected '\('"),
        ("(" * 31 + "q.a < 1" + ")" * 31, 31, "levels of parentheses"),
        (" and ".join(["q.a < 1"] * 200), 1505, "words, not more"),
    ],
)
def test_mistakes_show_where_and_what(formula: str, column: int, message: str) -> None:
    """An error names the requirement, the column, what was found, what was expected, and marks the place."""
    with pytest.raises(ConfigError, match=message) as caught:
        requirement(formula)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"requirement 'r', column {column}: ")
    assert lines[2].index("^") == column + 3


@pytest.mark.parametrize(
    ("formula", "column", "near"),
    [
        ("speed < 1 and margin.clearence > 0", 15, "margin.clearance"),
        ("q.c < 1", 1, "q.a"),
        ("age.sensor < 1", 1, "age.state"),
        ("zzz < 1", 1, "known: q.JOINT, v.JOINT"),
        ("q.a[0] < 1", 1, "near it: q.a"),
    ],
)
def test_unknown_signals_list_near_names(formula: str, column: int, near: str) -> None:
    """A name that is no signal is refused at construction, with the names that come near it."""
    with pytest.raises(ConfigError, match=near) as caught:
        requirement(formula)
    assert f"column {column}: unknown signal" in str(caught.value)


def test_the_formulas_of_the_documentation_are_accepted() -> None:
    """Every requirement that the page on monitors shows as configuration can be made."""
    page = (ROOT / "docs/concepts/monitors.md").read_text("utf-8")
    found = re.findall(r'^ +formula: "(.+)"$', page, re.MULTILINE)
    assert len(found) >= 3
    for formula in found:
        requirement(formula)


def test_known_sensors_are_checked() -> None:
    """Where the sensors are known, a wrong name is refused; where not, it shows as missing."""
    config = FormulaConfig(name="grip", formula="sensor.wrist[0] < 1")
    Requirement(config, ("a",), 0.002, sensors=("wrist",))
    with pytest.raises(ConfigError, match=r"unknown signal 'sensor.wrist\[0\]'; near it: sensor.wrists"):
        Requirement(config, ("a",), 0.002, sensors=("wrists",))


@pytest.mark.parametrize("period", [0.0, -0.001, nan, inf])
def test_the_period_must_be_positive(period: float) -> None:
    """Intervals need ticks."""
    with pytest.raises(ConfigError, match="needs a period > 0 s"):
        requirement("q.a < 1", period=period)


@pytest.mark.parametrize("period", [0.001, 0.002, 0.005, 1 / 30, 1 / 240])
def test_intervals_are_whole_ticks(period: float) -> None:
    """Half a second is exactly that many ticks, also where the period has no finite decimal form."""
    ticks = round(0.5 / period)
    monitor = requirement("once[0:0.5](q.a > 0)", period=period)
    verdicts = run(monitor, [(1.0, 0.0, 0.0), *[(-1.0, 0.0, 0.0)] * (ticks + 1)])
    assert [verdict.score for verdict in verdicts[-2:]] == [-1.0, 1.0]
