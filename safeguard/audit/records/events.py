"""Bodies of the records that say in one place what is otherwise spread over many decisions.

``safeguard.events`` makes the first seven, from decisions and measurements; the journal makes the others when a run
opens. They repeat or sum up; where one and the decisions differ, the decisions count. A record stands right behind the
decision that completes it. ``begin`` is placed at once, ``end`` only when it has been over for the settings'
``dwell_s`` without a break, with the figures of the moment at which it was over; what comes back before that is the
same one. What is open when an episode ends or is reset gets its ``end`` then (``ended`` is ``episode``); what is open
when the process dies, has none. Durations in ns are differences of the injected time, never below 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from safeguard.audit.records.bodies import Body, Number
from safeguard.core.enums import Authority, Cause, Enforcement, Level, Mode

Count = Annotated[int, Field(ge=0)]


class EventBody(Body):
    """What all of them say: where, and whether the shield enforced. Only ``full`` is what the body did."""

    episode: int
    enforcement: Enforcement


class ModeChange(EventBody):
    """The mode or its degraded configuration is not that of the decision before, or of the episode's begin."""

    before: Mode
    configuration_before: str
    after: Mode
    configuration_after: str
    trigger: list[Cause] = Field(description="active causes that asked for it; none where time or a person did")
    causes: list[Cause] = Field(description="all that were active")
    reasons: list[str] = Field(description="ids of the rows of the mode table that fired")
    authority: Authority


class SpanBody(EventBody):
    """Something with a begin and an end."""

    phase: Literal["begin", "end"]
    ticks: Count | None = Field(default=None, description="from the begin to the first tick without it")
    duration_ns: Count | None = Field(default=None, description="the same in injected time")
    ended: Literal["clear", "episode"] | None = Field(default=None, description="episode: it was cut off by the end")

    @model_validator(mode="after")
    def _an_end_says_how_long(self) -> Self:
        if {self.ticks is None, self.duration_ns is None, self.ended is None} != {self.phase != "end"}:
            raise ValueError("an end says how long it was and how it ended, and nothing else does")
        return self


StopType = Literal["bridge", "hold", "brake", "terminal_stop"]


class Fallback(EventBody):
    """The verified stop or the terminal stop has the body, after the policy or a person has moved it in the episode.

    ``bridge``: the mode would let the policy move, the stop stands in for a moment. ``hold``: in HOLD. ``brake``: in
    STOP and worse. ``terminal_stop``: the platform's last resort. Under ``monitor_only`` it is what would have been;
    ``sent`` says whether the command was that of the stop. Time to the safe state is ``standstill_ns``, by our own
    measurement: from the begin to the first tick at which every joint stood, if the sensors could be trusted then.
    """

    phase: Literal["begin", "standstill", "end"]
    type: StopType = Field(description="now; at the end the gravest of it")
    mode: Mode
    causes: list[Cause]
    reasons: list[str]
    refusal: str = Field(description='why the filter\'s answer was refused, or ""')
    sent: bool
    certificate: str | None = Field(description="digest of the certificate behind the braking figures, if there is one")
    table: str = Field(description="digest of the mode table")
    standstill_ticks: Count | None = Field(default=None, description="null as long as nothing stood")
    standstill_ns: Count | None = None
    ticks: Count | None = None
    duration_ns: Count | None = None
    ended: Literal["policy", "operator", "episode"] | None = Field(default=None, description="who took over")

    @model_validator(mode="after")
    def _phases_have_their_figures(self) -> Self:
        stood = {self.standstill_ticks is None, self.standstill_ns is None}
        over = {self.ticks is None, self.duration_ns is None, self.ended is None}
        if over != {self.phase != "end"} or (self.phase != "end" and stood != {self.phase == "begin"}):
            raise ValueError(f"the figures are not those of the phase {self.phase!r}")
        return self


class NearMiss(SpanBody):
    """A margin of the decisions is smaller than the settings ask for: nothing was exceeded, little was left.

    Margins are of the filter's result, so they come from the shield's own model (``filter.margins``). It is over once
    the margin is wider by the settings' ``hysteresis``; a margin that is not known ends nothing.
    """

    limit: Literal["position", "velocity", "torque", "clearance"]
    at: str = Field(description="the joint that is nearest to the limit, or the pair of links")
    value: Number = Field(description="the margin at the begin; at the end the smallest")
    least: Number = Field(description="what the margin should be")
    unit: str


class Violation(SpanBody):
    """The measured state is beyond a limit of the robot, by the shield's own model and sensors.

    Position and velocity are those of the observation against the limits in ``run_open``; ``self_collision`` is a
    clearance below 0 in the model. Somebody who shares neither model nor sensors, the referee of simulations, is heard
    in ``episode_close``.
    """

    limit: Literal["position", "velocity", "self_collision"]
    at: str = Field(description="the joint, or the pair of links, that is furthest beyond")
    value: Number = Field(description="at the begin; at the end the worst")
    bound: Number = Field(description="what it should not pass")
    beyond: Number = Field(description="severity: by how much it is passed")
    unit: str
    doubted: list[Cause] = Field(description="active causes that say the measurement is not to be trusted")


class FaultDetected(SpanBody):
    """A cause became active, or has been clear for long enough; ``fault_injected`` is the other side of it."""

    component: str = Field(description="the monitor that said it first")
    cause: Cause
    level: Level
    detail: str = Field(description="what it said first")
    mode: Mode = Field(description="after the tick of this record")
    worst_mode: Mode | None = Field(
        default=None, description="gravest since the begin; BOOT only if there was no other"
    )
    times: Annotated[int, Field(ge=1)] = Field(default=1, description="how often it became active")


Agreement = Literal["agrees", "differs", "not_judged"]


class Effect(EventBody):
    """What the body did, held against what the filter's model said of the commands that the body was sent.

    About decisions ``first`` to ``last`` of an episode, once every ``effect_s`` of control and at its end. In each tick

        deviation = (v_now − v_before) − a Δt

    with the measured speeds of this observation and the one before, Δt between their stamps, and a the
    ``filter.acceleration`` that belongs to the command which acted in between: that of the decision before, or as many
    ticks earlier as the configuration's delay says. In a single tick it is mostly noise of the speed measurement, so
    whether the body obeys is judged by a rule, where a calibration says what is usual:

    ``warn_rung``: ``differs`` if in a judged tick the joint warning of the monitors alarmed and ``model_residual`` lay
    above ``threshold``; that is false at most as often as the warning itself. ``agrees`` if in none, and the rung was
    calibrated in all of them. Everything else is ``not_judged``.
    """

    first: Count = Field(description="tick of the first decision")
    last: Count = Field(description="tick of the last decision")
    judged: Count = Field(description="ticks in which a deviation could be told")
    no_command: Count = Field(
        description="ticks without: no command of the filter's own acted all the time (the first tick of an episode, a "
        "terminal stop, a raw proposal, one that had run out), or it is not one of torques or positions"
    )
    no_state: Count = Field(description="ticks without: no new measurement, or none to be trusted")
    gap: Count = Field(description="ticks without: they, or those that sent what acted in them, were not recorded")
    largest: list[Number] = Field(description="deviation of each joint, rad/s or m/s; empty if none was judged")
    rms: list[Number] = Field(description="likewise, root of the mean square")
    worst: Count | None = Field(description="tick with the largest deviation as a share of the joint's speed limit")
    worst_joint: str = Field(description="the joint that had it")
    residual: Number | None = Field(description="largest score of model_residual in a judged tick; null without one")
    threshold: Number | None = Field(description="residual that alone reaches the threshold of the joint warning")
    rule: Literal["warn_rung", "none"] = Field(description="none: no calibration")
    agreement: Agreement

    @model_validator(mode="after")
    def _the_figures_fit(self) -> Self:
        if self.judged + self.no_command + self.no_state + self.gap != self.last - self.first + 1:
            raise ValueError(f"ticks {self.first} to {self.last} are not as many as those judged and not judged")
        bare = {not self.largest, not self.rms, self.worst is None, not self.worst_joint, not self.judged}
        if len(bare) > 1 or len(self.largest) != len(self.rms):
            raise ValueError("each joint has its figures where a tick was judged, and nothing else has")
        if self.agreement != "not_judged" and (self.rule == "none" or not self.judged):
            raise ValueError(f"{self.agreement}: without a rule or a tick nothing is judged")
        return self


class Health(Body):
    """The recorder at work, every ``health_s`` of injected time: what it did since the last such record."""

    placed: Count = Field(description="records of the run so far, without this one")
    lost: Count = Field(description="records of the run that could not be placed")
    waiting_bytes: Count = Field(description="in the ring, not yet as safe as the run's durability asks for")
    ring_bytes: Count = Field(description="what the ring takes; 0 where the loop writes itself")
    safe: bool = Field(description="everything placed is as safe as the run's durability asks for")
    writer_beats: Count | None = Field(description="grows as long as the writer process lives; null without one")
    problem: str = Field(description='why the next records are in danger, or ""')
    ticks: Count
    longest_record_ns: Count = Field(description="longest that the recording of one tick was measured to take")
    longest_tick_ns: Count
    overruns: Count = Field(description="ticks that took longer than the control period")


class Changed(Body):
    """What was replaced; null where there was or is none."""

    name: str
    old: str | None
    new: str | None


class SoftwareChange(Body):
    """Second record of a run whose software differs from that of the run before in the list of runs.

    ``changes`` names ``safeguard``, ``python``, ``robot`` (digest), ``table``, ``policy``, ``calibration``, ``schemas``
    (digests) and ``library NAME``. New values are those of this ``run_open``. Old ones are what the list of runs said
    when this run was opened: nobody signs the list, so this record is a pointer, and the proof is the ``run_open`` of
    the run that ``previous`` names, whose root this run has signed.
    """

    previous: str = Field(description="id of the run before")
    changes: list[Changed] = Field(min_length=1)


class ConfigIntervention(SoftwareChange):
    """The shield's configuration differs from that of the run before; the same is to be trusted in it.

    Names are dotted paths in ``run_open.config``, values JSON; long ones are given by ``sha256:`` and their digest.
    """
