"""A chunk policy for reach and push: joint state, puck and goal in, joint positions out.

It was cloned from a scripted expert (``train.py`` beside this file says how) and remembers nothing.
Inputs, 21 numbers: q (7), v (7), tool position (3), puck minus tool (2), goal minus puck (2).
Outputs: joint offsets from the observed q for 8 rows at 20 Hz, proposed as absolute positions.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pinocchio as pin

from safeguard.core.enums import Reference
from safeguard.core.errors import MissingExtraError, SpecError
from safeguard.core.types import ActionSpec, Observation, Proposal, RobotState, Vector, frozen_array

if TYPE_CHECKING:
    from safeguard.core.robot import RobotModel

ROWS, RATE_HZ = 8, 20.0
HIDDEN = (256, 256, 128)
WEIGHTS = Path(__file__).parent / "weights.safetensors"


def network(joints: int) -> Any:
    """The untrained ``torch.nn.Module``: normalisation, three hidden layers, chunk of offsets.

    Its ``forward`` takes inputs of shape (batch, 2 joints + 7) and returns the normalised offsets, shape
    (batch, 8 joints), and the last hidden layer, shape (batch, 128).
    """
    try:
        from safeguard.policies.push_policy.net import ChunkNet
    except ImportError as error:
        raise MissingExtraError("PushPolicy", "torch") from error
    return ChunkNet(2 * joints + 7, HIDDEN, ROWS * joints)


class Encoder:
    """Observation to network input, with the forward kinematics of ``robot``."""

    def __init__(self, robot: RobotModel) -> None:
        self._model, self._data = robot.pin_model, robot.pin_model.createData()
        self._frame = robot.pin_model.getFrameId(robot.tool_frame)

    def __call__(self, state: RobotState, puck: Vector, goal: Vector) -> Vector:
        """Shape (2 n + 7,); rad, rad/s, m."""
        pin.framesForwardKinematics(self._model, self._data, state.q)
        tool = self._data.oMf[self._frame].translation
        return np.concatenate([state.q, state.v, tool, puck - tool[:2], goal - puck])


class PushPolicy:
    """The trained policy. Sensors it needs: ``"puck"`` and ``"goal"``, each shape (2,), m.

    Args:
        robot: whose joints it moves.
        net: a ``network`` with weights.
        digest: SHA-256 of the weights, for records.
    """

    name = "push_policy"

    def __init__(self, robot: RobotModel, net: Any, digest: str = "") -> None:
        import torch

        self._torch: Any = torch
        self._net = net.eval()
        self._encode = Encoder(robot)
        self._spec = ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, RATE_HZ, ROWS)
        self._seq = 0
        self.digest = digest

    @classmethod
    def load(cls, robot: RobotModel | None = None, weights: Path | None = None) -> PushPolicy:
        """The policy with the weights of this package, for the Panda unless another robot is given.

        Raises:
            MissingExtraError: torch or safetensors is not installed.
            SpecError: the weights do not fit the robot.
        """
        if robot is None:
            from safeguard.core.robot import RobotModel as Robot

            robot = Robot.load("panda")
        net = network(robot.n)
        try:
            safetensors = import_module("safetensors.torch")
        except ImportError as error:
            raise MissingExtraError("PushPolicy.load", "torch") from error
        path = weights or WEIGHTS
        try:
            net.load_state_dict(safetensors.load_file(path))
        except RuntimeError as error:
            who = f"{robot.name!r} with {robot.n} joints"
            raise SpecError(f"weights {path} do not fit {who}: {error}") from error
        return cls(robot, net, hashlib.sha256(path.read_bytes()).hexdigest())

    @property
    def spec(self) -> ActionSpec:
        """Absolute joint positions in rad, 8 rows at 20 Hz."""
        return self._spec

    def infer(self, observation: Observation) -> Proposal:
        """One chunk, shape (8, n), rad; ``features`` is the last hidden layer, shape (128,)."""
        state, sensors = observation.state, observation.sensors
        inputs = self._encode(state, sensors["puck"].value, sensors["goal"].value)
        with self._torch.inference_mode():
            offsets, hidden = self._net.offsets(self._torch.from_numpy(inputs.astype(np.float32))[None])
        actions = state.q + offsets[0].double().numpy().reshape(ROWS, -1)
        self._seq += 1
        features = frozen_array(hidden[0].double().numpy())
        return Proposal(frozen_array(actions), state.t, state.t, self.name, self._seq - 1, features=features)

    def reset(self) -> None:
        """Start counting anew; there is nothing else to forget."""
        self._seq = 0
