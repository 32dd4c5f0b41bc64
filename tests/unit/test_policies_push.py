"""The learned push policy: what it proposes, that it is deterministic, and that it does the task."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.core.enums import Reference
from safeguard.core.errors import MissingExtraError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Observation, RobotState, Sensor
from safeguard.policies import InlinePort, Policy, PushPolicy
from safeguard.policies.push_policy import train
from safeguard.policies.push_policy.evaluate import Follower, evaluate, main, run_episode, summary
from safeguard.policies.push_policy.policy import WEIGHTS
from safeguard.scenarios.push import READY, PushExpert, ReachPush
from safeguard.scenarios.world import World


@pytest.fixture(scope="module")
def policy() -> PushPolicy:
    """With the weights of the package."""
    return PushPolicy.load()


def observation(t: int = 7, puck: tuple[float, float] = (0.6, 0.02)) -> Observation:
    """The arm at rest behind a puck."""
    sensors = {"puck": Sensor(np.array(puck), t), "goal": Sensor(np.array([0.72, 0.05]), t)}
    return Observation(RobotState(READY, np.zeros(7), t), sensors)


def test_it_is_a_policy_of_the_robots_joints(policy: PushPolicy) -> None:
    """Its spec: absolute positions in rad of the Panda's joints by name, 8 rows at 20 Hz."""
    spec = policy.spec
    assert isinstance(policy, Policy)
    assert spec.joints == RobotModel.load("panda").joints
    assert (spec.unit, spec.reference, spec.rate_hz, spec.chunk) == ("rad", Reference.ABSOLUTE, 20.0, 8)


def test_a_proposal_is_a_chunk_near_the_arm(policy: PushPolicy) -> None:
    """Shape (8, 7), stamped with its observation, features of shape (128,), starting where the arm is."""
    policy.reset()
    proposals = [policy.infer(observation(t)) for t in (7, 8)]
    first = proposals[0]
    assert first.actions.shape == (8, 7)
    assert first.features is not None
    assert first.features.shape == (128,)
    assert (first.source, first.t_obs) == ("push_policy", 7)
    assert [p.seq for p in proposals] == [0, 1]
    assert np.abs(first.actions[0] - READY).max() < 0.02
    assert 0.02 < np.abs(first.actions[-1] - READY).max() < 0.4


def test_it_is_deterministic(policy: PushPolicy) -> None:
    """Same observation, same bits, from another instance and whatever came before."""
    once = policy.infer(observation())
    policy.infer(observation(puck=(0.58, -0.1)))
    again, other = policy.infer(observation()), PushPolicy.load(RobotModel.load("panda")).infer(observation())
    assert once.actions.tobytes() == again.actions.tobytes() == other.actions.tobytes()
    assert once.features is not None
    assert again.features is not None
    assert once.features.tobytes() == again.features.tobytes()


def test_it_looks_at_the_puck(policy: PushPolicy) -> None:
    """A puck elsewhere gives another chunk."""
    here, there = policy.infer(observation()), policy.infer(observation(puck=(0.6, -0.1)))
    assert np.abs(here.actions - there.actions).max() > 0.01


def test_a_missing_sensor_is_no_proposal(policy: PushPolicy) -> None:
    """Without the puck's sensor the port has nothing to hand out and says why."""
    port = InlinePort(policy, latency=0.0)
    port.reset()
    port.post(Observation(RobotState(READY, np.zeros(7), 0)), 0)
    assert port.poll(0) is None
    assert port.last_error == "KeyError: 'puck'"


def test_nan_in_is_nan_out(policy: PushPolicy) -> None:
    """A NaN is handed on, not hidden."""
    assert np.isnan(policy.infer(observation(puck=(np.nan, 0.0))).actions).any()


def test_it_stays_near_its_teacher(policy: PushPolicy) -> None:
    """At the start of unseen episodes its chunk is within 0.02 rad of the expert's."""
    robot = RobotModel.load("panda")
    world, expert = World(robot, ReachPush()), PushExpert(robot)
    gaps: list[float] = []
    for seed in range(20):
        world.reset(seed)
        seen = world.observe()
        gaps.append(float(np.abs(policy.infer(seen).actions - expert.infer(seen).actions).max()))
    assert max(gaps) < 0.02


def test_it_does_the_task(policy: PushPolicy) -> None:
    """5 of 5 unseen seeds, far from every limit: there is nothing for a filter to change."""
    episodes = evaluate(policy, range(5))
    assert [e.success for e in episodes] == [True] * 5
    worst = summary(episodes)
    for share in ("speed_share", "acceleration_share", "torque_share"):
        assert float(worst[share] or 1.0) < 0.7
    assert min(e.clearance for e in episodes) >= 0.03
    assert min(e.stop_distance for e in episodes) >= 0.15
    assert max(e.top_speed for e in episodes) <= 0.8


def test_standing_still_fails_the_task(policy: PushPolicy) -> None:
    """The task is no gift: a policy that hangs from the start achieves nothing."""
    robot = RobotModel.load("panda")
    world, port = World(robot, ReachPush()), InlinePort(policy, latency=float("inf"))
    episode = run_episode(world, port, Follower(robot, policy), 0)
    assert not episode.success
    assert episode.seconds is None
    assert episode.top_speed < 0.01
    assert summary([episode])["slowest_success_s"] is None


def test_the_card_belongs_to_the_weights() -> None:
    """The card has the weights' SHA-256 and at least 90 % success; the file is at most 2 MB."""
    card = json.loads(WEIGHTS.with_name("card.json").read_text())
    assert card["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert card["evaluation"]["success_rate"] >= 0.9
    assert WEIGHTS.stat().st_size <= 2_000_000


def test_weights_must_fit(tmp_path: Path) -> None:
    """Weights of another network are refused with the file's name."""
    import safetensors.numpy

    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(safetensors.numpy.save({"x": np.zeros(3)}))
    with pytest.raises(SpecError, match=r"wrong\.safetensors do not fit 'panda' with 7 joints"):
        PushPolicy.load(weights=wrong)


@pytest.mark.parametrize("missing", ["torch", "safetensors.torch"])
def test_without_torch_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Loading without torch or safetensors says which extra to install."""
    monkeypatch.delitem(sys.modules, "safeguard.policies.push_policy.net", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"safeguard-runtime\[torch\]"):
        PushPolicy.load()


def test_importing_policies_leaves_torch_alone() -> None:
    """`import safeguard.policies` imports neither torch nor mujoco."""
    code = "import sys, safeguard.policies; print(sorted({'torch', 'mujoco', 'safetensors'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_evaluation_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a table, writes JSON, and its exit code says whether the target was reached."""
    report = tmp_path / "report.json"
    assert main(["--seeds", "1", "--json", str(report)]) == 0
    assert "success_rate" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert written["summary"]["clean"]["success_rate"] == 1.0
    assert len(written["episodes"]["1 s pause"]) == 1
    assert main(["--seeds", "1", "--target", "1.1"]) == 3


@pytest.fixture
def quiet_torch() -> Iterator[None]:
    """Puts torch back to where it was after a training."""
    torch: Any = import_module("torch")
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.usefixtures("quiet_torch")
def test_training_is_reproducible(tmp_path: Path) -> None:
    """Two trainings with the same seed write the same weights, bit for bit; another seed writes others."""
    plan, written = train.Plan((2, 1), (20, 20)), dict[str, bytes]()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.safetensors"
        train.write(*train.train(seed, plan), seed, plan, out, seeds=1)
        written[name] = out.read_bytes()
    card = json.loads((tmp_path / "card.json").read_text())
    assert written["a"] == written["b"]
    assert written["a"] != written["c"]
    assert card["samples"] == 324  # 3 episodes of 36 observations, each with 2 disturbed copies
    assert card["sha256"] == hashlib.sha256(written["c"]).hexdigest()


@pytest.mark.usefixtures("quiet_torch")
def test_the_training_command(tmp_path: Path) -> None:
    """The command writes weights that load, and their card beside them."""
    out = tmp_path / "weights.safetensors"
    assert train.main(["--quick", "--seeds", "1", "--out", str(out)]) == 0
    assert PushPolicy.load(weights=out).infer(observation()).actions.shape == (8, 7)
    assert json.loads((tmp_path / "card.json").read_text())["seed"] == 0
