"""The tick: from an observation to a checked command and its record.

    observation ─▶ intake ─▶ policy port ─▶ controller ─▶ monitors ─▶ modes ─▶ filter or backup ─▶ command ─▶ record

``Shield.step`` reads like this line. Nothing in it knows arms: the body is a ``Platform``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import RLock
from types import MappingProxyType, TracebackType
from typing import Self

from numpy.typing import ArrayLike

from safeguard.audit.identity import run_open_body
from safeguard.audit.journal.journal import Journal, open_run
from safeguard.audit.journal.settings import AuditConfig
from safeguard.audit.records.encode import Json, decision_body, encode_spec, jsonable
from safeguard.controllers import ArmPlatform
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import (
    STATE_CAUSES,
    Authority,
    Cause,
    Enforcement,
    FilterStatus,
    Mode,
    NominalKind,
    RecordKind,
)
from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Platform, Policy, PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    Command,
    Decision,
    Evidence,
    FilterResult,
    Nominal,
    Observation,
    Parts,
    Proposal,
    RobotState,
    Timings,
    Verdict,
)
from safeguard.events import Events
from safeguard.incoming import as_observation
from safeguard.lease import POLICY, Lease, Source
from safeguard.lockout import LockoutFile, saved
from safeguard.modes import ModeInputs, ModeOutputs, ModeState, load_table, step
from safeguard.monitors import (
    Bank,
    Calibration,
    Drift,
    Intake,
)
from safeguard.own_causes import failure, fed_back, held_by, own_failures, parts_failures, unkept
from safeguard.people import People, joint_velocities
from safeguard.ramp import Ramp
from safeguard.selftest import self_test

_PERSON = frozenset({Cause.ESTOP, Cause.OPERATOR_STOP})
_CHUNK = "fresh_chunks"  # the capability whose substitute is the rest of the chunk that is being followed
_NO_PARTS = Parts()
_MOVERS = (Authority.POLICY, Authority.OPERATOR)


class Shield:
    """Wraps a policy so that only filtered, checked motion reaches the body.

    Args:
        body: a robot model, or any ``Platform``.
        policy: a policy, a policy port, or anything ``as_policy`` takes that carries its spec.
        strategy: which mode table.
        period: control period, s.
        config: everything else; defaults are safe.
        audit: run folder to create, settings of how to record, or an open journal (then the caller closes it). None
            keeps no record.
        clock: monotonic time in ns, used where ``step`` is not given ``now``.
        enforcement: anything but ``FULL`` is outside law 1 and marked in every record.
        monitor_only: short for ``enforcement=Enforcement.MONITOR_ONLY``: everything is decided and recorded, and
            the proposal goes out as it is.
        sources: further policies or ports that may hold the command instead of ``policy``, by name (teleoperation, a
            script); ``give`` hands it over.
        calibration: artefact of the monitors; without one they score and are recorded, and alarm about nothing.
        void: why the calibration no longer holds (the shield that this one takes over from found a drift), or "".
        drift: watches the episodes for drift: the file in which it goes on after a restart, or a ``Drift``; by default
            it is the process's.
        lockout: file in which the count of emergency stops survives a restart (``LockoutFile``); without one it is
            the process's.
        mode, estops, commands: of the shield that this one takes over from: a stop stays until it is acknowledged,
            too many emergency stops are a LOCKOUT, and the sequence numbers of commands go on.

    Raises:
        SpecError: the policy's actions do not fit the body.
        JournalError: the run folder cannot be created.
        CalibrationError: the calibration was made for other monitors, or ``drift`` for another calibration.
        ConfigError: ``monitor_only`` contradicts ``enforcement``, a source's name does not do, or the policy is too
            slow for ``policy.deadline_s``.

    Attributes:
        mode_inputs: what the mode machine was given in the last tick.

    If the self-test fails (``self_test`` says why) the body stays in BOOT and nothing moves.
    """

    # What belongs to an episode; ``_forget`` sets it.
    _tick: int
    _recording: int
    _previous: Decision | None
    _authority: Authority
    _fresh: bool
    _started: bool
    _halted: bool

    def __init__(
        self,
        body: RobotModel | Platform,
        policy: Policy | PolicyPort,
        *,
        strategy: str = "monolithic",
        period: float = 0.002,
        config: ShieldConfig | None = None,
        audit: str | Path | AuditConfig | Journal | None = None,
        clock: Callable[[], int] | None = None,
        enforcement: Enforcement = Enforcement.FULL,
        monitor_only: bool = False,
        sources: Mapping[str, Policy | PolicyPort] = MappingProxyType({}),
        calibration: Calibration | None = None,
        void: str = "",
        drift: Drift | str | Path | None = None,
        mode: Mode = Mode.BOOT,
        lockout: str | Path | None = None,
        estops: int = 0,
        commands: int = 0,
    ) -> None:
        self.config = config or ShieldConfig()
        self.period, self.strategy = period, strategy
        self.enforcement = _enforcement(enforcement, monitor_only=monitor_only)
        self.platform: Platform = (
            ArmPlatform(body, period, self.config.filter, self.config.drive) if isinstance(body, RobotModel) else body
        )
        self._lease = Lease(policy, sources, self.platform, period, self.config)
        self.port: PolicyPort = self._lease.holder.port
        self.spec = self._lease.holder.spec
        self._ramp = Ramp(self.config.policy.ramp_s, self.config.policy.ramp_from)
        self.table = load_table(strategy, period)
        self._intake = Intake(
            self.platform.joints,
            period,
            self.config.intake,
            velocity=self.platform.v_max,
            limits=self.platform.identity().limits,
        )
        self.bank = Bank(self._lease.holder.setting, calibration, void=void, drift=drift)
        self._clock = clock or time.monotonic_ns
        self._expiry = self.config.command_periods * round(period * NS_PER_S)
        self._lockout = None if lockout is None else LockoutFile(lockout)
        self._unsaved = ""
        if self._lockout is not None:
            estops = max(estops, self._lockout.estops)
        if estops > self.table.most_estops:
            mode = Mode.LOCKOUT
        self._modes, self.mode_inputs = ModeState.initial(self.table, mode, estops), ModeInputs()
        self.episode, self._sequence = -1, commands
        self._people = People(self.config)
        self._lock = RLock()  # people act from threads of their own, between two ticks
        self.self_test = self_test(self.platform)
        self._owns_journal = not (audit is None or isinstance(audit, Journal))
        if isinstance(audit, str | Path):
            audit = AuditConfig.of(audit, real_time=self.config.real_time)
        self.journal = open_run(audit, self.run_open()) if isinstance(audit, AuditConfig) else audit
        self._events = self._telling()
        self._forget()

    def _telling(self) -> Events | None:
        if self.journal is None:
            return None
        found = self.config.filter.certificate
        certificate = None if found is None else found.digest
        return Events(
            self.platform,
            self.table,
            self.period,
            self.journal,
            certificate,
            delay_ticks=self.config.filter.delay_ticks,
            calibration=self.bank.calibration,
        )

    @property
    def following(self) -> Proposal | None:
        """The accepted proposal that the last tick followed, or None."""
        return self._lease.holder.current

    @property
    def holder(self) -> str:
        """The source that holds the command."""
        return self._lease.holder.name

    @property
    def mode(self) -> Mode:
        """The mode after the last tick."""
        return self._modes.mode

    # -- the tick -------------------------------------------------------------------------------------

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """Decide one tick.

        Args:
            observation: what the sensors say.
            now: the tick's time, ns; the injected clock's if None.

        Returns:
            The decision; its command is what to send. Never raises for what a policy, sensor or solver does.
        """
        with self._lock:
            return self._stepped(observation, now)

    def _stepped(self, observation: Observation, now: int | None) -> Decision:
        self._ensure_episode()
        now = self._clock() if now is None else now
        watch = [time.perf_counter_ns()]
        observation = as_observation(observation)
        seen, state = self._see(observation, now)
        watch.append(time.perf_counter_ns())
        bare = self._bare(observation, state)
        arrived = self._lease.ask(observation, bare, now)
        source = self._lease.holder
        received = self._intake.receive(arrived, source.spec, now, observation, source.name)
        self._accept(source, arrived, received)
        watch.append(time.perf_counter_ns())
        nominal = self._nominal(source.current, state, now)
        watch.append(time.perf_counter_ns())
        verdicts = (
            *seen,
            *received,
            *parts_failures(source.current),
            *self._watch(Evidence(observation, now, arrived, source.current, self._previous), state),
        )
        causes = tuple(dict.fromkeys(v.cause for v in verdicts if v.cause is not None))
        watch.append(time.perf_counter_ns())
        jog = self._people.jogging(now, self.mode)
        outputs = self._advance(causes, state, jog is not None, now)
        watch.append(time.perf_counter_ns())
        raw = self._unfiltered(bare, state, nominal, now)
        if outputs.authority is Authority.OPERATOR and jog is not None:
            nominal = Nominal(NominalKind.VELOCITY, jog)
        result, command, made_by = self._move(state, nominal, raw, outputs, now)
        watch.append(time.perf_counter_ns())
        decision = Decision(
            command=command,
            mode=outputs.mode,
            causes=causes,
            reasons=outputs.reasons,
            authority=outputs.authority,
            verdicts=verdicts,
            filter=result,
            source=made_by,
            timings=_timings(watch, self._recording),
            tick=self._tick,
            episode=self.episode,
            enforcement=self.enforcement,
            configuration=outputs.configuration,
        )
        if not self._recorded(now, observation, arrived, decision):
            decision = self._unrecorded(decision, state, now)
        self._previous, self._authority, self._tick = decision, outputs.authority, self._tick + 1
        self._recording = time.perf_counter_ns() - watch[-1]
        return decision

    def _see(self, observation: Observation, now: int) -> tuple[tuple[Verdict, ...], RobotState | None]:
        """Intake's checks, and the measured state if it can be trusted; the first one is where the backup starts.

        Without enforcement any state of the right shape counts, as for a stack that has no shield.
        """
        seen, state = self._intake.observe(observation, now), observation.state
        trusted = STATE_CAUSES.isdisjoint([verdict.cause for verdict in seen])
        if trusted and (odd := self.platform.plausible(state)) is not None:
            seen, trusted = (*seen, failure("platform", Cause.STATE_INVALID, odd)), False
        if not trusted and self.enforcement is Enforcement.OFF:
            trusted = self._shaped(state)
        if not trusted:
            return seen, None
        if self._fresh:
            self._fresh = False
            if (unverified := self.platform.reset(state)) and self.enforcement is not Enforcement.OFF:
                seen = (
                    *seen,
                    failure("backup", Cause.BACKUP_REFUSED, f"no verified stop to start from: {unverified}"),
                )
        return seen, state

    def _shaped(self, state: RobotState) -> bool:
        return state.q.shape == state.v.shape == (len(self.platform.joints),)

    def _bare(self, observation: Observation, state: RobotState | None) -> RobotState | None:
        """What a raw proposal is carried out from: under ``MONITOR_ONLY`` any state of the right shape."""
        if self.enforcement is Enforcement.MONITOR_ONLY and self._shaped(observation.state):
            return observation.state
        return state

    def _accept(self, source: Source, arrived: Proposal | None, received: Sequence[Verdict]) -> None:
        """Follow a proposal that passed intake; what goes out raw is any that has the right shape."""
        if arrived is None or arrived.actions.shape != source.spec.shape:
            return
        source.raw = arrived
        if self.enforcement is Enforcement.OFF or all(v.cause is None for v in received):
            source.current = arrived

    def _nominal(self, proposal: Proposal | None, state: RobotState | None, now: int) -> Nominal | None:
        if state is None or proposal is None:
            return None
        return self._lease.holder.controller.nominal(proposal, self.platform.planned(state), now)

    def _unfiltered(
        self, bare: RobotState | None, state: RobotState | None, nominal: Nominal | None, now: int
    ) -> FilterResult | None:
        """The proposal as it is, which is what goes out where nothing is enforced (outside law 1).

        Only from the acknowledgement that starts the episode on, and until a person stops it.
        """
        running = self._started and not self._halted
        if self.enforcement is Enforcement.FULL or not running or bare is None:
            return None
        source = self._lease.holder
        if bare is not state or source.raw is not source.current:
            nominal = self._nominal(source.raw, bare, now)
        return self.platform.bypass(bare, nominal)

    def _watch(self, evidence: Evidence, state: RobotState | None) -> tuple[Verdict, ...]:
        """Deterministic checks, the filter's and the journal's own failures, and the scored monitors."""
        source = self._lease.holder
        measured = getattr(self.port, "measured", None)  # a replay feeds recorded durations back
        previous = evidence.previous
        if previous is not None and isinstance(measured, Timings):
            previous = replace(previous, timings=measured)
        kept = (*unkept(self.journal, self._unsaved), *fed_back(self.port))
        return (
            *source.checks.verdicts(evidence, state, previous),
            *own_failures(evidence.previous, kept, self._people.stop_reason),
            *(self.bank.verdicts(evidence) if source.name == POLICY else (held_by(source.name),)),
        )

    def _advance(self, causes: tuple[Cause, ...], state: RobotState | None, person: bool, now: int) -> ModeOutputs:
        current = self._lease.holder.current
        parts = current.parts if current is not None and current.parts is not None else _NO_PARTS
        inputs = ModeInputs.of(
            causes,
            ack=self._people.acknowledged(now, self._tick),
            standstill=state is not None and self.platform.standstill(state),
            ready=not self.self_test,
            person=person,
            shadow=self.table.mask(parts.agreeing) if parts.agreeing else 0,
            available=self._substitutes(parts, now) if self.table.names else 0,
        )
        self.mode_inputs, before = inputs, self._modes.estops
        self._modes, outputs = step(self.table, self._modes, inputs)
        if self._lockout is not None and self._modes.estops != before:
            self._unsaved = saved(self._lockout, self._modes.estops)
        if outputs.authority is Authority.POLICY:
            self._started = True
        if outputs.authority is Authority.POLICY or outputs.mode > Mode.HOLD:
            self._people.taken()
        if not _PERSON.isdisjoint(causes):
            self._halted = True
        self._people.stop_reason = ""
        return outputs

    def _substitutes(self, parts: Parts, now: int) -> int:
        """Capabilities whose substitute is there: the rest of a chunk is the shield's to know, others are reported."""
        mask, source = self.table.mask(parts.substitutes), self._lease.holder
        current, spec = source.current, source.spec
        if current is not None and now < current.t_obs + round(spec.chunk * NS_PER_S / spec.rate_hz):
            return mask | self.table.mask((_CHUNK,))
        return mask & ~self.table.mask((_CHUNK,))

    def _move(
        self,
        state: RobotState | None,
        nominal: Nominal | None,
        raw: FilterResult | None,
        outputs: ModeOutputs,
        now: int,
    ) -> tuple[FilterResult, Command, str]:
        """Law 1: the filter's or the backup's answer, or the terminal stop; with it who made the command.

        Under ``MONITOR_ONLY`` the answer is what would have gone out instead of ``raw``. The body then is where the
        raw command leads it, so the stop that the filter stored counts only if that command was its own: otherwise the
        next tick begins with the stop from wherever the body is, verified or not, and nothing is guaranteed.
        """
        if raw is not None and self.enforcement is Enforcement.OFF:
            result = raw
        else:
            result = self._enforced(state, nominal, outputs, now)
        if self.enforcement is Enforcement.MONITOR_ONLY:
            own = outputs.authority is Authority.POLICY  # a jog does not go out: the policy's raw command does
            source = self._lease.holder
            same = own and result.status is FilterStatus.ADMISSIBLE and source.raw is source.current
            self._fresh = self._fresh or (raw is not None and not same)
            result = replace(result, provisional=True)
        sent = result if raw is None else raw
        self._sequence += 1
        return result, self.platform.command(sent, now, now + self._expiry, self._sequence), sent.source

    def _enforced(
        self, state: RobotState | None, nominal: Nominal | None, outputs: ModeOutputs, now: int
    ) -> FilterResult:
        envelope = outputs.envelope
        if outputs.authority is Authority.POLICY:
            if self._authority is not Authority.POLICY:
                self._ramp.begin()
            envelope = self._ramp.within(envelope, now)
        match outputs.authority:
            case Authority.POLICY | Authority.OPERATOR if state is not None and nominal is not None:
                return self.platform.filter(state, nominal, envelope)
            case Authority.NONE:
                return self.platform.stopped(f"mode {outputs.mode.name}")
            case _:
                if self._authority is Authority.NONE and state is not None:
                    self.platform.reset(state)  # the brakes held the body; the old reference is elsewhere
                return self.platform.backup(state)

    # -- people ---------------------------------------------------------------------------------------

    def acknowledge(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Allow motion. From HOLD and worse it counts only if given at standstill with every cause clear.

        The one that starts an episode may come before the first tick; it waits for ``start_ack_s``.

        Args:
            operator: who. reason: why. simulated: a script stood in for the person.
        """
        with self._lock:
            self._ensure_episode()
            self._human("acknowledge", operator, reason, simulated)
            self._people.acknowledge()

    def stop(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Ask for a stop; takes effect in the next tick, also across the start of an episode."""
        with self._lock:
            self._ensure_episode()
            self._human("stop", operator, reason, simulated)
            self._people.stop(reason)

    def jog(self, velocity: ArrayLike, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Move the body by hand in HOLD: slowly, and only away from limits and links that are near.

        Hold to run: it goes on for ``jog_s`` and must be asked for again. In other modes it does nothing, then or
        later, and while a cause that asks for HOLD is active, or nothing is enforced, neither. The mode stays HOLD.

        Args:
            velocity: of the joints, at most their limits, shape (n,), rad/s.
            operator: who. reason: why. simulated: a script stood in for the person.

        Raises:
            ConfigError: nobody's name, or not one number within the limits for every joint.
        """
        wanted = joint_velocities(velocity, self.platform.joints, self.platform.v_max)
        with self._lock:
            self._ensure_episode()
            self._human("jog", operator, reason, simulated, velocity=wanted.tolist())
            self._people.jog(wanted)

    def give(self, source: str, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Let another source hold the command from the next tick on; its motion is ramped like a first one.

        The mode stays: from HOLD and worse it takes an acknowledgement as well. An episode begins with the policy.

        Args:
            source: ``"policy"`` or a name of ``sources``; nothing changes if it holds already.
            operator: who. reason: why. simulated: a script stood in for the person.

        Raises:
            ConfigError: nobody's name, or no source of that name.
        """
        self._lease.named(source)
        with self._lock:
            self._ensure_episode()
            self._human("give", operator, reason, simulated, to=source)
            if self._lease.give(source):
                self._ramp.begin()
                self._intake.handed(source)

    def _human(self, action: str, operator: str, reason: str, simulated: bool, **more: Json) -> None:
        if not operator:
            raise ConfigError(f"{action}: operator must name somebody")
        body: dict[str, Json] = {
            "operator": operator,
            "reason": reason,
            "action": action,
            "simulated": simulated,
            **more,
        }
        self.record(RecordKind.HUMAN, body)

    # -- episodes and records -------------------------------------------------------------------------

    def begin_episode(self, task: str, **info: Json) -> None:
        """Start an episode: the unit of calibration. The body stays in HOLD until it is acknowledged.

        Args:
            task: what the robot is to do.
            info: ``scenario``, ``seed``, ``faults`` for the record.
        """
        with self._lock:
            self._opened(task, info)

    def _opened(self, task: str, info: Mapping[str, Json]) -> None:
        self._forget()
        body: dict[str, Json] = {
            "task": task,
            "enforcement": self.enforcement.value,
            "strategy": self.strategy,
            "policy": getattr(self.port, "name", None),
            "spec": encode_spec(self.spec),
            "sources": {name: encode_spec(spec) for name, spec in self._lease.specs.items()},
            "given": {name: encode_spec(spec) for name, spec in self._lease.given.items()},
            "mode": self._modes.mode.value,
            "estops": self._modes.estops,
            "commands": self._sequence,
            "void": self.bank.void,
            **info,
        }
        self.episode = self.journal.count(RecordKind.EPISODE_OPEN) if self.journal else self.episode + 1
        self.record(RecordKind.EPISODE_OPEN, body)

    def _ensure_episode(self) -> None:
        """Whoever starts without naming an episode gets one without a name."""
        if self.episode < 0:
            self.begin_episode("unnamed")

    def record(self, kind: RecordKind, body: Mapping[str, Json]) -> None:
        """Place a record of the current episode in the journal."""
        if self.journal is not None:
            if kind is RecordKind.EPISODE_CLOSE and self._events is not None:
                self._events.restart()
            self.journal.append(kind, {**body, "episode": self.episode})

    def reset(self) -> None:
        """Back to the start of the current episode; the body stays in HOLD until it is acknowledged."""
        with self._lock:
            self._human("reset", "caller", "reset", simulated=False)
            self._forget()

    def close(self) -> None:
        """End the episode, close the journal if this shield opened it, and the ports that it made."""
        if self._events is not None:
            self._events.restart()
        if self._owns_journal and self.journal is not None:
            self.journal.close()
        try:
            self.bank.end()
        finally:
            self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_open(self, *, simulated: bool = True) -> dict[str, Json]:
        """Everything a reviewer or a replay must know before the first decision."""
        body, made = self.platform.identity(), self.bank.calibration
        rows: Json = jsonable(getattr(self.platform, "recipe", None))  # of a host that plays rows itself
        return run_open_body(
            robot={"name": body.name, "digest": body.digest, "source": jsonable(body.source)},
            config={
                "shield": self.config.model_dump(mode="json"),
                "strategy": self.strategy,
                "period_s": self.period,
                "calibration": None if made is None else made.model_dump(mode="json"),
                **({} if rows is None else {"rows": rows}),
            },
            enforcement=self.enforcement,
            simulated=simulated,
            digests={
                "table": self.table.digest,
                "policy": getattr(self.port, "digest", None),
                "calibration": None if made is None else made.digest,
            },
            limits={"joints": jsonable(body.limits), "clearance": body.clearance},
        )

    def _unrecorded(self, decision: Decision, state: RobotState | None, now: int) -> Decision:
        """Law 10: what is not recorded is not released; the stored stop is, and the next tick holds."""
        if decision.authority not in _MOVERS or self.enforcement is not Enforcement.FULL:
            return decision
        result = self.platform.backup(state)
        command = self.platform.command(result, now, now + self._expiry, self._sequence)
        return replace(decision, command=command, filter=result, source=result.source, authority=Authority.BACKUP)

    def _recorded(self, now: int, observation: Observation, arrived: Proposal | None, decision: Decision) -> bool:
        """Law 10: before the command leaves this function."""
        if self.journal is None:
            return True
        body = decision_body(now, observation, arrived, decision)
        placed = self.journal.append(RecordKind.DECISION, body, tick=decision.tick, t=now) >= 0
        if placed and self._events is not None:
            self._events.tell(decision, observation, now)
        return placed

    def _forget(self) -> None:
        """Everything that belongs to an episode. E-stops are counted for the process."""
        self._intake.reset()
        self._lease.reset()
        self.bank.begin()
        # A stop is let go by an acknowledgement only, not by a new episode.
        latched = self._modes.mode in (Mode.STOP, Mode.ESTOP, Mode.LOCKOUT)
        mode = self._modes.mode if latched else Mode.BOOT
        self._modes = ModeState.initial(self.table, mode, self._modes.estops)
        self.platform.reset()
        self._tick = self._recording = 0
        self._previous = None
        self._authority = Authority.BACKUP
        self._fresh, self._started, self._halted = True, False, False
        self._people.begin()
        if self._events is not None:
            self._events.restart(mode)


def _enforcement(given: Enforcement, *, monitor_only: bool) -> Enforcement:
    if monitor_only and given is Enforcement.OFF:
        raise ConfigError("monitor_only=True contradicts enforcement=OFF: leave one of them out")
    return Enforcement.MONITOR_ONLY if monitor_only else given


def _timings(watch: list[int], recording: int) -> Timings:
    intake, policy, controller, monitors, modes, moved = (b - a for a, b in pairwise(watch))
    return Timings(
        intake=intake,
        policy=policy,
        controller=controller,
        monitors=monitors,
        modes=modes,
        filter=moved,
        record=recording,
        total=watch[-1] - watch[0] + recording,
    )
