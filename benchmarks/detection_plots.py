"""The figures of ``detection.py``: ROC at equal horizon, share detected over time, declared against observed rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.detection_metrics import roc
from safeguard.monitors.conformal import alarms_interval, order_statistic, rank

if TYPE_CHECKING:
    from benchmarks.detection import Judged

_SINGLES: Final = 5  # that are drawn beside the joint scores: those with the best balanced accuracy
_COLOURS: Final = ("#0b5fa5", "#55a0d8", "#c0392b", "#e08e2b", "#3d8f4f", "#7d5fa8", "#8a6d4b")
_ALPHAS: Final = np.round(np.arange(0.01, 0.505, 0.01), 2)


def draw(judged: Sequence[Judged], folder: Path) -> None:
    """Write ``detection_roc.png``, ``detection_time.png`` and ``detection_calibration.png`` into ``folder``."""
    chosen = _chosen(judged)
    _drawn(folder / "detection_roc.png", _roc, chosen)
    whole = [one for one in judged if one.method.group == "shield"]
    _drawn(folder / "detection_time.png", _time, [*chosen, *whole])
    _drawn(folder / "detection_calibration.png", _calibration, [one for one in chosen if one.method.group == "joint"])


def _chosen(judged: Sequence[Judged]) -> list[Judged]:
    joint = [one for one in judged if one.method.group == "joint"]
    others = [one for one in judged if one.method.group in ("monitor", "baseline")]
    best = sorted(others, key=lambda one: one.summary.balanced, reverse=True)
    return joint + best[:_SINGLES]


def _drawn(path: Path, plot: Any, judged: Sequence[Judged]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    plot(axes, judged)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _roc(axes: Any, judged: Sequence[Judged]) -> None:
    least = 0.5 / len(judged[0].negative)  # where none is above the threshold, on an axis that has no 0
    for one, colour in zip(judged, _COLOURS, strict=False):
        s = one.summary
        label = f"{one.method.name}, {s.auc:.3f}"
        fpr, tpr = roc([r.peak for r in one.positive], [r.peak for r in one.negative])
        axes.step(
            np.maximum(fpr, least), tpr, where="post", color=colour, lw=_width(one), zorder=_height(one), label=label
        )
        above = float(np.mean([r.peak > one.threshold for r in one.positive]))
        axes.plot([s.fpr], [above], "o", color=colour, ms=6, mec="white", zorder=5)
    chance = np.geomspace(least, 1.0, 200)
    axes.plot(chance, chance, ":", color="grey", lw=1)
    axes.set(xlabel="nominal episodes above the threshold", ylabel="faulty episodes above the threshold")
    ticks = {least: "none", **{tick: f"{tick:g}" for tick in (0.01, 0.1, 1.0) if tick > least}}
    axes.set(xscale="log", xticks=list(ticks), xticklabels=list(ticks.values()), xlim=(least, 1.0), ylim=(0, 1.01))
    axes.set_title("Largest score of an episode, all equally long; dots: declared rate 0.10", loc="left", fontsize=10)
    axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="area under the whole curve", alignment="left"
    )


def _time(axes: Any, judged: Sequence[Judged]) -> None:
    at = np.linspace(0.0, 1.0, 501)
    colours = (*_COLOURS[: len(judged) - 2], "#777777", "#111111")
    for one, colour in zip(judged, colours, strict=False):
        times = np.sort([r.detection for r in one.positive if r.hit])
        share = np.searchsorted(times, at, side="right") / len(one.positive)
        dashed = "--" if one.method.group == "shield" else "-"
        label = f"{one.method.name}, {one.summary.detection:.2f}"
        axes.plot(at, share, dashed, color=colour, lw=_width(one), zorder=_height(one), label=label)
    axes.set(xlabel="time since the onset, share of the rest of the episode", ylabel="share detected")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.set_title("First alarm after the onset, at a declared rate of 0.10", loc="left", fontsize=10)
    axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="mean time, a miss is 1", alignment="left"
    )


def _calibration(axes: Any, judged: Sequence[Judged]) -> None:
    n, m = len(judged[0].maxima), len(judged[0].negative)
    bands = np.array([alarms_interval(m, n, rank(n, float(alpha))) for alpha in _ALPHAS]) / m
    axes.fill_between(_ALPHAS, bands[:, 0], bands[:, 1], color="#dddddd", lw=0, label="99.8 % by the law")
    axes.plot([0, 0.5], [0, 0.5], ":", color="grey", lw=1)
    for one, colour in zip(judged, _COLOURS, strict=False):
        observed: list[float] = []
        for alpha in _ALPHAS:
            cut = order_statistic(one.maxima, rank(n, float(alpha)))
            observed.append(0.0 if cut is None else float(np.mean([r.peak > cut for r in one.negative])))
        axes.step(_ALPHAS, observed, where="mid", color=colour, lw=1.6, label=one.method.name)
    axes.set(xlabel="declared rate of false alarms", ylabel="observed in fresh nominal episodes", xlim=(0, 0.5))
    axes.set(ylim=(0, None))
    axes.set_title(f"{n} calibration episodes, {m} fresh ones", loc="left", fontsize=10)
    axes.legend(frameon=False, loc="upper left")


def _width(one: Judged) -> float:
    return 2.2 if one.method.group == "joint" else 1.4


def _height(one: Judged) -> float:
    return 3.0 if one.method.group == "joint" else 4.0  # what is narrow stays visible on what is wide
