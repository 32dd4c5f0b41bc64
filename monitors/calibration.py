"""The calibration artefact of a shield's monitors, and how it is made of recorded nominal episodes.

    episodes ─┬─ one in ten: learn ─────▶ what monitors learn (arrays)
              ├─ one in ten: scale ─────▶ scale of every score (normal.py)
              └─ the others: calibrate ─▶ D = largest joint score of each ──▶ a threshold for every rung (rung.py)

The three sets of episodes are disjoint: what has learned from an episode finds nothing new in it, so that a scale of
its scores would be too small. One artefact is one policy, robot, configuration and scenario; digests say which.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safeguard.core.config import MonitorsConfig
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Vector, frozen_array
from safeguard.monitors.conformal import exchangeability
from safeguard.monitors.joint import Joint, Witness
from safeguard.monitors.normal import RankScale
from safeguard.monitors.rung import Rung, conformal

Role: TypeAlias = Literal["learn", "scale", "calibrate"]
"""What an episode is used for, and for nothing else."""

_ROLES: Final[dict[int, Role]] = {0: "learn", 5: "scale"}  # by the last digit of its number

_DIGESTS: Final = ("policy", "robot", "config", "scenario")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Origin(_Frozen):
    """Where calibration episodes came from. Digests are SHA-256 hex; "" where there is nothing to digest."""

    policy: str = ""
    robot: str = ""
    config: str = ""
    scenario: str = ""
    tools: tuple[tuple[str, str], ...] = ()
    seeds: tuple[int, ...] = ()
    excluded: tuple[int, ...] = Field(default=(), description="episodes that the referee did not find nominal")


class Learned(_Frozen):
    """An array that a monitor learned on the fit episodes."""

    dtype: Literal["float32", "float64"]
    shape: tuple[int, ...]
    sha256: str
    data: str = Field(default="", description="base64 of the little-endian numbers; in a file they stand beside it")

    @classmethod
    def of(cls, array: Vector) -> Self:
        """The array as it is kept: in half the room where nothing is lost by it."""
        with np.errstate(over="ignore"):
            single = array.astype("<f4")
        name: Literal["float32", "float64"] = "float32" if np.array_equal(single, array) else "float64"
        raw = (single if name == "float32" else array.astype("<f8")).tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        return cls(dtype=name, shape=array.shape, sha256=digest, data=base64.b64encode(raw).decode())

    def array(self) -> Vector:
        """The array itself, read-only."""
        kept = np.frombuffer(base64.b64decode(self.data), dtype="<f4" if self.dtype == "float32" else "<f8")
        return frozen_array(kept.astype(np.float64).reshape(self.shape))

    @model_validator(mode="after")
    def _intact(self) -> Self:
        if self.data and hashlib.sha256(base64.b64decode(self.data)).hexdigest() != self.sha256:
            raise ValueError("the numbers do not have the digest that is stated")
        return self


class Member(_Frozen):
    """One monitor of the set that was calibrated."""

    name: str
    witness: Witness
    resolution: Annotated[float, Field(gt=0.0, description="smallest difference of scores that means anything")]
    maxima: tuple[float, ...] = Field(description="its largest score in each scale episode, ascending")


class Order(_Frozen):
    """Whether the order in which the episodes were recorded says anything about their maxima (``exchangeability``)."""

    p_value: float
    change: int = Field(description="episodes before the largest change; where to look first")
    permutations: int
    seed: int

    @property
    def rejected(self) -> bool:
        """The episodes are not exchangeable, at the level 0.01: then no rate is promised."""
        return self.p_value < 0.01


class Calibration(_Frozen):
    """The artefact that ``safeguard calibrate`` writes: JSON, and ``.npz`` beside it where monitors learned arrays.

    Attributes:
        members: monitors of the joint score, in order, with their scales.
        debounce: m and n of the joint score.
        horizon_ticks: longest calibrated episode; past it nothing is promised.
        rungs: thresholds, with all that they were made of.
        learned: arrays by name.
        order: exchangeability test of the episodes, or None where there were too few for one.
        origin: where the episodes came from.
        digest: SHA-256 over everything above.
    """

    version: Literal[2] = 2
    members: tuple[Member, ...] = Field(min_length=1)
    debounce: tuple[int, int]
    horizon_ticks: Annotated[int, Field(ge=1)]
    rungs: tuple[Rung, Rung, Rung]
    learned: dict[str, Learned] = Field(default_factory=dict[str, Learned])
    order: Order | None = None
    origin: Origin = Origin()
    digest: str = ""

    @property
    def calibrated(self) -> bool:
        """Every rung has a threshold."""
        return all(rung.calibrated for rung in self.rungs)

    @property
    def sound(self) -> bool:
        """Every rung has a threshold, and the episodes look exchangeable."""
        return self.calibrated and not (self.order is not None and self.order.rejected)

    @property
    def n(self) -> int:
        """Number of calibration episodes."""
        return self.rungs[0].n

    @property
    def arrays(self) -> dict[str, Vector]:
        """What the monitors learned."""
        return {name: kept.array() for name, kept in self.learned.items()}

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": self._digest()})

    def _digest(self) -> str:
        kept = self.model_dump(mode="json", exclude={"digest": True, "learned": {"__all__": {"data"}}})
        return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the artefact as JSON; arrays go into the ``.npz`` file of the same name."""
        sealed = self.sealed()
        if self.learned:
            with path.with_suffix(".npz").open("wb") as file:
                np.savez(file, allow_pickle=False, **self.arrays)
        text = sealed.model_dump_json(indent=1, exclude={"learned": {"__all__": {"data"}}})
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, expected: Mapping[str, str] | None = None) -> Self:
        """Read an artefact and check it against itself and against the ``expected`` digests.

        ``expected`` maps "policy", "robot", "config" or "scenario" to a digest.
        Raises CalibrationError for a file that is missing, damaged, edited, or of something else.
        """
        again = "run the calibration again"
        try:
            found = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read: {error}; {again}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CalibrationError(
                f"{path}: damaged or of another version: {where}: {first['msg']}; {again}"
            ) from error
        if found.digest != found._digest():
            raise CalibrationError(f"{path}: digest {found.digest[:12]!r} does not fit its content; {again}")
        found = found._with_arrays(path.with_suffix(".npz"))
        found.check(expected or {}, str(path))
        return found

    def _with_arrays(self, path: Path) -> Self:
        if not self.learned:
            return self
        try:
            with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
                read = {name: Learned.of(np.asarray(file[name], dtype=np.float64)) for name in self.learned}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise CalibrationError(f"{path}: cannot be read: {error}; run the calibration again") from error
        for name, kept in self.learned.items():
            if (read[name].dtype, read[name].shape, read[name].sha256) != (kept.dtype, kept.shape, kept.sha256):
                raise CalibrationError(
                    f"{path}: {name} is not the array that was calibrated; run the calibration again"
                )
        return self.model_copy(update={"learned": read})

    def check(self, expected: Mapping[str, str], where: str = "calibration") -> None:
        """Raise CalibrationError naming the first of ``expected`` that is different here."""
        for name, value in expected.items():
            if name not in _DIGESTS:
                raise CalibrationError(f"{where}: nothing called {name!r} to compare; known: {', '.join(_DIGESTS)}")
            own = str(getattr(self.origin, name))
            if own != value:
                raise CalibrationError(f"{where}: made for {name} {own[:12]!r}, not {value[:12]!r}; calibrate again")


def role(index: int) -> Role:
    """What the nominal episode at ``index`` is used for."""
    return _ROLES.get(index % 10, "calibrate")


def calibrate(
    traces: Sequence[Mapping[str, Vector]],
    members: Sequence[tuple[str, Witness, float]],
    *,
    config: MonitorsConfig | None = None,
    learned: Mapping[str, Vector] | None = None,
    origin: Origin | None = None,
) -> Calibration:
    """The calibration of a set of monitors from the scores of nominal episodes.

    Args:
        traces: of every episode, in the order of recording: monitor name → its score in every tick, shape (ticks,).
        members: name, witness and resolution of every monitor.
        config: rates of the rungs, debouncing.
        learned: arrays that monitors learned on the episodes with the role "learn".
        origin: digests, tool versions and seeds, for the record.

    Raises:
        CalibrationError: too few episodes for all roles; scores that are missing, not finite, or of unequal length.
        MissingExtraError: MAPIE is not installed (extra ``calibrate``).
    """
    settings = config or MonitorsConfig()
    for index, trace in enumerate(traces):
        _check(index, trace, [name for name, _, _ in members])
    scale = [trace for index, trace in enumerate(traces) if role(index) == "scale"]
    rest = [trace for index, trace in enumerate(traces) if role(index) == "calibrate"]
    if not scale:
        raise CalibrationError(f"{len(traces)} episodes leave none to scale the scores with; record at least 6")
    kept = tuple(
        Member(
            name=name,
            witness=witness,
            resolution=resolution,
            maxima=tuple(sorted(float(trace[name].max()) for trace in scale)),
        )
        for name, witness, resolution in members
    )
    peaks = [peak(trace, kept, settings.debounce) for trace in rest]
    act, warn = [largest for largest, _ in peaks], [largest for _, largest in peaks]
    rates = settings.rungs
    return Calibration(
        members=kept,
        debounce=settings.debounce,
        horizon_ticks=max(_ticks(trace) for trace in rest),
        rungs=(
            conformal("warn", "g_warn", warn, rates.warn),
            conformal("degrade", "g_act", act, rates.degrade),
            conformal("stop", "g_act", act, rates.stop),
        ),
        learned={name: Learned.of(array) for name, array in (learned or {}).items()},
        order=_order(warn),
        origin=origin or Origin(),
    ).sealed()


def peak(trace: Mapping[str, Vector], members: Sequence[Member], debounce: tuple[int, int]) -> tuple[float, float]:
    """(largest g_act, largest g_warn) of one episode."""
    scales = [RankScale(member.maxima, member.resolution) for member in members]
    joint = Joint([member.witness for member in members], debounce)
    columns = [trace[member.name].tolist() for member in members]
    largest_act = largest_warn = 0.0
    for row in zip(*columns, strict=True):
        act, warn = joint.fold([scale(score) for scale, score in zip(scales, row, strict=True)])
        largest_act, largest_warn = max(largest_act, act), max(largest_warn, warn)
    return largest_act, largest_warn


def _order(maxima: Sequence[float]) -> Order | None:
    if len(set(maxima)) < 2:
        return None
    return Order(**asdict(exchangeability(maxima)))


def _ticks(trace: Mapping[str, Vector]) -> int:
    return len(next(iter(trace.values())))


def _check(index: int, trace: Mapping[str, Vector], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in trace]
    if missing:
        raise CalibrationError(f"episode {index} has no scores of {', '.join(missing)}")
    lengths = {name: trace[name].shape for name in names}
    if len(set(lengths.values())) != 1 or len(trace[names[0]].shape) != 1 or not trace[names[0]].size:
        raise CalibrationError(f"episode {index}: every monitor has one score a tick, got shapes {lengths}")
    for name in names:
        bad = np.flatnonzero(~np.isfinite(trace[name]))
        if bad.size:
            value = float(trace[name][bad[0]])
            raise CalibrationError(f"episode {index}, tick {bad[0]}: {name} scored {value}; the episode is not nominal")
