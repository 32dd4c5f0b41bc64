from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import safeguard.modes.check as module
from safeguard.core.enums import Cause, Mode
from safeguard.modes import compile_table, load_spec
from safeguard.modes.certificate import HOLDS, abstraction_digest
from safeguard.modes.check import P2_SLOW, P13, P21, check, checker_digest
from safeguard.modes.properties import NAMES
from safeguard.modes.requirements import VELOCITY_SHARE
from safeguard.modes.spec import TableSpec
from safeguard.modes.walk import SAID, Abstraction, Walk, abstraction
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
