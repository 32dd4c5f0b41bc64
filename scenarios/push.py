"""Reach and push: bring the palm behind a puck, push it onto a goal, stop there.

The puck is an upright cylinder that slides on a horizontal plane: two slide joints, so it neither tips
nor turns. The plane has no surface that the arm could touch; the puck meets the hand and the fingers only.
Viscous drag outweighs dry friction, so the puck stops within millimetres when nothing pushes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pinocchio as pin

from safeguard.core.enums import Reference
from safeguard.core.errors import RobotError
from safeguard.core.types import ActionSpec, Observation, Proposal, Sensor, Vector, frozen_array

if TYPE_CHECKING:
    from safeguard.core.robot import RobotModel

_PUSHERS = ("panda_hand", "panda_leftfinger", "panda_rightfinger")
_PALM = np.array([0.0, 0.0, 0.03])  # m, in the hand frame: the middle of the hand's capsule
_PALM_RADIUS = 0.05  # m
# Palm down, its broad side across x: where the hand is at this configuration, it can push along +x.
READY = frozen_array([0.0, -0.41, 0.0, -2.06, 0.0, 1.65, 0.785])


@dataclass(frozen=True, slots=True)
class PushSetup:
    """Sizes and ranges of the task. The ranges keep the arm away from its limits and from itself.

    Attributes:
        radius, half_height, mass: of the puck, m, m, kg.
        height: of the puck's centre and of the palm that pushes it, m.
        drag, dry: resistance against sliding, N·s/m and N (along each axis).
        grip: friction coefficient between palm and puck.
        start_x, start_y: where the puck may start, m.
        distance, bearing: from puck to goal, m and rad from +x.
        goal_x, goal_y: largest x and |y| of a goal, m.
        spread: the arm starts at ``READY`` plus or minus this, rad.
        tolerance, rest: success is a puck this close to the goal, m, and slower than this, m/s.
    """

    radius: float = 0.05
    half_height: float = 0.05
    mass: float = 0.2
    height: float = 0.48
    drag: float = 6.0
    dry: float = 0.1
    grip: float = 1.0
    start_x: tuple[float, float] = (0.57, 0.62)
    start_y: tuple[float, float] = (-0.12, 0.12)
    distance: tuple[float, float] = (0.10, 0.18)
    bearing: tuple[float, float] = (-0.4, 0.4)
    goal_x: float = 0.75
    goal_y: float = 0.16
    spread: float = 0.05
    tolerance: float = 0.03
    rest: float = 0.02

    @property
    def reach(self) -> float:
        """Distance of palm and puck centres along x when they touch, m."""
        return self.radius + _PALM_RADIUS


class ReachPush:
    """The task for a ``World``. Sensors: ``"puck"`` and ``"goal"``, each shape (2,), m, world frame x and y.

    One instance serves one world.

    Raises:
        RobotError: from ``World``, for a robot without the Panda's hand.
    """

    def __init__(self, setup: PushSetup | None = None) -> None:
        self.setup = setup or PushSetup()
        self.goal: Vector = frozen_array(np.zeros(2))
        self._q = self._v = np.zeros(2, dtype=int)

    def build(self, robot: RobotModel, spec: Any) -> None:
        """Add the puck and its contact pairs."""
        import mujoco

        setup, geom = self.setup, mujoco.mjtGeom.mjGEOM_CYLINDER
        hand = [g.name for body in spec.bodies if body.name in _PUSHERS for g in body.geoms]
        if robot.n != len(READY) or not hand:
            raise RobotError(f"ReachPush is made for the Panda with its hand, got {robot.name!r} with {robot.n} joints")
        puck = spec.worldbody.add_body(name="puck", pos=[0.0, 0.0, setup.height])
        for name, axis in (("puck_x", [1, 0, 0]), ("puck_y", [0, 1, 0])):
            joint = puck.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
            joint.damping, joint.frictionloss = [setup.drag, 0.0, 0.0], setup.dry
        size = [setup.radius, setup.half_height, 0.0]
        puck.add_geom(name="puck", type=geom, size=size, mass=setup.mass, contype=0, conaffinity=0)
        for name in hand:
            pair = spec.add_pair(name=f"{name}|puck", geomname1=name, geomname2="puck")
            pair.condim, pair.friction = 3, [setup.grip, setup.grip, 0.0, 0.0, 0.0]

    def bind(self, robot: RobotModel, model: Any) -> None:
        """Look up where the puck is in the state."""
        joints = [model.joint(name) for name in ("puck_x", "puck_y")]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])

    def reset(self, data: Any, rng: np.random.Generator) -> Vector:
        """Draw puck, goal and arm; returns the arm's configuration, shape (7,), rad."""
        puck, self.goal = _draw(self.setup, rng)
        data.qpos[self._q] = puck
        return frozen_array(READY + rng.uniform(-self.setup.spread, self.setup.spread, len(READY)))

    def sensors(self, data: Any, t: int) -> Mapping[str, Sensor]:
        """Puck and goal, stamped ``t``."""
        return {"puck": Sensor(data.qpos[self._q], t), "goal": Sensor(self.goal, t)}

    def error(self, data: Any) -> float:
        """Distance from puck to goal, m."""
        return float(np.linalg.norm(data.qpos[self._q] - self.goal))

    def succeeded(self, data: Any) -> bool:
        """The puck is within tolerance of the goal and at rest."""
        speed = float(np.linalg.norm(data.qvel[self._v]))
        return self.error(data) <= self.setup.tolerance and speed <= self.setup.rest


def _draw(setup: PushSetup, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Start and goal of the puck, each shape (2,), m; goals out of range are drawn again."""
    while True:
        puck = np.array([rng.uniform(*setup.start_x), rng.uniform(*setup.start_y)])
        distance, bearing = rng.uniform(*setup.distance), rng.uniform(*setup.bearing)
        goal = puck + distance * np.array([np.cos(bearing), np.sin(bearing)])
        if goal[0] <= setup.goal_x and abs(goal[1]) <= setup.goal_y:
            return frozen_array(puck), frozen_array(goal)


class PushExpert:
    """Scripted policy for ``ReachPush``, the teacher of the learned one.

    It integrates a velocity field from the observed joint state and returns the joint positions along the
    way, so its chunks start with the observed velocity and are smooth. It remembers nothing.
    """

    rows, rate_hz = 8, 20.0
    _substeps = 2  # per row
    _lag = 0.15  # s, with which the joint speed follows the field
    _a_max = np.array([3.0, 2.0, 3.0, 3.0, 4.0, 4.0, 4.0])  # rad/s²
    _v_max = 0.7  # rad/s
    _gain, _travel, _push = 3.5, 0.20, 0.12  # 1/s, m/s, m/s
    _gap = 0.025  # m, between palm and puck before the push
    _near = 0.003  # m, this close is on the goal

    def __init__(self, robot: RobotModel, setup: PushSetup | None = None) -> None:
        self.spec = ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, self.rate_hz, self.rows)
        self._setup = setup or PushSetup()
        self._model = robot.pin_model
        self._data = robot.pin_model.createData()
        self._frame = robot.pin_model.getFrameId("panda_hand")
        self._upright = self._hand(READY)[1]
        self._seq = 0

    def infer(self, observation: Observation) -> Proposal:
        """Chunk of absolute joint positions, shape (8, 7), rad."""
        state = observation.state
        actions = self.plan(state.q, state.v, observation.sensors["puck"].value, observation.sensors["goal"].value)
        self._seq += 1
        return Proposal(actions, state.t, state.t, "push_expert", self._seq - 1)

    def reset(self) -> None:
        """Start counting anew."""
        self._seq = 0

    def plan(self, q: Vector, v: Vector, puck: Vector, goal: Vector) -> Vector:
        """Joint positions after each row's time from state (q, v), shape (8, 7), rad."""
        dt = 1.0 / (self.rate_hz * self._substeps)
        q, v, puck = q.copy(), v.copy(), puck.copy()
        out = np.empty((self.rows, len(q)))
        palm, rotation, jacobian = self._hand(q)
        for k in range(self.rows * self._substeps):
            field = self._joint_field(q, palm, rotation, jacobian, puck, goal)
            v += dt * np.clip((field - v) / self._lag, -self._a_max, self._a_max)
            q += dt * v
            before, (palm, rotation, jacobian) = palm, self._hand(q)
            puck = self._pushed(puck, before, palm)
            if (k + 1) % self._substeps == 0:
                out[k // self._substeps] = q
        return out

    def _hand(self, q: Vector) -> tuple[Vector, Vector, Vector]:
        """Position of the palm (3,), rotation (3, 3) and Jacobian of both (6, 7), world frame."""
        pin.computeJointJacobians(self._model, self._data, q)
        pin.updateFramePlacement(self._model, self._data, self._frame)
        pose = self._data.oMf[self._frame]
        arm = pose.rotation @ _PALM
        jacobian = pin.getFrameJacobian(self._model, self._data, self._frame, pin.LOCAL_WORLD_ALIGNED)
        jacobian[:3] -= pin.skew(arm) @ jacobian[3:]
        return pose.translation + arm, pose.rotation.copy(), jacobian

    def _joint_field(
        self, q: Vector, palm: Vector, rotation: Vector, jacobian: Vector, puck: Vector, goal: Vector
    ) -> Vector:
        """Joint speed that moves the palm along the field, upright, elbow near ``READY``; (7,), rad/s."""
        turn = 2.0 * pin.log3(self._upright @ rotation.T)
        twist = np.concatenate([self._palm_field(palm, puck, goal), turn])
        damped = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-4 * np.eye(6))
        rest = READY - q
        speed = damped @ twist + (rest - damped @ (jacobian @ rest))
        slower: Vector = speed * min(1.0, self._v_max / float(np.abs(speed).max()))
        return slower

    def _palm_field(self, palm: Vector, puck: Vector, goal: Vector) -> Vector:
        """Velocity of the palm, shape (3,), m/s: beside or above the puck go behind it, behind it push."""
        setup = self._setup
        aside, lift = puck[1] - palm[1], setup.height - palm[2]
        touch = puck[0] - setup.reach - palm[0]  # how far ahead contact is
        approach = self._gain * np.array([touch - self._gap, aside, lift])
        approach *= min(1.0, self._travel / float(np.linalg.norm(approach) + 1e-9))
        way = goal - puck
        left = max(float(np.linalg.norm(way)) - self._near, 0.0)
        go = way / (left + self._near) * min(self._gain * left, self._push)
        near = float(np.exp(-max(touch, 0.0) / 0.01))
        closing = min(self._gain * touch, 0.08)
        sideways = near * go[1] + (1.0 - near) * self._gain * aside
        sideways = float(np.clip(sideways, -self._push, self._push))
        push = np.array([max(go[0], 0.0) + closing, sideways, self._gain * lift])
        behind = float(np.clip(2.0 - 2.0 * max(abs(aside) / 0.06, abs(lift) / 0.04), 0.0, 1.0))
        field: Vector = behind * push + (1.0 - behind) * approach
        return field

    def _pushed(self, puck: Vector, before: Vector, palm: Vector) -> Vector:
        """Where the puck is after the palm moved: it sticks to a palm that pushes it."""
        ahead = palm[0] + self._setup.reach - puck[0]
        level = abs(palm[2] - self._setup.height) < self._setup.half_height
        if ahead <= 0.0 or not level or abs(palm[1] - puck[1]) > 0.1:
            return puck
        moved: Vector = puck + np.array([ahead, palm[1] - before[1]])
        return moved
