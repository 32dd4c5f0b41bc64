"""Split conformal calibration of a monitor, one number an episode.

The unit of exchangeability is the episode: D is the largest score of a nominal one. With n of them, sorted,

    k = ceil((n + 1)(1 − α)),   threshold = D_(k) if k ≤ n else +∞,   alarm where score > threshold

an exchangeable nominal episode alarms with probability at most α (Vovk et al. 2005; Lei et al. 2018),
whatever the dependence inside it. Given these n episodes the true rate is distributed as Beta(n + 1 − k, k).
The rank is computed in integers. Too few episodes: no threshold, and the monitor is uncalibrated.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safeguard.core.errors import CalibrationError, MissingExtraError

RATE_MASS: Final = 0.9
"""How much of Beta(n + 1 − k, k) the stated interval of the true rate holds."""

_DIGESTS: Final = ("policy", "robot", "config", "scenario")


class Origin(BaseModel):
    """Where calibration episodes came from. Digests are SHA-256 hex; "" where there is nothing to digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str = ""
    robot: str = ""
    config: str = ""
    scenario: str = ""
    tools: tuple[tuple[str, str], ...] = ()
    seeds: tuple[int, ...] = ()


class Calibration(BaseModel):
    """A frozen calibration artefact. Construction checks that its parts agree with each other.

    Attributes:
        monitor: name of the monitor that it belongs to.
        n: number of nominal episodes.
        alpha: declared false-alarm rate of one episode.
        k: rank of the threshold among the sorted maxima.
        threshold: alarm above it; None where n is too small for alpha.
        maxima: D of every episode, ascending.
        ties: n minus the number of distinct maxima; with ties the true rate lies at or below the interval.
        horizon_ticks: longest calibrated episode; past it the monitor is uncalibrated again.
        rate_interval: central 90 % interval of the true rate given these episodes, or None.
        origin: where the episodes came from.
        digest: SHA-256 over everything above.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: Literal[1] = 1
    monitor: str
    n: Annotated[int, Field(ge=0)]
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)]
    k: Annotated[int, Field(ge=1)]
    threshold: float | None
    maxima: tuple[float, ...]
    ties: Annotated[int, Field(ge=0)]
    horizon_ticks: Annotated[int, Field(ge=1)]
    rate_interval: tuple[float, float] | None
    origin: Origin
    digest: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        k = rank(self.n, self.alpha)
        expected: dict[str, tuple[object, object]] = {
            "n": (self.n, len(self.maxima)),
            "k": (self.k, k),
            "maxima": (self.maxima, tuple(sorted(self.maxima))),
            "ties": (self.ties, len(self.maxima) - len(set(self.maxima))),
            "threshold": (self.threshold, _order_statistic(self.maxima, k)),
        }
        for name, (found, right) in expected.items():
            if found != right:
                raise ValueError(f"{name} is {found!r}, its own data say {right!r}")
        return self

    @property
    def calibrated(self) -> bool:
        """There is a threshold."""
        return self.threshold is not None

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": self._digest()})

    def _digest(self) -> str:
        content = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the artefact as JSON."""
        path.write_text(self.sealed().model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, expected: Mapping[str, str] | None = None) -> Self:
        """Read an artefact and check it against itself and against the ``expected`` digests.

        ``expected`` maps "policy", "robot", "config" or "scenario" to a digest, or "monitor" to its name.
        Raises CalibrationError for a file that is missing, damaged, edited, or of something else.
        """
        try:
            found = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read: {error}; run the calibration again") from error
        except ValidationError as error:
            raise CalibrationError(f"{path}: damaged: {error}; run the calibration again") from error
        if found.digest != found._digest():
            raise CalibrationError(
                f"{path}: digest {found.digest[:12]!r} does not fit its content; run the calibration again"
            )
        found.check(expected or {}, str(path))
        return found

    def check(self, expected: Mapping[str, str], where: str = "calibration") -> None:
        """Raise CalibrationError naming the first of ``expected`` that is different here."""
        own = {"monitor": self.monitor}
        own |= {name: str(getattr(self.origin, name)) for name in _DIGESTS}
        for name, value in expected.items():
            if name not in own:
                raise CalibrationError(f"{where}: nothing called {name!r} to compare; known: {', '.join(own)}")
            if own[name] != value:
                raise CalibrationError(
                    f"{where}: made for {name} {own[name][:12]!r}, not {value[:12]!r}; calibrate again"
                )


def rank(n: int, alpha: float) -> int:
    """Rank k = ceil((n + 1)(1 − alpha)), exact: ``alpha`` counts as the decimal that it prints as."""
    return math.ceil((n + 1) * (1 - Fraction(repr(float(alpha)))))


def _order_statistic(ascending: Sequence[float], k: int) -> float | None:
    return ascending[k - 1] if k <= len(ascending) else None


def calibrate(
    name: str,
    episode_maxima: Sequence[float],
    alpha: float,
    *,
    horizon_ticks: int,
    origin: Origin | None = None,
    oracle: Literal["mapie"] | None = None,
) -> Calibration:
    """The calibration of monitor ``name`` from one maximum a nominal episode.

    Args:
        name: of the monitor.
        episode_maxima: D of every episode, in any order, finite.
        alpha: declared false-alarm rate of one episode, in (0, 1).
        horizon_ticks: length of the longest episode.
        origin: digests, tool versions and seeds, for the record.
        oracle: "mapie" compares the threshold with MAPIE's, to 1e-12. Needs the extra ``calibrate``.
    """
    bad = [i for i, value in enumerate(episode_maxima) if not math.isfinite(value)]
    if bad:
        raise CalibrationError(f"episode {bad[0]} of {name} has maximum {episode_maxima[bad[0]]}; it is not nominal")
    if not 0.0 < alpha < 1.0:
        raise CalibrationError(f"alpha of {name} must be in (0, 1), got {alpha!r}")
    ascending = tuple(sorted(float(value) for value in episode_maxima))
    n = len(ascending)
    k = rank(n, alpha)
    threshold = _order_statistic(ascending, k)
    if oracle is not None and threshold is not None:
        _compare(name, threshold, mapie_threshold(ascending, alpha))
    return Calibration(
        monitor=name,
        n=n,
        alpha=alpha,
        k=k,
        threshold=threshold,
        maxima=ascending,
        ties=n - len(set(ascending)),
        horizon_ticks=horizon_ticks,
        rate_interval=_rate_interval(n, k),
        origin=origin or Origin(),
    ).sealed()


def _rate_interval(n: int, k: int) -> tuple[float, float] | None:
    """Central interval of Beta(n + 1 − k, k)."""
    if k > n:
        return None
    beta = import_module("scipy.stats").beta
    tail = (1.0 - RATE_MASS) / 2.0
    return float(beta.ppf(tail, n + 1 - k, k)), float(beta.ppf(1.0 - tail, n + 1 - k, k))


def _compare(name: str, ours: float, theirs: float) -> None:
    if abs(ours - theirs) > 1e-12 * max(1.0, abs(ours)):
        raise CalibrationError(f"threshold of {name}: {ours!r} by rank, {theirs!r} by MAPIE")


def mapie_threshold(maxima: Sequence[float], alpha: float) -> float:
    """The same threshold by MAPIE: upper bound around a predictor that always says min(D).

    MAPIE scores |y − prediction|; measured from the smallest maximum nothing is negative. It refuses
    n < 1/alpha.
    """
    try:
        regressor = import_module("mapie.regression").SplitConformalRegressor
        dummy = import_module("sklearn.dummy").DummyRegressor
    except ImportError as error:
        raise MissingExtraError("calibrate(oracle='mapie')", "calibrate") from error
    zeros = [[0.0]] * len(maxima)
    lowest = min(maxima)
    predictor = dummy(strategy="constant", constant=0.0).fit(zeros, [0.0] * len(maxima))
    conformal = regressor(predictor, confidence_level=1.0 - alpha, prefit=True)
    conformal.conformalize(zeros, [value - lowest for value in maxima])
    _, intervals = conformal.predict_interval([[0.0]])
    return float(intervals[0, 1, 0]) + lowest
