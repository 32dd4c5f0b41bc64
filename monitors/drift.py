"""Drift across episodes: evidence that they are no longer what was calibrated, valid at any time.

Every finished episode i gives its smoothed conformal p-value against the calibration maxima and all episodes
before it, a set that grows by D_i afterwards:

    p_i = (#{D_j > D_i} + U_i (1 + #{D_j = D_i})) / (N_i + 1),   U_i uniform on (0, 1]

While all of them are exchangeable these are independent and uniform (Vovk et al. 2005, theorem 8.2), which they are not
against a fixed set. Bets f_κ(p) = κ p^(κ − 1) have mean 1 under uniform p, and so has any mixture:

    w_κ ← ((1 − J_i) w_κ + (J_i/K) Σ w) f_κ(p_i),   M = Σ w,   M_0 = 1,   J_i = 1/max(500, i)

is a martingale, and P(M ever reaches 1/α) ≤ α (Ville). Small κ bets on episodes that are worse than before, κ = 1
waits. The share J_i that is dealt out anew makes M forget how long all was well (fixed share, Herbster and Warmuth
1998): without it a shift after 1,000 good episodes takes four times as long to be found. It shrinks so that long
service costs log i and not i.

An alarm means that the calibration is void: calibrate again. Nothing here can move a threshold.

Episodes count over the whole life of a calibration and not of a process: ``Drift.kept`` goes on where the last process
ended.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safeguard.core.errors import CalibrationError
from safeguard.monitors.conformal import ascending

KAPPAS: Final = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)
"""Exponents of the bets."""

_SETTLED: Final = 500
"""Episodes after which the share that is dealt out anew begins to shrink."""


_LEAST: Final = sys.float_info.min  # a p-value has a logarithm, however small u is


@dataclass(frozen=True, slots=True)
class DriftScore:
    """What one more episode says.

    Attributes:
        p: smoothed p-value of the episode among those before it; NaN for an episode after the alarm.
        log_evidence: log M.
        void: M reached 1/α, now or before.
    """

    p: float
    log_evidence: float
    void: bool


class DriftState(BaseModel):
    """A Drift at rest. Construction checks that its parts agree with each other.

    Attributes:
        calibration: digest of the calibration that it belongs to.
        alpha: probability of an alarm, ever, while nothing drifts.
        calibrated: number of calibration episodes.
        episodes: number of episodes added since.
        maxima: D of all of them, ascending; "Infinity" for an episode without a score.
        log_weights: log w of every bet.
        void: M reached 1/α.
        digest: SHA-256 over everything above.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    version: Literal[1] = 1
    calibration: str
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)]
    calibrated: Annotated[int, Field(ge=0)]
    episodes: Annotated[int, Field(ge=0)]
    maxima: tuple[float, ...]
    log_weights: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    void: bool
    digest: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected = {
            "maxima": (len(self.maxima), self.calibrated + self.episodes),
            "log_weights": (len(self.log_weights), len(KAPPAS)),
            "void": (self.void, _log_sum(self.log_weights) >= -math.log(self.alpha)),
            "order of maxima": (all(a <= b for a, b in zip(self.maxima, self.maxima[1:], strict=False)), True),
        }
        for name, (found, right) in expected.items():
            if found != right:
                raise ValueError(f"{name}: {found!r}, its own data say {right!r}")
        return self

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": self.own_digest()})

    def own_digest(self) -> str:
        """What ``digest`` should be."""
        content = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


class Drift:
    """Test martingale over the episodes that follow a calibration, in the order in which they end.

    Every nominal and every failed episode counts, once: leaving some out by their score breaks the theorem. An episode
    that an alarm cut short counts with the maximum it had. The growing set cannot be bounded: 32 bytes an episode, and
    an insertion that moves half the list (6 µs at 10,000 episodes, 80 µs at a million), outside the control loop.

    Args:
        calibration: digest of the calibration.
        maxima: D of its episodes, in any order, finite. Raises CalibrationError otherwise.
        alpha: probability of an alarm, ever, while nothing drifts, in (0, 1).
    """

    def __init__(self, calibration: str, maxima: Sequence[float], alpha: float = 0.01) -> None:
        if not 0.0 < alpha < 1.0:
            raise CalibrationError(f"alpha of the drift test must be in (0, 1), got {alpha!r}")
        self._calibration = calibration
        self._alpha = alpha
        self._maxima = list(ascending(maxima))
        self._calibrated = len(self._maxima)
        self._log_weights = (-math.log(len(KAPPAS)),) * len(KAPPAS)
        self._void = False
        self._path: Path | None = None

    @property
    def calibration(self) -> str:
        """Digest of the calibration that it belongs to."""
        return self._calibration

    @property
    def void(self) -> bool:
        """The calibration no longer describes these episodes. Stays so."""
        return self._void

    @property
    def episodes(self) -> int:
        """Episodes added since the calibration, up to the alarm."""
        return len(self._maxima) - self._calibrated

    @property
    def log_evidence(self) -> float:
        """Log M, up to the alarm."""
        return _log_sum(self._log_weights)

    def add(self, peak: float, u: float) -> DriftScore:
        """Count one more finished episode; after the alarm nothing changes any more.

        Args:
            peak: its largest score. NaN, a score that was missing, counts as worse than any number.
            u: fresh and uniform on (0, 1], such as ``1 − rng.random()``; it breaks ties.

        Raises:
            CalibrationError: u is outside; or the episode was counted, and could not be kept in the file.
        """
        if not 0.0 < u <= 1.0:
            raise CalibrationError(f"u of the drift test must be in (0, 1], got {u!r}; 1 - rng.random() is")
        p = math.nan if self._void else self._counted(math.inf if math.isnan(peak) else peak, u)
        if self._path is not None:
            self.save(self._path)
        return DriftScore(p, self.log_evidence, self._void)

    def _counted(self, peak: float, u: float) -> float:
        """The p-value of one more episode, which is among those before the next."""
        p = self._smoothed(peak, u)
        insort(self._maxima, peak)
        self._log_weights = _after(self._log_weights, math.log(p), self.episodes)
        self._void = self.log_evidence >= -math.log(self._alpha)
        return p

    def _smoothed(self, peak: float, u: float) -> float:
        n, above = len(self._maxima), bisect_right(self._maxima, peak)
        equal = above - bisect_left(self._maxima, peak)
        return max((n - above + u * (1 + equal)) / (n + 1), _LEAST)

    def to_json(self) -> str:
        """Its state, sealed, to be carried over to the next run."""
        return self.state().model_dump_json()

    def state(self) -> DriftState:
        """Its state, sealed."""
        return DriftState(
            calibration=self._calibration,
            alpha=self._alpha,
            calibrated=self._calibrated,
            episodes=self.episodes,
            maxima=tuple(self._maxima),
            log_weights=self._log_weights,
            void=self._void,
        ).sealed()

    @classmethod
    def from_json(cls, text: str | bytes, calibration: str) -> Self:
        """Go on from ``to_json``, for the calibration of this digest.

        Raises CalibrationError for a state that is damaged, edited, or of another calibration.
        """
        try:
            state = DriftState.model_validate_json(text)
        except ValidationError as error:
            raise CalibrationError(f"state of the drift test: damaged: {error}; start a new one") from error
        if state.digest != state.own_digest():
            raise CalibrationError(f"state of the drift test: digest {state.digest[:12]!r} does not fit its content")
        if state.calibration != calibration:
            raise CalibrationError(
                f"state of the drift test: made for calibration {state.calibration[:12]!r}, not {calibration[:12]!r}; "
                "a new calibration starts a new test"
            )
        found = cls(calibration, (), state.alpha)
        found._maxima, found._calibrated = list(state.maxima), state.calibrated
        found._log_weights, found._void = state.log_weights, state.void
        return found

    @classmethod
    def kept(cls, path: Path, calibration: str, maxima: Sequence[float], alpha: float = 0.01) -> Self:
        """The test whose state is in the file at ``path``: begun where there is no file, and kept after every episode.

        An episode that a crash cut off does not count. The other arguments are those of the class.

        Raises:
            CalibrationError: the file is damaged, edited, of another calibration or alpha, or cannot be written.
        """
        if not path.exists():
            found = cls(calibration, maxima, alpha)
            found.save(path)
        else:
            found = cls.load(path, calibration)
        if found._alpha != alpha:
            raise CalibrationError(f"{path}: drift test with alpha {found._alpha!r}, not {alpha!r}; keep to the first")
        found._path = path
        return found

    @classmethod
    def load(cls, path: Path, calibration: str) -> Self:
        """Go on from ``save``. Raises CalibrationError as ``from_json``, and where the file cannot be read."""
        try:
            return cls.from_json(path.read_bytes(), calibration)
        except OSError as error:
            raise CalibrationError(f"{path}: state of the drift test cannot be read: {error}") from error
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Replace the file by ``to_json``, as a whole and on the disk before this returns; raises CalibrationError."""
        aside = path.with_name(path.name + ".new")
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(self.to_json() + "\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise CalibrationError(f"{path}: state of the drift test cannot be kept: {error}") from error


def share(episode: int) -> float:
    """J_i, how much of the wealth is dealt out anew in the i-th episode, counted from 1."""
    return 1.0 / max(_SETTLED, episode)


def _after(log_weights: Sequence[float], log_p: float, episode: int) -> tuple[float, ...]:
    """The weights after the p-value of the i-th episode."""
    whole, dealt = _log_sum(log_weights), share(episode)
    return tuple(
        whole
        + math.log((1.0 - dealt) * math.exp(w - whole) + dealt / len(KAPPAS))
        + math.log(kappa)
        + (kappa - 1.0) * log_p
        for w, kappa in zip(log_weights, KAPPAS, strict=True)
    )


def _log_sum(logs: Sequence[float]) -> float:
    """Log of the sum of exponentials."""
    largest = max(logs)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in logs))
