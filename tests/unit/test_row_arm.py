# pyright: reportPrivateUsage=false
"""The platform of a host that plays rows: what is checked, what is told, and where that leaves the arm."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.row_arm import RowArm
from safeguard.controllers.rows import RowCheck, RowPath
from safeguard.controllers.rows_control import RowControl
from safeguard.core.action import ActionSpec
from safeguard.core.config import BrakeConfig, DriveConfig, FilterConfig, MarginConfig
from safeguard.core.enums import FilterStatus, NominalKind, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import (
    FULL_ENVELOPE,
    NS_PER_S,
    Envelope,
    FilterResult,
    Nominal,
    PositionCommand,
    Proposal,
    RobotState,
    TerminalStop,
    Vector,
)
from safeguard.selftest import self_test
from tests.unit.servo_world import load

HOME = load("panda").home
CONFIG = FilterConfig(brake=BrakeConfig(samples=100), margins=MarginConfig(position_rad=0.05))
RATE, CHUNK, PLAYS = 20.0, 12, 8
ROW = NS_PER_S // 20
SIDE = np.array([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0])


def arm(**more: Any) -> RowArm:
    """A Panda whose host plays 8 of 12 rows, 20 a second."""
    given: dict[str, Any] = {"plays": PLAYS, **more}
    return RowArm(load("panda"), rate_hz=RATE, chunk=CHUNK, config=CONFIG, **given)


def saying(what: str) -> Callable[[Vector, Vector], str]:
    """A check with one answer."""

    def check(q: Vector, v: Vector) -> str:
        return what

    return check


def at(q: Vector, now: int = 0) -> RobotState:
    """Measured at rest."""
    return RobotState(q, np.zeros(7), now)


def rows(q: Vector) -> Nominal:
    """Rows as a nominal."""
    return Nominal(NominalKind.ROWS, q)


def gentle(start: Vector = HOME, step: float = 0.1) -> Vector:
    """Rows that set out gently and go on."""
    s = np.arange(1, CHUNK + 1)[:, None] / CHUNK
    found: Vector = start + step * s * s * SIDE
    return found


def told(made: RowArm, result: FilterResult, now: int) -> PositionCommand:
    """What goes out for ``result``."""
    command = made.command(result, now, now, 0)
    assert isinstance(command, PositionCommand)
    return command


def moving() -> RowArm:
    """An arm that has been told gentle rows at time 0."""
    made = arm()
    result = made.filter(at(HOME), rows(gentle()))
    assert result.status is FilterStatus.ADMISSIBLE, result.refusal
    told(made, result, 0)
    return made


def test_the_self_test_passes_and_tells_nothing() -> None:
    """It is the body that a shield asks for, and what the self-test asked is not taken for told."""
    made = arm()
    assert self_test(made) == ()
    assert made.told is None


# -- the check ------------------------------------------------------------------------------------------


def straight(speed: Vector, start: Vector = HOME) -> Vector:
    """Points at a constant speed, the start first."""
    return start + np.arange(CHUNK + 1)[:, None] / RATE * speed


LIMITS = load("panda").limits
FASTEST = 0.99 * LIMITS.v_max[0]


@pytest.mark.parametrize(
    ("points", "v0", "envelope", "said"),
    [
        (straight(0.999 * FASTEST * np.eye(7)[0]), 0.999 * FASTEST * np.eye(7)[0], FULL_ENVELOPE, ""),
        (straight(1.001 * FASTEST * np.eye(7)[0]), 1.001 * FASTEST * np.eye(7)[0], FULL_ENVELOPE, "speed"),
        (straight(0.6 * FASTEST * np.eye(7)[0]), 0.6 * FASTEST * np.eye(7)[0], Envelope(0.5, 1.0), "speed"),
        (straight(0.7 * np.eye(7)[0]), np.zeros(7), FULL_ENVELOPE, ""),
        (straight(0.8 * np.eye(7)[0]), np.zeros(7), FULL_ENVELOPE, "acceleration"),
        (straight(0.7 * np.eye(7)[0]), np.zeros(7), Envelope(1.0, 0.5), "acceleration"),
        (straight(np.zeros(7)), 0.7 * np.eye(7)[0], Envelope(1.0, 0.1), ""),
        (straight(np.eye(7)[3], HOME + 1.9 * np.eye(7)[3]), np.eye(7)[3], FULL_ENVELOPE, "position"),
        (straight(-np.eye(7)[3], HOME - 0.5 * np.eye(7)[3]), -np.eye(7)[3], FULL_ENVELOPE, "position"),
        (np.full((CHUNK + 1, 7), np.nan), np.zeros(7), FULL_ENVELOPE, "position"),
    ],
)
def test_every_limit_of_a_row_is_checked(points: Vector, v0: Vector, envelope: Envelope, said: str) -> None:
    """Just inside is fine, just outside is named; slowing down may take all the acceleration there is."""
    refusal = arm()._check.plan_refusal(points, v0, envelope)
    assert said in refusal
    assert bool(said) == bool(refusal)


def test_rows_that_need_too_much_torque_are_refused() -> None:
    """Stretched out, all joints at their acceleration limits at once are more than the motors have."""
    start, way = np.array([-0.48, 0.78, 1.18, -0.36, -2.15, 2.69, 2.39]), np.array([1, -1, 1, 1, 1, -1, 1])
    points = start + np.arange(2)[:, None] * 0.999 * LIMITS.a_max / RATE**2 * way
    assert "torque" in arm()._check.plan_refusal(points, np.zeros(7), FULL_ENVELOPE)


def test_a_stop_that_ends_outside_is_no_stop() -> None:
    """Full speed a tenth of a radian from the end of the range cannot be braked."""
    check, q = arm()._check, HOME.copy()
    q[0] = LIMITS.q_max[0] - 0.1
    assert "end of the stop" in check.stop_refusal(q, LIMITS.v_max * np.eye(7)[0])
    assert check.stop_refusal(q, 0.3 * np.eye(7)[0]) == ""


def _least_distances(check: RowCheck, points: Vector) -> Vector:
    """Of all pairs, anywhere along the points, by dense sampling."""
    least: Vector = np.full(len(check._clearance.names), np.inf)
    for a, b in pairwise(points):
        for part in np.linspace(0.0, 1.0, 60).tolist():
            least = np.minimum(least, check._clearance.measure(a + part * (b - a)).d)
    return least


def test_the_way_between_rows_is_proved_clear() -> None:
    """Random ways through the workspace: what is accepted keeps its distance everywhere, and most of what does is."""
    check, rng, kept, agreed = arm()._check, np.random.default_rng(5), 0, 0
    limits = load("panda").limits
    for _ in range(150):
        ends = rng.uniform(limits.q_min, limits.q_max, (2, 7))
        points = ends[0] + np.linspace(0.0, 0.4, 13)[:, None] * (ends[1] - ends[0])
        clear = bool((check._clearance.measure(points[0]).d >= check._clearance.floors[0] + 1e-4).all())
        if not clear:
            continue
        least = _least_distances(check, points)
        accepted = check.way_refusal(points) == ""
        if accepted:
            assert (least >= check._clearance.floors[1]).all()
        if (least >= check._clearance.floors[0] + 1e-3).all():
            kept, agreed = kept + 1, agreed + accepted
    assert kept > 30
    assert agreed >= 0.95 * kept


# -- what is told, and where that leads -----------------------------------------------------------------


def test_rows_within_the_limits_are_told_as_they_are() -> None:
    """Bit for bit, with a command that expires after the last of them."""
    made = moving()
    assert made.told is not None
    assert made.told.q[1:].tobytes() == gentle().tobytes()
    result = made.filter(at(HOME), rows(gentle()))
    assert told(made, result, 0).expires == CHUNK * ROW


def test_the_plan_goes_on_from_what_was_told() -> None:
    """Between rows it is between them; on time it moves on; later it waits at the last row that is played."""
    made, expected = moving(), gentle()
    for part in (0.0, 0.5):
        where = expected[3] + part * (expected[4] - expected[3])
        planned = made.planned(at(where, round((4 + part) * ROW)))
        assert planned.q == pytest.approx(where, abs=1e-12)
        assert planned.v[0] > 0.0
    last, speed = expected[PLAYS - 1], (expected[PLAYS - 1] - expected[PLAYS - 2]) * RATE
    for late, v in ((0.0, speed), (0.4, speed), (0.6, 0.0 * speed), (50.0, 0.0 * speed)):
        planned = made.planned(at(last, round((PLAYS + late) * ROW)))
        assert np.array_equal(planned.q, last)
        assert planned.v == pytest.approx(v)


def test_a_host_that_plays_on_is_further_on() -> None:
    """Late by two rows it has played two rows more."""
    made = arm(plays_on=True)
    told(made, made.filter(at(HOME), rows(gentle())), 0)
    planned = made.planned(at(gentle()[PLAYS + 1], (PLAYS + 2) * ROW))
    assert np.array_equal(planned.q, gentle()[PLAYS + 1])
    assert planned.v[0] > 0.0


def test_an_arm_that_is_elsewhere_is_planned_for_where_it_is() -> None:
    """Further from what it was told than its drives may be, it stands neither still, nor does the plan go on."""
    made, off = moving(), HOME + 0.2 * np.eye(7)[1]
    assert np.array_equal(made.planned(at(off, ROW)).q, off)
    late = 50 * ROW
    assert not made.standstill(at(off, late))
    assert made.standstill(at(gentle()[PLAYS - 1], late))
    assert not made.standstill(at(gentle()[2], 3 * ROW))
    result = made.filter(at(off, ROW), rows(gentle()))
    assert result.status is FilterStatus.BACKUP
    assert result.position is not None
    assert np.array_equal(result.position, np.tile(off, (CHUNK, 1)))


def test_a_stop_brakes_from_where_the_host_is() -> None:
    """From the middle of a row on: no faster than before, within the acceleration limits, and then at rest."""
    made = moving()
    now = round(5.5 * ROW)
    here = made.planned(at(gentle()[5], now))
    result = made.backup(at(gentle()[5], now))
    assert result.status is FilterStatus.BACKUP
    command = told(made, result, now)
    speed = np.diff(np.vstack((here.q, command.q)), axis=0) * RATE
    assert (np.abs(speed) <= np.abs(here.v) + 1e-9).all()
    assert np.array_equal(command.q[-1], command.q[-2])


def test_where_no_new_stop_is_verified_the_told_rows_and_their_stop_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were verified when they were told: the rows that are still to be played, then the stop behind them."""
    made, now = moving(), round(5.5 * ROW)
    monkeypatch.setattr(made._check, "stop_refusal", saying("not shown to stay clear"))
    position = made.backup(at(gentle()[5], now)).position
    assert position is not None
    assert position[:2] == pytest.approx(0.5 * (gentle()[5:7] + gentle()[6:8]))  # it is in the middle of a row
    slower = np.abs(np.diff(position[2:], axis=0))
    assert (slower[1:] <= slower[:-1]).all()


def test_a_stop_without_a_state_knows_its_time_from_the_command() -> None:
    """The measurement is lost; the rows brake from where the host is when it gets them."""
    made = moving()
    result = made.backup(None)
    command = told(made, result, 3 * ROW)
    assert np.abs(command.q[0] - gentle()[2]).max() < 0.02
    assert made.told is not None
    assert made.told.t0 == 3 * ROW
    fresh = arm()
    assert fresh.backup(None).status is FilterStatus.REFUSED
    assert isinstance(fresh.command(fresh.backup(None), 0, 0, 0), TerminalStop)


def test_a_terminal_stop_leaves_rows_that_brake() -> None:
    """The drives should be off; a host that plays on all the same comes to rest on the way that it was told."""
    made = moving()
    assert made.plausible(at(gentle()[3], 4 * ROW)) is None
    made.command(made.stopped("test"), 4 * ROW, 0, 0)
    assert made.told is not None
    assert np.abs(made.told.q[1] - gentle()[4]).max() < 0.02
    assert np.array_equal(made.told.q[-1], made.told.q[-2])


@pytest.mark.parametrize("verified", [True, False])
def test_what_was_told_in_vain_is_taken_back(verified: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for a stop at the state for which rows have just been told, it goes on from what was told before them."""
    made = moving()
    now = PLAYS * ROW
    here = gentle()[PLAYS - 1]
    made.command(made.filter(at(here, now), rows(gentle(here, 0.2))), now, now, 0)
    if not verified:
        monkeypatch.setattr(made._check, "stop_refusal", saying("no"))
    position = made.backup(at(here, now)).position
    assert position is not None
    reach = np.abs(position - here).max()
    assert 0.0 < reach < 0.05


def test_a_slower_try_comes_before_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose straight pieces do not stay clear are followed more slowly."""
    made = arm()
    seen, real = list[Vector](), made._check.told_refusal

    def first_no(q: Vector, v0: Vector) -> str:
        seen.append(q)
        return "too near" if len(seen) == 1 else real(q, v0)

    monkeypatch.setattr(made._check, "told_refusal", first_no)
    result = made.filter(at(HOME), rows(np.tile(HOME + 1.0 * np.eye(7)[0], (CHUNK, 1))))
    assert result.status is FilterStatus.CORRECTED
    fast, slow = (np.abs(np.diff(q, axis=0)).max() for q in seen)
    assert slow <= 0.31 * LIMITS.v_max.max() / RATE < fast
    monkeypatch.setattr(made._check, "told_refusal", saying("too near"))
    result = made.filter(at(HOME), rows(np.tile(HOME + 1.0 * np.eye(7)[0], (CHUNK, 1))))
    assert (result.status, "too near" in result.refusal) == (FilterStatus.BACKUP, True)


def test_a_jog_is_followed_for_the_rows_that_are_played() -> None:
    """A velocity is held, by the filter, and then braked."""
    made = arm()
    result = made.filter(at(HOME), Nominal(NominalKind.VELOCITY, 0.1 * np.eye(7)[0]), Envelope(0.1, 0.2))
    assert result.position is not None
    moved = result.position[:, 0] - HOME[0]
    assert moved[PLAYS - 1] == pytest.approx(0.1 * PLAYS / RATE, rel=0.2)
    assert moved[-1] - moved[PLAYS - 1] < 0.01


@pytest.mark.parametrize(
    "nominal",
    [rows(np.full((CHUNK, 7), np.nan)), rows(np.zeros((3, 7))), Nominal(NominalKind.TORQUE, np.zeros(7))],
)
def test_what_is_no_row_is_answered_by_standing(nominal: Nominal) -> None:
    """Not finite, of another shape, or another kind of motion."""
    result = arm().filter(at(HOME), nominal)
    assert (result.status, result.refusal != "") == (FilterStatus.BACKUP, True)


def test_raw_rows_are_told_as_they_are_without_enforcement() -> None:
    """Marked as such; rows that are no numbers are sent, and not taken for where the drives are."""
    made = arm()
    wild = np.tile(HOME + 2.0, (CHUNK, 1))
    result = made.bypass(at(HOME), rows(wild))
    assert result.status is FilterStatus.BYPASSED
    assert np.array_equal(told(made, result, 0).q, wild)
    assert made.told is not None
    assert np.array_equal(made.told.q[1:], wild)
    before = made.told
    assert np.isnan(told(made, made.bypass(at(HOME), rows(wild * np.nan)), ROW).q).all()
    assert made.told is before
    standing = arm().bypass(at(HOME), None)
    assert standing.position is not None
    assert np.array_equal(standing.position, np.tile(HOME, (CHUNK, 1)))


def test_what_was_told_survives_an_episode_and_a_record() -> None:
    """Reset keeps it; as JSON and back it is the same; what does not fit is refused."""
    made = moving()
    made.reset()
    assert made.told is not None
    kept = made.carried()
    assert kept is not None
    other = arm()
    assert other.carried() is None
    other.resume(kept)
    state = at(gentle()[2], 3 * ROW)
    assert other.planned(state).q.tobytes() == made.planned(state).q.tobytes()
    mine, theirs = made.backup(state).position, other.backup(state).position
    assert mine is not None
    assert theirs is not None
    assert mine.tobytes() == theirs.tobytes()
    for wrong in ({}, {**kept, "q": [[1.0]]}, {**kept, "t0": "soon"}, {**kept, "v": "fast"}):
        with pytest.raises(ConfigError):
            arm().resume(wrong)


def test_a_start_beyond_a_limit_is_led_back() -> None:
    """Measured outside the range: rows come back into it, and never go further out."""
    made, q = arm(), HOME.copy()
    q[3] = LIMITS.q_max[3] + 0.02
    result = made.filter(at(q), rows(np.tile(q, (CHUNK, 1))))
    assert result.position is not None
    assert result.status is not FilterStatus.ADMISSIBLE
    assert (result.position[:, 3] <= q[3]).all()


# -- set-up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"plays": 13}, "cannot play more"),
        ({"plays": 0}, "plays"),
        ({"plays": 2.0}, "plays"),
        ({"rate_hz": 0.5}, "rate_hz"),
        ({"rate_hz": "fast"}, "rate_hz"),
        ({"chunk": True}, "chunk"),
        ({"drive": DriveConfig(tracking_error_rad=0.06)}, "tracking_error_rad"),
    ],
)
def test_counts_that_make_no_sense_are_refused(more: dict[str, Any], said: str) -> None:
    """A ConfigError that names them."""
    given: dict[str, Any] = {"rate_hz": RATE, "chunk": CHUNK, "config": CONFIG, **more}
    with pytest.raises(ConfigError, match=said):
        RowArm(load("panda"), **given)


def _spec(**more: Any) -> ActionSpec:
    fields: dict[str, Any] = {"unit": "rad", "reference": Reference.ABSOLUTE, "rate_hz": RATE, "chunk": CHUNK}
    return ActionSpec(load("panda").joints, **{**fields, **more})


@pytest.mark.parametrize(
    "more", [{"unit": "deg"}, {"reference": Reference.DELTA}, {"rate_hz": 10.0}, {"chunk": 3}], ids=str
)
def test_a_controller_of_rows_takes_rows(more: dict[str, Any]) -> None:
    """Absolute positions in rad, as many and as often as they are played."""
    with pytest.raises(SpecError):
        arm().controller_for(_spec(**more))


def test_an_older_chunk_has_its_later_rows_left() -> None:
    """Two and a half rows after its observation: half way between its rows, and its last row from there on."""
    control = arm().controller_for(_spec())
    assert isinstance(control, RowControl)
    chunk = Proposal(gentle(), 0, 0, "test", 0)
    assert control.nominal(chunk, at(HOME), 0).value.tobytes() == gentle().tobytes()
    later = control.nominal(chunk, at(HOME), round(2.5 * ROW)).value
    assert later[0] == pytest.approx(0.5 * (gentle()[2] + gentle()[3]))
    assert np.array_equal(later[-3:], np.tile(gentle()[-1], (3, 1)))


def test_a_path_of_one_row_has_a_middle() -> None:
    """The shortest chunk: point 0, point 1, and then waiting there."""
    made = RowArm(load("panda"), rate_hz=RATE, chunk=1, config=CONFIG)
    result = made.filter(at(HOME), rows((HOME + 0.01)[None]))
    told(made, result, 0)
    assert isinstance(made.told, RowPath)
    assert made.told.at(ROW // 2).q == pytest.approx(HOME + 0.005)
    assert np.array_equal(made.told.at(9 * ROW).q, HOME + 0.01)


@pytest.mark.parametrize("asked", [3.0, 3.4, 4.0, 7.7, 9.0, 12.0])
def test_onward_goes_on_where_the_drives_are(asked: float) -> None:
    """The next rows are where the told path leads in whole rows from now: none stands, none is stretched."""
    row_ns, n = 50_000_000.0, 2
    q = np.outer(np.arange(11.0) ** 1.5 * 0.01, np.ones(n))
    v = np.vstack((np.zeros(n), np.diff(q, axis=0) / 0.05))
    path = RowPath(q, v, 0, 10, StopPlan(q[8], v[8], np.full(n, 10.0), 0), 8, row_ns)
    ahead = path.onward(round(asked * row_ns), 6)
    for i, row in enumerate(ahead, start=1):
        x = asked + i
        if x < 8.0:
            k = int(x)
            assert row == pytest.approx(q[k] + (x - k) * (q[k + 1] - q[k]), abs=1e-9)
        else:
            assert row == pytest.approx(path.stop.positions(np.array([[(x - 8.0) * 0.05]]))[0], abs=1e-9)
