# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import safeguard.controllers.tracking as tracking
from safeguard.controllers import posing, proposal
from safeguard.core.enums import Authority, Cause, FilterStatus, NominalKind
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Nominal, Observation, Proposal, RobotState, Vector, frozen_array
from safeguard.monitors import Intake, PolicyDeadline
from safeguard.monitors import intake as checks
from tests.laws.lab import TICK, Lab, always, near, outcome, panda, spec

Patch = pytest.MonkeyPatch


class Shelf:
    """A port whose every answer is put there by the test."""

    spec = spec()
    name = "shelf"

    def __init__(self) -> None:
        self.seq = 0
        self.next: Any = None
        self.change: Callable[[Proposal], object] | None = None
        self.silent = False

    def post(self, observation: Observation, now: int) -> None:
        """A good proposal every 50 ms, changed as the test wants it."""
        if self.silent or now % (25 * TICK):
            return
        proposal = Proposal(frozen_array(near(observation)), now, now, "shelf", self.seq)
        self.seq += 1
        self.next = proposal if self.change is None else self.change(proposal)

    def poll(self, now: int) -> Any:
        """The newest answer, once."""
        ready, self.next = self.next, None
        return ready

    def reset(self) -> None:
        """Empty the shelf."""
        self.next, self.seq = None, 0


Change = Callable[[Observation, int], Observation]


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong, and the cause that it must have in the same tick."""

    name: str
    cause: Cause
    seen: Change | None = None  # (observation, now) → what the shield gets
    proposed: Callable[[Proposal], object] | None = None
    after: int = 0  # ticks for which the port is silent first


def state(**parts: Any) -> Change:
    """The measured state with some parts replaced."""
    return lambda seen, now: replace(seen, state=replace(seen.state, **parts))


def with_q(change: Callable[[Vector], Vector]) -> Change:
    """The positions changed."""
    return lambda seen, now: replace(seen, state=replace(seen.state, q=change(seen.state.q.copy())))


def stamped(delta: int) -> Change:
    """The state stamped ``delta`` ns from now."""
    return lambda seen, now: replace(seen, state=replace(seen.state, t=now + delta))


def entry(value: float) -> Callable[[Vector], Vector]:
    """The third number replaced."""

    def change(numbers: Vector) -> Vector:
        numbers[2] = value
        return numbers

    return change


def actions(change: Callable[[Vector], Vector]) -> Callable[[Proposal], object]:
    """The numbers of the proposal changed."""
    return lambda p: replace(p, actions=change(p.actions.copy()))


CASES = (
    Case("emergency stop", Cause.ESTOP, lambda seen, now: replace(seen, estop=True)),
    Case("position NaN", Cause.STATE_INVALID, with_q(entry(np.nan))),
    Case("position infinite", Cause.STATE_INVALID, with_q(entry(np.inf))),
    Case("speed NaN", Cause.STATE_INVALID, state(v=np.full(7, np.nan))),
    Case("too few positions", Cause.STATE_INVALID, with_q(lambda q: q[:6])),
    Case("too many positions", Cause.STATE_INVALID, with_q(lambda q: np.append(q, 0.0))),
    Case("a matrix of positions", Cause.STATE_INVALID, with_q(lambda q: q.reshape(1, -1))),
    Case("no positions", Cause.STATE_INVALID, with_q(lambda q: q[:0])),
    Case("state too old", Cause.STATE_STALE, stamped(-20_000_000)),
    Case("state repeated", Cause.STATE_STALE, stamped(-TICK)),
    Case("state from the future", Cause.STATE_STALE, stamped(50_000_000)),
    Case("state out of order", Cause.STATE_ORDER, stamped(-2 * TICK)),
    Case("state jumped", Cause.STATE_JUMP, with_q(lambda q: q + 0.05)),
    Case("proposal NaN", Cause.PROPOSAL_INVALID, proposed=actions(lambda a: a * np.nan)),
    Case("proposal infinite", Cause.PROPOSAL_INVALID, proposed=actions(lambda a: a * np.inf)),
    Case("chunk too short", Cause.PROPOSAL_INVALID, proposed=actions(lambda a: a[:-1])),
    Case("chunk too wide", Cause.PROPOSAL_INVALID, proposed=actions(lambda a: np.hstack((a, a[:, :1])))),
    Case("flat chunk", Cause.PROPOSAL_INVALID, proposed=actions(np.ravel)),
    Case("features NaN", Cause.PROPOSAL_INVALID, proposed=lambda p: replace(p, features=np.full(3, np.nan))),
    Case("proposal from the future", Cause.PROPOSAL_INVALID, proposed=lambda p: replace(p, t_obs=p.t_obs + 10**9)),
    Case("stamp not a number", Cause.PROPOSAL_INVALID, proposed=lambda p: replace(p, t_obs=float("nan"))),  # type: ignore[arg-type]
    Case("sequence repeated", Cause.PROPOSAL_ORDER, proposed=lambda p: replace(p, seq=p.seq - 1)),
    Case("sequence backwards", Cause.PROPOSAL_ORDER, proposed=lambda p: replace(p, seq=p.seq - 3)),
    Case("observation time repeated", Cause.PROPOSAL_ORDER, proposed=lambda p: replace(p, t_obs=p.t_obs - 25 * TICK)),
    Case("proposal too old", Cause.POLICY_LATE, proposed=lambda p: replace(p, t_obs=p.t_obs - 210_000_000)),
    Case("proposal missing", Cause.POLICY_LATE, after=130),
)
BY_NAME = {case.name: case for case in CASES}


def check_law_5(case: Case, plant: Callable[[], object] = list) -> None:
    """What goes wrong has its cause in the tick in which it arrives, and not before.

    ``plant`` breaks something once the arm moves; at the start the self-test would notice.
    """
    shelf = Shelf()
    lab = Lab(shelf).start()
    plant()
    while lab.now % (25 * TICK):
        lab.tick()
    assert case.cause not in lab.decisions[-1].causes
    shelf.silent = case.after > 0
    lab.run(case.after)
    shelf.change = case.proposed
    seen = lab.observe()
    decision = lab.tick(seen if case.seen is None else case.seen(seen, lab.now))
    assert case.cause in decision.causes, f"{case.name}: {decision.causes}"
    assert any(v.cause is case.cause and v.detail for v in decision.verdicts), "a cause without a reason"
    if case.cause is not Cause.ESTOP:
        assert decision.authority is not Authority.POLICY


def check_law_5_repetition() -> None:
    """Bit-identical chunks while the robot moves are an alarm with the second one."""
    first: list[Vector] = []

    def again(proposal: Proposal) -> Proposal:
        first.append(proposal.actions)
        return replace(proposal, actions=first[0])

    shelf = Shelf()
    lab = Lab(shelf).start(60)
    shelf.change = again
    seen = [d for d in lab.run(120) if Cause.PROPOSAL_REPEATED in d.causes]
    assert seen


def check_law_5_clock(step: int) -> None:
    """A clock that stands still or runs backwards is an alarm in that tick."""
    lab = Lab().start()
    decision = lab.shield.step(lab.observe(), now=lab.now - TICK - step)
    assert Cause.CLOCK_BACKWARDS in decision.causes


def check_law_5_finite_first(kind: NominalKind, value: float) -> None:
    """Numbers that are not finite are refused before anything clips, bounds or mixes them."""
    filt, n = Lab().filter, panda().n
    filt.reset(RobotState(panda().home, np.zeros(n), 0))
    numbers = np.where(np.arange(n) == 3, value, 0.0)
    nominal = Nominal(kind, numbers, np.ones(n), np.ones(n))
    result = filt.apply(RobotState(panda().home, np.zeros(n), 0), nominal)
    assert result.status is FilterStatus.BACKUP
    assert result.iterations == 0, "the solver saw it"


def refused(names: Sequence[str]) -> str:
    """Why a policy whose columns are ``names`` is refused; "" if it is not."""
    try:
        Lab(near, action=spec(names))
    except SpecError as error:
        return str(error)
    return ""


def check_law_5_names() -> None:
    """The names of an action bind its columns: another order is the same motion, a missing name is refused."""
    joints = panda().joints
    order = [3, 0, 6, 2, 5, 1, 4]
    turned = spec([joints[k] for k in order])
    plain, mixed = Lab(near), Lab(lambda seen: near(seen)[:, order], action=turned)
    plain.start(200)
    mixed.start(200)
    assert list(map(outcome, plain.decisions)) == list(map(outcome, mixed.decisions))
    for names in (joints[:-1], (*joints, "panda_joint8"), (*joints[:-1], "wrist")):
        refusal = refused(names)
        assert refusal, f"columns {names} were accepted"
        assert all(name in refusal for name in set(names) ^ set(joints))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_law_5(case: Case) -> None:
    """Missing, late, repeated, non-finite and misshapen input has its cause in the same tick."""
    check_law_5(case)


def test_law_5_repetition() -> None:
    """A frozen policy output is an alarm."""
    check_law_5_repetition()


@pytest.mark.parametrize("step", [0, 1, 10**9], ids=["repeated", "1 ns back", "1 s back"])
def test_law_5_clock(step: int) -> None:
    """Injected time must advance."""
    check_law_5_clock(step)


@pytest.mark.parametrize("kind", NominalKind)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_law_5_finite_first(kind: NominalKind, value: float) -> None:
    """The filter's first look at a proposal is whether it is finite."""
    check_law_5_finite_first(kind, value)


def test_law_5_names() -> None:
    """Joint names bind; nothing is padded."""
    check_law_5_names()


# -- planted ------------------------------------------------------------------------------------------


def form(patch: Patch) -> None:
    """Nobody looks at the numbers of the state."""
    patch.setattr(Intake, "_form", always(checks.STATE))
    patch.setattr("safeguard.controllers.arm.ArmPlatform.plausible", always(None))
    patch.setattr(Intake, "_jump", always(checks.JUMP))


def age(patch: Patch) -> None:
    """Nobody looks at the state's age."""
    patch.setattr(Intake, "_age", always(checks.AGE))


def order(patch: Patch) -> None:
    """Nobody looks at the order of states."""
    patch.setattr(Intake, "_order", always(checks.ORDER))


def jump(patch: Patch) -> None:
    """Nobody looks how far the state moved."""
    patch.setattr(Intake, "_jump", always(checks.JUMP))


def chunk(patch: Patch) -> None:
    """Nobody looks at the form of a proposal."""
    patch.setattr(checks, "_proposal_form", always(checks.PROPOSAL))


def chunk_age(patch: Patch) -> None:
    """Nobody looks at the age of a proposal."""
    patch.setattr(Intake, "_proposal_age", always(checks.PROPOSAL_AGE))


def chunk_order(patch: Patch) -> None:
    """Nobody looks at the order of proposals."""
    patch.setattr(Intake, "_proposal_order", always(checks.PROPOSAL_ORDER))


def deadline(patch: Patch) -> None:
    """Nobody waits for the policy."""
    patch.setattr(PolicyDeadline, "check", always(checks.PROPOSAL))


def one_tick_late(patch: Patch) -> None:
    """This tick's observation is judged in the next one."""
    real = Intake.observe
    kept: list[Any] = [()]

    def observe(self: Intake, observation: Any, now: int) -> Any:
        kept.append(real(self, observation, now))
        return kept[-2]

    patch.setattr(Intake, "observe", observe)


def one_chunk_late(patch: Patch) -> None:
    """This tick's proposal is judged in the next tick."""
    real = Intake.receive
    kept: list[Any] = [()]

    def receive(self: Intake, *args: Any) -> Any:
        kept.append(real(self, *args))
        return kept[-2]

    patch.setattr(Intake, "receive", receive)


def deaf(patch: Patch) -> None:
    """The emergency stop input is not connected."""
    real = Intake.observe

    def observe(self: Intake, observation: Observation, now: int) -> Any:
        return real(self, replace(observation, estop=False), now)

    patch.setattr(Intake, "observe", observe)


PLANTS: tuple[tuple[str, Callable[[Patch], None]], ...] = (
    ("emergency stop", deaf),
    ("emergency stop", one_tick_late),
    ("state jumped", one_tick_late),
    ("state out of order", one_tick_late),
    ("state too old", age),
    ("state repeated", age),
    ("state from the future", age),
    ("state out of order", order),
    ("state jumped", jump),
    ("proposal too old", chunk_age),
    ("proposal from the future", chunk_age),
    ("sequence repeated", chunk_order),
    ("observation time repeated", chunk_order),
    ("features NaN", chunk),
    ("proposal NaN", one_chunk_late),
    ("proposal missing", deadline),
)


@pytest.mark.parametrize(("name", "plant"), PLANTS, ids=lambda value: getattr(value, "__name__", value))
def test_law_5_planted(name: str, plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """A check that sleeps, or answers one tick late, is seen."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_5(BY_NAME[name])


@pytest.mark.parametrize("name", ["position NaN", "speed NaN", "position infinite"])
def test_law_5_planted_form(name: str, monkeypatch: Patch) -> None:
    """A shield that looks at no number of the state is seen."""
    with pytest.raises(AssertionError, match=name), np.errstate(all="ignore"):
        check_law_5(BY_NAME[name], lambda: form(monkeypatch))


def test_law_5_planted_repetition(monkeypatch: Patch) -> None:
    """An intake that forgets the last chunk is seen."""
    monkeypatch.setattr(Intake, "_repetition", always(checks.REPETITION))
    with pytest.raises(AssertionError):
        check_law_5_repetition()


def test_law_5_planted_clock(monkeypatch: Patch) -> None:
    """An intake that believes any clock is seen."""
    monkeypatch.setattr(Intake, "_clock", always(checks.CLOCK))
    with pytest.raises(AssertionError):
        check_law_5_clock(10**9)


def clip(numbers: Vector) -> Vector:
    """Clipped as fmin and fmax do it, which lose a NaN."""
    return np.fmin(np.fmax(numbers, -10.0), 10.0)


@pytest.mark.parametrize(
    "clean",
    [np.nan_to_num, clip],
    ids=["made finite first", "clipped first"],
)
def test_law_5_planted_finite_first(clean: Callable[[Vector], Vector], monkeypatch: Patch) -> None:
    """A filter that cleans a proposal up before it looks at it is seen."""
    real = proposal.wanted

    def wanted(nominal: Nominal, *rest: Any) -> Any:
        return real(replace(nominal, value=clean(nominal.value)), *rest)

    monkeypatch.setattr(posing, "wanted", wanted)
    with pytest.raises(AssertionError):
        check_law_5_finite_first(NominalKind.ACCELERATION, np.nan)


def by_position(action: ActionSpec, joints: tuple[str, ...]) -> Any:
    """Columns are bound by position."""
    if set(action.joints) != set(joints):
        raise SpecError(" ".join(set(action.joints) ^ set(joints)))
    return np.arange(len(joints))


def padded(action: ActionSpec, joints: tuple[str, ...]) -> Any:
    """A missing column is filled in."""
    return np.array([action.joints.index(name) if name in action.joints else 0 for name in joints])


@pytest.mark.parametrize("columns", [by_position, padded], ids=lambda columns: columns.__name__)
def test_law_5_planted_names(columns: Callable[..., Any], monkeypatch: Patch) -> None:
    """Columns bound by position, or a missing column filled in, wherever they are bound, are seen."""
    monkeypatch.setattr("safeguard.policies.binding._columns", columns)
    monkeypatch.setattr(tracking, "columns", columns)
    monkeypatch.setattr("safeguard.monitors.plan._columns", columns)
    with pytest.raises(AssertionError):
        check_law_5_names()
