"""Validated record bodies back to loop types, bit for bit; the inverse of ``safeguard.audit.records.encode``."""

from __future__ import annotations

import numpy as np

from safeguard.audit.records.bodies import (
    Array,
    CommandBody,
    FilterBody,
    MarginsBody,
    Number,
    ObservationBody,
    PartsBody,
    PDBody,
    PositionBody,
    ProposalBody,
    ShapedArray,
    Spec,
    TerminalStopBody,
    TimingsBody,
    TorqueBody,
    VelocityBody,
    VerdictBody,
    full_verdict,
)
from safeguard.audit.records.registry import DecisionRecord
from safeguard.core.types import (
    ActionSpec,
    Command,
    Decision,
    FilterResult,
    Margins,
    Observation,
    Parts,
    PDCommand,
    PositionCommand,
    Proposal,
    RobotState,
    Sensor,
    TerminalStop,
    Timings,
    TorqueCommand,
    Vector,
    VelocityCommand,
    Verdict,
)


def decode_number(value: Number) -> float:
    """The float64 that was encoded."""
    return float(value)


def decode_array(value: Array) -> Vector:
    """The read-only float64 array that was encoded, with its shape."""
    if isinstance(value, ShapedArray):
        array = np.array(value.data, dtype=np.float64).reshape(value.shape)
    else:
        array = np.array(value, dtype=np.float64)  # float() of numpy reads the names of non-finite numbers
    array.setflags(write=False)
    return array


def _optional(value: Array | None) -> Vector | None:
    return None if value is None else decode_array(value)


def decode_observation(body: ObservationBody) -> Observation:
    """The observation of a tick."""
    state = RobotState(decode_array(body.state.q), decode_array(body.state.v), body.state.t)
    sensors = {name: Sensor(decode_array(part.value), part.t) for name, part in body.sensors.items()}
    wrench = _optional(body.external_wrench)
    return Observation(state, sensors, body.instruction, wrench, body.estop, body.drive_status)


def decode_proposal(body: ProposalBody) -> Proposal:
    """The proposal that arrived in a tick."""
    return Proposal(
        actions=decode_array(body.actions),
        t_obs=body.t_obs,
        t_inferred=body.t_inferred,
        source=body.source,
        seq=body.seq,
        features=_optional(body.features),
        samples=_optional(body.samples),
        parts=None if body.parts is None else _decode_parts(body.parts),
    )


def _decode_parts(body: PartsBody) -> Parts:
    return Parts(tuple(body.failed), tuple(body.agreeing), tuple(body.substitutes))


def decode_spec(body: Spec) -> ActionSpec:
    """What the policy's numbers mean."""
    return ActionSpec(
        tuple(body.joints),
        body.unit,
        body.reference,
        body.rate_hz,
        body.chunk,
        body.frame,
        kp=None if body.kp is None else tuple(body.kp),
        kd=None if body.kd is None else tuple(body.kd),
    )


def decode_command(body: CommandBody) -> Command:
    """What the actuators got."""
    match body:
        case TorqueBody():
            return TorqueCommand(decode_array(body.tau), body.t, body.expires, body.seq)
        case PositionBody():
            return PositionCommand(decode_array(body.q), body.t, body.expires, body.seq)
        case VelocityBody():
            return VelocityCommand(decode_array(body.v), body.t, body.expires, body.seq)
        case PDBody():
            return PDCommand(
                q=decode_array(body.q),
                v=decode_array(body.v),
                kp=decode_array(body.kp),
                kd=decode_array(body.kd),
                tau_ff=decode_array(body.tau_ff),
                t=body.t,
                expires=body.expires,
                seq=body.seq,
            )
        case TerminalStopBody():
            return TerminalStop(body.reason, body.t, body.seq)


def _decode_verdict(verdict: VerdictBody | str) -> Verdict:
    body = full_verdict(verdict)
    p_value = None if body.p_value is None else decode_number(body.p_value)
    score, threshold = decode_number(body.score), decode_number(body.threshold)
    return Verdict(body.monitor, body.level, score, threshold, p_value, body.cause, body.detail)


def _decode_margins(body: MarginsBody) -> Margins:
    return Margins(
        position=decode_number(body.position),
        velocity=decode_number(body.velocity),
        torque=decode_number(body.torque),
        clearance=decode_number(body.clearance),
        nearest=body.nearest,
    )


def _decode_filter(body: FilterBody) -> FilterResult:
    return FilterResult(
        torque=decode_array(body.torque),
        acceleration=decode_array(body.acceleration),
        status=body.status,
        solver=body.solver,
        source=body.source,
        slack=tuple((name, decode_number(amount)) for name, amount in body.slack),
        active=tuple(body.active),
        margins=_decode_margins(body.margins),
        effort=decode_number(body.effort),
        iterations=body.iterations,
        stuck=body.stuck,
        provisional=body.provisional,
        refusal=body.refusal,
        position=_optional(body.position),
        velocity=_optional(body.velocity),
    )


def decode_timings(body: TimingsBody) -> Timings:
    """Measured durations, ns."""
    return Timings(
        intake=body.intake,
        policy=body.policy,
        controller=body.controller,
        monitors=body.monitors,
        modes=body.modes,
        filter=body.filter,
        record=body.record,
        total=body.total,
    )


def decode_decision(record: DecisionRecord) -> Decision:
    """The decision of a tick, timings and counters included."""
    body = record.decision
    return Decision(
        command=decode_command(body.command),
        mode=body.mode,
        causes=tuple(body.causes),
        reasons=tuple(body.reasons),
        authority=body.authority,
        verdicts=tuple(_decode_verdict(verdict) for verdict in body.verdicts),
        filter=_decode_filter(body.filter),
        source=body.source,
        timings=decode_timings(record.timings),
        tick=record.tick,
        episode=record.episode,
        enforcement=body.enforcement,
        configuration=body.configuration,
    )
