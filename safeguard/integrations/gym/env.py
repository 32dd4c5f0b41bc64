"""``ShieldedEnv``: a Gymnasium environment in which an agent moves a robot through the shield."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from gymnasium import Wrapper, spaces
from gymnasium.error import ResetNeeded

from safeguard.audit.journal.journal import Journal
from safeguard.audit.journal.settings import AuditConfig
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Authority, Cause, Enforcement, Mode
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    ActionSpec,
    Command,
    Decision,
    Observation,
    RobotState,
    Vector,
    frozen_array,
)
from safeguard.integrations.gym.agent import Account, AgentPort, Executed, as_numbers
from safeguard.integrations.gym.ports import AnyEnv, Ports, State, StepPorts
from safeguard.monitors import Calibration
from safeguard.shield import Shield

_NOWHERE: Final = frozen_array(np.zeros(0))
_DWELL_S: Final = 0.25  # standstill before an acknowledgement; every mode table asks for 0.2 s
_STAGES: Final = 3  # from ESTOP by way of HOLD
_AGAIN_NS: Final = round(_DWELL_S * NS_PER_S)
_NEVER_REPEATED: Final = 100.0  # rad; beyond any motion


class ShieldedEnv(Wrapper[Any, Any, Any, Any]):
    """An environment whose robot only does what the shield lets through.

    ``step`` takes the agent's action in the numbers of ``spec``, and lets ``1 / rate_hz`` pass: in every control period
    of it the shield decides anew, and the environment gets the command. Nothing that an agent hands over makes ``step``
    raise: what is no action is answered by the backup. ``info["safeguard"]`` of a step holds

    ==================  ====================================================================================
    ``raw``             the action as it was given, shape (columns,); NaN where it was no such array
    ``shielded``        the action that would have led to what was executed, in the same numbers, the mean over
                        the step; equal to ``raw`` bit for bit where nothing was changed
    ``command``         the numbers of the last command, shape (n,), N·m or rad; NaN if the brakes were engaged
    ``intervention``    share of the action that was not executed, 0 to 1: the largest distance of a column as a share
                        of its range, 1 while the backup acts; the mean over the step
    ``intervened``      anything was changed
    ``refusal``         why the action cannot be meant, or ""
    ``mode, causes``    the worst mode of the step by name, and all its causes
    ``ticks``, ``corrected_ticks``, ``backup_ticks``    control periods: all, changed by the filter, moved by the backup
    ==================  ====================================================================================

    The reward is the environment's own, of what was executed.

    Between ``reset`` and the first ``step`` the environment stands still. The shield's start falls into that time: its
    standstill, and the acknowledgement of a scripted operator (recorded as simulated), who also lets the robot go on
    after a hold, at standstill. ``info["safeguard"]`` of a reset says how it went: ``mode``, ``start_ticks``,
    ``redrawn``. A stop that was asked for through ``env.shield.stop`` is not the script's to undo: it stays, also
    across resets, until acknowledgements through ``env.shield.acknowledge`` let the agent move the robot again.

    Args:
        env: the environment.
        robot: its robot.
        spec: what the agent's numbers mean, one action at a time, joints of the robot only; ``rate_hz`` is how often it
            acts.
        state: of the environment, its robot as a ``RobotState`` or (q, v), in the order of ``robot.joints``.
        command: the environment's action for a command (see ``StepPorts``).
        ports: in place of these two, where the environment takes commands otherwise (``mujoco_ports``).
        period: control period, s; the time that one ``step`` of ``env`` takes. Its ``dt`` if None.
        strategy, audit, calibration, enforcement: of the ``Shield``. ``Enforcement.OFF`` is the same environment
            without a shield, for comparison, and marked in every record.
        config: of the shield. Where it leaves them open, the expectations of the policy's timing follow ``rate_hz``,
            and equal actions one after another are taken for what they are.
        task: what the episodes are about, for the record.
        penalty: of the intervention (0 to 1), what is taken off the reward.
        operator: name of the scripted operator; None: nobody acknowledges but you, through ``env.shield``.
        redraws: how often the environment is reset again where it starts from a state without a verified stop.

    Raises:
        SpecError: the spec does not fit the robot, means chunks, or has columns that are no joints of it (``others``).
        ConfigError: no range of actions, periods that do not fit, ``state`` and ``command`` missing.

    Attributes:
        shield: the ``Shield``.
    """

    def __init__(
        self,
        env: AnyEnv,
        robot: RobotModel,
        spec: ActionSpec,
        *,
        state: State | None = None,
        command: Callable[[Command], Any] | None = None,
        ports: Ports | None = None,
        period: float | None = None,
        strategy: str = "monolithic",
        config: ShieldConfig | None = None,
        audit: str | Path | AuditConfig | Journal | None = None,
        calibration: Calibration | None = None,
        enforcement: Enforcement = Enforcement.FULL,
        task: str = "episode of an environment",
        penalty: Callable[[float], float] | None = None,
        operator: str | None = "scripted operator",
        redraws: int = 20,
    ) -> None:
        super().__init__(env)
        _only_joints(spec)
        self.ports = ports or _step_ports(env, state, command, period)
        period = self.ports.period
        self.spec_of_actions, self.task, self.operator = spec, task, operator
        self._ticks = _ticks(spec, period)
        self._period_ns = round(period * NS_PER_S)
        low, high, space = _range(spec, env)
        self.action_space, self._span = space, high - low
        self._penalty, self._redraws = penalty, redraws
        config = suited(config or ShieldConfig(), self._ticks * period)
        self._port = AgentPort(spec, f"agent in {type(env.unwrapped).__name__}")
        self.shield = Shield(
            robot,
            self._port,
            strategy=strategy,
            period=period,
            config=config,
            audit=audit,
            enforcement=enforcement,
            calibration=calibration,
        )
        self._executed = Executed(spec, robot.joints, period, config.policy.tracking_omega_radps)
        self._now = self._acknowledged = 0
        self._begun = self._stopped = False
        self._account: Account | None = None

    # -- an episode -----------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode from a state whose stop is verified.

        Raises:
            ConfigError: the environment does not start from such a state, however often it is asked; ``state`` has no
                answer while the shield starts; or the shield is locked out after too many emergency stops.
        """
        why = ""
        for redrawn in range(self._redraws + 1):
            observation, info = self.env.reset(seed=None if redrawn else seed, options=options)
            self.ports.reset()
            why = self._inadmissible()
            if not why:
                break
        else:
            raise ConfigError(
                f"{type(self.unwrapped).__name__} starts from a state that the shield cannot start from, "
                f"{self._redraws + 1} times in a row: {why}. Let reset() place the robot inside its limits and clear "
                "of itself, and check what state= returns"
            )
        if self.shield.mode is Mode.LOCKOUT:
            raise ConfigError("the shield is locked out after too many emergency stops; the record says why they came")
        ticks = self._start(seed)
        started = {"mode": self.shield.mode.name, "start_ticks": ticks, "redrawn": redrawn}
        return observation, {**info, "safeguard": started}

    def _inadmissible(self) -> str:
        """Why the shield cannot start from where the environment is, or ""."""
        platform, state = self.shield.platform, self._wired()
        if self.shield.enforcement is Enforcement.OFF:
            return ""
        if why := platform.plausible(state) or platform.reset(state):
            return why
        margins = platform.backup(state).margins
        if margins.clearance < 0.0:
            return f"{margins.nearest} overlap by {-margins.clearance:.3f} m"
        return ""

    def _wired(self) -> RobotState:
        """Where the robot is; raises ``ConfigError`` where ``state`` does not say it."""
        try:
            q, v = self.ports.measure()
        except Exception as error:
            raise ConfigError(f"state= raised {type(error).__name__}: {error}") from error
        joints, state = self.shield.platform.joints, RobotState(q, v, self._now)
        if not self._measures_all(state):
            raise ConfigError(
                f"state= must return q and v of {', '.join(joints)}, got the shapes {q.shape} and {v.shape}"
            )
        return state

    def _start(self, seed: int | None) -> int:
        """Begin the shield's episode; its start passes while the environment stands still. How many ticks that took.

        The acknowledgement is given last, so that the first action finds a shield that lets it through.
        """
        self._account, self._begun = None, True
        self.shield.begin_episode(self.task, **({} if seed is None else {"seed": int(seed)}))
        self._acknowledged = self._now
        dwell = 2 * round(_DWELL_S * NS_PER_S / self._period_ns / 2.0)  # even: it is taken in every other tick
        ticks = 0
        for _ in range(_STAGES if self.operator is not None else 0):
            for _ in range(dwell):
                state = self._wired()
                if not self._stands(state):
                    return ticks
                self._decide(state)
                ticks += 1
            self._acknowledge("start of an episode")
            if self.shield.mode is Mode.HOLD:
                break
        return ticks

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Let the agent act for ``1 / rate_hz``.

        Args:
            action: shape (columns,), the agent's numbers. Anything else is refused, and the backup acts.

        Raises:
            ResetNeeded: before the first ``reset``.
        """
        if not self._begun:
            raise ResetNeeded("call reset() before step()")
        given, raw, refusal = self._taken(action)
        self._port.offer(given, self._now)
        account = Account(raw, refusal, self._measured().q, self._span, self._executed)
        self._account = account
        usable = None if refusal else raw
        observation, reward, terminated, truncated, info = self.ports.play(usable, self._ticks, self._tick)
        if self._penalty is not None:
            reward -= float(self._penalty(account.intervention))
        return observation, reward, terminated, truncated, {**info, "safeguard": account.info()}

    def close(self) -> None:
        """Close the shield, its record and the environment."""
        self.shield.close()
        super().close()

    def _taken(self, action: Any) -> tuple[Vector, Vector, str]:
        """What the shield is shown (rows, columns), what ``info`` calls raw, and why it cannot be meant."""
        row = as_numbers(action)
        columns = len(self.spec_of_actions.joints)
        given = row[None] if row.shape == (columns,) else row
        refusal = self.spec_of_actions.misfit(given)
        return given, row if row.shape == (columns,) else np.full(columns, np.nan), refusal

    # -- a control period -----------------------------------------------------------------------------

    def _tick(self) -> Command:
        state = self._measured()
        decision = self._decide(state)
        if self._account is not None:
            self._account.add(decision, state.q, state.v)
        return decision.command

    def _decide(self, state: RobotState) -> Decision:
        decision = self.shield.step(Observation(state), now=self._now)
        if Cause.OPERATOR_STOP in decision.causes:
            self._stopped = True
        elif decision.authority is Authority.POLICY:  # somebody acknowledged: the script did not
            self._stopped = False
        held = decision.authority is Authority.BACKUP or decision.authority is Authority.NONE
        due = held and self._now - self._acknowledged >= _AGAIN_NS and decision.mode is not Mode.LOCKOUT
        if due and self._stands(state):
            self._acknowledge("standstill after a hold")
        self._now += self._period_ns
        return decision

    def _measured(self) -> RobotState:
        """Where the robot is, stamped now; what cannot be measured is an empty state, for intake to refuse."""
        try:
            return RobotState(*self.ports.measure(), self._now)
        except Exception:  # noqa: BLE001  a sensor that fails is no reason to leave the body alone
            return RobotState(_NOWHERE, _NOWHERE, self._now)

    def _measures_all(self, state: RobotState) -> bool:
        return state.q.shape == state.v.shape == (len(self.shield.platform.joints),)

    def _stands(self, state: RobotState) -> bool:
        """At standstill; what was not measured, or of other joints, is not."""
        return self._measures_all(state) and self.shield.platform.standstill(state)

    def _acknowledge(self, reason: str) -> None:
        if self.operator is not None and not self._stopped:
            self._acknowledged = self._now
            self.shield.acknowledge(operator=self.operator, reason=reason, simulated=True)


def suited(config: ShieldConfig, step_s: float) -> ShieldConfig:
    """``config``, with what it leaves open set for an agent that answers once in ``step_s`` and without delay.

    An agent may repeat its action while the robot moves (a saturated one always does), and acts no sooner than the
    environment's first step.
    """
    open_values: Mapping[str, Mapping[str, float]] = {
        "intake": {"repeat_tolerance": _NEVER_REPEATED},
        "policy": {
            "startup_s": _STAGES * _DWELL_S + step_s,
            "deadline_s": max(config.policy.deadline_s, 2.0 * step_s),
        },
    }
    changed = {
        section: getattr(config, section).model_copy(
            update={key: value for key, value in values.items() if key not in getattr(config, section).model_fields_set}
        )
        for section, values in open_values.items()
    }
    return config.model_copy(update=changed)


def _only_joints(spec: ActionSpec) -> None:
    """Refuse columns that nothing would carry out: only commands for the robot's joints reach the environment."""
    if spec.others:
        names = ", ".join(spec.others)
        raise SpecError(
            f"ShieldedEnv moves the robot's joints, and nothing would carry out others=({names}): leave {names} out of "
            "the spec. A wrapper around ShieldedEnv can take such columns off the action and leave their values where "
            "command= or the environment reads them"
        )


def _step_ports(
    env: AnyEnv, state: State | None, command: Callable[[Command], Any] | None, period: float | None
) -> StepPorts:
    if state is None or command is None:
        raise ConfigError("ShieldedEnv needs state= and command=, or ports=: how it sees and moves the robot")
    if period is None:
        period = getattr(env.unwrapped, "dt", None)
    if not isinstance(period, float | int) or not 0.0 < period < np.inf:
        raise ConfigError(f"ShieldedEnv needs period=, the time in s that one step of the environment takes; {period=}")
    return StepPorts(env, state, command, float(period))


def _ticks(spec: ActionSpec, period: float) -> int:
    """Control periods of one action."""
    if spec.chunk != 1:
        raise SpecError(f"ShieldedEnv takes one action a step, the spec says chunks of {spec.chunk}")
    ticks = round(1.0 / (spec.rate_hz * period))
    if ticks < 1 or abs(ticks * period * spec.rate_hz - 1.0) > 1e-6:
        raise ConfigError(
            f"an action lasts 1 / rate_hz = {1.0 / spec.rate_hz:g} s, which must be a whole number of control periods "
            f"of {period:g} s"
        )
    return ticks


def _range(spec: ActionSpec, env: AnyEnv) -> tuple[Vector, Vector, spaces.Space[Any]]:
    """Ends of the agent's range, each of shape (columns,), and its space: the spec's, or else the environment's own."""
    shape = (len(spec.joints),)
    if spec.low is not None and spec.high is not None:
        low, high = (np.array(spec.column(name)) for name in ("low", "high"))
        return low, high, spaces.Box(low.astype(np.float32), high.astype(np.float32), shape, np.float32)
    own: Any = env.action_space
    bounded = own.is_bounded() if hasattr(own, "is_bounded") else False  # only boxes of numbers have it
    if not bounded or own.shape != shape:
        raise ConfigError(
            f"the range of the agent's numbers is not known: give the spec low= and high= (the environment's own "
            f"action space, {own}, is no finite range for the columns {spec.joints})"
        )
    return own.low.astype(np.float64), own.high.astype(np.float64), own
