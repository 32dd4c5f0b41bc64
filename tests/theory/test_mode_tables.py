"""The mode tables of all strategies, proved on their declared abstractions, and the properties that prove them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from safeguard.core.enums import Cause, Mode
from safeguard.modes import STRATEGIES, TableCertificate, load_spec
from safeguard.modes import state as remembered
from safeguard.modes.certificate import certificate_path
from safeguard.modes.check import check
from safeguard.modes.engine import ROWS, advance
from safeguard.modes.explore import returns, steered
from safeguard.modes.mutate import mutants
from safeguard.modes.properties import ACKED, BACKUP, CALM, JOGS, LEVELS, MOVES, MOVING, broken, judge
from safeguard.modes.spec import TableSpec
from safeguard.modes.state import MODE, ModeState
from safeguard.modes.table import ACK, CAUSE_BIT, JOG_ROW, KNOWN, PERSON, READY, STANDSTILL
from safeguard.modes.walk import Abstraction, abstraction, walk

PERIOD = 0.002
SHEDDING = {
    "monolithic": (),
    "vla": (Cause.POLICY_LATE,),
    "dual": (Cause.SYSTEM2_FAILED,),
    "modular": (Cause.PLANNER_FAILED,),
}


def changed(strategy: str, name: str) -> TableSpec:
    """A table with one slip, by name."""
    return next(mutant.spec for mutant in mutants(load_spec(strategy)) if mutant.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_reachable_state_and_input(strategy: str) -> None:
    """Every property holds in every reachable state for every input, and the certificate on file says just that."""
    spec = load_spec(strategy)
    found = check(spec, PERIOD)
    assert found.passed, {name: verdict for name, verdict in found.properties.items() if verdict != "holds"}
    assert set(found.modes) == {mode.mode.name.lower() for mode in spec.modes}
    assert set(found.merged) == {cause.value for cause in Cause}
    assert sum(world.edges for world in found.worlds) > 1_000_000
    assert found == TableCertificate.read(certificate_path(strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_bridged_causes_kept_apart(strategy: str) -> None:
    """Merging equal rows hides nothing about two buckets: the same holds with both in the walk."""
    pair = (Cause.PROPOSAL_INVALID, Cause.PROPOSAL_ORDER)
    model = abstraction(load_spec(strategy), PERIOD)
    assert model.merged[pair[0]] is model.merged[pair[1]]
    found = walk(abstraction(load_spec(strategy), PERIOD, (*pair, Cause.ESTOP)))
    assert found.broken == "", "\n".join((found.broken, *found.story))
    assert {"CORE-C08", "CORE-C10"} <= found.rows


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cause", Cause)
def test_every_cause_row_alone(strategy: str, cause: Cause) -> None:
    """Every cause row fires and keeps all properties: none hides behind its representative."""
    spec = load_spec(strategy)
    found = walk(abstraction(spec, PERIOD, tuple(dict.fromkeys((cause, *SHEDDING[strategy], Cause.TICK_OVERRUN)))))
    assert found.broken == "", "\n".join((found.broken, *found.story))
    assert next(row.id for row in spec.causes if row.cause is cause) in found.rows


@pytest.mark.parametrize("period", [0.001, 0.005])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_periods_walk_the_same(strategy: str, period: float) -> None:
    """At 1 and 5 ms the scaled table is that of 2 ms, so that one walk covers all three."""
    ours, theirs = (abstraction(load_spec(strategy), p) for p in (period, PERIOD))
    assert ours.spec == theirs.spec
    assert ours.limits == theirs.limits


def test_counterexample_tells_the_way() -> None:
    """A broken property comes with the shortest story from BOOT, one line a tick."""
    spec = changed("monolithic", "CORE-R03 guards = [ack, clear, drained]")
    found = walk(abstraction(spec, PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN)))
    assert found.broken.startswith("P3 re-entry")
    assert found.story[0].startswith("BOOT: no cause")
    assert "HOLD: " in found.story[-1]
    assert "ack" in found.story[-1]
    assert "→ CAUTIOUS" in found.story[-1]


# -- properties that no slip of a table breaks first: each is alive -------------------------------------------


def said(
    before: Mode,
    after: Mode,
    *,
    strategy: str = "vla",
    remembers: dict[int, int] | None = None,
    cause: Cause | None = None,
    flags: int = READY,
    mover: int = MOVES,
    shed: int = 0,
    causes: tuple[Cause, ...] = (Cause.ESTOP, Cause.TICK_OVERRUN),
) -> set[str]:
    """The observer's verdict on one made-up step, as the names of properties."""
    rules = abstraction(load_spec(strategy), PERIOD, (*causes, *SHEDDING[strategy])).rules
    memory = rules.start()
    memory[ACKED] = 0
    for place, value in (remembers or {}).items():
        memory[place] = value
    mask = CAUSE_BIT[cause] if cause else 0
    found = judge(
        memory, before, mask, flags, 0, 0b11, after, mover, shed, -1, *rules.arrays, np.zeros_like(memory)
    )  # fmt: skip
    return {name.split()[0] for name in broken(found)}


def test_stuck_acknowledgement_is_seen() -> None:
    """P5 is alive: HOLD left on an acknowledgement that was on before."""
    ripe = {CALM: 9}
    pressed = READY | STANDSTILL | ACK
    assert said(Mode.HOLD, Mode.CAUTIOUS, remembers=ripe, flags=pressed) == set()
    assert "P5" in said(Mode.HOLD, Mode.CAUTIOUS, remembers={**ripe, ACKED: 1}, flags=pressed)
    assert "P5" in said(Mode.HOLD, Mode.CAUTIOUS, remembers=ripe, flags=READY | STANDSTILL)


def test_running_stop_is_seen() -> None:
    """P16 is alive: a stop left while the body moves."""
    assert "P16" in said(Mode.STOP, Mode.HOLD, remembers={CALM: 9}, flags=READY | ACK, mover=1)


def test_degraded_without_capabilities_is_seen() -> None:
    """P17 is alive: the monolithic strategy in DEGRADED."""
    assert "P17" in said(Mode.NOMINAL, Mode.DEGRADED, strategy="monolithic", cause=Cause.TICK_OVERRUN)


def test_degraded_by_another_cause_is_seen() -> None:
    """P18 is alive: DEGRADED because of something that sheds nothing."""
    assert said(Mode.NOMINAL, Mode.DEGRADED, cause=Cause.POLICY_LATE, shed=1) == set()
    assert "P18" in said(Mode.NOMINAL, Mode.DEGRADED, cause=Cause.TICK_OVERRUN, shed=1)


def test_shedding_something_else_is_seen() -> None:
    """P20 is alive: what is told as shed is not what failed."""
    assert said(Mode.NOMINAL, Mode.DEGRADED, strategy="modular", cause=Cause.PLANNER_FAILED, shed=0b10) != set()
    wrong = said(Mode.NOMINAL, Mode.DEGRADED, cause=Cause.POLICY_LATE, shed=0)
    assert "P20" in wrong


def test_a_person_waives_for_the_observer_too() -> None:
    """Degraded on in spite of a person is a broken P15, and a person's CAUTIOUS is none."""
    shed = {LEVELS + 3: 1}
    assert "P15" in said(Mode.DEGRADED, Mode.DEGRADED, remembers=shed, flags=READY | PERSON, shed=1)
    assert said(Mode.DEGRADED, Mode.CAUTIOUS, remembers=shed, flags=READY | PERSON) == set()


@pytest.mark.parametrize(
    ("after", "cause", "flags", "jogs"),
    [
        (Mode.HOLD, None, READY | PERSON, True),
        (Mode.HOLD, Cause.TICK_OVERRUN, READY | PERSON, True),
        (Mode.HOLD, Cause.POLICY_LATE, READY | PERSON, True),
        (Mode.HOLD, None, READY, False),
        (Mode.HOLD, Cause.FILTER_FAILED, READY | PERSON, False),
        (Mode.HOLD, Cause.LEASE_LOST, READY | PERSON, False),
        (Mode.STOP, None, READY | PERSON, False),
    ],
)
def test_who_jogs_is_seen(after: Mode, cause: Cause | None, flags: int, jogs: bool) -> None:
    """Jogging is alive: a person who moves the body and must not, or must and does not, is seen either way."""
    causes = (Cause.TICK_OVERRUN, Cause.POLICY_LATE, Cause.FILTER_FAILED, Cause.LEASE_LOST)
    for mover in (BACKUP, JOGS):
        found = said(after, after, strategy="monolithic", cause=cause, flags=flags, mover=mover, causes=causes)
        assert found == (set() if (mover == JOGS) == jogs else {"PJ"})


def test_a_jogged_body_does_not_run_out_of_time_for_the_observer() -> None:
    """A tick that is jogged sets the time without standstill back; one that is not counts."""
    rules = abstraction(load_spec("monolithic"), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN)).rules
    for flags, mover, left in ((READY, BACKUP, 1), (READY | PERSON, JOGS, 0)):
        then = rules.start()
        assert judge(rules.start(), Mode.HOLD, 0, flags, 0, 0, Mode.HOLD, mover, 0, 0, *rules.arrays, then) == 0
        assert then[MOVING] == left


def test_jogging_that_leads_elsewhere_is_seen() -> None:
    """Jogging may set MOVING back and change nothing else of what comes next."""
    table = abstraction(load_spec("modular"), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN)).table
    numbers = np.array(table.numbers)
    numbers[JOG_ROW] = 0
    s, after = np.array(ModeState.initial(table, Mode.HOLD).numbers), np.zeros(table.size, dtype=np.int64)
    report = np.zeros(5, dtype=np.int64)
    advance(s, 0, READY | PERSON, 0, 0, *table.arrays, after, report)
    assert report[ROWS] == table.numbers[JOG_ROW]
    for place in range(table.size):
        wrong = after.copy()
        wrong[place] += 1
        spare = (np.zeros_like(after), np.zeros(5, dtype=np.int64))
        found = steered(s, 0, READY | PERSON, 0, 0, (*table.arrays[:-1], numbers), wrong, *spare)
        assert found == (place != remembered.MOVING)


def planted(strategy: str, place: int, value: int, causes: tuple[Cause, ...]) -> Abstraction:
    """A model whose compiled table has one wrong number."""
    model = abstraction(load_spec(strategy), PERIOD, causes)
    numbers = np.array(model.table.numbers)
    numbers[place] = value
    numbers.setflags(write=False)
    return replace(model, table=replace(model.table, numbers=numbers))


def test_unknown_causes_that_are_ignored_are_seen() -> None:
    """P12 is alive: a table that takes every bit for a known cause."""
    found = walk(planted("monolithic", KNOWN, -1, (Cause.ESTOP, Cause.TICK_OVERRUN)))
    assert found.broken.startswith("P12 fail closed")


def neighbours(model: Abstraction) -> list[tuple[int, int]]:
    """Pairs of sets of causes of which the second has one more."""
    masks = model.masks.tolist()
    return [(i, j) for i, a in enumerate(masks) for j, b in enumerate(masks) if a & b == a and (a ^ b).bit_count() == 1]


def planned(answer: object) -> Callable[[object], object]:
    """A method that always gives this answer."""

    def method(_: object) -> object:
        return answer

    return method


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_causes_that_make_things_better_are_seen(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P10 is alive: read backwards, a cause less never makes things better, which is wrong."""
    model = abstraction(load_spec(strategy), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN))
    back = np.array([(more, less) for less, more in neighbours(model)], dtype=np.int64)
    monkeypatch.setattr("safeguard.modes.walk._Explorer._pairs", planned((back, back[:0])))
    assert walk(model).broken.startswith("P10 monotone")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_causes_that_change_something_are_seen(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11 is alive: causes that do ask for something are not idle."""
    model = abstraction(load_spec(strategy), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN))
    pairs = np.array(neighbours(model), dtype=np.int64)
    monkeypatch.setattr("safeguard.modes.walk._Explorer._pairs", planned((pairs[:0], pairs)))
    found = walk(model)
    assert found.broken.startswith("P11 non-interference: a cause")
    assert "ESTOP" in found.story[-1] or "CAUTIOUS" in found.story[-1]


@pytest.mark.parametrize("strategy", ["dual", "modular"])
def test_agreement_that_matters_without_need_is_seen(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11 is alive for shadow and substitutes: NOMINAL without a capability is never reached, and needs it."""
    model = abstraction(load_spec(strategy), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN))
    lost = np.array(ModeState.initial(model.table).numbers)
    age, fit = model.table.ages, model.table.ages + len(model.table.capabilities)
    lost[MODE], lost[age], lost[fit] = Mode.NOMINAL, 1, model.table.capabilities[0, 2] - 1
    monkeypatch.setattr("safeguard.modes.walk.ModeState.initial", planned(ModeState.of(lost)))
    assert walk(model).broken.startswith("P11 non-interference: shadow or substitutes")


def test_a_walk_without_room_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with more states than there is room for is not called proved."""
    model = abstraction(load_spec("monolithic"), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN))
    everything = walk(model)
    monkeypatch.setattr("safeguard.modes.walk.ROOM", everything.states)
    assert walk(model).broken == ""
    monkeypatch.setattr("safeguard.modes.walk.ROOM", everything.states - 1)
    assert walk(model).broken.startswith("the walk has no room")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_traps_are_seen(strategy: str) -> None:
    """P14 is alive: with no patience at all, the first state that is not NOMINAL is a trap."""
    model = abstraction(load_spec(strategy), PERIOD, (Cause.ESTOP, Cause.TICK_OVERRUN))
    found = walk(model)
    assert returns(found.vectors, 30, model.table.arrays) == -1
    trapped = returns(found.vectors, 1, model.table.arrays)
    assert trapped >= 0
    assert found.vectors[trapped][0] != Mode.NOMINAL
