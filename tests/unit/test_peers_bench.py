"""The comparison with peers, without a peer: recorded inputs, the judge, turns, figures, and what children say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.contestants import Answers, Contestant
from benchmarks.peers.describe import CLEARANCE, describe
from benchmarks.peers.drive import DIED, Loop, avoidable, closed_loop, interleaved, one_step_scores
from benchmarks.peers.figures import Entry, fastest, hard_ticks, percentiles, ratios, summary
from benchmarks.peers.inputs import BLOCK, Inputs, Kind, proposed_velocity, record, targets
from benchmarks.peers.score import TOLERANCE, Judge, Score, Step
from benchmarks.peers.serve import ERROR, NO_SOLUTION, Description, NoSolutionError, answer_block
from benchmarks.peers.wire import Array, receive, send
from safeguard.controllers.dynamics import Dynamics
from safeguard.core.robot import RobotModel

DT = 0.002
ROBOT = RobotModel.load("panda")
LIMITS = ROBOT.limits
STILL = np.zeros(ROBOT.n)
OURS = Contestant("safeguard osqp", "", "", "", "velocity", "velocity")


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Description:
    """What contestants are given."""
    return Description.read(describe(ROBOT, DT, tmp_path_factory.mktemp("robot")))


@pytest.fixture(scope="module")
def judge(description: Description) -> Judge:
    """The common checker."""
    return Judge(ROBOT, description)


@pytest.fixture(scope="module")
def inputs(judge: Judge) -> Inputs:
    """A few recorded ticks of every kind."""
    return record(ROBOT, judge, 12, 0, DT)


class Double:
    """A filter that answers with a function of what it is asked, and notes when it is asked."""

    def __init__(self, name: str, log: list[str], answer: Callable[[Array], Array] = np.array) -> None:
        self.contestant = replace(OURS, name=name)
        self._log, self._answer = log, answer

    def reset(self, q: Array, v: Array) -> None:
        """Note it."""
        self._log.append(f"{self.contestant.name} anew")

    def block(self, q: Array, v: Array, action: Array) -> Answers | None:
        """Note how many ticks there are, and answer."""
        self._log.append(f"{self.contestant.name} {len(q)}")
        k = len(q)
        return Answers(self._answer(action), np.zeros(k), np.full(k, 1e3), np.full(k, 1e3), np.ones(k))


class Dead(Double):
    """A filter whose process dies of every block."""

    def block(self, q: Array, v: Array, action: Array) -> Answers | None:
        """Nothing comes back."""
        return None


# -- inputs -------------------------------------------------------------------------------------------------


def test_inputs_repeat_bit_for_bit_and_depend_on_the_seed(judge: Judge, inputs: Inputs) -> None:
    """The same seed records the same bits, another seed does not."""
    assert record(ROBOT, judge, 12, 0, DT).digest() == inputs.digest()
    assert record(ROBOT, judge, 12, 1, DT).digest() != inputs.digest()


def test_a_file_holds_the_inputs(inputs: Inputs, tmp_path: Path) -> None:
    """What was saved is read again bit for bit."""
    inputs.save(tmp_path / "folder" / "inputs.npz")
    assert Inputs.read(tmp_path / "folder" / "inputs.npz").digest() == inputs.digest()


def test_every_kind_leads_where_it_says(judge: Judge) -> None:
    """Calm targets keep limits and clearance; the others leave the limits or make links overlap."""
    wanted = {kind: targets(ROBOT, judge, kind, 900, 0, DT) for kind in Kind}
    outside = {kind: ((q < LIMITS.q_min) | (q > LIMITS.q_max)).any(axis=1) for kind, q in wanted.items()}
    assert not outside[Kind.CALM].any()
    assert all(judge.clearance(q) > CLEARANCE for q in wanted[Kind.CALM][::50])
    assert outside[Kind.LIMITS].all()
    assert not outside[Kind.COLLISION].any()
    assert all(judge.clearance(q) < 0.0 for q in wanted[Kind.COLLISION][::50])
    jumps = np.abs(np.diff(wanted[Kind.JUMPS], axis=0)).max(axis=1) > 0.0
    assert np.flatnonzero(jumps).tolist() == list(range(39, 899, 40))


def test_proposals_exceed_the_speed_limits_but_not_without_bound() -> None:
    """A far target is proposed at 1.2 times the speed limit."""
    np.testing.assert_allclose(proposed_velocity(ROBOT, ROBOT.home, ROBOT.home + 10.0), 1.2 * LIMITS.v_max)


def test_a_description_says_what_the_robot_is(description: Description) -> None:
    """Limits, pieces and pairs are the robot's; its URDF has neither collision geometry nor other joints."""
    np.testing.assert_array_equal(description.q_max, LIMITS.q_max)
    assert description.pairs == ROBOT.collision.pairs
    assert [piece.name for piece in description.pieces] == [o.name for o in ROBOT.collision.geometry.geometryObjects]
    text = Path(description.urdf).read_text()
    assert "<collision" not in text
    assert text.count('type="revolute"') == ROBOT.n
    assert 'type="prismatic"' not in text
    assert all(f'velocity="{speed!r}"' in text for speed in LIMITS.v_max.tolist())


# -- the judge ----------------------------------------------------------------------------------------------


def test_the_judge_computes_the_same_dynamics_as_the_model(judge: Judge) -> None:
    """Torque and acceleration of MuJoCo's twin agree with pinocchio's, also where links overlap."""
    rng, dynamics = np.random.default_rng(0), Dynamics(ROBOT)
    for q in rng.uniform(LIMITS.q_min, LIMITS.q_max, (20, ROBOT.n)):
        v, a = rng.uniform(-1.0, 1.0, (2, ROBOT.n))
        dynamics.update(q, v)
        np.testing.assert_allclose(judge.torque(q, v, a), dynamics.torque(a), atol=1e-9)
        np.testing.assert_allclose(judge.acceleration(q, v, dynamics.torque(a)), a, atol=1e-9)


def test_standing_still_violates_nothing(judge: Judge) -> None:
    """The negative control: at home, holding, every excess is negative."""
    for gives, command in (("velocity", STILL), ("torque", judge.torque(ROBOT.home, STILL, STILL))):
        step = judge.step(ROBOT.home, STILL, command, "velocity" if gives == "velocity" else "torque")
        excess, clearance = judge.judge(step)
        assert max(excess.values()) < 0.0
        assert clearance > CLEARANCE
        assert judge.unavoidable(step) < 0.0


def _overlapping(judge: Judge) -> Array:
    first: Array = targets(ROBOT, judge, Kind.COLLISION, 1, 0, DT)[0]
    return first


@pytest.mark.parametrize("kind", ["position", "speed", "torque", "acceleration", "self_collision"])
def test_the_judge_sees_every_planted_violation(judge: Judge, kind: str) -> None:
    """One limit exceeded on purpose is counted under its name, and under no limit that was kept."""
    q, v, a = np.array(ROBOT.home), np.zeros(ROBOT.n), np.zeros(ROBOT.n)
    torque = judge.torque(q, v, a)
    match kind:
        case "position":
            q[6] = LIMITS.q_max[6] + 1e-5
        case "speed":
            v[1] = -LIMITS.v_max[1] - 1e-5
        case "torque":
            torque[5] = -LIMITS.tau_max[5] - 1e-3
        case "acceleration":
            a[6] = LIMITS.a_max[6] + 0.1
        case _:
            q = _overlapping(judge)
    score = Score()
    score.add(*judge.judge(Step(q, v, a, torque)))
    assert [name for name, count in score.count.items() if count] == [kind]
    assert score.violated == (kind != "acceleration")
    assert score.worst[kind] > TOLERANCE[kind]


def test_what_is_not_a_number_is_a_violation(judge: Judge) -> None:
    """A NaN in the next state counts for every limit that it touches."""
    score, nothing = Score(), np.full(ROBOT.n, np.nan)
    score.add(*judge.judge(Step(nothing, nothing, nothing, nothing)))
    assert score.violated == 1
    assert all(score.count[kind] == 1 for kind in ("position", "speed", "torque", "acceleration", "self_collision"))


def test_a_velocity_that_no_drive_reaches_is_seen(judge: Judge) -> None:
    """A jump to full speed takes more torque and acceleration than there is."""
    excess, _ = judge.judge(judge.step(ROBOT.home, STILL, np.array(LIMITS.v_max), "velocity"))
    assert excess["torque"] > 0.0
    assert excess["acceleration"] > 0.0


def test_a_stop_that_comes_too_late_is_unavoidable(judge: Judge) -> None:
    """Full speed close to a limit is within it, and yet it will be left; far from it nothing is lost."""
    q, v = np.array(ROBOT.home), np.zeros(ROBOT.n)
    q[0], v[0] = LIMITS.q_max[0] - 0.05, LIMITS.v_max[0]
    late = Step(q, v, STILL, STILL)
    assert judge.judge(late)[0]["position"] < 0.0
    assert judge.unavoidable(late) == pytest.approx(v[0] ** 2 / (2.0 * LIMITS.a_max[0]) - 0.05)
    assert judge.unavoidable(Step(np.array(ROBOT.home), v, STILL, STILL)) < 0.0


def test_braking_for_a_filter_keeps_its_limits(judge: Judge) -> None:
    """What stands in for a missing answer slows every joint down within acceleration and torque."""
    v = 0.5 * LIMITS.v_max
    step = judge.step(ROBOT.home, v, judge.brake(ROBOT.home, v, "velocity"), "velocity")
    assert (np.abs(step.v) < np.abs(v)).all()
    assert (np.abs(step.a) <= LIMITS.a_max + 1e-9).all()
    assert (np.abs(judge.brake(ROBOT.home, v, "torque")) <= LIMITS.tau_max).all()


# -- turns --------------------------------------------------------------------------------------------------


def test_contestants_answer_block_by_block_in_changing_order(inputs: Inputs) -> None:
    """After the warm-up every block goes round all of them, another one first each time, none across two kinds."""
    log: list[str] = []
    doubles = [Double(name, log) for name in "ab"]
    two = replace_ticks(inputs, np.repeat([0.0, 1.0], [BLOCK + 2, 3]))
    answers = interleaved(doubles, two, lambda: None)
    assert log[:2] == ["a 105", "b 105"]
    assert [entry for entry in log[2:] if "anew" not in entry] == ["a 100", "b 100", "b 2", "a 2", "a 3", "b 3"]
    assert [entry for entry in log if "anew" in entry] == ["a anew", "b anew", "a anew", "b anew"]
    for answered in answers:
        np.testing.assert_array_equal(answered.command, two.velocity)


def replace_ticks(inputs: Inputs, kind: Array) -> Inputs:
    """As many ticks as ``kind`` has, each different."""
    rows = np.arange(len(kind), dtype=float)[:, None] * np.ones(ROBOT.n)
    return replace(inputs, kind=kind, target=rows, q=rows, v=rows, velocity=rows, acceleration=rows, torque=rows)


def test_a_process_that_dies_leaves_ticks_without_an_answer(inputs: Inputs, judge: Judge) -> None:
    """Its ticks are marked, its loop is braked for it, and the run goes on."""
    dead = Dead("x", [])
    (answers,) = interleaved([dead], inputs, lambda: None)
    assert (answers.status == DIED).all()
    loop = closed_loop(dead, ROBOT, judge, inputs)
    assert loop.unanswered == loop.score.ticks == len(inputs.kind)
    assert loop.score.violated == 0
    assert loop.travel == 0.0


def test_scores_tell_a_filter_that_stops_from_one_that_lets_everything_through(inputs: Inputs, judge: Judge) -> None:
    """The pass-through violates limits tick by tick and in its loop; standing still violates none."""
    through, still = Double("through", []), Double("still", [], np.zeros_like)
    clear = avoidable(judge, inputs)
    answers = interleaved([through, still], inputs, lambda: None)
    assert one_step_scores(answers[0], through, inputs, judge, clear).violated > 0
    loops = [closed_loop(double, ROBOT, judge, inputs) for double in (through, still)]
    assert loops[0].score.violated > 0
    assert loops[0].travel > 0.0
    assert loops[1].score.violated == loops[1].travel == 0


# -- figures ------------------------------------------------------------------------------------------------


def _entry(name: str, ns: float, *, status: float = 0.0, ticks: int = 10) -> Entry:
    every = np.ones(ticks)
    answers = Answers(np.zeros((ticks, ROBOT.n)), status * every, ns * every, ns * every, every)
    return Entry(replace(OURS, name=name), answers, {}, Score(), Loop(), {})


def test_percentiles_leave_out_what_was_not_answered() -> None:
    """In µs over the chosen ticks; a dead process has no time; nothing chosen, nothing said."""
    ns = np.array([1e3, 2e3, 3e3, np.nan, 9e9])
    mask = np.array([True, True, True, True, False])
    assert percentiles(ns, mask) == pytest.approx({"p50": 2.0, "p90": 2.8, "p99": 2.98, "max": 3.0})
    assert percentiles(ns, ~mask & np.isnan(ns)) == {}


def test_a_peer_that_fails_quickly_is_not_the_fastest() -> None:
    """Only peers that answer count; if none does, there is no fastest."""
    quick, slow = _entry("pink quick", 1e3, status=NO_SOLUTION), _entry("pink slow", 5e3)
    mask = np.ones(10, dtype=bool)
    assert fastest([quick, slow], mask) is slow
    assert fastest([quick], mask) is None
    assert fastest([slow], ~mask) is None


def test_ratios_are_taken_over_the_same_ticks() -> None:
    """Ours over the peer's, where ours solved; OSQP against OSQP separately; nothing without our filter."""
    entries = {e.contestant.name: e for e in (_entry("safeguard osqp", 2e3), _entry("pink daqp", 4e3))}
    entries |= {name: _entry(name, ns) for name, ns in (("pink osqp", 2e4), ("pink daqp@default", 1e3))}
    found = ratios(entries)
    assert found["safeguard osqp / fastest pink"]["against"] == "pink daqp"
    assert found["safeguard osqp / fastest pink"]["p50"] == pytest.approx(0.5)
    assert found["safeguard osqp / pink osqp"]["p99"] == pytest.approx(0.1)
    assert found["safeguard osqp / pink osqp"]["p99_cpu"] == pytest.approx(0.1)
    assert ratios({"pink daqp": entries["pink daqp"]}) == {}
    assert hard_ticks(_entry("x", 1.0, status=ERROR)).sum() == 0


def test_a_summary_counts_what_went_wrong() -> None:
    """No solutions, errors and deaths are told apart."""
    mask = np.ones(10, dtype=bool)
    for status, key in ((NO_SOLUTION, "no_solution"), (ERROR, "errors"), (DIED, "died")):
        figures = summary(_entry("x", 1e3, status=status), mask, mask)
        assert [name for name in ("no_solution", "errors", "died") if figures[name] == 10] == [key]


# -- what children say --------------------------------------------------------------------------------------


def test_messages_arrive_as_they_were_sent() -> None:
    """Header and arrays, NaN included; then the end of the stream; then silence."""
    read, write = os.pipe()
    sent = np.array([[1.0, np.nan, -np.inf], [0.1, 2.0, 3.0]])
    send(write, {"op": "block", "n": 3}, sent=sent, empty=np.zeros((0, 7)))
    head, arrays = receive(read, 5.0)
    assert head == {"op": "block", "n": 3}
    np.testing.assert_array_equal(arrays["sent"], sent)
    assert arrays["empty"].shape == (0, 7)
    with pytest.raises(TimeoutError):
        receive(read, 0.0)
    os.close(write)
    with pytest.raises(EOFError):
        receive(read, 5.0)
    os.close(read)


class _Moody:
    """A peer that answers, finds no solution, breaks, and answers nonsense, in turn."""

    solved = True

    def reset(self, q: Array, v: Array) -> None:
        """Nothing is kept."""

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """By the first entry of the action."""
        match int(action[0]):
            case 0:
                return action
            case 1:
                raise NoSolutionError
            case 2:
                raise ZeroDivisionError
            case _:
                return np.full_like(action, np.nan)


def test_a_child_counts_what_a_library_raises() -> None:
    """Every tick is answered or marked with what went wrong, and timed."""
    read, write = os.pipe()
    action = np.repeat(np.arange(4.0)[:, None], 2, axis=1)
    answer_block(write, _Moody(), action, action, action)
    head, arrays = receive(read, 5.0)
    assert arrays["told"][:, 0].tolist() == [0.0, NO_SOLUTION, ERROR, ERROR]
    assert (arrays["told"][:, 1:3] > 0.0).all()
    assert (arrays["told"][:, 3] == 1.0).all()
    assert head["errors"] == {"ZeroDivisionError": 1, "answer is not finite": 1}
    assert np.isnan(arrays["command"][1:]).all()
    os.close(read)
    os.close(write)
