"""A small drawing kit: line charts and lanes over time as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

import numpy as np

from safeguard.audit.report.curves import Span, coarse
from safeguard.core.types import Vector

LANE = 18.0
"""Height of one lane, px."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a chart's data area lies in its view box, px, and the time that it spans, s."""

    width: float
    height: float
    left: float
    duration: float
    right: float = 10.0
    top: float = 6.0
    bottom: float = 20.0

    def x(self, t: float) -> float:
        """Horizontal place of time ``t``."""
        return self.left + (self.width - self.left - self.right) * t / max(self.duration, 1e-9)

    @property
    def floor(self) -> float:
        """Vertical place of the time axis."""
        return self.height - self.bottom


@dataclass(frozen=True, slots=True)
class Curve:
    """A line over time; ``style`` is a class of the page's style sheet."""

    t: Vector
    y: Vector
    style: str = "curve"


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line at ``value`` with a name."""

    value: float
    name: str
    style: str = "limit"


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of spans; ``styles`` maps a span's label to its class."""

    name: str
    spans: Sequence[Span]
    styles: dict[str, str]
    labelled: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them (steps of 1, 2 or 5)."""
    span = max(high - low, 1e-12)
    power = 10.0 ** floor(log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    first = int(np.ceil(low / step - 1e-9))
    return [round(step * at, 12) for at in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def line_chart(
    frame: Frame,
    curves: Sequence[Curve],
    rules: Sequence[Rule],
    shades: Sequence[Span],
    label: str,
) -> str:
    """Curves with horizontal rules over time, mode spans as background shading.

    The range holds every finite value and every rule.
    """
    low, high = _range(curves, rules)

    def place(value: float) -> float:
        return frame.top + (frame.floor - frame.top) * (high - value) / (high - low)

    parts = [_shades(frame, shades), _value_axis(frame, low, high, place(low), place(high)), time_axis(frame)]
    for rule in rules:
        at = place(rule.value)
        parts.append(
            f'<path class="{rule.style}" d="M{frame.left:.0f} {at:.1f}H{frame.width - frame.right:.0f}">'
            f"<title>{escape(rule.name)}: {rule.value:.4g}</title></path>"
        )
    parts += [f'<path class="{curve.style}" d="{_path(frame, curve.t, (high, low), curve.y)}"/>' for curve in curves]
    return _svg(frame, label, parts)


def _range(curves: Sequence[Curve], rules: Sequence[Rule]) -> tuple[float, float]:
    values = [rule.value for rule in rules if isfinite(rule.value)]
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        values += [float(finite.min()), float(finite.max())] if finite.size else []
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - pad, high + pad


def _path(frame: Frame, t: Vector, span: tuple[float, float], y: Vector) -> str:
    """Path data with a break at every gap."""
    high, low = span
    xs = np.round(frame.left + (frame.width - frame.left - frame.right) * t / max(frame.duration, 1e-9), 1)
    ys = np.round(frame.top + (frame.floor - frame.top) * (high - y) / (high - low), 1)
    pieces: list[str] = []
    pen = "M"
    for px, py in zip(xs.tolist(), ys.tolist(), strict=True):
        if py != py:
            pen = "M"
            continue
        pieces.append(f"{pen}{px:g} {py:g}")
        pen = "L"
    return "".join(pieces)


def lanes_chart(frame_width: float, left: float, duration: float, lanes: Sequence[Lane], label: str) -> str:
    """Rows of coloured spans over time, names on the left."""
    frame = Frame(frame_width, LANE * len(lanes) + 28, left, duration)
    parts: list[str] = []
    for row, lane in enumerate(lanes):
        y = frame.top + row * LANE
        parts.append(f'<text class="name" x="{left - 8:.0f}" y="{y + 12.5:.1f}">{escape(lane.name)}</text>')
        parts.append(
            f'<rect class="bed" x="{left:.0f}" y="{y:.1f}" '
            f'width="{frame_width - left - frame.right:.0f}" height="{LANE - 3:.0f}"/>'
        )
        parts += [_block(frame, y, span, lane) for span in coarse(lane.spans, duration)]
    parts.append(time_axis(frame))
    return _svg(frame, label, parts)


def _block(frame: Frame, y: float, span: Span, lane: Lane) -> str:
    x = frame.x(span.start)
    width = max(frame.x(span.end) - x, 1.5)
    title = f"{span.label}, {span.start:.3f} to {span.end:.3f} s"
    box = (
        f'<rect class="{lane.styles.get(span.label, "on")}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{LANE - 3:.0f}"><title>{escape(title)}</title></rect>'
    )
    if not lane.labelled or width < 7.6 * len(span.label) + 7.0:
        return box
    return f'{box}<text class="in" x="{x + 5:.1f}" y="{y + 11.5:.1f}">{escape(span.label)}</text>'


def _shades(frame: Frame, spans: Iterable[Span]) -> str:
    height = frame.floor - frame.top
    return "".join(
        f'<rect class="shade m-{span.label}" x="{frame.x(span.start):.1f}" y="{frame.top:.0f}" '
        f'width="{max(frame.x(span.end) - frame.x(span.start), 0.5):.1f}" height="{height:.0f}">'
        f"<title>{span.label}</title></rect>"
        for span in coarse(spans, frame.duration)
        if span.label != "NOMINAL"
    )


def time_axis(frame: Frame) -> str:
    """Ticks and seconds along the bottom."""
    parts = [f'<path class="axis" d="M{frame.left:.0f} {frame.floor:.1f}H{frame.width - frame.right:.0f}"/>']
    marks = ticks(0.0, frame.duration, 10 if frame.width > 500 else 5)
    for at, t in enumerate(marks):
        x, unit = frame.x(t), " s" if at == len(marks) - 1 else ""
        parts.append(f'<path class="axis" d="M{x:.1f} {frame.floor:.1f}v3"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{frame.floor + 14:.1f}">{t:g}{unit}</text>')
    return "".join(parts)


def _value_axis(frame: Frame, low: float, high: float, bottom: float, top: float) -> str:
    parts: list[str] = []
    for value in ticks(low, high, 4):
        y = bottom + (top - bottom) * (value - low) / (high - low)
        parts.append(f'<path class="grid" d="M{frame.left:.0f} {y:.1f}H{frame.width - frame.right:.0f}"/>')
        parts.append(f'<text class="value" x="{frame.left - 5:.0f}" y="{y + 3.5:.1f}">{value:g}</text>')
    return "".join(parts)


def _svg(frame: Frame, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {frame.width:.0f} {frame.height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
