"""PlaCo's dynamics solver: torque, with torque, velocity and joint limits and hard self-collision avoidance.

All its limits are off by default; here all are on. ``qdd_safe`` is the deceleration that ours may plan with.
Variants: priority of the self-collision constraint, ``hard`` or ``soft``.
"""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.serve import SMOOTH, Description, NoSolutionError, Piece, serve
from benchmarks.peers.shapes import coal_shape
from benchmarks.peers.wire import Array

_BASE_Q, _BASE_V = 7, 6  # PlaCo always has a floating base; here it is masked
_TRIGGER = 0.05  # m, beyond the margin
_TORQUE_COST = 1e-9  # the default of 1e-3 would pull every torque toward zero

_placo: Any = import_module("placo")
_pin: Any = import_module("pinocchio")


class Placo:
    """``placo.DynamicsSolver`` as a filter of joint accelerations that answers in torque."""

    solved = True

    def __init__(self, robot: Description, priority: str) -> None:
        self._wrapper = _wrapper(robot)
        self._solver = solver = _placo.DynamicsSolver(self._wrapper)
        solver.dt = robot.dt
        solver.torque_cost = _TORQUE_COST
        solver.mask_fbase(True)
        solver.enable_torque_limits(True)
        solver.enable_velocity_limits(True)
        solver.enable_joint_limits(True)
        for joint, a_max in zip(robot.joints, robot.a_max, strict=True):
            solver.set_qdd_safe(joint, float(robot.brake_share * a_max))
        self._task = solver.add_joints_task()
        self._task.configure("proposal", "soft", 1.0)
        self._task.kp = self._task.kd = 0.0
        avoid = solver.add_avoid_self_collisions_constraint()
        avoid.configure("clearance", priority, 1.0)
        avoid.self_collisions_margin = robot.clearance
        avoid.self_collisions_trigger = robot.clearance + _TRIGGER
        self._avoid, self._joints = avoid, robot.joints
        self._viscous, self._coulomb = robot.viscous, robot.coulomb
        self._friction = np.zeros(_BASE_V + len(robot.joints))

    def reset(self, q: Array, v: Array) -> None:
        """Nothing is kept."""

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """Joint torque, N·m, for an acceleration, rad/s²."""
        state = self._wrapper.state
        configuration, speed = state.q, state.qd
        configuration[_BASE_Q:], speed[_BASE_V:] = q, v
        state.q, state.qd = configuration, speed
        self._wrapper.update_kinematics()
        for k, joint in enumerate(self._joints):
            self._task.set_joint(joint, float(q[k]), float(v[k]), float(action[k]))
        self._friction[_BASE_V:] = self._viscous * v + self._coulomb * np.tanh(v / SMOOTH)
        self._solver.extra_force = self._friction
        result = self._solver.solve(False)
        if not result.success:
            raise NoSolutionError
        return np.array(result.tau[_BASE_V:], dtype=np.float64)


def _wrapper(robot: Description) -> Any:
    wrapper = _placo.RobotWrapper(robot.urdf, _placo.Flags.ignore_collisions)
    if tuple(wrapper.joint_names()) != robot.joints:
        raise ValueError(f"joints {tuple(wrapper.joint_names())} are not {robot.joints}")
    armature = np.zeros(wrapper.model.nv)
    armature[_BASE_V:] = robot.armature
    wrapper.model.armature = armature
    for piece in robot.pieces:
        wrapper.collision_model.addGeometryObject(_object(wrapper.model, piece))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.json"
        path.write_text(json.dumps(robot.pairs))
        wrapper.load_collision_pairs(str(path))
    return wrapper


def _object(model: Any, piece: Piece) -> Any:
    frame = model.getFrameId(piece.body)
    pose = model.frames[frame].placement * _pin.SE3(piece.rotation, piece.translation)
    return _pin.GeometryObject(piece.name, model.frames[frame].parentJoint, frame, pose, coal_shape(piece))


if __name__ == "__main__":
    serve(Placo)
