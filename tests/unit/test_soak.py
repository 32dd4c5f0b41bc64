"""The soak: adversaries are what they say, blocks repeat exactly, and whatever goes wrong is seen."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
from safeguard.core.errors import ConfigError, UnknownNameError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Command, FilterResult, Margins, RobotState, TorqueCommand, Vector
from safeguard.scenarios.adversary import ADVERSARIES, Nearness, Stage
from safeguard.scenarios.arena import Arena, SoakPlan
from safeguard.scenarios.ledger import KINDS, BlockResult, Finding
from safeguard.scenarios.soak import SoakVerdict, run_soak

ROBOT = RobotModel.load("panda")
NEARNESS = Nearness(ROBOT)
LIMITS = ROBOT.limits
SHORT = SoakPlan(ticks=120, block_ticks=40, adversaries=("mixed", "bang_bang", "into_itself"))


def stage(seed: int) -> Stage:
    """Home at rest."""
    state = RobotState(ROBOT.home, np.zeros(ROBOT.n), 0)
    return Stage(ROBOT, NEARNESS, np.random.default_rng(seed), state)


class Double:
    """A filter that answers with what it is given."""

    def __init__(self, answer: Callable[[RobotState], FilterResult]) -> None:
        self._answer = answer

    def __call__(self, state: RobotState, **proposal: Any) -> FilterResult:
        """The answer, whatever the proposal."""
        return self._answer(state)

    def reset(self, state: RobotState | None = None) -> str:
        """Every start is fine."""
        return ""


def outcome(torque: Vector, acceleration: Vector, status: FilterStatus = FilterStatus.CORRECTED) -> FilterResult:
    """A result with these numbers."""
    margins = Margins(0.0, 0.0, 0.0, 0.0, "")
    return FilterResult(torque, acceleration, status, SolverStatus.SOLVED, "qp", (), (), margins, 0.0)


def run_double(answer: Callable[[RobotState], FilterResult], plan: SoakPlan = SHORT) -> BlockResult:
    """The first block of ``plan`` with a double for a filter."""
    arena: Any = Arena(plan)
    arena.filter = Double(answer)
    result: BlockResult = arena.run(0)
    return result


# -- adversaries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ADVERSARIES if name != "garbage"])
def test_an_adversary_makes_proper_proposals_that_repeat_by_seed(name: str) -> None:
    """300 attempts of n finite numbers with gains where they belong; the same seed repeats them, another does not."""
    first, again, other = (list(islice(ADVERSARIES[name](stage(seed)), 300)) for seed in (1, 1, 2))
    for attempt in first:
        shape = {NominalKind.TWIST: (6,), NominalKind.POSE: (7,)}.get(attempt.kind, (ROBOT.n,))
        assert np.shape(attempt.value) == shape
        assert np.isfinite(attempt.value).all()
        assert ("kp" in attempt.arguments()) == (attempt.kind is NominalKind.POSITION)
    values = [[np.asarray(attempt.value).tobytes() for attempt in attempts] for attempts in (first, again, other)]
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_adversaries_go_beyond_what_they_attack() -> None:
    """Torques beyond the torque limits, targets and velocities beyond theirs, envelopes down to a hundredth."""
    drawn = {name: list(islice(make(stage(3)), 1500)) for name, make in ADVERSARIES.items()}
    assert max(np.abs(a.value / LIMITS.tau_max).max() for a in drawn["random_torque"]) > 3.0
    assert min(np.abs(a.value / LIMITS.tau_max).min() for a in drawn["bang_bang"]) == pytest.approx(3.0)
    assert max((a.value - LIMITS.q_max).max() for a in drawn["out_of_range"]) > 100.0
    assert max(np.abs(a.value / LIMITS.v_max).max() for a in drawn["velocities"]) > 2.0
    assert max(np.abs(a.value / LIMITS.a_max).max() for a in drawn["accelerations"]) > 100.0
    assert min(a.envelope.velocity for a in drawn["envelopes"]) < 0.05
    joint_kinds = {NominalKind.TORQUE, NominalKind.ACCELERATION, NominalKind.VELOCITY, NominalKind.POSITION}
    assert {a.kind for a in drawn["mixed"]} == joint_kinds


def test_garbage_is_of_every_sort() -> None:
    """No numbers, not finite, wrong shape and other types, between proposals that are fine."""
    values: list[Any] = [attempt.value for attempt in islice(ADVERSARIES["garbage"](stage(5)), 8000)]
    arrays: list[NDArray[Any]] = [value for value in values if isinstance(value, np.ndarray)]
    assert {"f", "b", "c"} <= {array.dtype.kind for array in arrays}
    assert any(array.shape != (ROBOT.n,) for array in arrays)
    assert any(not array.flags.contiguous for array in arrays)
    assert any(np.isnan(array).any() for array in arrays)
    assert any(np.isinf(array).any() for array in arrays)
    assert any(isinstance(value, list) and "left" in value for value in values)
    fine = [a for a in arrays if a.shape == (ROBOT.n,) and a.dtype.kind == "f" and np.isfinite(a).all()]
    assert len(fine) > len(values) // 3


def test_the_gradient_is_that_of_the_distance() -> None:
    """Against central differences, in configurations near contact and in it where the nearest pair can be moved."""
    rng, checked = np.random.default_rng(0), 0
    for _ in range(600):
        q = rng.uniform(LIMITS.q_min, LIMITS.q_max)
        if abs(NEARNESS.distance(q)) > 0.05:
            continue
        steps = 1e-6 * np.eye(ROBOT.n)
        differences = np.array([NEARNESS.distance(q + h) - NEARNESS.distance(q - h) for h in steps]) / 2e-6
        gradient = NEARNESS.gradient(q)
        one_sided = [(NEARNESS.distance(q + h) - NEARNESS.distance(q)) / 1e-6 for h in steps]
        smooth = np.allclose(one_sided, differences, atol=1e-3)
        if smooth and np.abs(differences).max() > 0.03:  # else another pair or feature becomes the nearest here
            assert gradient == pytest.approx(differences, abs=2e-3)
            checked += 1
    assert checked > 20


def test_far_from_contact_there_is_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing within 0.1 m: zero, and an adversary that follows it turns to something else."""

    def far(self: Nearness, q: Vector) -> float:
        return 0.1

    monkeypatch.setattr(Nearness, "distance", far)
    assert not NEARNESS.gradient(ROBOT.home).any()


def test_the_target_of_a_collision_is_one() -> None:
    """Configurations to aim at lie deep in self-collision, inside the position limits."""
    for seed in range(5):
        q = stage(seed).colliding()
        assert NEARNESS.distance(q) < -0.01
        assert ((q >= LIMITS.q_min) & (q <= LIMITS.q_max)).all()


# -- blocks -----------------------------------------------------------------------------------------------


def test_blocks_cover_the_ticks_and_take_the_adversaries_in_turns() -> None:
    """The last block is shorter; block k has adversary k modulo their number."""
    plan = SoakPlan(ticks=1050, block_ticks=500, adversaries=("jumps", "mixed"))
    assert [plan.length(block) for block in range(plan.blocks)] == [500, 500, 50]
    assert [plan.adversary(block) for block in range(3)] == ["jumps", "mixed", "jumps"]


def test_two_processes_and_a_single_block_give_what_one_process_gives() -> None:
    """Equal apart from the times: nothing of a block depends on what the filter did before its reset."""
    alone, split, again = run_soak(SHORT), run_soak(SHORT, workers=2), run_soak(SHORT, blocks=[2])
    first, second = alone.as_json(), split.as_json()
    assert first.pop("timing") != second.pop("timing")
    assert first == second
    assert again.results[0].fingerprint == alone.results[2].fingerprint
    assert run_soak(replace(SHORT, seed=1)).fingerprint != alone.fingerprint
    assert [result.ticks for result in alone.results] == [40, 40, 40]


def test_blocks_start_inside_every_limit_and_at_speed() -> None:
    """Starts keep their distances, most of them move, and no two are equal."""
    arena, starts = Arena(SHORT), list[RobotState]()
    for block in range(30):
        start = arena.start(np.random.default_rng(block))
        starts.append(start)
        assert ((start.q > LIMITS.q_min) & (start.q < LIMITS.q_max)).all()
        assert (np.abs(start.v) <= LIMITS.v_max).all()
        assert NEARNESS.distance(start.q) >= min(0.02, 0.5 * NEARNESS.distance(ROBOT.home))
    assert sum(bool(start.v.any()) for start in starts) > 15
    assert len({start.q.tobytes() for start in starts}) == len(starts)


def test_every_block_is_reported_in_order() -> None:
    """A progress bar is told about each."""
    seen: list[int] = []
    run_soak(SHORT, on_block=lambda result: seen.append(result.block))
    assert seen == [0, 1, 2]


# -- the plant ----------------------------------------------------------------------------------------------


def test_the_plant_is_perturbed_and_the_model_is_not() -> None:
    """Masses differ by block within the error, friction is added; the filter's robot stays what it is."""
    arena, exact = Arena(replace(SHORT, ticks=240, mass_error=0.1, friction_nm=0.5)), Arena(SHORT)
    masses: list[Vector] = []
    for block in range(6):
        arena.run(block)
        mass, told = arena.world.model.body_mass.copy(), exact.world.model.body_mass
        assert (np.abs(mass - told) <= 0.1 * told + 1e-12).all()
        masses.append(mass)
    assert len({mass.tobytes() for mass in masses}) > 2
    assert arena.filter.robot.digest == ROBOT.digest
    assert (arena.world.model.dof_frictionloss[:7] >= 0.5).all()


def test_a_late_plant_gets_every_command_the_delay_later() -> None:
    """Command k acts in tick k + delay; before the first one the body is carried."""
    arena = Arena(replace(SHORT, delay_ticks=2, adversaries=("bang_bang",)))
    applied: list[Command] = []
    apply = arena.world.apply

    def note(command: Command) -> None:
        applied.append(command)
        apply(command)

    arena.world.apply = note  # type: ignore[method-assign]
    arena.run(0)
    commands = [command for command in applied if isinstance(command, TorqueCommand)]
    assert [command.seq for command in commands[:5]] == [-1, -1, 0, 1, 2]
    assert not arena.world.braked


def test_a_payload_is_known_to_both() -> None:
    """The filter's robot and the plant carry it."""
    arena = Arena(replace(SHORT, payload_kg=1.0))
    assert arena.filter.robot.digest != ROBOT.digest
    assert arena.world.model.body_mass.sum() == pytest.approx(Arena(SHORT).world.model.body_mass.sum() + 1.0)


# -- what is seen ---------------------------------------------------------------------------------------------


def test_the_limit_itself_is_inside_and_the_next_number_is_not() -> None:
    """Acceleration and torque on the limit are no violation; one rounding step more is, and says where."""

    def at(tau: Vector, a: Vector) -> dict[str, Finding]:
        return run_double(lambda _: outcome(tau, a), replace(SHORT, block_ticks=1)).findings

    over = LIMITS.a_max.copy()
    over[3] = math.nextafter(over[3], math.inf)
    assert {"acceleration", "torque"}.isdisjoint(at(LIMITS.tau_max, -LIMITS.a_max))
    assert at(LIMITS.tau_max, over)["acceleration"].where == ROBOT.joints[3]
    tau = LIMITS.tau_max.copy()
    tau[5] = -math.nextafter(tau[5], math.inf)
    assert at(tau, LIMITS.a_max)["torque"].where == ROBOT.joints[5]


def test_a_filter_that_lets_through_is_convicted() -> None:
    """Full torque for good: position, speed and torque rate are seen, with block and first tick, and claimed."""
    calls = iter(range(10_000))

    def push(state: RobotState) -> FilterResult:
        return outcome(LIMITS.tau_max * (1.0 if next(calls) > 5 else -1.0), np.zeros(ROBOT.n))

    result = run_double(push, replace(SHORT, ticks=600, block_ticks=600))
    assert {"position", "speed", "torque_rate"} <= result.findings.keys()
    assert result.findings["speed"].first > 0
    verdict = SoakVerdict(SHORT, (result,))
    assert not verdict.passed
    assert verdict.as_json()["passed"] is False


def test_the_torque_rate_counts_only_where_it_is_claimed() -> None:
    """It is reported in any case."""
    flips = iter(np.tile([0.2, -0.2], 100))
    result = run_double(lambda _: outcome(next(flips) * LIMITS.tau_max, np.zeros(ROBOT.n)), replace(SHORT, ticks=2))
    assert result.findings.keys() == {"torque_rate"}
    assert SoakVerdict(SHORT, (result,)).passed
    assert not SoakVerdict(replace(SHORT, claim_rate=True), (result,)).passed


def test_what_raises_is_counted_and_braked() -> None:
    """An exception out of a tick fails the run and is named; the body gets the terminal stop meanwhile."""

    def fail(state: RobotState) -> FilterResult:
        raise ZeroDivisionError("planted")

    arena: Any = Arena(SHORT)
    arena.filter = Double(fail)
    result = arena.run(0)
    verdict = SoakVerdict(SHORT, (result,))
    assert arena.world.braked
    assert len(verdict.exceptions) == verdict.as_json()["exceptions"] == 40
    assert verdict.distinct_exceptions == ("block 0 (mixed), tick 0: ZeroDivisionError: planted",)
    assert not verdict.passed


def test_a_refused_tick_is_a_terminal_stop() -> None:
    """Nothing but the brakes acts, and the status is counted."""
    nothing = np.zeros(ROBOT.n)
    result = run_double(lambda _: outcome(nothing, nothing, FilterStatus.REFUSED))
    assert result.statuses == {"refused": 40}


def test_findings_add_up_and_keep_the_worst() -> None:
    """Ticks add, the larger size stays with its place."""
    small, large = Finding(2, 0.1, "a", "jumps", 0, 5), Finding(3, 0.4, "b", "mixed", 7, 1)
    assert small | large == large | small == Finding(5, 0.4, "b", "mixed", 7, 1)


def test_the_verdict_is_plain_json_with_every_kind() -> None:
    """Kinds that were not seen stand there with 0, shares add up to one, infinite sizes become null."""
    finding = Finding(1, math.inf, "", "mixed", 0, 0)
    verdict = run_soak(SHORT, blocks=[0])
    told = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
    assert set(told["violations"]) == set(KINDS)
    assert sum(share for name, share in told["shares"].items() if name != "stuck") == pytest.approx(1.0)
    infinite = SoakVerdict(SHORT, (replace(verdict.results[0], findings={"speed": finding}),))
    assert infinite.as_json()["violations"]["speed"]["worst"] is None  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"adversaries": ("nobody",)}, UnknownNameError),
        ({"adversaries": ()}, ConfigError),
        ({"ticks": 0}, ConfigError),
        ({"physics_dt": 0.002}, ConfigError),
        ({"mass_error": 1.0}, ConfigError),
        ({"friction_nm": -1.0}, ConfigError),
        ({"delay_ticks": -1}, ConfigError),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    """With the name of what is wrong."""
    with pytest.raises(error, match=r"adversar|ticks?|physics|mass|friction|delay"):
        replace(SHORT, **change)


def test_a_block_that_does_not_exist_is_refused() -> None:
    """With the range of those that do."""
    with pytest.raises(ConfigError, match="0 to 2"):
        run_soak(SHORT, blocks=[3])


# -- the command ------------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark command."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_the_command_tells_success_violation_and_misuse_apart(tmp_path: Path) -> None:
    """Exit codes 0, 3 and 2; the verdict lies where it was asked for."""
    few = ("--ticks", "200", "--block-ticks", "100", "--adversary", "bang_bang,jumps")
    good = command(*few, "--json", str(tmp_path / "good.json"))
    assert good.returncode == 0, good.stderr
    assert json.loads((tmp_path / "good.json").read_text())["passed"] is True
    bad = command(*few, "--no-filter", "--json", str(tmp_path / "bad.json"))
    assert bad.returncode == 3, bad.stderr
    assert json.loads((tmp_path / "bad.json").read_text())["violations"]["torque"]["ticks"] > 0
    misuse = command("--adversary", "nobody")
    assert misuse.returncode == 2
    assert "nobody" in misuse.stderr
