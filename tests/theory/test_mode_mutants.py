"""Tables with one slip each: refused, killed by the walk, or shown to be the same."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pytest

import safeguard.modes.check as module
from safeguard.core.enums import Cause
from safeguard.modes import STRATEGIES, load_spec
from safeguard.modes.certificate import HOLDS, TableCertificate, certificate_path
from safeguard.modes.check import P13, P21, check
from safeguard.modes.mutate import Mutant, mutants, refused, same_steps, small_walk, world
from safeguard.modes.spec import Row, TableSpec
from safeguard.modes.walk import Abstraction, Walk, abstraction, walk, worlds

PERIOD = 0.002
MUTANTS = {strategy: list(mutants(load_spec(strategy))) for strategy in STRATEGIES}
BY_ROW: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
for _strategy, _all in MUTANTS.items():
    for _one in _all:
        BY_ROW[_strategy, _one.row].append(_one)

EQUIVALENT = {
    "CORE-C16 about = body": "a cause that asks for nothing asks a person for nothing too",
    "CORE-R01 dwell_ticks = 1": "a guard that holds now has held for one tick",
    "R06 dwell_ticks = 1": "a guard that holds now has held for one tick",
    "R06 target = nominal": "a person asks for CAUTIOUS at least; only the row that records quote is another",
}
"""Slips after which every reachable step is the same, and why."""


def listed(mutant: Mutant, names: dict[str, str]) -> bool:
    """Whether ``names`` has this mutant; a row of several strategies is listed without its prefix."""
    return any(mutant.name == name or mutant.name.endswith(f"-{name}") for name in names)


def no_worlds(spec: TableSpec, period: float) -> tuple[Abstraction, ...]:
    """Nothing to walk, for what ``check`` says of a table as it stands."""
    return ()


def why_killed(mutant: Mutant, patch: pytest.MonkeyPatch) -> str:
    """What refuses a mutant or which property it breaks, "" if none.

    P13 needs all walks, and P21 compares with the very file that slipped: neither counts here.
    """
    found = refused(mutant.spec, PERIOD)
    if not found and not same_steps(mutant, PERIOD):
        found = small_walk(mutant, PERIOD).broken
    if found:
        return found
    patch.setattr(module, "worlds", no_worlds)
    verdicts = check(mutant.spec, PERIOD).properties.items()
    return "; ".join(name for name, verdict in verdicts if verdict != HOLDS and name not in (P13, P21))


@pytest.mark.parametrize(("strategy", "row"), BY_ROW, ids=str)
def test_every_slip_in_a_row_is_found(strategy: str, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mutant of a row is refused, or breaks a property in the smallest world that has its row."""
    survivors = [
        mutant.name
        for mutant in BY_ROW[strategy, row]
        if not listed(mutant, EQUIVALENT) and not why_killed(mutant, monkeypatch)
    ]
    assert survivors == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mutants_cover_every_row(strategy: str) -> None:
    """Every row has mutants, none of them twice and none of them the table itself, so that a new row cannot escape."""
    spec = load_spec(strategy)
    names = [mutant.name for mutant in MUTANTS[strategy]]
    assert {mutant.row for mutant in MUTANTS[strategy]} == {*spec.ids(), "[bridge]"}
    assert len(set(names)) == len(names)
    assert all(mutant.spec != spec for mutant in MUTANTS[strategy])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mutants_cover_every_key(strategy: str) -> None:
    """Every value of every row slips in some mutant, but for ids, names and speeds."""
    spec = load_spec(strategy)
    free = {"id", "name", "mode", "cause", "velocity_share", "acceleration_share"}
    free |= set() if spec.capabilities else {"sheds"}

    def values(row: Row) -> dict[str, object]:
        return {key: value for key, value in row.model_dump().items() if key not in free and value is not None}

    for row in spec.rows():
        versions = [r for mutant in MUTANTS[strategy] for r in mutant.spec.rows() if mutant.row == row.id == r.id]
        for key, value in values(row).items():
            assert any(values(other).get(key) != value for other in versions), (row.id, key)


@cache
def walked(strategy: str, causes: tuple[Cause, ...]) -> Walk:
    """The walk of the table on file."""
    return walk(abstraction(load_spec(strategy), PERIOD, causes))


def equivalents(strategy: str) -> list[Mutant]:
    """The mutants of a strategy that are said to be the same."""
    return [mutant for mutant in MUTANTS[strategy] if listed(mutant, EQUIVALENT)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_called_equivalent_is(strategy: str) -> None:
    """Each of these has the same reachable steps as the table on file, in the world that has its row."""
    assert len(equivalents(strategy)) == (2 if strategy == "monolithic" else 4)
    for mutant in equivalents(strategy):
        real = walked(strategy, world(mutant))
        slipped = small_walk(mutant, PERIOD)
        assert (slipped.graph, slipped.states, slipped.broken) == (real.graph, real.states, ""), mutant.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "name"),
    [(strategy, mutant.name) for strategy in STRATEGIES for mutant in equivalents(strategy)],
)
def test_what_is_called_equivalent_is_in_every_world(strategy: str, name: str) -> None:
    """And in every world of the certificate."""
    spec = next(mutant.spec for mutant in MUTANTS[strategy] if mutant.name == name)
    certified = TableCertificate.read(certificate_path(strategy)).worlds
    assert [walk(model).graph for model in worlds(spec, PERIOD)] == [one.graph for one in certified]


def test_a_slip_that_matters_has_another_graph() -> None:
    """The digest tells reachable steps apart."""
    by_name = {mutant.name: mutant for mutant in MUTANTS["vla"]}
    for name in ("CORE-R02 guards = [clear, person]", "CORE-E01 moving_s = 0.75", "VLA-D01 stay_s = 0.1"):
        mutant = by_name[name]
        assert small_walk(mutant, PERIOD).graph != walked("vla", world(mutant)).graph
