from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import ActionWrapper, spaces

from safeguard import RobotModel
from safeguard.core.enums import Cause, Enforcement, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import ActionSpec, Vector
from safeguard.integrations.gym import ShieldedEnv
from safeguard.scenarios.push import READY
from tests.unit.gym_support import STILL, Slab, act, slab

GRIPPER = {"opening": 0.0}

# -- a sensor that fails ------------------------------------------------------------------------------


def measured(env: Slab) -> Any:
    """As it should be."""
    return env.q, env.v


def without_speeds(env: Slab) -> Any:
    """Positions, and speeds of no joint."""
    return env.q, []


def of_three(env: Slab) -> Any:
    """A state of three joints."""
    return env.q[:3], env.v[:3]


def raising(env: Slab) -> Any:
    """A sensor that is gone."""
    raise OSError("no encoder")


@pytest.mark.parametrize("enforcement", list(Enforcement))
@pytest.mark.parametrize("returns", [without_speeds, of_three, raising])
def test_a_step_raises_for_no_sensor(returns: Any, enforcement: Enforcement) -> None:
    """However long ``state=`` is wrong, also when the script would acknowledge, steps go on and stop the robot."""
    now: list[Any] = [measured]

    def state(env: Slab) -> Any:
        return now[-1](env)

    env = slab([READY], state=state, enforcement=enforcement)
    env.reset()
    act(env, STILL, 3)
    now.append(returns)
    said = act(env, STILL, 80)

    assert (said["mode"], Cause.STATE_INVALID.value in said["causes"]) == ("STOP", True)


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (without_speeds, r"panda_joint7, got the shapes \(7,\) and \(0,\)"),
        (of_three, r"got the shapes \(3,\) and \(3,\)"),
        (raising, "state= raised OSError: no encoder"),
    ],
)
def test_a_state_that_fails_while_the_shield_starts_is_named(returns: Any, says: str) -> None:
    """The first twenty measurements of a reset are good, the next is not: the error says what ``state=`` gave."""
    asked: list[int] = []

    def state(env: Slab) -> Any:
        asked.append(1)
        return measured(env) if len(asked) <= 20 else returns(env)

    with pytest.raises(ConfigError, match=says):
        slab([READY], state=state).reset()
    assert len(asked) == 21


# -- a person's stop ----------------------------------------------------------------------------------


def test_a_persons_stop_is_not_undone_by_the_script() -> None:
    """It stays for a second and across a reset, until a person has acknowledged; then the script has its turn again."""
    env = slab([READY])
    env.reset()
    act(env, STILL, 3)
    env.shield.stop(operator="ada", reason="hand in the cell")
    assert {act(env, STILL)["mode"] for _ in range(100)} == {"STOP"}
    assert env.reset()[1]["safeguard"]["mode"] == "STOP"
    assert {act(env, STILL)["mode"] for _ in range(100)} == {"STOP"}

    env.shield.acknowledge(operator="ada", reason="cell is clear")
    act(env, STILL)
    assert {act(env, STILL)["mode"] for _ in range(100)} == {"HOLD"}
    env.shield.acknowledge(operator="ada", reason="go on")
    act(env, STILL)
    assert act(env, STILL)["backup_ticks"] == 0

    assert act(env, np.full(7, np.nan), 15)["mode"] == "HOLD"
    assert act(env, STILL, 80)["backup_ticks"] == 0


def test_a_stop_between_episodes_is_not_undone_by_the_script() -> None:
    """Asked for before a reset, it takes effect in the reset, and the acknowledgement of the start does not undo it."""
    env = slab([READY])
    env.reset()
    env.shield.stop(operator="ada", reason="hand in the cell")
    assert env.reset()[1]["safeguard"]["mode"] == "STOP"
    assert act(env, STILL, 60)["mode"] == "STOP"


# -- columns that are no joints -----------------------------------------------------------------------


def torques_and_gripper(command: Any) -> Vector:
    """Seven torques, and what the agent said last of the gripper."""
    return np.append(command.tau, GRIPPER["opening"])


def test_columns_that_nothing_would_carry_out_are_refused() -> None:
    """A gripper in ``others`` is no joint of the robot: the error names it and says where its values can go."""
    robot = RobotModel.load("panda")
    spec = ActionSpec(
        (*robot.joints, "gripper"), "rad/s", Reference.VELOCITY, 100.0, low=-1.0, high=1.0, others=("gripper",)
    )
    with pytest.raises(SpecError, match=r"others=\(gripper\).*leave gripper out.*wrapper around ShieldedEnv"):
        ShieldedEnv(Slab([READY]), robot, spec, state=measured, command=torques_and_gripper, period=0.002)


class WithGripper(ActionWrapper[Any, Any, Any]):
    """Takes the last column off an action, for ``command=`` to read."""

    def __init__(self, env: ShieldedEnv) -> None:
        super().__init__(env)
        self.action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)

    def action(self, action: Any) -> Any:
        """The columns of the joints."""
        GRIPPER["opening"] = float(action[7])
        return action[:7]


def test_a_wrapper_outside_moves_a_gripper() -> None:
    """What the refusal of ``others`` advises: the environment gets seven torques and what the agent said last."""
    env = WithGripper(slab([READY], command=torques_and_gripper))
    env.reset()
    said = env.step(np.append(STILL, 0.7))[4]["safeguard"]

    inside: Any = env.unwrapped
    assert said["raw"].shape == (7,)
    assert [told[7] for told in inside.got] == [0.7] * 5
