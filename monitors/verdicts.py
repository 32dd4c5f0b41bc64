"""Verdicts of yes-or-no checks, made once where nothing is wrong."""

from __future__ import annotations

from math import nan

from safeguard.core.enums import Cause, Level
from safeguard.core.types import Verdict


def passed(monitor: str, detail: str = "") -> Verdict:
    """Nothing wrong. Make it once and hand it out every tick."""
    return Verdict(monitor, Level.OK, nan, nan, detail=detail)


def failed(monitor: str, cause: Cause, detail: str, score: float = nan, threshold: float = nan) -> Verdict:
    """A deterministic check found ``cause``; score and threshold in the unit that ``detail`` names."""
    return Verdict(monitor, Level.STOP, score, threshold, cause=cause, detail=detail)


def warned(monitor: str, cause: Cause, detail: str, score: float = nan, threshold: float = nan) -> Verdict:
    """As ``failed``, for what is odd and not yet wrong."""
    return Verdict(monitor, Level.WARN, score, threshold, cause=cause, detail=detail)


def unproven(monitor: str, detail: str) -> Verdict:
    """Nothing was looked at, and ``detail`` says why; not OK (law 9)."""
    return Verdict(monitor, Level.UNPROVEN, nan, nan, detail=detail)
