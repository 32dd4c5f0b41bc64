"""Closed sets that records, tables and code share. Values are stable: they are written to journals.

Adding a member is a minor change; renaming or renumbering one needs a record upgrader.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final


class Mode(IntEnum):
    """Operating modes in order of severity; the worst requested floor wins (law 7)."""

    NOMINAL = 0
    CAUTIOUS = 1
    DEGRADED = 2
    HOLD = 3
    STOP = 4
    ESTOP = 5
    LOCKOUT = 6
    BOOT = 7  # before the self-test: outputs inhibited; left only to HOLD


class Authority(Enum):
    """Who may move the body in a mode."""

    POLICY = "policy"  # proposals, through the filter
    OPERATOR = "operator"  # a person's jog in HOLD, through the filter, only away from what is near
    BACKUP = "backup"  # the verified stop and its hold
    NONE = "none"  # the platform's terminal stop


class Cause(Enum):
    """Named conditions that request a minimum mode. The mode table says which."""

    ESTOP = "estop"
    STATE_INVALID = "state_invalid"  # non-finite, wrong shape, or far outside the limits
    STATE_STALE = "state_stale"  # too old, repeated, or from the future
    STATE_ORDER = "state_order"  # time stamp went backwards
    STATE_JUMP = "state_jump"  # moved further than any allowed speed explains
    CLOCK_BACKWARDS = "clock_backwards"
    TICK_OVERRUN = "tick_overrun"
    PROPOSAL_INVALID = "proposal_invalid"  # non-finite, wrong shape or wrong type
    PROPOSAL_REPEATED = "proposal_repeated"  # same chunk although the robot moved
    PROPOSAL_ORDER = "proposal_order"  # sequence number or observation time went backwards
    POLICY_LATE = "policy_late"  # no usable chunk within the deadline
    FILTER_FAILED = "filter_failed"  # solver failed or its answer was refused; backup ran
    FILTER_SLACK = "filter_slack"  # a relaxable row was relaxed to what braking needs
    BACKUP_REFUSED = "backup_refused"  # the checker refused the backup too: terminal stop
    UNCALIBRATED = "uncalibrated"  # a calibrated monitor is past its horizon or has no threshold
    AUDIT_FAILED = "audit_failed"  # records can no longer be written
    OPERATOR_STOP = "operator_stop"
    MONITOR_WARN = "monitor_warn"  # the joint score of the monitors, by rung
    MONITOR_DEGRADE = "monitor_degrade"
    MONITOR_STOP = "monitor_stop"
    PERCEPTION_WARN = "perception_warn"  # one of several sensors is worse than usual
    PERCEPTION_LOST = "perception_lost"
    PREDICTION_FAILED = "prediction_failed"  # late, invalid or out of distribution, as for the next two
    PLANNER_FAILED = "planner_failed"
    SYSTEM2_FAILED = "system2_failed"  # the slow system of two, which sets the goals
    LEASE_LOST = "lease_lost"  # nobody holds the command, or an older holder still sends


STATE_CAUSES: Final = frozenset({Cause.STATE_INVALID, Cause.STATE_STALE, Cause.STATE_ORDER, Cause.STATE_JUMP})
"""Those that say that the measured state is not to be trusted."""


class Level(IntEnum):
    """What a monitor says. ``UNCALIBRATED`` and ``UNPROVEN`` are not OK (law 9)."""

    OK = 0
    UNPROVEN = 1
    UNCALIBRATED = 2
    WARN = 3
    DEGRADE = 4
    STOP = 5


class FilterStatus(Enum):
    """How this tick's motion came about."""

    ADMISSIBLE = "admissible"  # the proposal as it is, bit-identical
    CORRECTED = "corrected"  # the QP's answer, accepted by the checker
    BACKUP = "backup"  # the stored verified stop
    REFUSED = "refused"  # the checker refused the backup too: terminal stop
    BYPASSED = "bypassed"  # enforcement is off: outside law 1, marked in every record


class SolverStatus(Enum):
    """What the QP solver reported, after our own checks."""

    SKIPPED = "skipped"  # not called
    SETTLED = "settled"  # solved exactly before any solver was asked: no dense row binds, or few that hardly meet
    SOLVED = "solved"
    RESCUED = "rescued"  # solved, by the exact second solver: the first was not done within its iterations
    UNSOLVED = "unsolved"  # iteration budget used up, or any other verdict than solved
    REJECTED = "rejected"  # the data was refused before the solver saw it

    @property
    def answered(self) -> bool:
        """Whether there is an answer to look at: settled, solved or rescued."""
        return self is SolverStatus.SOLVED or self is SolverStatus.SETTLED or self is SolverStatus.RESCUED


class Enforcement(Enum):
    """Whether the shield enforces. Only ``FULL`` keeps law 1."""

    FULL = "full"
    MONITOR_ONLY = "monitor_only"  # everything is decided and recorded; the proposal goes out as it is
    OFF = "off"  # the proposal goes out as it is, and nothing else is computed for it


class Reference(Enum):
    """What the numbers of an action refer to."""

    ABSOLUTE = "absolute"
    DELTA = "delta"
    CHUNK_RELATIVE = "chunk_relative"
    VELOCITY = "velocity"
    TORQUE = "torque"
    PD_TARGET = "pd_target"
    POSE = "pose"
    WAYPOINTS = "waypoints"
    TOKENS = "tokens"
    CONTROL = "control"  # inputs of a vehicle: acceleration or pedals, and steering


class NominalKind(Enum):
    """What a controller turned a proposal into."""

    ACCELERATION = "acceleration"
    TORQUE = "torque"
    VELOCITY = "velocity"
    POSITION = "position"
    TWIST = "twist"  # of the tool frame's origin
    POSE = "pose"  # of the tool frame in the base frame
    ROWS = "rows"  # joint positions to come, one row after the other


class Frame(Enum):
    """In which axes a twist is given. Its point is the origin of the tool frame either way."""

    BASE = "base"
    TOOL = "tool"


class RecordKind(Enum):
    """Kinds of audit records."""

    RUN_OPEN = "run_open"
    EPISODE_OPEN = "episode_open"
    DECISION = "decision"
    HUMAN = "human"
    FAULT_INJECTED = "fault_injected"
    FAULT_CLEARED = "fault_cleared"
    EPISODE_CLOSE = "episode_close"
    RUN_CLOSE = "run_close"
    GAP = "gap"
    RECOVERY = "recovery"
    RETENTION_CUT = "retention_cut"  # beside the chain, in cut.sgc
    MODE_CHANGE = "mode_change"
    FALLBACK = "fallback"  # the stop has the body
    NEAR_MISS = "near_miss"
    VIOLATION = "violation"  # of a limit, by the shield's own model
    FAULT_DETECTED = "fault_detected"  # a cause came or went
    HEALTH = "health"  # of the recorder
    SOFTWARE_CHANGE = "software_change"  # since the run before
    CONFIG_INTERVENTION = "config_intervention"  # since the run before
    EFFECT = "effect"  # what the body did, held against what the commands were to do
