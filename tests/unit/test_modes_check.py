from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import safeguard.modes.check as module
from safeguard.core.enums import Cause, Mode
from safeguard.core.types import Envelope
from safeguard.modes import STRATEGIES, compile_table, load_spec
from safeguard.modes.certificate import HOLDS, abstraction_digest
from safeguard.modes.check import (
    CHECKER,
    P2_SLOW,
    P6_ENDS,
    P9_REAL,
    P13,
    P21,
    PJ_SLOW,
    check,
    checker_digest,
    endless,
    hasty,
)
from safeguard.modes.explore import SAID
from safeguard.modes.properties import NAMES
from safeguard.modes.requirements import JOG, VELOCITY_SHARE, bounds
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import COMPILER, TABLES
from safeguard.modes.walk import Abstraction, Walk, abstraction
from tests.unit.modes_support import PERIOD

Patch = pytest.MonkeyPatch
FEW = (Cause.ESTOP, Cause.POLICY_LATE, Cause.TICK_OVERRUN)
MORE = (Cause.OPERATOR_STOP, Cause.STATE_STALE, Cause.MONITOR_WARN)


def few_worlds(spec: TableSpec, period: float) -> tuple[Abstraction, ...]:
    """Two small worlds in the place of all."""
    return tuple(abstraction(spec, period, some) for some in (FEW, MORE))


@pytest.fixture(autouse=True)
def small(monkeypatch: Patch) -> None:
    """The check walks in milliseconds; tests/theory checks whole tables."""
    monkeypatch.setattr(module, "worlds", few_worlds)


def changed(spec: TableSpec, row: str, **update: object) -> TableSpec:
    """``spec`` with one row changed."""
    kinds = ("modes", "capabilities", "configurations", "causes", "escalations", "recoveries")
    update_of = {
        kind: tuple(one.model_copy(update=update) if one.id == row else one for one in getattr(spec, kind))
        for kind in kinds
    }
    return spec.model_copy(update=update_of)


def test_certificate_says_what_was_walked() -> None:
    """Strategy, digests, scaled times, merged causes and a line for every world are in the certificate."""
    spec = load_spec("vla")
    told: list[tuple[str, Walk]] = []
    found = check(spec, PERIOD, told=lambda name, walk: told.append((name, walk)))
    assert found.strategy == "vla"
    assert found.table == compile_table(spec, PERIOD).digest
    assert found.abstraction == abstraction_digest(spec, PERIOD)
    assert found.checker == checker_digest()
    assert found.scaled["VLA-D01"] == 3
    assert found.scaled["CORE-E01"] == found.scaled["VLA-K01"] == 2
    assert found.merged["state_order"] == found.merged["state_stale"] == "state_stale"
    assert set(found.merged) == {cause.value for cause in Cause}
    assert [world.slow for world in found.worlds] == [("policy_late",), ("state_stale",)]
    assert [name for name, _ in told] == ["policy_late", "state_stale"]
    walked = [(walk.states, walk.edges, walk.graph) for _, walk in told]
    assert [(world.states, world.edges, world.graph) for world in found.worlds] == walked
    assert min(world.states for world in found.worlds) > 50


def test_every_property_has_a_verdict() -> None:
    """What holds is said to hold, and what the small worlds cannot show is not: they miss rows (P13)."""
    found = check(load_spec("vla"), PERIOD)
    assert set(found.properties) == {*NAMES, *SAID.values(), *(name for name in found.properties if name[0] == "P")}
    wrong = {name for name, verdict in found.properties.items() if verdict != HOLDS}
    assert wrong == {P13}
    assert not found.passed
    silent = found.properties[P13]
    assert silent.startswith("silent: ")
    assert "CORE-C06" in silent
    assert "CORE-C01" not in silent
    assert "VLA-C11" not in silent
    assert "CORE-C04" not in silent, "another cause stands for it"


def test_a_pool_gives_the_same_certificate() -> None:
    """Where the walks run does not matter."""
    spec = load_spec("dual")
    with ThreadPoolExecutor(1) as pool:
        assert check(spec, PERIOD, pool) == check(spec, PERIOD)


def test_a_broken_property_is_told_as_a_story() -> None:
    """The verdict of a broken property is the way to it, from BOOT, one step after the other."""
    spec = changed(load_spec("monolithic"), "CORE-E01", moving_s=3.0)
    found = check(spec, PERIOD)
    (name,) = [name for name, verdict in found.properties.items() if verdict != HOLDS and not name.startswith("P21")]
    assert name.startswith("P7 progress")
    assert found.properties[name].startswith("BOOT: no cause; ready; then HOLD: ")
    assert not found.passed


@pytest.mark.parametrize(
    ("strategy", "row", "words"),
    [
        ("monolithic", "CORE-M02", "cautious allows 0.75 of the speed limits"),
        ("vla", "VLA-D01", "tail allows 0.75 of the speed limits"),
        ("dual", "DUAL-D01", "system1_only allows 0.75 of the speed limits"),
        ("modular", "MOD-D03", "no_prediction_no_planner allows 0.75 of the speed limits"),
    ],
)
def test_a_fast_envelope_is_found(strategy: str, row: str, words: str) -> None:
    """More than half speed in CAUTIOUS or in a configuration breaks P2."""
    assert VELOCITY_SHARE == 0.5
    fast = changed(load_spec(strategy), row, velocity_share=0.75)
    assert check(fast, PERIOD).properties[P2_SLOW].startswith(words)
    assert check(load_spec(strategy), PERIOD).properties[P2_SLOW] == HOLDS


@pytest.mark.parametrize(
    ("strategy", "row", "update", "words"),
    [
        ("modular", "MOD-D03", {"velocity_share": 0.26}, "no_prediction_no_planner allows 0.26 of the speed limits"),
        ("modular", "MOD-D02", {"velocity_share": 0.2}, "no_prediction_no_planner allows more than no_planner, where"),
        ("vla", "CORE-M02", {"velocity_share": 0.4}, "tail allows more than cautious, where less is wrong"),
        (
            "dual",
            "CORE-M02",
            {"acceleration_share": 0.9},
            "system1_only allows more than cautious, where",
        ),
        ("monolithic", "CORE-M01", {"velocity_share": 0.4}, "cautious allows more than nominal, where less is wrong"),
    ],
)
def test_what_is_worse_is_never_faster(strategy: str, row: str, update: dict[str, float], words: str) -> None:
    """P2: every missing part halves the speed, and no envelope allows more than that of a better state."""
    found = check(changed(load_spec(strategy), row, **update), PERIOD)
    assert found.properties[P2_SLOW].startswith(words)


@pytest.mark.parametrize(
    ("strategy", "row", "decays", "words"),
    [
        ("vla", "VLA-D01", False, "tail does not come to rest"),
        ("dual", "DUAL-D01", True, "system1_only slows down"),
        ("modular", "MOD-D03", True, "no_prediction_no_planner slows down"),
    ],
)
def test_what_ends_anywhere_comes_to_rest(strategy: str, row: str, decays: bool, words: str) -> None:
    """P6: the rest of a chunk slows down to a standstill over its stay; whoever still answers does not."""
    assert check(changed(load_spec(strategy), row, decays=decays), PERIOD).properties[P6_ENDS] == words
    assert check(load_spec(strategy), PERIOD).properties[P6_ENDS] == HOLDS


def test_half_a_way_to_rest_is_not_enough() -> None:
    """P6: a tail that slows down for half of its stay, or in steps, or not far enough, is found."""
    table, limits = compile_table(load_spec("vla"), PERIOD), bounds("vla", PERIOD)
    name, full = table.degraded[1]
    shapes = [full[:50], (*full[:-1], full[-2]), tuple(Envelope(0.5 - k / 500, 1.0) for k in range(100))]
    for shape in (full, *shapes):
        degraded = (table.degraded[0], (name, shape))
        said = list(endless(replace(table, degraded=degraded), limits))
        assert said == ([] if shape is full else ["tail does not come to rest"])


@pytest.mark.parametrize(
    ("jog", "words"),
    [
        (JOG, []),
        (None, ["nobody may jog"]),
        (replace(JOG, away=False), ["it may lead nearer"]),
        (replace(JOG, velocity=0.11), ["it allows more than what is owed"]),
        (replace(JOG, acceleration=0.21), ["it allows more than what is owed"]),
        (replace(JOG, velocity=0.6), ["it allows more than what is owed", "it allows more than cautious"]),
        (replace(JOG, velocity=0.01, acceleration=0.01), []),
    ],
)
def test_hasty_jogging_is_found(jog: Envelope | None, words: list[str]) -> None:
    """Jogging is there, leads away, and is no wider than what is owed and than CAUTIOUS."""
    assert list(hasty(replace(compile_table(load_spec("vla"), PERIOD), jog=jog))) == words


@pytest.mark.parametrize("key", ["velocity_share", "acceleration_share"])
def test_a_wide_jog_does_not_pass(key: str) -> None:
    """And the check says so."""
    spec = load_spec("monolithic")
    assert spec.jog is not None
    wide = spec.model_copy(update={"jog": spec.jog.model_copy(update={key: 0.3})})
    found = check(wide, PERIOD)
    assert (found.passed, found.properties[PJ_SLOW]) == (False, "it allows more than what is owed")
    assert "jog" in found.properties[P21]


@pytest.mark.parametrize(
    ("strategy", "update", "words"),
    [
        ("vla", {"recoveries": 29}, "14 recoveries can come at once, not 15"),
        ("dual", {"recoveries": 5}, "2 recoveries can come at once, not 3"),
        ("modular", {"recoveries": 5}, "5 recoveries fit in a window, not 4"),
        ("modular", {"recoveries": 3}, "1 recoveries can come at once, not 2"),
        ("dual", {"window_s": 15.0}, "9 recoveries fit in a window, not 6"),
        ("dual", {"window_s": 60.0}, "the budget is full again after 30000 ticks, not 15000"),
    ],
)
def test_a_wrong_price_is_found(strategy: str, update: dict[str, float], words: str) -> None:
    """P9 on the real times: no window has more recoveries than allowed, and half of them may come at once."""
    spec = load_spec(strategy)
    assert spec.flapping is not None
    wrong = spec.model_copy(update={"flapping": spec.flapping.model_copy(update=update)})
    assert check(wrong, PERIOD).properties[P9_REAL] == words


@pytest.mark.parametrize("period", [0.001, 0.002, 0.003, 0.005, 0.007, 0.01])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rounding_to_ticks_breaks_nothing(strategy: str, period: float) -> None:
    """Envelopes and the price of a recovery are right at periods that times are no multiples of."""
    found = check(load_spec(strategy), period).properties
    assert [found[name] for name in (P2_SLOW, P6_ENDS, P9_REAL)] == [HOLDS] * 3


@pytest.mark.parametrize(("first", "modules"), [("read", ("spec", "read", "lint")), ("check", (*CHECKER, *COMPILER))])
def test_no_module_escapes_the_digests(first: str, modules: tuple[str, ...]) -> None:
    """Whatever the check or the reader imports from this package is in a digest; certificates hold them."""
    found, todo = set[str](), [first]
    while todo:
        name = todo.pop()
        found.add(name)
        text = (TABLES.parent / f"{name}.py").read_text("utf-8")
        todo += set(re.findall(r"^from safeguard\.modes\.(\w+) import", text, re.MULTILINE)) - found
    assert found - {"certificate"} == set(modules)


def cause(spec: TableSpec) -> TableSpec:
    """A cause that sheds nothing asks for less."""
    return changed(spec, "CORE-C06", floor=Mode.CAUTIOUS, clear="auto")


def bridge(spec: TableSpec) -> TableSpec:
    """Another bridge."""
    return changed(spec, "CORE-C08", bridge_s=0.1)


def timer(spec: TableSpec) -> TableSpec:
    """A slower escalation."""
    return changed(spec, "CORE-E02", moving_s=2.0)


def recovery(spec: TableSpec) -> TableSpec:
    """A longer dwell."""
    return changed(spec, "CORE-R03", dwell_s=0.3)


def number(spec: TableSpec) -> TableSpec:
    """One e-stop fewer."""
    return spec.model_copy(update={"lockout": spec.lockout.model_copy(update={"beyond": 1})})


def envelope(spec: TableSpec) -> TableSpec:
    """A slower CAUTIOUS."""
    return changed(spec, "CORE-M02", velocity_share=0.25)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (cause, "floors, recoveries"),
        (bridge, "buckets"),
        (timer, "escalations"),
        (recovery, "recoveries"),
        (number, "numbers"),
        (envelope, "envelope"),
    ],
)
@pytest.mark.parametrize("strategy", ["vla", "dual", "modular"])
def test_a_strategy_that_is_no_refinement_is_found(
    strategy: str, edit: Callable[[TableSpec], TableSpec], words: str
) -> None:
    """P21: without what it sheds every strategy is the monolithic one; any other difference is named."""
    assert check(load_spec(strategy), PERIOD).properties[P21] == HOLDS
    assert check(edit(load_spec(strategy)), PERIOD).properties[P21] == f"these differ: {words}"


def test_a_mode_that_is_never_reached_is_found() -> None:
    """P13 names modes too: without a cause that sheds anything in the walk there is no DEGRADED."""
    assert "never: DEGRADED" in check(load_spec("modular"), PERIOD).properties[P13]
    assert "never: DEGRADED" not in check(load_spec("vla"), PERIOD).properties[P13]
