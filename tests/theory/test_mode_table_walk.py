"""The monolithic mode table, proved on its declared abstraction, and its mutants, which are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.core.types import FULL_ENVELOPE
from safeguard.modes import ModeInputs, ModeOutputs
from safeguard.modes.mutate import mutants
from safeguard.modes.properties import Edge, rules, violations
from safeguard.modes.spec import TableSpec, lint, read_spec
from safeguard.modes.table import TABLES
from safeguard.modes.walk import abstraction, walk

PERIOD = 0.002
SPEC = read_spec(TABLES / "monolithic.toml")
MUTANTS = dict(mutants(SPEC))
ALWAYS = (Cause.ESTOP, Cause.POLICY_LATE, Cause.TICK_OVERRUN)


def _why_refused(spec: TableSpec, only: tuple[Cause, ...]) -> str:
    """What is wrong with ``spec``, by lint, compiler or walk; "" for nothing."""
    for row, problem in lint(spec):
        return f"{row}: {problem}"
    try:
        return walk(abstraction(spec, PERIOD, only)).broken
    except ModeTableError as error:
        return str(error)


@pytest.mark.slow
def test_every_reachable_state_and_input() -> None:
    """P1–P5, P7, P8, P10, P13–P15, P17 and lockout hold in every reachable state for every input."""
    model = abstraction(SPEC, PERIOD)
    found = walk(model)
    assert found.broken == "", "\n".join((found.broken, *found.story))
    assert found.modes == set(Mode) - {Mode.DEGRADED}
    assert set(model.merged) == set(Cause)
    assert found.edges > 1_000_000


def test_equal_bridged_causes_kept_apart() -> None:
    """Merging equal rows hides nothing about two buckets: the same holds with both in the walk."""
    found = walk(abstraction(SPEC, PERIOD, (Cause.POLICY_LATE, Cause.FILTER_FAILED, Cause.ESTOP)))
    assert found.broken == "", "\n".join((found.broken, *found.story))
    assert {"MON-C11", "MON-C12"} <= found.rows


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_row_alone(cause: Cause) -> None:
    """Every cause row fires and keeps all properties: none hides behind its representative."""
    found = walk(abstraction(SPEC, PERIOD, tuple(dict.fromkeys((cause, Cause.TICK_OVERRUN)))))
    assert found.broken == "", "\n".join((found.broken, *found.story))
    assert next(row.id for row in SPEC.causes if row.cause is cause) in found.rows


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name: str) -> None:
    """A table with one slip is refused by the lint or breaks a property."""
    own = [row.cause for row in SPEC.causes if row.id == name.split()[0]]
    assert _why_refused(MUTANTS[name], tuple(dict.fromkeys((*own, *ALWAYS))))


def test_mutants_cover_every_row() -> None:
    """Every row id of the table has a mutant, so a new row cannot escape the test above."""
    assert {name.split()[0] for name in MUTANTS} >= set(SPEC.ids())


def test_counterexample_tells_the_way() -> None:
    """A broken property comes with the shortest story from BOOT, one line a tick."""
    found = walk(abstraction(MUTANTS["MON-R03 without standstill"], PERIOD, ALWAYS))
    assert found.broken.startswith("P3 re-entry")
    assert found.story[0].startswith("BOOT: no cause")
    assert "HOLD: " in found.story[-1]
    assert "ack" in found.story[-1]
    assert "→ CAUTIOUS" in found.story[-1]


def test_a_row_that_never_fires_is_found() -> None:
    """P13 is alive: in a world whose only cause is an overrun, the lockout row never fires."""
    merged = {Cause.TICK_OVERRUN: Cause.TICK_OVERRUN}
    model = replace(abstraction(SPEC, PERIOD), classes=(Cause.TICK_OVERRUN,), merged=merged)
    assert walk(model).broken == "P13 every row fires: MON-L01 never did"


def test_degraded_is_a_violation() -> None:
    """P17 is alive: an edge into DEGRADED breaks it."""
    outputs = ModeOutputs(Mode.DEGRADED, Authority.POLICY, FULL_ENVELOPE, ("MON-C07",))
    edge = Edge(Mode.NOMINAL, ModeInputs(), outputs, Mode.NOMINAL, False, False, 0, 0, 0)
    model = abstraction(SPEC, PERIOD, ALWAYS)
    rule = rules(model.table, model.limits, model.classes)
    assert any(text.startswith("P17") for text in violations(rule, edge))
