"""A recorded run through the shield again: every decision must come out the same, bit for bit (law 10).

What a journal holds of the world is fed back (observations, times, proposals, people, measured durations);
what the shield made of it is computed anew and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from safeguard.audit.decode import decode_observation, decode_proposal, decode_spec, decode_timings
from safeguard.audit.encode import Json, decision_body
from safeguard.audit.reader import read_run
from safeguard.audit.records import DecisionRecord, EpisodeOpen, Human, Record, RunOpen
from safeguard.core.config import ShieldConfig
from safeguard.core.errors import JournalError
from safeguard.core.protocols import PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Decision, Observation, Proposal, Timings
from safeguard.monitors import Calibration
from safeguard.shield import Shield


class ShieldLike(Protocol):
    """What replay needs of a shield."""

    def begin_episode(self, task: str) -> object:
        """Start an episode."""
        ...

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """One tick."""
        ...

    def acknowledge(self, *, operator: str, reason: str, simulated: bool = False) -> object:
        """An operator lets the shield go on."""
        ...

    def stop(self, *, operator: str, reason: str, simulated: bool = False) -> object:
        """An operator asks for a stop."""
        ...

    def jog(self, velocity: Sequence[float], *, operator: str, reason: str, simulated: bool = False) -> object:
        """An operator moves the body by hand."""
        ...

    def reset(self) -> object:
        """Back to the start of an episode."""
        ...

    def close(self) -> object:
        """Let go of everything."""
        ...


class RecordedPort:
    """A ``PolicyPort`` that hands out, in each tick, the proposal that arrived in it.

    Attributes:
        measured: durations that the previous tick of the episode was measured to take; inputs of this one.
    """

    def __init__(self, spec: ActionSpec | None) -> None:
        self.measured = Timings()
        self._spec = spec
        self._arrived: Proposal | None = None

    @property
    def spec(self) -> ActionSpec:
        """The recorded spec; raises JournalError where the episode recorded none."""
        if self._spec is None:
            raise JournalError("the journal holds no action spec for this episode; it had no policy")
        return self._spec

    def load(self, proposal: Proposal | None) -> None:
        """Set what arrives in the coming tick."""
        self._arrived = proposal

    def post(self, observation: Observation, now: int) -> None:
        """Nothing: the answers are known."""

    def poll(self, now: int) -> Proposal | None:
        """This tick's proposal, once."""
        arrived, self._arrived = self._arrived, None
        return arrived

    def reset(self) -> None:
        """Nothing in flight: the coming tick has not been loaded yet."""
        self._arrived = None


Rebuild: TypeAlias = Callable[[Record, Record, PolicyPort], ShieldLike]
"""(run_open, episode_open, port) → the shield of that episode; it may be the one of the episode before."""


class _Recipe(BaseModel):
    """The ``config`` of ``run_open``, as ``Shield.run_open`` writes it."""

    model_config = ConfigDict(extra="forbid")

    shield: ShieldConfig
    strategy: str
    period_s: float
    calibrations: list[Calibration]


def recorded_shield(run_open: Record, episode_open: Record, port: PolicyPort) -> Shield:
    """The shield that the records describe.

    Raises:
        JournalError: the robot cannot be built again as it was, or the configuration is not one.
    """
    run, episode = run_open.body, episode_open.body
    assert isinstance(run, RunOpen)
    assert isinstance(episode, EpisodeOpen)
    if not isinstance(run.robot.source, dict):
        raise JournalError(f"robot {run.robot.name!r} has no recorded source: pass rebuild= with its platform")
    try:
        recipe = _Recipe.model_validate(run.config)
    except ValidationError as error:
        raise JournalError(f"run_open holds no configuration of a shield: {error}") from error
    robot = _robot(orjson.dumps(run.robot.source))
    if robot.digest != run.robot.digest:
        raise JournalError(
            f"robot {run.robot.name!r} has the digest {robot.digest[:12]} here, the run was made with "
            f"{run.robot.digest[:12]}: its description or a library that reads it differs"
        )
    return Shield(
        robot,
        port,
        strategy=episode.strategy,
        period=recipe.period_s,
        config=recipe.shield,
        enforcement=episode.enforcement,
        calibrations=recipe.calibrations,
        mode=episode.mode,
        estops=episode.estops,
        commands=episode.commands,
    )


@lru_cache(maxsize=4)
def _robot(source: bytes) -> RobotModel:
    return RobotModel.from_source(orjson.loads(source))


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first decision that came out differently.

    Attributes:
        episode, tick: where.
        seq: the record.
        stage: which part of the tick: intake, policy, monitors, modes, filter, command or shield.
        path: the first differing field, in the order in which a decision comes about.
        expected: what the journal holds there, as JSON.
        got: what the replay computed, as JSON.
    """

    episode: int
    tick: int
    seq: int
    stage: str
    path: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What :func:`replay_run` found.

    Attributes:
        decisions: how many decisions were recomputed and found identical.
        episodes: how many episodes were entered.
        divergence: the first one that differs, or None.
    """

    decisions: int
    episodes: int
    divergence: Divergence | None

    @property
    def identical(self) -> bool:
        """At least one decision was recomputed and every one came out the same, bit for bit."""
        return self.divergence is None and self.decisions > 0


def replay_run(
    path: str | Path,
    *,
    rebuild: Rebuild | None = None,
    episodes: Collection[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReplayReport:
    """Recompute every decision of a run and compare it with the record, up to the first difference.

    The hash chain is ``verify_run``'s business and not checked here: replay says what an edit would change.

    Args:
        path: the run folder.
        rebuild: makes the shield of an episode from the first record of the run and of the episode; by
            default as they describe it.
        episodes: replay only these.
        progress: called with the number of decisions replayed so far.

    Raises:
        JournalError: the journal cannot be read, or a record is out of place.
    """
    wanted = None if episodes is None else frozenset(episodes)
    stage = _Stage(rebuild or recorded_shield, wanted, progress)
    try:
        for record in read_run(path, chain=False):
            if (divergence := stage.play(record)) is not None:
                return ReplayReport(stage.decisions, stage.episodes, divergence)
    finally:
        stage.close()
    return ReplayReport(stage.decisions, stage.episodes, None)


class _Stage:
    """Where one run is played again: the shield of the current episode and its port."""

    def __init__(self, rebuild: Rebuild, wanted: frozenset[int] | None, progress: Callable[[int], None] | None) -> None:
        self.decisions = self.episodes = 0
        self._rebuild, self._wanted, self._progress = rebuild, wanted, progress
        self._run_open: Record | None = None
        self._shield: ShieldLike | None = None
        self._port = RecordedPort(None)
        self._episode: int | None = None

    def play(self, record: Record) -> Divergence | None:
        """Do what ``record`` says; what came out differently, if anything did."""
        match record.body:
            case RunOpen():
                self._run_open = record
            case EpisodeOpen() as body:
                self._begin(record, body)
            case Human() as body if self._episode is not None:
                _act(self._current(record), body)
            case DecisionRecord() as body if body.episode == self._episode:
                return self._decide(record, body)
            case DecisionRecord() as body if self._wanted is None or body.episode in self._wanted:
                raise JournalError(f"record {record.seq}: decision of episode {body.episode}, which is not open")
            case _:
                pass
        return None

    def _begin(self, record: Record, body: EpisodeOpen) -> None:
        if self._wanted is not None and body.episode not in self._wanted:
            self._episode = None
            return
        assert self._run_open is not None  # the reader refuses a journal that starts with anything else
        self._port = RecordedPort(None if body.spec is None else decode_spec(body.spec))
        shield = self._rebuild(self._run_open, record, self._port)
        if shield is not self._shield:
            self.close()
        self._shield, self._episode = shield, body.episode
        shield.begin_episode(body.task)
        self.episodes += 1

    def _current(self, record: Record) -> ShieldLike:
        if self._shield is None:
            raise JournalError(f"record {record.seq} ({record.kind.value}) stands before any episode_open")
        return self._shield

    def _decide(self, record: Record, body: DecisionRecord) -> Divergence | None:
        observation = decode_observation(body.observation)
        proposal = None if body.proposal is None else decode_proposal(body.proposal)
        self._port.load(proposal)
        decision = self._current(record).step(observation, now=body.now)
        missed = self._port.poll(body.now)  # a shield that never asked for it
        got = decision_body(body.now, observation, None if missed is proposal else proposal, decision)
        if (divergence := _compare(record, body, got)) is None:
            self._port.measured = decode_timings(body.timings)
            self.decisions += 1
            if self._progress is not None:
                self._progress(self.decisions)
        return divergence

    def close(self) -> None:
        """Close the shield of the current episode."""
        if self._shield is not None:
            self._shield.close()
        self._shield = None


def _act(shield: ShieldLike, human: Human) -> None:
    """What somebody did to the shield, done again."""
    match human.action:
        case "acknowledge":
            shield.acknowledge(operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "stop":
            shield.stop(operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "jog":
            shield.jog(human.velocity or (), operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "reset":
            shield.reset()


_STAGES = {
    "now": "intake",
    "observation": "intake",
    "proposal": "policy",
    "decision.verdicts": "monitors",
    "decision.causes": "modes",
    "decision.reasons": "modes",
    "decision.mode": "modes",
    "decision.authority": "modes",
    "decision.filter": "filter",
    "decision.source": "command",
    "decision.command": "command",
}


def _compare(record: Record, body: DecisionRecord, got: Mapping[str, Json]) -> Divergence | None:
    """Where the recomputed record differs from the journal's; fields of ``not_replayed`` aside."""
    expected = cast("dict[str, Json]", orjson.loads(record.raw)["body"])
    before = {key: expected[key] for key in expected if key not in DecisionRecord.not_replayed}
    after = {key: got[key] for key in before}
    if _bytes(before) == _bytes(after):
        return None
    path, old, new = _first_difference("", before, _plain(after))
    stage = next((name for prefix, name in _STAGES.items() if path.startswith(prefix)), "shield")
    return Divergence(body.episode, body.tick, record.seq, stage, path, old, new)


def _bytes(value: Json) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS)


def _plain(value: Json) -> Json:
    return cast("Json", orjson.loads(_bytes(value)))


def _first_difference(path: str, old: Json, new: Json) -> tuple[str, str, str]:
    """(path, old, new) of the first leaf or length at which two JSON values that differ do so."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        key = next(key for key in old if _bytes(old[key]) != _bytes(new[key]))
        return _first_difference(f"{path}.{key}" if path else key, old[key], new[key])
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        at = next(at for at, pair in enumerate(zip(old, new, strict=True)) if _bytes(pair[0]) != _bytes(pair[1]))
        return _first_difference(f"{path}[{at}]", old[at], new[at])
    return path, _bytes(old).decode(), _bytes(new).decode()
