"""The wrappers in the hands of LeRobot's own classes and loops."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from safeguard import Observation, RobotState
from safeguard.core.action import ActionSpec
from safeguard.core.enums import Authority, Cause
from safeguard.core.errors import SpecError
from safeguard.integrations.lerobot import ShieldedRobot, ShieldStep, arm_spec, register
from safeguard.policies import as_policy
from tests.conftest import ROOT
from tests.lerobot.real import KEYS, MODEL, MOTORS, TICK, Dataset, follower, policy, real

pytestmark = pytest.mark.filterwarnings("ignore")  # of LeRobot and its dependencies
STEP = MODEL.limits.v_max / 30.0 + 2.0 * TICK  # rad between two rows, with rounding to ticks
register()


def shielded(folder: Path, *, degrees: bool = True, **options: Any) -> tuple[ShieldedRobot, Any]:
    """A connected and acknowledged arm."""
    arm, servos = follower(folder, degrees=degrees)
    if not degrees:
        options |= {"unit": "range", "calibration": folder / "mine.json"}
    # One frame between two actions, however long this machine takes for it.
    robot = ShieldedRobot(arm, MODEL, clock=lambda: 10**9 + len(servos.told) * 33_333_333, **options)
    robot.connect()
    robot.begin_episode("real classes", operator="tester")
    return robot, servos


def looped(robot: Any, kind: str, frames: int, spread: float = 60.0) -> Dataset:
    """LeRobot's own recording loop with a policy of its own; it ends by the event of a pressed key."""
    made, before, after = policy(kind, spread=spread)
    warm(made, before)
    events = {"exit_early": False}
    processors, dataset = real("processor"), Dataset(robot, frames, events)
    teleop, action, observation = processors.make_default_processors()
    real("scripts.lerobot_record").record_loop(
        robot=robot,
        events=events,
        fps=30,
        teleop_action_processor=teleop,
        robot_action_processor=action,
        robot_observation_processor=observation,
        dataset=dataset,
        policy=made,
        preprocessor=before,
        postprocessor=after,
        control_time_s=300,
        single_task="wave",
    )
    return dataset


def encode(observation: Observation) -> dict[str, Any]:
    """A batch as LeRobot's policies take it."""
    state = np.append(np.degrees(observation.state.q), 50.0)
    return {
        "observation.state": torch.tensor(state, dtype=torch.float32)[None],
        "observation.images.front": torch.zeros(1, 3, 64, 64),
    }


def warm(made: Any, before: Any) -> None:
    """A first inference, which takes seconds; later ones do not."""
    with torch.inference_mode():
        made.select_action(before(encode(Observation(RobotState(MODEL.home, np.zeros(5), 0)))))
    made.reset()


def within(angles: Any) -> bool:
    """Every goal lies in the model's limits, and no two rows are further apart than its speeds allow."""
    limits = MODEL.limits
    inside = (angles >= limits.q_min - TICK).all() and (angles <= limits.q_max + TICK).all()
    return bool(inside and (np.abs(np.diff(angles, axis=0)) <= STEP).all())


@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_lerobots_own_loop_runs_on_the_shielded_robot(tmp_path: Path, kind: str) -> None:
    """``record_loop`` with a real policy: unchanged, and what the servos are told keeps positions and speeds."""
    robot, servos = shielded(tmp_path)
    dataset = looped(robot, kind, 40)
    assert len(servos.told) == len(dataset.frames) == 40
    assert within(servos.angles())
    assert np.ptp(servos.angles(), axis=0).min() > 0.05
    assert robot.last is not None
    assert robot.last.decision.authority is Authority.POLICY


def test_without_the_shield_the_same_loop_leaves_the_limits(tmp_path: Path) -> None:
    """The negative control: a random policy throws the arm about."""
    arm, servos = follower(tmp_path)
    arm.connect()
    looped(arm, "diffusion", 8, spread=120.0)
    assert not within(servos.angles())


@pytest.mark.parametrize("degrees", [True, False])
def test_units_are_those_of_lerobots_own_conversion(tmp_path: Path, degrees: bool) -> None:
    """The arm's numbers in degrees or −100..100 mean the angles that its servos turn."""
    arm, servos = follower(tmp_path, degrees=degrees)
    arm.connect()
    given: dict[str, Any] = {} if degrees else {"unit": "range", "calibration": tmp_path / "mine.json"}
    spec = arm_spec(MODEL, MOTORS, **given)
    rng = np.random.default_rng(0)
    for _ in range(20):
        servos.ticks.update({name: int(rng.integers(1100, 3000)) for name in MODEL.joints})
        seen = arm.get_observation()
        scale, offset = np.deg2rad(spec.column("scale")), np.deg2rad(spec.column("offset"))
        meant = [scale[k] * seen[KEYS[k]] + offset[k] for k in range(5)]
        turned = [(servos.ticks[name] - 2047) * TICK for name in MODEL.joints]
        assert meant == pytest.approx(turned, abs=1e-9)


@pytest.mark.parametrize("degrees", [True, False])
def test_what_is_returned_is_what_the_servos_were_told(tmp_path: Path, degrees: bool) -> None:
    """In either unit: the goal that came back is the one on the bus, and a far one was not taken over."""
    robot, servos = shielded(tmp_path, degrees=degrees)
    robot.get_observation()
    sent = robot.send_action(dict.fromkeys(KEYS, 40.0))
    spec = robot.guard.spec
    angle = math.radians(spec.column("scale")[0] * sent["shoulder_pan.pos"])
    assert servos.angles()[-1][0] == pytest.approx(angle, abs=TICK)
    assert within(np.vstack([np.zeros(5), servos.angles()]))
    assert sent["shoulder_pan.pos"] < 40.0


def test_a_policy_whose_weights_are_lost_stops_the_arm(tmp_path: Path) -> None:
    """NaN weights give NaN actions; LeRobot passes them on, the servos never see them."""
    made, before, after = policy("act")
    warm(made, before)
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(math.nan)
    robot, servos = shielded(tmp_path)
    seen = robot.get_observation()
    batch = {
        "observation.state": torch.tensor([[seen[key] for key in KEYS]]),
        "observation.images.front": torch.zeros(1, 3, 64, 64),
    }
    row = after(made.select_action(before(batch)))[0]
    assert torch.isnan(row).all()
    robot.send_action(dict(zip(KEYS, row, strict=True)))
    assert robot.last is not None
    assert Cause.PROPOSAL_INVALID in robot.last.decision.causes
    assert robot.last.decision.authority is Authority.BACKUP
    assert (np.abs(servos.angles()) <= TICK).all()


def test_the_wrapper_is_a_robot_to_lerobot(tmp_path: Path) -> None:
    """``isinstance`` holds, and every abstract method of LeRobot's class is there."""
    base = real("robots").Robot
    robot, _ = shielded(tmp_path)
    assert isinstance(robot, base)
    assert [name for name in base.__abstractmethods__ if not hasattr(robot, name)] == []
    assert (robot.name, robot.id) == ("so_follower", "mine")
    robot.disconnect()
    with pytest.raises(real("utils.errors").DeviceNotConnectedError):
        robot.get_observation()


# -- policies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "chunk"), [("act", 1), ("act", 8), ("diffusion", 1)])
def test_real_policies_are_wrapped(kind: str, chunk: int) -> None:
    """One row by ``select_action``, or a whole chunk, with LeRobot's processors around it: numbers in degrees."""
    made, before, after = policy(kind)
    spec = arm_spec(MODEL, MOTORS).changed(chunk=chunk)
    wrapped = as_policy(made, spec=spec, encode=encode, preprocess=before, postprocess=after)
    wrapped.reset()
    proposal = wrapped.infer(Observation(RobotState(MODEL.home, np.zeros(5), 0)))
    assert proposal.actions.shape == (chunk, 6)
    assert np.isfinite(proposal.actions).all()
    made.reset()
    with torch.inference_mode():
        ask = made.select_action if chunk == 1 else made.predict_action_chunk
        expected = after(ask(before(encode(Observation(RobotState(MODEL.home, np.zeros(5), 0))))))
    if kind == "act":  # diffusion draws noise
        assert proposal.actions == pytest.approx(expected.reshape(chunk, 6).double().numpy())


def test_a_policy_without_its_postprocessor_is_refused() -> None:
    """Its actions would be normalised ones, small and wrong."""
    made, before, _ = policy("act")
    with pytest.raises(SpecError, match="postprocess"):
        as_policy(made, spec=arm_spec(MODEL, MOTORS), encode=encode, preprocess=before)


# -- processor pipelines --------------------------------------------------------------------------------


def pipeline(step: ShieldStep) -> Any:
    """LeRobot's own pipeline with the shield as its last step."""
    processors, converters = real("processor"), real("processor.converters")
    return processors.RobotProcessorPipeline(
        steps=[processors.IdentityProcessorStep(), step],
        to_transition=converters.robot_action_observation_to_transition,
        to_output=converters.transition_to_robot_action,
        name="robot_action",
    )


def test_the_step_works_in_a_pipeline() -> None:
    """An action that is too far comes out nearer; one with a name missing is answered with the stop."""
    step = ShieldStep(MODEL, arm_spec(MODEL, MOTORS))
    pipe = pipeline(step)
    seen: dict[str, Any] = dict.fromkeys(KEYS, 0.0)
    step.guard.begin_episode("pipeline", operator="tester")
    out = pipe((dict.fromkeys(KEYS, 40.0), seen))
    assert 0.0 <= out["shoulder_pan.pos"] < 20.0
    out = pipe(({"shoulder_pan.pos": 40.0}, seen))
    assert set(out) == set(KEYS)
    assert all(map(math.isfinite, out.values()))
    assert step.last is not None
    assert "missing shoulder_lift.pos" in step.last.refusal


def test_the_step_travels_with_a_checkpoint(tmp_path: Path) -> None:
    """Saved by LeRobot as JSON under its registered name, and loaded with the same spec, keys and configuration."""
    step = ShieldStep("so101_arm", arm_spec(MODEL, MOTORS), ranges={"gripper": (5.0, 95.0)})
    pipeline(step).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "robot_action.json").read_text())
    assert [entry.get("registry_name") for entry in saved["steps"]] == [None, "safeguard_shield"]
    converters = real("processor.converters")
    loaded = real("processor").RobotProcessorPipeline.from_pretrained(
        tmp_path,
        config_filename="robot_action.json",
        to_transition=converters.robot_action_observation_to_transition,
        to_output=converters.transition_to_robot_action,
    )
    again = loaded.steps[1]
    assert isinstance(again, ShieldStep)
    assert again.get_config() == step.get_config()
    assert isinstance(again.guard.spec, ActionSpec)
    assert again.guard.spec == step.guard.spec


def test_registering_again_changes_nothing() -> None:
    """A module may be imported by several others."""
    register()
    assert real("processor").ProcessorStepRegistry.get("safeguard_shield") is ShieldStep


# -- the command line -----------------------------------------------------------------------------------


def test_the_plugin_of_the_page_is_a_robot_of_the_command_line(tmp_path: Path) -> None:
    """What docs/howto/lerobot.md shows is found by its type, and built by LeRobot's factory from its configuration."""
    page = (ROOT / "docs" / "howto" / "lerobot.md").read_text("utf-8")
    code = page.partition("```python no-run\n")[2].partition("```")[0]
    module = ModuleType("lerobot_robot_safe")
    sys.modules[module.__name__] = sys.modules[f"{module.__name__}.config_safe"] = module
    vars(module)["__name__"] = f"{module.__name__}.config_safe"
    exec(compile(code, "lerobot.md", "exec"), vars(module))
    kind = real("robots").RobotConfig.get_choice_class("safe_so101")
    config = kind(port="none", id="mine", calibration_dir=tmp_path, operator="tester")
    robot = real("robots.utils").make_robot_from_config(config)
    assert isinstance(robot, ShieldedRobot)
    assert (robot.id, robot.operator) == ("mine", "tester")
