"""Reach with the Panda, as a Gymnasium environment: bring the tool to a point in the air.

The arm is the world's, with torque drives and brakes and no joint stops; one step is one control period. A referee
watches it, and counts what went wrong over all episodes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Env, spaces

from safeguard.core.enums import Reference
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Command, RobotState, TerminalStop, TorqueCommand, Vector, frozen_array
from safeguard.scenarios.push import READY
from safeguard.scenarios.referee import MOTION, Referee, Violation
from safeguard.scenarios.world import World

_TOOL = "panda_hand_tcp"
_FAR = 100.0  # rad or rad/s; beyond it an arm without a shield has run away
_ONE_PERIOD = 1  # ns more than a period is all that a command needs to last


@dataclass(frozen=True, slots=True)
class ReachSetup:
    """Sizes and ranges.

    Attributes:
        low, high: opposite corners of the box that targets are drawn from, m, base frame.
        spread: the arm starts at the push task's ready pose plus or minus this, rad.
        duration_s: length of an episode.
        rate_hz: how often an agent acts, and how many times the distance a second costs, 1/s.
    """

    low: tuple[float, float, float] = (0.35, -0.35, 0.20)
    high: tuple[float, float, float] = (0.65, 0.35, 0.70)
    spread: float = 0.2
    duration_s: float = 2.0
    rate_hz: float = 20.0


class PandaReach(Env[Any, Any]):
    """The environment. ``spec``, ``state`` and ``command`` are what ``ShieldedEnv`` asks for.

    An action is seven joint torques (N·m) and a flag that engages the brakes when it is above 0.5. An observation is q,
    v, and the target from the tool (base frame), float32, shape (17,), in rad, rad/s and m. The reward of a period is
    −rate · distance · period: an agent that acts at ``rate_hz`` gets −distance a step.

    Args:
        setup: sizes.
        period, physics_dt: control period and step of the physics, s.

    Attributes:
        violations: control periods with a violation of each kind, over all finished and running episodes.
        worst: the largest of each kind, in the kind's unit.
        ticks: control periods so far.
    """

    def __init__(self, setup: ReachSetup | None = None, *, period: float = 0.002, physics_dt: float = 0.001) -> None:
        self.setup, self.robot = setup or ReachSetup(), RobotModel.load("panda")
        self.dt = period
        self.world = World(self.robot, period=period, physics_dt=physics_dt)
        self.referee = Referee(self.robot, self.world)
        self.world.on_physics_step = self.referee.sample
        joints = [self.world.model.joint(name) for name in self.robot.joints]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])
        self._tool = int(self.world.model.body(_TOOL).id)
        self._target = np.zeros(3)
        self._sequence = self.ticks = 0
        self._past: Counter[str] = Counter()
        self._worst: dict[str, float] = {}
        most = np.append(self.robot.limits.tau_max, 1.0).astype(np.float32)
        least = np.append(-self.robot.limits.tau_max, 0.0).astype(np.float32)
        self.action_space = spaces.Box(least, most, dtype=np.float32)
        self.observation_space = spaces.Box(-_FAR, _FAR, (2 * self.robot.n + 3,), np.float32)

    @property
    def spec_of_velocities(self) -> ActionSpec:
        """Joint velocities as shares of the speed limits, −1 to 1."""
        limits = self.robot.limits
        return ActionSpec(
            self.robot.joints,
            "rad/s",
            Reference.VELOCITY,
            self.setup.rate_hz,
            scale=tuple(limits.v_max),
            low=-1.0,
            high=1.0,
        )

    def state(self) -> RobotState:
        """The arm."""
        return self.world.observe().state

    def command(self, command: Command) -> Vector:
        """The action that executes ``command``."""
        if isinstance(command, TorqueCommand):
            return np.append(command.tau, 0.0)
        return np.append(np.zeros(self.robot.n), 1.0)

    @property
    def violations(self) -> dict[str, int]:
        """Control periods with a violation, by kind; kinds that were not seen are missing."""
        return dict(sorted((self._past + Counter({kind: seen.ticks for kind, seen in self._seen.items()})).items()))

    @property
    def worst(self) -> dict[str, float]:
        """The largest violation of each kind, in rad, rad/s, N·m or m."""
        return dict(sorted((self._worst | {kind: self._larger(kind) for kind in self._seen}).items()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Place the arm and draw a target."""
        super().reset(seed=seed, options=options)
        self._worst = self.worst
        self._past.update({kind: seen.ticks for kind, seen in self._seen.items()})
        self.world.reset(0)
        start = READY + self.np_random.uniform(-self.setup.spread, self.setup.spread, self.robot.n)
        self._target = self.np_random.uniform(self.setup.low, self.setup.high)
        self._place(start)
        self.referee.reset()
        return self._observe(), {"distance": self._distance}

    def step(self, action: Vector) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One control period."""
        now, self._sequence = self.world.time_ns, self._sequence + 1
        command: Command = TerminalStop("brakes", now, self._sequence)
        if not action[-1] > 0.5:
            expires = now + self.world.period_ns + _ONE_PERIOD
            command = TorqueCommand(frozen_array(action[:-1]), now, expires, self._sequence)
        self.world.apply(command)
        self.world.advance()
        self.referee.observe()
        self.ticks += 1
        state = self.state()
        lost = not (np.abs(state.q) < _FAR).all() or not (np.abs(state.v) < _FAR).all()
        late = self.world.time_ns >= round(self.setup.duration_s * 1e9)
        reward = -self.setup.rate_hz * self._distance * self.dt
        return self._observe(), reward, lost, late and not lost, {"distance": self._distance}

    @property
    def _seen(self) -> dict[str, Violation]:
        """Of this episode, by the kind's value."""
        seen = self.referee.judgement().violations
        return {kind.value: violation for kind, violation in seen.items() if kind in MOTION}

    def _larger(self, kind: str) -> float:
        return max(self._worst.get(kind, 0.0), self._seen[kind].worst)

    def _place(self, q: Vector) -> None:
        import mujoco

        self.world.data.qpos[self._q] = q
        self.world.data.qvel[self._v] = 0.0
        mujoco.mj_forward(self.world.model, self.world.data)

    @property
    def _away(self) -> Vector:
        """Target from the tool, shape (3,), m."""
        away: Vector = self._target - self.world.data.xpos[self._tool]
        return away

    @property
    def _distance(self) -> float:
        return min(float(np.nan_to_num(np.linalg.norm(self._away), nan=_FAR)), _FAR)

    def _observe(self) -> Any:
        data = self.world.data
        parts = np.concatenate([data.qpos[self._q], data.qvel[self._v], self._away])
        return np.clip(np.nan_to_num(parts), -_FAR, _FAR).astype(np.float32)
