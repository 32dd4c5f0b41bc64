"""Requirements are shown streams that break them before they may say OK; what nothing breaks is unproven."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.config import FormulaConfig, MonitorsConfig, ShieldConfig
from safeguard.core.enums import Level
from safeguard.core.types import Evidence
from safeguard.monitors.scores import LARGEST
from safeguard.monitors.stl import Requirement
from safeguard.monitors.stl.grammar import parse
from safeguard.monitors.stl.planted import TICKS, streams
from safeguard.monitors.stl.signals import Signals, plant, plausible
from tests.laws.lab import Lab
from tests.unit.stl_support import PERIOD, Row, Tree, evidence, formulas, requirement, robustness, run, text

JOINTS = tuple(f"j{k}" for k in range(7))
UPRIGHT = " and ".join(f"-1 < q.{joint} < 1" for joint in JOINTS)


def proven(formula: str, joints: Sequence[str] = JOINTS) -> bool:
    """Whether the self-test trips it."""
    found = Requirement(FormulaConfig(name="r", formula=formula), joints, PERIOD)
    found.prove()
    return not found.unproven


@pytest.mark.parametrize(
    "formula",
    [
        "margin.clearance < 0.05 implies speed < 0.3",
        "historically[0:0.5] (mode >= 4) implies speed < 0.02",
        "sensor.grip[0] > 0.5 implies once[0:0.2] (historically[0:0.5] (margin.clearance > 0.01))",
        "once[0.2:0.2] (q.j0 > 1) implies once[0:0.2] (v.j1 > 1)",
        "once[0.2:0.2] (q.j0 > 1) implies once[0:0.1] (q.j0 > 0.5)",
        "previously(mode < 3) implies mode < 4",
        "historically(previously(q.j0 < 0) implies q.j0 < 1)",
        "once[0.2:0.2] (q.j0 > 1)",
        "once (mode > 3)",
        "(speed < 0.1) since[0.5:1.0] (mode < 4)",
        "(speed < 0.1) since (mode < 4)",
        "(speed < 0.1) since[0.1:0.2] (effort >= 0)",
        "0.4 < q.j0 < 0.5 implies speed < 0.1",
        "2.5 < mode < 3.5 implies speed < 0.1",
        "speed < 0.5 implies v.j0 > 0.3",
        "v.j0 < 1 or speed < 2",
        "sensor.a + sensor.b[3] - 2 * abs(q.j0 - q.j1) < 2",
        "age.state < 0.003 and age.proposal < 0.2 and effort < 1",
        "margin.position > 0 or margin.velocity > 0 or margin.torque > 0",
        UPRIGHT,
        f"{UPRIGHT} implies speed < 0.3",
    ],
)
def test_what_can_be_broken_is_proven(formula: str) -> None:
    """Every signal, every operator, bands, and what has to change over time."""
    assert proven(formula)


@pytest.mark.parametrize(
    "formula",
    [
        "q.j0 < 1 or q.j0 > 0",
        "speed >= 0",
        "effort > -1 and age.proposal > -1",
        "abs(q.j0 - q.j1) > -0.1",
        "mode <= 7",
        "3 <= mode < 4 implies speed < 0.1",  # at exactly 0 there is no alarm, and modes are whole numbers
        "once[0:0.1] (mode > 3) and historically[0:0.1] (mode < 3) implies speed < 1",
        "speed > 1 or v.j0 < 2",
        "once[10:10] (q.j0 > 1) implies once[0:10] (q.j1 > 1)",  # cannot show within the ticks there are
        "q.j0 < 1e300",
    ],
)
def test_what_nothing_breaks_is_unproven(formula: str) -> None:
    """What always holds, what holds for whatever a signal can be, and what takes too long."""
    assert not proven(formula)


def test_unproven_is_said_every_tick_instead_of_ok() -> None:
    """The verdict is UNPROVEN with the reason, and never OK; a proven one begins its episode as if nothing was."""
    idle = requirement("q.a < 1 or q.a > 0")
    idle.prove()
    verdicts = run(idle, [(0.0, 0.0, 0.0)] * 3)
    assert [(v.level, v.cause, v.detail) for v in verdicts] == [
        (Level.UNPROVEN, None, f"unproven: nothing planted broke it within {TICKS} ticks")
    ] * 3
    awake, fresh = requirement("historically (q.a < 1)"), requirement("historically (q.a < 1)")
    awake.prove()
    rows: list[Row] = [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    assert [awake.check(evidence(row, k)) for k, row in enumerate(rows)] == run(fresh, rows)


def test_a_requirement_that_does_not_see_its_signals_is_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams prove the whole way from the evidence to the verdict, not that a formula can be false."""
    monkeypatch.setattr(Signals, "read", _reading(0.0))
    assert not proven("q.j0 < 1")


def test_emptiness_and_missing_values_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm because nothing happened yet, or because a value is missing, is none of the formula's."""
    assert not proven("once[0.2:0.2] (speed > 1 or v.j0 < 2)")
    assert not proven("sensor.a < 1 and sensor.a[1] < 1"), "a sensor of one number has no second"
    monkeypatch.setattr(Signals, "read", _reading(nan))
    assert not proven("q.j0 < 1")


def _reading(value: float) -> Callable[[Signals, Evidence], list[float]]:
    """What reads this whatever the evidence is."""
    return lambda _signals, _evidence: [value]


@given(formulas)
def test_tripped_is_broken_by_the_definition(tree: Tree) -> None:
    """It counts as proven exactly if the slow evaluator finds a finite margin below 0 in what was planted."""
    found = requirement(text(tree))
    found.prove()
    formula = parse(text(tree), PERIOD).formula
    margins = [rho for stream in streams(formula, ("a", "b")) for rho in robustness(tree, [_row(e) for e in stream])]
    assert (not found.unproven) == any(-inf < rho < 0.0 for rho in margins)


def _row(planted: Evidence) -> Row:
    state, sensor = planted.observation.state, planted.observation.sensors.get("s")
    return state.q[0], state.v[1], 0.0 if sensor is None else sensor.value[1]


def test_most_of_what_chance_breaks_is_proven() -> None:
    """Of formulas that some of 30 random streams break, the self-test breaks at least 95 in 100."""
    rng, broken, found = random.Random(1), 0, 0
    for tree in (_random(rng, 3) for _ in range(400)):
        if any(-inf < rho < 0.0 for _ in range(30) for rho in robustness(tree, _walk(rng))):
            tried = requirement(text(tree))
            tried.prove()
            broken, found = broken + 1, found + (not tried.unproven)
    assert broken > 200
    assert found >= 0.95 * broken


def _random(rng: random.Random, depth: int) -> Tree:
    if depth == 0 or rng.random() < 0.2:
        terms = ((rng.choice([1.0, -1.0, 0.5]), rng.random() < 0.3, rng.randrange(3)),)
        return "cmp", rng.choice(["<", ">="]), terms, rng.randint(-16, 16) / 8.0
    low = rng.randint(0, 3)
    interval = rng.choice([None, (low, low + rng.randint(0, 4))])
    inner: list[Any] = [_random(rng, depth - 1) for _ in range(2)]
    return rng.choice(
        [
            ("not", inner[0]),
            ("and", *inner),
            ("implies", *inner),
            ("once", interval, inner[0]),
            ("historically", interval, inner[0]),
            ("since", interval, *inner),
            ("previously", inner[0]),
        ]
    )


def _walk(rng: random.Random) -> list[Row]:
    """25 ticks, now and then with new values."""
    rows: list[Row] = [(0.0, 0.0, 0.0)]
    while len(rows) < 25:
        new: Row = (rng.randint(-24, 24) / 8.0, rng.randint(-24, 24) / 8.0, rng.randint(-24, 24) / 8.0)
        rows.append(new if rng.random() < 0.3 else rows[-1])
    return rows


@pytest.mark.parametrize(
    "formula",
    [
        " or ".join(f"q.{joint} < 1 or q.{joint} > 0" for joint in JOINTS),
        " implies ".join(["once[0:100] (historically[0:100] (q.j0 < 1))"] * 20),
        " and ".join(["once[0:0.002] (q.j0 < 1)"] * 5),
        " or ".join(["previously(q.j0 < 1 or q.j0 > 0)"] * 40),
        " or ".join(f"abs(q.{a} - q.{b}) > -1e-3" for a in JOINTS for b in JOINTS if a != b),
    ],
)
def test_the_search_ends(formula: str) -> None:
    """However many operators and signals there are, there are few streams, together no longer than promised."""
    lengths = [sum(1 for _ in stream) for stream in streams(parse(formula, PERIOD).formula, JOINTS)]
    assert len(lengths) <= 8
    assert sum(lengths) <= TICKS


VALUES = st.floats(-1e6, 1e6)
NAMES = (
    "q.j0", "v.j3", "margin.position", "margin.velocity", "margin.torque", "margin.clearance", "effort", "mode",
    "sensor.a[2]", "sensor.a[0]", "sensor.b", "speed", "age.state", "age.proposal",
)  # fmt: skip


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)))
def test_what_is_planted_reads_back(values: dict[str, float]) -> None:
    """Every signal reads the value that was planted; the speed unless a named joint is faster, ages to the ns."""
    planted = {name: plausible(name, [value])[0] for name, value in values.items()}
    read = dict(zip(NAMES, Signals(NAMES, JOINTS).read(plant(planted, JOINTS)), strict=True))
    assert read.pop("speed") == max(planted.pop("speed"), abs(planted["v.j3"]))
    assert read == pytest.approx(planted, abs=1e-9)


def test_what_a_signal_cannot_be_is_not_planted() -> None:
    """No negative magnitudes, no numbers beyond the largest score, no modes between modes."""
    assert plausible("speed", [-3.0, 2.0, -4.0]) == [0.0, 2.0]
    assert plausible("q.j0", [-3.0, inf, 2.0 * LARGEST]) == [-3.0]
    assert plausible("mode", [3.5]) == [float(mode) for mode in range(8)]


def test_a_shield_says_which_requirement_is_unproven() -> None:
    """It is a verdict of every decision, beside those that are proven."""
    stated = tuple(
        FormulaConfig(name=name, formula=formula) for name, formula in (("idle", "speed >= 0"), ("awake", "speed < 9"))
    )
    lab = Lab(config=ShieldConfig(monitors=MonitorsConfig(formulas=stated)))
    for _ in range(2):
        levels = {v.monitor: v.level for v in lab.tick().verdicts}
        assert (levels["requirement.idle"], levels["requirement.awake"]) == (Level.UNPROVEN, Level.OK)
