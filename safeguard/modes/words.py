"""Plain words for what a mode table names: for the generated pages and for the simulator."""

from __future__ import annotations

from typing import Final

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes.spec import (
    CapabilitySpec,
    CauseSpec,
    ConfigurationSpec,
    EscalationSpec,
    FlappingSpec,
    Guard,
    JogSpec,
    LockoutSpec,
    ModeSpec,
    RecoverySpec,
    Row,
    TableSpec,
    TakeoverSpec,
)

MODES: Final[dict[Mode, str]] = {
    Mode.NOMINAL: "The policy moves the body; nothing is in its way.",
    Mode.CAUTIOUS: "The policy moves the body, but slower.",
    Mode.DEGRADED: "The policy goes on without a part that failed, slower and not for long.",
    Mode.HOLD: "The verified backup brings the body to rest and holds it there.",
    Mode.STOP: "The verified backup stops the body; it takes two acknowledgements to go on.",
    Mode.ESTOP: "Emergency stop: the platform's terminal stop has the body.",
    Mode.LOCKOUT: "Too many emergency stops: only maintenance helps.",
    Mode.BOOT: "Nothing moves before the self-test has passed.",
}

STRATEGIES: Final[dict[str, str]] = {
    "monolithic": "One policy, nothing to leave out.",
    "modular": "Perception, prediction, planner; the last two can be left out for a while.",
    "vla": "One policy that answers with chunks; the tail of a chunk may be played while the next is late.",
    "dual": "A slow System 2 sets goals, a fast System 1 acts; System 1 may go on alone for a while.",
}

AUTHORITIES: Final[dict[Authority, str]] = {
    Authority.POLICY: "the policy, through the filter",
    Authority.BACKUP: "the verified backup",
    Authority.NONE: "nobody: the platform's terminal stop",
    Authority.OPERATOR: "the operator, through the filter",
}

MOVES: Final[dict[Authority, str]] = {
    Authority.POLICY: "the policy moves the body",
    Authority.BACKUP: "the backup stops it",
    Authority.NONE: "terminal stop",
    Authority.OPERATOR: "the operator moves the body",
}

GUARDS: Final[dict[Guard, str]] = {
    Guard.READY: "the self-test has passed",
    Guard.ACK: "an operator acknowledges",
    Guard.STANDSTILL: "the body is at rest",
    Guard.CLEAR: "nothing wrong asks for it",
    Guard.DRAINED: "every bucket is low enough",
    Guard.PERSON: "a person takes command",
    Guard.SHADOW: "it agrees with its substitute in shadow",
}

CAUSES: Final[dict[Cause, str]] = {
    Cause.ESTOP: "the emergency stop is pressed",
    Cause.STATE_INVALID: "the body's state is not a number, misshapen or far outside the limits",
    Cause.STATE_STALE: "the body's state is too old, repeated or from the future",
    Cause.STATE_ORDER: "the body's state went back in time",
    Cause.STATE_JUMP: "the body moved further than any allowed speed explains",
    Cause.CLOCK_BACKWARDS: "the clock went backwards",
    Cause.TICK_OVERRUN: "the last tick took longer than its period",
    Cause.PROPOSAL_INVALID: "the policy's output is not a number, misshapen or of the wrong type",
    Cause.PROPOSAL_REPEATED: "the policy repeats itself although the body moved",
    Cause.PROPOSAL_ORDER: "the policy's output went back in order or time",
    Cause.POLICY_LATE: "the policy has no fresh output in time",
    Cause.FILTER_FAILED: "the safety filter found no answer, or its answer was refused",
    Cause.FILTER_SLACK: "the filter had to relax a limit towards what braking needs",
    Cause.BACKUP_REFUSED: "the last check refused the backup too",
    Cause.UNCALIBRATED: "a monitor has no calibration, or is past its horizon",
    Cause.AUDIT_FAILED: "the record cannot be written any more",
    Cause.OPERATOR_STOP: "an operator asked for a stop",
    Cause.MONITOR_WARN: "the monitors together: unusual",
    Cause.MONITOR_DEGRADE: "the monitors together: very unusual",
    Cause.MONITOR_STOP: "the monitors together: alarm",
    Cause.PERCEPTION_WARN: "one of several sensors is worse than usual",
    Cause.PERCEPTION_LOST: "perception is lost",
    Cause.PREDICTION_FAILED: "the prediction is late, invalid or out of its depth",
    Cause.PLANNER_FAILED: "the planner is late, invalid or out of its depth",
    Cause.SYSTEM2_FAILED: "the slow system, which sets the goals, is late, invalid or out of its depth",
    Cause.LEASE_LOST: "nobody holds the command, or an older holder still sends",
}


def percent(share: float) -> str:
    """``0.5`` as ``50 %``."""
    return f"{100 * share:g} %"


def span(seconds: float | None, ticks: int | None) -> str:
    """A time of a table as it was written: ``0.12 s``, ``3 ticks``, or ``–`` where there is none."""
    if seconds is not None:
        return f"{seconds:g} s"
    return "–" if ticks is None else f"{ticks} tick{'s' if ticks > 1 else ''}"


def rows(spec: TableSpec) -> dict[str, str]:
    """Every row that can be a reason, by id, in one plain sentence without a full stop."""
    return {row.id: _row(row) for row in spec.rows() if not isinstance(row, ModeSpec)}


def _row(row: Row) -> str:
    match row:
        case CauseSpec():
            return CAUSES[row.cause]
        case EscalationSpec():
            return f"{row.source.name} and still moving after {span(row.moving_s, row.moving_ticks)}"
        case RecoverySpec():
            dwell = span(row.dwell_s, row.dwell_ticks)
            guards = ", ".join(GUARDS[guard] for guard in row.guards)
            return f"{row.source.name} is over: {guards}{'' if dwell == '–' else f', for {dwell}'}"
        case CapabilitySpec():
            return f"{row.name} is back: fit for {span(row.dwell_s, row.dwell_ticks)}"
        case ConfigurationSpec():
            return f"{row.name}: stayed for {span(row.stay_s, row.stay_ticks)}, or no substitute, or a further warning"
        case FlappingSpec():
            window = span(row.window_s, row.window_ticks)
            return f"more than {row.recoveries} recoveries in {window} would be needed"
        case JogSpec():
            return f"a person may move the body away from what is near, at {percent(row.velocity_share)} of its speed"
        case TakeoverSpec():
            return "a person has the command"
        case LockoutSpec():
            return f"emergency stop number {row.beyond + 1}"
        case _:
            return ""
