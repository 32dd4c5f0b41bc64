"""The real LeRobot, with servos that are not there. Imported by tests that run where it is installed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

pytest.importorskip("lerobot", reason="runs in `make lerobot`")

# torchvision's wheel is built for another torch: its compiled part does not load, and these two must exist.
_LIBRARY: Any = torch.library.Library
_OPS = _LIBRARY("torchvision", "DEF")
_OPS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_OPS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def real(name: str) -> Any:
    """A module of LeRobot; what it warns of on import is its own business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(f"lerobot.{name}")


MODEL = RobotModel.load("so101_arm")
MOTORS = (*MODEL.joints, "gripper")
KEYS = [f"{motor}.pos" for motor in MOTORS]
MIDDLE, TICK = 2047, 2.0 * np.pi / 4095.0


class Servos:
    """What stands behind the bus: positions in ticks, reached at once.

    Attributes:
        ticks: by motor.
        told: every goal, in ticks.
    """

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self.ticks: dict[str, int] = dict.fromkeys(MOTORS, MIDDLE)
        self.told: list[dict[str, int]] = []

    def read(self, register: str) -> dict[str, float]:
        """As ``sync_read``, with LeRobot's own conversion."""
        assert register == "Present_Position"
        ids = {self._bus.motors[name].id: ticks for name, ticks in self.ticks.items()}
        return self._named(self._bus._normalize(ids))

    def write(self, register: str, values: Mapping[str, float]) -> None:
        """As ``sync_write``."""
        assert register == "Goal_Position"
        ids = {self._bus.motors[name].id: value for name, value in values.items()}
        told: dict[str, int] = self._named(self._bus._unnormalize(ids))
        self.told.append(told)
        self.ticks.update(told)

    def _named(self, by_id: Mapping[int, Any]) -> dict[str, Any]:
        return {self._bus._id_to_name(number): value for number, value in by_id.items()}

    def angles(self) -> Vector:
        """Every goal of the arm's joints, rad from the middle, shape (rows, n)."""
        return np.array([[(row[joint] - MIDDLE) * TICK for joint in MODEL.joints] for row in self.told])


class Camera:
    """A picture of noise."""

    is_connected = True

    def connect(self) -> None:
        """On."""

    def disconnect(self) -> None:
        """Off."""

    def read_latest(self) -> Any:
        """64 × 64 pixels."""
        return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def _nothing(*given: object) -> None:
    """Registers of servos that are not there."""


def follower(folder: Path, *, degrees: bool = True) -> tuple[Any, Servos]:
    """LeRobot's own SO-101 class, with its own conversions, and the servos behind it.

    Its calibration has 1024 to 3070 ticks for the joints, whose middle is the model's zero.
    """
    folder.joinpath("mine.json").write_text(
        json.dumps(
            {
                name: {"id": k + 1, "drive_mode": 0, "homing_offset": 0, "range_min": 1024, "range_max": 3070}
                for k, name in enumerate(MOTORS)
            }
        )
    )
    module = real("robots.so_follower")
    config = module.SOFollowerRobotConfig(port="none", id="mine", calibration_dir=folder, use_degrees=degrees)
    arm: Any = module.SOFollower(config)
    servos = Servos(arm.bus)
    on = SimpleNamespace(now=False)
    arm.bus = SimpleNamespace(
        motors=arm.bus.motors,
        is_calibrated=True,
        sync_read=servos.read,
        sync_write=servos.write,
        torque_disabled=nullcontext,
        configure_motors=_nothing,
        write=_nothing,
    )
    kind = type("Bus", (SimpleNamespace,), {"is_connected": property(lambda self: on.now)})
    arm.bus = kind(**vars(arm.bus))
    arm.bus.connect = lambda: setattr(on, "now", True)
    arm.bus.disconnect = lambda _: setattr(on, "now", False)  # pyright: ignore[reportUnknownLambdaType]
    arm.cameras = {"front": Camera()}
    arm.config.cameras = {"front": SimpleNamespace(height=64, width=64)}
    return arm, servos


def policy(kind: str, *, spread: float = 60.0) -> tuple[Any, Any, Any]:
    """A small random policy of LeRobot's own class with its processors; its actions spread as far as said (degrees)."""
    types = real("configs.types")
    features = {
        "observation.state": types.PolicyFeature(types.FeatureType.STATE, (6,)),
        "observation.images.front": types.PolicyFeature(types.FeatureType.VISUAL, (3, 64, 64)),
    }
    outputs = {"action": types.PolicyFeature(types.FeatureType.ACTION, (6,))}
    common = {"input_features": features, "output_features": outputs, "device": "cpu"}
    torch.manual_seed(0)
    if kind == "act":
        config = real("policies.act.configuration_act").ACTConfig(
            **common,
            chunk_size=8,
            n_action_steps=4,
            dim_model=32,
            n_heads=2,
            dim_feedforward=64,
            n_encoder_layers=1,
            use_vae=False,
            pretrained_backbone_weights=None,
        )
        made: Any = real("policies.act.modeling_act").ACTPolicy(config)
    else:
        config = real("policies.diffusion.configuration_diffusion").DiffusionConfig(
            **common,
            down_dims=(16, 32),
            n_groups=4,
            num_train_timesteps=10,
            num_inference_steps=2,
            noise_scheduler_type="DDIM",
            crop_shape=None,
            spatial_softmax_num_keypoints=4,
        )
        made = real("policies.diffusion.modeling_diffusion").DiffusionPolicy(config)
    one, many = torch.ones(6), torch.ones(3, 1, 1)
    stats = {
        "observation.state": {"mean": 0 * one, "std": 60 * one, "min": -120 * one, "max": 120 * one},
        "observation.images.front": {"mean": 0.5 * many, "std": 0.25 * many, "min": 0 * many, "max": many},
        "action": {"mean": 0 * one, "std": spread * one, "min": -spread * one, "max": spread * one},
    }
    before, after = real("policies.factory").make_pre_post_processors(config, dataset_stats=stats)
    return made.eval(), before, after


class Dataset:
    """What the recording loop asks of a dataset; after so many frames it presses the key that ends the episode."""

    fps = 30

    def __init__(self, robot: Any, length: int, events: dict[str, bool]) -> None:
        self._length, self._events = length, events
        made = real("datasets.utils").hw_to_dataset_features
        self.features = {
            **made(robot.action_features, "action"),
            **made(robot.observation_features, "observation"),
        }
        self.frames: list[Any] = []

    def add_frame(self, frame: Any) -> None:
        """Kept."""
        self.frames.append(frame)
        self._events["exit_early"] = len(self.frames) == self._length
