"""Twists and poses of the tool as joint accelerations: damped least squares at acceleration level.

With J the Jacobian of the tool frame's origin (base axes), rotation rows weighted by a length L so that all of it is in
metres, and its singular value decomposition J = U Σ Vᵀ,

    a = J# (ẍ − J̇ v) + (I − J# J) a₀,      J# = V diag(σ / (σ² + λ²)) Uᵀ,      λ² = max(0, ε² − σ²).

λ grows as a direction becomes singular (Chiaverini, Siciliano and Egeland 1994, eq. 12 with λ_max = ε), for every
singular value by itself (numerical filtering: Maciejewski and Klein 1988). Where σ ≥ ε nothing is damped; everywhere
‖J#‖ ≤ 1/ε and a is continuous in the state. The levels of the task:

    twist    ẍ = k (V − J v) + ω × V for a twist that turns with the tool
    pose     ẍ = ω² e − 2 ω J v, with e = (p_d − p, log(R_d Rᵀ)): critically damped; a longer e than ``pull_m`` is cut
             to that length, so that a far pose is approached along a line at no more than ω pull_m / 2
    posture  a₀ = ω₀² (q_mid − q) − 2 ω₀ v, in what the task leaves free (Liégeois 1977); joints that do not move the
             tool (fingers, other limbs) only come to rest
"""

from __future__ import annotations

import numpy as np
import pinocchio as pin

from safeguard.core.config import TaskConfig
from safeguard.core.enums import Frame, NominalKind
from safeguard.core.robot import RobotModel
from safeguard.core.types import Nominal, RobotState, Vector

_LARGEST = 1e6  # in any unit; what is beyond is not a proposal

Wanted = tuple[Vector | None, str]
"""A joint acceleration, shape (n,), rad/s², and ""; or None and why there is none."""


class TaskSpace:
    """Motion of the tool frame of a robot.

    Args:
        robot: the model; its ``tool_frame`` moves, its root is the base frame.
        dt: control period, s; no deviation is asked to decay faster than within one.
        config: gains, damping and weights.

    Nothing is kept between calls: the same state and proposal give the same acceleration.
    """

    def __init__(self, robot: RobotModel, dt: float, config: TaskConfig | None = None) -> None:
        config = config or TaskConfig()
        self.robot, self.config = robot, config
        self._rate = min(config.twist_rate_per_s, 1.0 / dt)
        self._omega = min(config.pose_omega_radps, 0.5 / dt)
        self._posture = min(config.posture_omega_radps, 0.5 / dt)
        self._weight = np.array([1.0] * 3 + [config.length_m] * 3)
        self._model, self._data = robot.pin_model, robot.pin_model.createData()
        self._frame = int(self._model.getFrameId(robot.tool_frame))
        self._axes = pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        self._middle = 0.5 * (robot.limits.q_min + robot.limits.q_max)
        self._pull = np.zeros(robot.n)
        chain = self._model.supports[self._model.frames[self._frame].parentJoint]
        self._pull[[int(joint) - 1 for joint in chain if joint > 0]] = self._posture

    def wanted(self, state: RobotState, nominal: Nominal) -> Wanted:
        """The acceleration that a ``TWIST`` or ``POSE`` nominal asks for in ``state``."""
        match nominal.kind:
            case NominalKind.TWIST:
                return self.from_twist(state, nominal.value, nominal.frame)
            case NominalKind.POSE:
                return self.from_pose(state, nominal.value)
            case _:
                return None, f"a {nominal.kind.value} is no motion of the tool"

    def from_twist(self, state: RobotState, twist: Vector, frame: Frame = Frame.BASE) -> Wanted:
        """The acceleration that brings the tool to a twist.

        Args:
            state: ``q`` and ``v`` of shape (n,).
            twist: linear (m/s) then angular (rad/s) velocity of the tool frame's origin, shape (6,).
            frame: the axes of ``twist``: those of the base, or those of the tool as it is now.
        """
        if why := self._odd(state) or _odd_numbers("twist", twist, (6,)):
            return None, why
        J, drift, placement = self._place(state)
        wanted = np.array(twist, dtype=np.float64)
        turning = np.zeros(6)
        if frame is Frame.TOOL:
            R = np.asarray(placement.rotation)
            wanted = np.concatenate((R @ wanted[:3], R @ wanted[3:]))
            turning[:3] = np.cross(wanted[3:], wanted[:3])
        return self._solve(state, J, self._rate * (wanted - J @ state.v) + turning - drift)

    def from_pose(self, state: RobotState, pose: Vector) -> Wanted:
        """The acceleration that brings the tool to rest at a pose.

        Args:
            state: ``q`` and ``v`` of shape (n,).
            pose: of the tool frame in the base frame: position (m) and unit quaternion x y z w, shape (7,), or a
                homogeneous transform, shape (4, 4).
        """
        target, why = self._target(pose)
        if why := self._odd(state) or why:
            return None, why
        J, drift, placement = self._place(state)
        turn = pin.log3(target.rotation @ np.asarray(placement.rotation).T)
        error = np.concatenate((target.translation - placement.translation, turn))
        error *= self.config.pull_m / max(float(np.linalg.norm(self._weight * error)), self.config.pull_m)
        return self._solve(state, J, self._omega * (self._omega * error - 2.0 * (J @ state.v)) - drift)

    def pose(self, q: Vector) -> Vector:
        """Where the tool frame is at ``q`` in the base frame: a homogeneous transform, shape (4, 4)."""
        pin.framesForwardKinematics(self._model, self._data, q)
        return np.array(self._data.oMf[self._frame].homogeneous)

    def _place(self, state: RobotState) -> tuple[Vector, Vector, pin.SE3]:
        """(J, J̇ v, placement) of the tool frame's origin in base axes, shapes (6, n) and (6,)."""
        model, data = self._model, self._data
        pin.forwardKinematics(model, data, state.q, state.v, np.zeros(self.robot.n))
        pin.computeJointJacobians(model, data)
        placement = pin.updateFramePlacement(model, data, self._frame)
        drift = pin.getFrameClassicalAcceleration(model, data, self._frame, self._axes).vector
        return pin.getFrameJacobian(model, data, self._frame, self._axes), np.array(drift), placement

    def _solve(self, state: RobotState, J: Vector, acceleration: Vector) -> Wanted:
        """Damped least squares for J a = ``acceleration``; posture in what is left."""
        U, sigma, Vt = np.linalg.svd(self._weight[:, None] * J, full_matrices=False)
        damped = np.maximum(sigma * sigma, self.config.singular**2)
        gain, share = sigma / damped, sigma * sigma / damped
        rest = self._posture * (self._pull * (self._middle - state.q) - 2.0 * state.v)
        a: Vector = Vt.T @ (gain * (U.T @ (self._weight * acceleration)) - share * (Vt @ rest)) + rest
        return (a, "") if np.isfinite(a).all() else (None, "the motion of the tool needs an infinite acceleration")

    def _odd(self, state: RobotState) -> str:
        n = (self.robot.n,)
        return _odd_numbers("q", state.q, n) or _odd_numbers("v", state.v, n)

    def _target(self, pose: Vector) -> tuple[pin.SE3, str]:
        """(the pose with an exact rotation, why it is none)."""
        nowhere = pin.SE3.Identity()
        if np.shape(pose) == (4, 4):
            if why := _odd_numbers("pose", pose, (4, 4)) or self._odd_transform(pose):
                return nowhere, why
            quaternion = pin.Quaternion(np.array(pose[:3, :3]))
            position = np.array(pose[:3, 3])
        else:
            if why := _odd_numbers("pose", pose, (7,)):
                return nowhere, f"{why}, or (4, 4)" if "shape" in why else why
            norm = float(np.linalg.norm(pose[3:]))
            if not abs(norm - 1.0) <= self.config.unit_tolerance:
                return nowhere, f"pose: the quaternion has length {norm:.6g}, not 1"
            quaternion = pin.Quaternion(np.array(pose[3:]))
            position = np.array(pose[:3])
        quaternion.normalize()
        return pin.SE3(quaternion, position), ""

    def _odd_transform(self, pose: Vector) -> str:
        R = pose[:3, :3]
        off = float(np.abs(R.T @ R - np.eye(3)).max())
        if not off <= 2.0 * self.config.unit_tolerance or np.linalg.det(R) < 0.0:
            return f"pose: the upper left block is no rotation (RᵀR is {off:.3g} from 1, det {np.linalg.det(R):.3g})"
        if not np.array_equal(pose[3], (0.0, 0.0, 0.0, 1.0)):
            return f"pose: the last row is {pose[3].tolist()}, not 0 0 0 1"
        return ""


def _odd_numbers(name: str, value: Vector, shape: tuple[int, ...]) -> str:
    """Why ``value`` is not an array of ``shape`` with numbers that can be worked with, or ""."""
    if np.shape(value) != shape:
        return f"{name} has shape {np.shape(value)}, expected {shape}"
    return "" if (np.abs(value) <= _LARGEST).all() else f"{name} is not finite, or larger than {_LARGEST:g}"
