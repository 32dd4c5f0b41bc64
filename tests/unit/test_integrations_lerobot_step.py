from __future__ import annotations

import json
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from safeguard.core.config import DriveConfig, ShieldConfig
from safeguard.core.enums import Authority, Cause
from safeguard.core.errors import ConfigError, RobotError, SpecError
from safeguard.integrations.lerobot import ShieldedRobot, ShieldStep, arm_spec, register
from tests.unit.lerobot_support import ARM, FRAME, KEYS, MOTORS, REST, Cell, Clock

SPEC = arm_spec(ARM, MOTORS)


class Pipeline:
    """A step in the hands of a pipeline that feeds its own actions back as the arm's positions."""

    def __init__(self, **options: Any) -> None:
        self.clock, self.at = Clock(), dict[str, Any](REST)
        self.step = ShieldStep(ARM, SPEC, clock=self.clock, **options)
        self.step.guard.begin_episode("test", operator="tester")

    def mover(self) -> Authority | None:
        """Who moved the arm last."""
        return None if self.step.last is None else self.step.last.decision.authority

    def __call__(self, action: object) -> dict[str, Any]:
        """A frame."""
        out = self.step({"action": action, "observation": dict(self.at), "reward": 1.0})
        self.at.update(out["action"])
        self.clock.now += FRAME
        return out


def test_the_step_does_what_the_robot_does() -> None:
    """Frame by frame the same numbers as ``ShieldedRobot``; the rest of the transition is left alone."""
    pipeline, cell = Pipeline(), Cell(start=False)
    cell.robot.begin_episode("test", operator="tester")
    for k in range(60):
        action = REST | {"shoulder_pan.pos": 0.5 * k, "gripper.pos": 30.0}
        out = pipeline(action)
        assert out["action"] == cell.frame(action)
        assert out["reward"] == 1.0
        assert pipeline.step.transition == out
    assert pipeline.at["shoulder_pan.pos"] > 5.0


@pytest.mark.parametrize("bad", [None, {}, {**REST, "elbow_flex.pos": math.nan}, {**REST, "elbow_flex.pos": "1"}, 3])
def test_what_is_no_action_comes_out_as_the_stop(bad: object) -> None:
    """Nothing is raised in the loop."""
    pipeline = Pipeline()
    for k in range(30):
        pipeline(REST | {"shoulder_pan.pos": 0.5 * k})
    out = [pipeline(bad)["action"] for _ in range(8)][-1]
    assert set(out) == set(KEYS)
    assert all(map(math.isfinite, out.values()))
    last = pipeline.step.last
    assert last is not None
    assert Cause.PROPOSAL_INVALID in last.decision.causes


def test_without_an_observation_the_arm_stops() -> None:
    """A pipeline that lost it does not move the arm blindly."""
    pipeline = Pipeline()
    for k in range(30):
        pipeline(REST | {"shoulder_pan.pos": 0.5 * k})
    where = pipeline.at["shoulder_pan.pos"]
    sent = pipeline.step.action(REST | {"shoulder_pan.pos": 90.0})
    last = pipeline.step.last
    assert last is not None
    assert Cause.STATE_INVALID in last.decision.causes
    assert sent["shoulder_pan.pos"] == pytest.approx(where, abs=5.0)


def test_a_transition_is_not_written_into() -> None:
    """The host keeps the raw action, as LeRobot's loops do."""
    pipeline = Pipeline()
    transition: dict[str, Any] = {"action": REST | {"shoulder_pan.pos": 45.0}, "observation": dict(REST)}
    pipeline.step(transition)
    assert transition["action"]["shoulder_pan.pos"] == 45.0
    with pytest.raises(ValueError, match="not called"):
        _ = ShieldStep(ARM, SPEC).transition


def test_a_reset_is_a_new_episode() -> None:
    """It holds until somebody acknowledges."""
    pipeline = Pipeline()
    for _ in range(20):
        pipeline(dict(REST))
    assert pipeline.mover() is Authority.POLICY
    pipeline.step.reset()
    pipeline(REST | {"shoulder_pan.pos": 45.0})
    assert pipeline.mover() is Authority.BACKUP
    assert pipeline.at["shoulder_pan.pos"] == pytest.approx(0.0, abs=1e-6)


def test_the_configuration_survives_json() -> None:
    """What is saved builds the same step: model, spec, keys, ranges, and what was set of the configuration."""
    config = ShieldConfig(drive=DriveConfig(tracking_error_rad=0.2))
    step = ShieldStep(ARM, SPEC, ranges={"gripper": (5.0, 95.0)}, max_age_s=0.5, strategy="monolithic", config=config)
    again = ShieldStep(**json.loads(json.dumps(step.get_config())))
    assert again.get_config() == step.get_config()
    assert again.guard.spec == SPEC
    assert again.guard.gate.shield.config == step.guard.gate.shield.config
    assert again.guard.gate.shield.config.drive.tracking_error_rad == 0.2
    assert again.guard.gate.shield.platform.identity().digest == ARM.digest


def test_there_is_no_state_to_load() -> None:
    """An empty one is taken; another step's is refused."""
    step = ShieldStep("so101_arm", SPEC)
    assert step.state_dict() == {}
    step.load_state_dict({})
    features = {"ACTION": {"shoulder_pan.pos": 1}}
    assert step.transform_features(features) is features
    with pytest.raises(ConfigError, match="has no state, got mean"):
        step.load_state_dict({"mean": 0.0})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"robot": "so99"}, RobotError, "so99"),
        ({"robot": {"kind": "named"}}, ConfigError, "robot .* is wrong"),
        ({"spec": {}}, SpecError, "spec .* is wrong"),
        ({"spec": {"reference": "sideways"}}, SpecError, "sideways"),
        ({"spec": {**dict.fromkeys(("joints", "unit"), "x"), "reference": "absolute"}}, SpecError, "spec .* is wrong"),
        ({"config": {"filter": 3}}, ConfigError, "config .* is wrong"),
        ({"keys": ["a.pos"]}, SpecError, "different keys"),
    ],
)
def test_a_damaged_configuration_is_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    """With the part that is wrong."""
    given: dict[str, Any] = {"robot": "so101_arm", "spec": SPEC, **changes}
    with pytest.raises(error, match=words):
        ShieldStep(**given)


def test_registering_without_lerobot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything runs."""
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.setitem(sys.modules, "lerobot.processor", None)
    with pytest.raises(ConfigError, match="LeRobot cannot be imported"):
        register()


def test_another_step_of_that_name_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages that want the same name are a mistake to be told."""
    processor, robots = ModuleType("lerobot.processor"), ModuleType("lerobot.robots")
    registry = SimpleNamespace(list=lambda: ["safeguard_shield"], get={"safeguard_shield": ShieldedRobot}.get)
    processor.ProcessorStepRegistry = registry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lerobot", ModuleType("lerobot"))
    monkeypatch.setitem(sys.modules, "lerobot.processor", processor)
    monkeypatch.setitem(sys.modules, "lerobot.robots", robots)
    with pytest.raises(ConfigError, match="another processor step"):
        register()
