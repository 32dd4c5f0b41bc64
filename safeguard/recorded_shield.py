"""The shield of a recorded run, built again as the journal says, and a policy port that plays the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from safeguard.audit.records.decode import decode_spec
from safeguard.audit.records.registry import EpisodeOpen, Record, RunOpen
from safeguard.controllers.row_arm import RowArm
from safeguard.core.config import ShieldConfig
from safeguard.core.errors import JournalError
from safeguard.core.protocols import PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Decision, Observation, Proposal, Timings, Verdict
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

    def give(self, source: str, *, operator: str, reason: str, simulated: bool = False) -> object:
        """An operator lets another source hold the command."""
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
        unkept: what the journal and the lockout file said in this tick that they could not keep; inputs of it as well.
    """

    def __init__(self, spec: ActionSpec | None) -> None:
        self.measured = Timings()
        self.unkept: tuple[Verdict, ...] = ()
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


class _OtherSource:
    """A source beside the policy: only the holder's proposals are recorded, and the holder is asked first.

    Args:
        spec: of its proposals.
        port: that plays the record.
    """

    def __init__(self, spec: ActionSpec, port: PolicyPort) -> None:
        self.spec, self._port = spec, port

    def post(self, observation: Observation, now: int) -> None:
        """Nothing: the answers are known."""

    def poll(self, now: int) -> Proposal | None:
        """This tick's proposal, if nobody took it before."""
        return self._port.poll(now)

    def reset(self) -> None:
        """Nothing of its own."""


Rebuild: TypeAlias = Callable[[Record, Record, PolicyPort], ShieldLike]
"""(run_open, episode_open, port) → the shield of that episode; it may be the one of the episode before."""


class _Rows(BaseModel):
    """How a host plays rows, as ``RowArm.recipe`` writes it."""

    model_config = ConfigDict(extra="forbid")

    rate_hz: float
    chunk: int
    plays: int
    plays_on: bool


class _Recipe(BaseModel):
    """The ``config`` of ``run_open``, as ``Shield.run_open`` writes it."""

    model_config = ConfigDict(extra="forbid")

    shield: ShieldConfig
    strategy: str
    period_s: float
    calibration: Calibration | None
    rows: _Rows | None = None


def recorded_shield(
    run_open: Record, episode_open: Record, port: PolicyPort, config: ShieldConfig | None = None
) -> Shield:
    """The shield that the records describe; with ``config`` in place of the recorded one, if it is given.

    Raises:
        JournalError: the robot cannot be built again as it was, or the configuration is not one.
    """
    run, episode = run_open.body, episode_open.body
    assert isinstance(run, RunOpen)
    assert isinstance(episode, EpisodeOpen)
    if not isinstance(run.robot.source, dict):
        raise JournalError(f"robot {run.robot.name!r} has no recorded source: pass rebuild= with its platform")
    recipe = _recipe(run)
    robot = _robot(orjson.dumps(run.robot.source))
    if robot.digest != run.robot.digest:
        raise JournalError(
            f"robot {run.robot.name!r} has the digest {robot.digest[:12]} here, the run was made with "
            f"{run.robot.digest[:12]}: its description or a library that reads it differs"
        )
    used, rows = config or recipe.shield, recipe.rows
    arm = None if rows is None else RowArm(robot, **rows.model_dump(), config=used.filter, drive=used.drive)
    shield = Shield(
        robot if arm is None else arm,
        port,
        sources={name: _OtherSource(decode_spec(spec), port) for name, spec in episode.sources.items()},
        strategy=episode.strategy,
        period=recipe.period_s,
        config=used,
        enforcement=episode.enforcement,
        calibration=recipe.calibration,
        void=episode.void,
        mode=episode.mode,
        estops=episode.estops,
        commands=episode.commands,
    )
    if arm is not None and episode.told is not None:
        arm.resume(episode.told)  # after the self-test, which moves the body elsewhere
    return shield


def recorded_config(run: RunOpen) -> ShieldConfig:
    """The configuration that a run was made with; raises JournalError."""
    return _recipe(run).shield


def _recipe(run: RunOpen) -> _Recipe:
    try:
        return _Recipe.model_validate(run.config)
    except ValidationError as error:
        raise JournalError(f"run_open holds no configuration of a shield: {error}") from error


@lru_cache(maxsize=4)
def _robot(source: bytes) -> RobotModel:
    return RobotModel.from_source(orjson.loads(source))
