"""OSCBF-style torque filter written from the public interfaces of cbfpy and frax.

Speed limits are barriers of relative degree 1, position limits and link distances of relative degree 2, with
alpha = 10 h as in frax's own example; torque limits are the control limits. Everything is relaxed by default
(cbfpy ``relax_qp``), and so it is here. The objective weighs the change of acceleration. Armature and
friction, which frax does not model, are added to its dynamics. Variants: ``nearest`` (16 nearest of all pairs,
segments as everywhere; spheres and capsules only) and ``shipped`` (the spheres and pairs that frax ships).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.peers.serve import SMOOTH, Description, Piece, serve
from benchmarks.peers.wire import Array

PAIRS = 16
_GAIN = 10.0
_SHIPPED = {"panda": ("franka_panda", "load_panda"), "g1": ("unitree_g1", "load_fixed_root_g1")}

_jax: Any = import_module("jax")
_jnp: Any = import_module("jax.numpy")
_cbfpy: Any = import_module("cbfpy")
_frax_robot: Any = import_module("frax.core.robot")


class OSCBF:
    """``CBF.safety_filter`` as a filter of joint torques."""

    solved = True

    def __init__(self, robot: Description, variant: str) -> None:
        _jax.config.update("jax_enable_x64", True)
        model = _frax_robot.Robot(robot.urdf, joint_ordering=list(robot.joints))
        gaps = _nearest_pairs(model, robot) if variant == "nearest" else _shipped_pairs(robot)
        self._cbf = _cbfpy.CBF.from_config(_configuration(model, robot, gaps))
        self(robot.home, np.zeros(len(robot.joints)), np.zeros(len(robot.joints)))

    def reset(self, q: Array, v: Array) -> None:
        """Nothing is kept."""

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """Joint torque, N·m."""
        return np.asarray(self._cbf.safety_filter(np.concatenate([q, v]), action), dtype=np.float64)


def _configuration(model: Any, robot: Description, gaps: Callable[[Any], Any]) -> Any:
    n = len(robot.joints)
    armature, viscous, coulomb = _jnp.diag(robot.armature), robot.viscous, robot.coulomb

    def inverse_inertia(q: Any) -> Any:
        return model.mass_matrix_inverse(model.mass_matrix(q) + armature)

    class Configuration(_cbfpy.CBFConfig):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n=2 * n, m=n, u_min=-robot.tau_max, u_max=robot.tau_max)

        def f(self, z: Any) -> Any:
            q, v = z[:n], z[n:]
            friction = viscous * v + coulomb * _jnp.tanh(v / SMOOTH)
            return _jnp.concatenate([v, -inverse_inertia(q) @ (model.nonlinear_bias(q, v) + friction)])

        def g(self, z: Any) -> Any:
            return _jnp.concatenate([_jnp.zeros((n, n)), inverse_inertia(z[:n])])

        def h_1(self, z: Any) -> Any:
            return _jnp.concatenate([robot.v_max - z[n:], robot.v_max + z[n:]])

        def h_2(self, z: Any) -> Any:
            q = z[:n]
            return _jnp.concatenate([robot.q_max - q, q - robot.q_min, gaps(q) - robot.clearance])

        def alpha(self, h: Any) -> Any:
            return _GAIN * h

        def alpha_2(self, h_2: Any) -> Any:
            return _GAIN * h_2

        def P(self, z: Any, u_des: Any) -> Any:
            weight = inverse_inertia(z[:n])
            return weight.T @ weight

        def q(self, z: Any, u_des: Any) -> Any:
            weight = inverse_inertia(z[:n])
            return -weight.T @ (weight @ u_des)

    return _jax.tree_util.register_static(Configuration)()


def _nearest_pairs(model: Any, robot: Description) -> Callable[[Any], Any]:
    """Distances of the nearest pairs of spheres and capsules, as distances of segments."""
    for piece in robot.pieces:
        if piece.kind not in ("sphere", "capsule"):
            raise ValueError(f"{piece.name} is a {piece.kind}: only spheres and capsules are written out here")
    ends = np.array([_segment(piece) for piece in robot.pieces])  # (pieces, 2, 3)
    radius = np.array([piece.size[0] for piece in robot.pieces])
    first, second = np.array(robot.pairs).T
    carrier = np.array([piece.joint for piece in robot.pieces])

    def gaps(q: Any) -> Any:
        frames = _jnp.concatenate([_jnp.eye(4)[None], model.joint_to_world_transforms(q)])[carrier]
        points = _jnp.einsum("kij,ksj->ksi", frames[:, :3, :3], ends) + frames[:, None, :3, 3]
        between = _jax.vmap(_segment_distance)(points[first], points[second]) - radius[first] - radius[second]
        return -_jax.lax.top_k(-between, min(PAIRS, len(robot.pairs)))[0]

    return gaps


def _shipped_pairs(robot: Description) -> Callable[[Any], Any]:
    if robot.name not in _SHIPPED:
        raise ValueError(f"frax ships no spheres for {robot.name}")
    module, load = _SHIPPED[robot.name]
    model = getattr(import_module(f"frax.robots.{module}"), load)()
    if tuple(model.joint_names) != robot.joints:
        raise ValueError(f"joints {model.joint_names} are not {robot.joints}")
    gaps: Callable[[Any], Any] = model.self_collision_distances
    return gaps


def _segment(piece: Piece) -> tuple[Array, Array]:
    half = piece.rotation[:, 2] * (piece.size[1] if piece.kind == "capsule" else 0.0)
    return piece.translation - half, piece.translation + half


def _segment_distance(a: Any, b: Any) -> Any:
    """Distance of two segments, shapes (2, 3): closest points by clamping (Ericson, Real-Time Collision Detection)."""
    d1, d2, r = a[1] - a[0], b[1] - b[0], a[0] - b[0]
    A, E, F, C, B = d1 @ d1, d2 @ d2, d2 @ r, d1 @ r, d1 @ d2
    free = A * E - B * B
    s = _jnp.where(free > 1e-12, _jnp.clip((B * F - C * E) / _jnp.where(free > 1e-12, free, 1.0), 0.0, 1.0), 0.0)
    t = _jnp.clip((B * s + F) / _jnp.maximum(E, 1e-12), 0.0, 1.0)
    s = _jnp.clip((B * t - C) / _jnp.maximum(A, 1e-12), 0.0, 1.0)
    apart = r + s * d1 - t * d2
    return _jnp.sqrt(apart @ apart + 1e-12)


if __name__ == "__main__":
    serve(OSCBF)
