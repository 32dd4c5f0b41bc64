"""The deterministic checks of a tick, beside intake: yes-or-no, at once, outside the budget of calibrated alarms."""

from __future__ import annotations

from math import nan
from typing import Final

from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Level
from safeguard.core.types import Decision, Evidence, RobotState, Verdict
from safeguard.monitors.deadline import PolicyDeadline, TickOverrun
from safeguard.monitors.deterministic import asleep
from safeguard.monitors.plan import PlanSanity
from safeguard.monitors.punctual import Punctual
from safeguard.monitors.registry import Setting
from safeguard.monitors.sensors import Sensors
from safeguard.monitors.stl import Requirement

_HALF: Final = 0.5  # a chunk is due twice within its deadline where nobody said how often


class Checks:
    """Deadline, overrun, punctuality, sensors, plan and requirements of one shield.

    Args:
        setting: what they are built for.
        config: the shield's.

    Raises:
        ConfigError, SpecError: a requirement cannot be read, or the policy's joints are not the robot's.
    """

    def __init__(self, setting: Setting, config: ShieldConfig) -> None:
        own, policy = config.monitors, config.policy
        self._deadline = PolicyDeadline(policy.deadline_s, policy.startup_s)
        self._overrun = TickOverrun(setting.period, config.real_time)
        self._punctual = Punctual(own.punctual, _HALF * policy.deadline_s)
        self._sensors = Sensors(own.sensors, config.intake.future_s)
        self._plan = PlanSanity(setting.spec, setting.joints, setting.v_max, setting.a_max, own.plan)
        self._requirements = tuple(Requirement(one, setting.joints, setting.period) for one in own.formulas)
        for requirement in self._requirements:
            requirement.prove()
        sleeping = asleep()
        detail = f"unproven: {', '.join(sleeping)} did not notice a planted fault"
        self._unproven = (Verdict("checks", Level.UNPROVEN, nan, nan, detail=detail),) if sleeping else ()

    def reset(self) -> None:
        """Start a new episode."""
        self._deadline.reset()
        self._punctual.reset()
        self._sensors.reset()
        self._plan.reset()
        for requirement in self._requirements:
            requirement.reset()

    def verdicts(self, evidence: Evidence, state: RobotState | None, previous: Decision | None) -> tuple[Verdict, ...]:
        """What they say of this tick.

        Args:
            evidence: of the tick.
            state: the measured state where it can be trusted.
            previous: the decision before with the durations that were measured.
        """
        return (
            self._deadline.check(evidence.current, evidence.now),
            self._overrun.check(previous),
            self._punctual.check(evidence.current, evidence.now),
            *self._sensors.check(evidence.observation, evidence.now, state_lost=state is None),
            *self._plan.check(evidence.proposal, state),
            *(requirement.check(evidence) for requirement in self._requirements),
            *self._unproven,
        )
