"""A LeRobot robot with the shield inside: the same contract, and what comes through is what may be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safeguard.audit import AuditConfig
from safeguard.audit.journal.journal import Journal
from safeguard.core.action import ActionSpec
from safeguard.core.config import ShieldConfig
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.integrations.lerobot.calibration import ArmUnit, arm_spec, motors_of
from safeguard.integrations.lerobot.guard import ActionGuard, Sent
from safeguard.integrations.lerobot.numbers import SUFFIX


class ShieldedRobot:
    """Stands in for ``robot`` wherever LeRobot takes one.

    ``get_observation`` and everything that is not named here is the robot's own. ``send_action`` sends what the
    shield allows and returns what was really sent. It does not raise for what an action is; what the robot itself
    raises, such as a lost connection, goes on to the caller.

    After ``connect`` and ``begin_episode`` the arm holds until somebody acknowledges; after a stop it takes a new
    acknowledgement at standstill.

    Args:
        robot: anything with LeRobot's ``Robot`` methods.
        model: of the arm.
        spec: what its numbers mean; ``arm_spec`` of the robot's own motors if None, made with the next five.
        fps, unit, joints, zero, calibration: as for ``arm_spec``.
        read: returns the arm's positions as ``get_observation`` does, without its cameras; for the times when the last
            observation is older than a period. ``get_observation`` if None.
        ranges, max_age_s, strategy, config, audit, clock: as for ``ActionGuard``.

    Attributes:
        last: what became of the last action, None before the first.

    Raises:
        SpecError: the robot's actions are no joint positions of the model, or nothing says what they mean.
        ConfigError: the robot changes actions behind the shield (``max_relative_target``), or the configuration or
            calibration file is wrong.
    """

    def __init__(
        self,
        robot: Any,
        model: RobotModel,
        spec: ActionSpec | None = None,
        *,
        fps: float = 30.0,
        unit: ArmUnit = "deg",
        joints: Mapping[str, str] | None = None,
        zero: Mapping[str, float] | None = None,
        calibration: str | Path | None = None,
        read: Callable[[], object] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        max_age_s: float | None = None,
        strategy: str = "vla",
        config: ShieldConfig | None = None,
        audit: str | Path | AuditConfig | Journal | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._robot = robot
        _check_unclamped(robot)
        motors = motors_of(robot.action_features)
        if spec is None:
            spec = arm_spec(model, motors, fps=fps, unit=unit, joints=joints, zero=zero, calibration=calibration)
        self.guard = ActionGuard(
            model,
            spec,
            keys=_keys(motors, spec, joints or {}),
            ranges=ranges,
            max_age_s=max_age_s,
            strategy=strategy,
            config=config,
            audit=audit,
            clock=clock,
        )
        self._read: Callable[[], object] = robot.get_observation if read is None else read
        self.last: Sent | None = None
        self._closed = False

    # -- LeRobot's contract ---------------------------------------------------------------------------

    @property
    def action_features(self) -> Any:
        """The robot's own."""
        return self._robot.action_features

    @property
    def observation_features(self) -> Any:
        """The robot's own."""
        return self._robot.observation_features

    @property
    def is_connected(self) -> bool:
        """Whether the robot is."""
        return bool(self._robot.is_connected)

    @property
    def is_calibrated(self) -> bool:
        """Whether the robot is."""
        return bool(self._robot.is_calibrated)

    def connect(self, calibrate: bool = True) -> None:
        """Connect the robot.

        Raises:
            ConfigError: it was disconnected, which ended the run.
        """
        if self._closed:
            raise ConfigError("disconnect() ended the run: make a new ShieldedRobot for the next one")
        self.guard.forget()
        self._robot.connect(calibrate)

    def calibrate(self) -> None:
        """Calibrate the robot. A ``spec`` made of the calibration file before stays as it was."""
        self._robot.calibrate()

    def configure(self) -> None:
        """Configure the robot."""
        self._robot.configure()

    def get_observation(self) -> Any:
        """The robot's observation, as it is."""
        observation = self._robot.get_observation()
        self.guard.see(observation)
        return observation

    def send_action(self, action: Any) -> Any:
        """Send what the shield makes of ``action``, and return what was really sent.

        A motor whose number is not known (a gripper before its first accepted action, on an arm that does not say
        where it is) is left out. Where nothing at all is known, because the arm could not be read yet, nothing is sent.
        """
        if self.guard.is_due:
            self._look()
        decided = self.guard.decide(action)
        answered = self._robot.send_action(dict(decided.sent)) if decided.sent else None
        self.last = self.guard.sent(decided, answered)
        return dict(self.last.sent)

    def disconnect(self) -> None:
        """Disconnect the robot, and end the run and its record."""
        self._closed = True
        try:
            self._robot.disconnect()
        finally:
            self.guard.gate.close()

    def _look(self) -> None:
        """Read the arm; where it cannot be read nothing is known of it, and the shield stops."""
        try:
            seen = self._read()
        except Exception:  # noqa: BLE001  a driver may raise anything; missing is alarm (law 5)
            seen = None
        self.guard.see(seen, asked=False)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # before __init__ there is nothing to ask
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._robot, name)

    def __str__(self) -> str:
        return f"shielded {self._robot}"

    # -- people ---------------------------------------------------------------------------------------

    def begin_episode(self, task: str, *, operator: str | None = None, reason: str = "episode starts") -> None:
        """Start an episode. With an ``operator`` it is acknowledged at once, else the arm holds until it is."""
        self.guard.begin_episode(task, operator=operator, reason=reason)

    def acknowledge(self, *, operator: str, reason: str) -> None:
        """Allow motion; see ``Shield.acknowledge``."""
        self.guard.gate.acknowledge(operator=operator, reason=reason)

    def stop(self, *, operator: str, reason: str) -> None:
        """Stop with the next action; see ``Shield.stop``."""
        self.guard.gate.stop(operator=operator, reason=reason)


def _keys(motors: tuple[str, ...], spec: ActionSpec, joints: Mapping[str, str]) -> tuple[str, ...]:
    """The robot's key of every column of ``spec``."""
    motor_of = {joints.get(motor, motor): motor for motor in motors}
    if set(motor_of) != set(spec.joints):
        raise SpecError(
            f"the spec has the columns {', '.join(spec.joints)}, the robot's motors are {', '.join(motor_of)}: "
            "name each of them, with joints={motor: column} where names differ"
        )
    return tuple(f"{motor_of[name]}{SUFFIX}" for name in spec.joints)


def _check_unclamped(robot: Any) -> None:
    """Law 1: nothing edits what the shield lets through."""
    if getattr(getattr(robot, "config", None), "max_relative_target", None) is not None:
        raise ConfigError(
            "the robot's config.max_relative_target changes actions behind the shield, and lets NaN pass: set it to "
            "None, the shield bounds every step itself"
        )
