"""From answers and scores to figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.peers.contestants import Answers, Contestant
from benchmarks.peers.drive import DIED, Loop
from benchmarks.peers.score import LIMITS, Score
from benchmarks.peers.serve import ANSWERED, ERROR, NO_SOLUTION
from benchmarks.peers.wire import Array, Mask

Figures = dict[str, object]
Ratio = dict[str, float | int | str]

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
_ANSWERED = 0.5  # share of the ticks that a variant must answer to count as the fastest


@dataclass(frozen=True, slots=True)
class Entry:
    """Everything measured of one contestant; errors by their names, of the recorded ticks and of the loops."""

    contestant: Contestant
    answers: Answers
    errors: Mapping[str, int]
    one_step: Score
    loop: Loop
    loop_errors: Mapping[str, int]


def percentiles(ns: Array, mask: Mask) -> dict[str, float]:
    """Percentiles of the times where ``mask`` holds, µs; empty if there are none."""
    chosen = ns[mask & np.isfinite(ns)] / 1e3
    if len(chosen) == 0:
        return {}
    return {name: float(np.percentile(chosen, at)) for name, at in _PERCENTILES.items()}


def hard_ticks(entry: Entry) -> Mask:
    """The ticks in which this filter had to solve its problem."""
    mask: Mask = _answered(entry) & (entry.answers.solved == 1.0)
    return mask


def fastest(peers: Sequence[Entry], mask: Mask) -> Entry | None:
    """The peer with the smallest median over the ticks of ``mask`` that it answers; None if none answers half."""
    able = [entry for entry in peers if mask.any() and _answered(entry)[mask].mean() >= _ANSWERED]
    return min(able, key=lambda entry: np.median(entry.answers.ns[mask & _answered(entry)]), default=None)


def ratios(entries: Mapping[str, Entry]) -> dict[str, Ratio]:
    """Ours to pink, each over the ticks in which ours solved its problem and pink answered.

    The fastest of pink's variants is sought among those with the geometry and limits that everybody gets, and
    apart from them among those with the geometry that pink's users load.
    """
    pink = [entry for name, entry in entries.items() if name.startswith("pink")]
    out: dict[str, Ratio] = {}
    for ours in (entries[name] for name in ("safeguard osqp", "safeguard daqp") if name in entries):
        mask = hard_ticks(ours)
        best = {
            "fastest pink": fastest([one for one in pink if "@" not in one.contestant.name], mask),
            "fastest pink @srdf": fastest([one for one in pink if one.contestant.name.endswith("@srdf")], mask),
        }
        same = [one for one in pink if ours.contestant.name.endswith("osqp") and "osqp" in one.contestant.name]
        for title, peer in (best | {one.contestant.name: one for one in same}).items():
            if peer is not None and (mask & _answered(peer)).any():
                out[f"{ours.contestant.name} / {title}"] = _ratio(ours, peer, mask & _answered(peer))
    return out


def _ratio(ours: Entry, peer: Entry, mask: Mask) -> Ratio:
    mine, theirs = percentiles(ours.answers.ns, mask), percentiles(peer.answers.ns, mask)
    worked = [percentiles(entry.answers.cpu_ns, mask)["p99"] for entry in (ours, peer)]
    return {
        "against": peer.contestant.name,
        "p50": mine["p50"] / theirs["p50"],
        "p99": mine["p99"] / theirs["p99"],
        "p99_cpu": worked[0] / worked[1],
        "ticks": int(mask.sum()),
    }


def _answered(entry: Entry) -> Mask:
    mask: Mask = entry.answers.status == ANSWERED
    return mask


def summary(entry: Entry, hard: Mask, calm: Mask) -> Figures:
    """The figures of one contestant; ``hard`` and ``calm`` choose ticks."""
    answers, contestant = entry.answers, entry.contestant
    return {
        "takes": contestant.takes,
        "gives": contestant.gives,
        "time_us": {
            "all": percentiles(answers.ns, np.ones(len(answers.ns), dtype=bool)),
            "hard": percentiles(answers.ns, hard),
            "calm": percentiles(answers.ns, calm),
        },
        "cpu_us": {"hard": percentiles(answers.cpu_ns, hard), "calm": percentiles(answers.cpu_ns, calm)},
        "ticks": len(answers.ns),
        "solved": int((answers.solved == 1.0).sum()),
        "no_solution": int((answers.status == NO_SOLUTION).sum()),
        "errors": int((answers.status == ERROR).sum()),
        "died": int((answers.status == DIED).sum()),
        "error_names": dict(entry.errors),
        "one_step": _score(entry.one_step),
        "closed_loop": {
            **_score(entry.loop.score),
            "unanswered": entry.loop.unanswered,
            "violated_after_no_answer": entry.loop.unanswered_before,
            "error_names": dict(entry.loop_errors),
            "travel_rad": entry.loop.travel,
        },
    }


def time_table(robot: str, entries: Mapping[str, Entry], hard: Mask, calm: Mask) -> Table:
    """Times of all contestants on the same ticks."""
    table = Table(title=f"time of a call on {robot}, µs: the same recorded ticks, blocks in turn")
    table.add_column("filter", no_wrap=True)
    table.add_column("takes → gives")
    for title in ("calm p50", "hard p50", "p90", "p99", "max", "p99 cpu", "no solution", "errors", "died"):
        table.add_column(title, justify="right")
    for name, entry in entries.items():
        answers = entry.answers
        slow, easy = percentiles(answers.ns, hard), percentiles(answers.ns, calm)
        worked = percentiles(answers.cpu_ns, hard)
        counts = [int((answers.status == code).sum()) for code in (NO_SOLUTION, ERROR, DIED)]
        table.add_row(
            name,
            f"{entry.contestant.takes} → {entry.contestant.gives}",
            *map(_us, (easy.get("p50"), *(slow.get(key) for key in _PERCENTILES), worked.get("p99"))),
            *map(str, counts),
        )
    return table


def safety_table(robot: str, entries: Mapping[str, Entry]) -> Table:
    """Violations: of the recorded ticks one by one, then in closed loops."""
    table = Table(title=f"ticks with a violated limit on {robot}: recorded ticks one by one │ closed loops")
    table.add_column("filter", no_wrap=True)
    titles = ("one step", "unavoidable")
    closed = ("closed loop", *(kind.replace("_", " ") for kind in LIMITS), "acceleration", "clearance", "travel")
    for title in (*titles, *closed, "unanswered"):
        table.add_column(title, justify="right")
    for name, entry in entries.items():
        one, loop = entry.one_step, entry.loop.score
        table.add_row(
            name,
            *(str(one.violated), str(one.count["unavoidable"])),
            f"{loop.violated} of {loop.ticks}",
            *(_counted(loop, kind) for kind in (*LIMITS, "acceleration")),
            *(f"{1e3 * loop.clearance:.1f} mm", f"{entry.loop.travel:.0f} rad", str(entry.loop.unanswered)),
        )
    return table


def ratio_table(all_ratios: Mapping[str, Ratio]) -> Table:
    """Ours to pink."""
    table = Table(title="ours to pink, over the ticks in which ours solved its problem")
    for title in ("ratio", "against", "p50", "p99", "p99 cpu", "ticks"):
        table.add_column(title)
    for name, ratio in all_ratios.items():
        shares = (f"{ratio[key]:.2f}" for key in ("p50", "p99", "p99_cpu"))
        table.add_row(name, str(ratio["against"]), *shares, str(ratio["ticks"]))
    return table


def _us(time: float | None) -> str:
    return "–" if time is None else f"{time:.0f}"


def _counted(score: Score, kind: str) -> str:
    return f"{score.count[kind]} ({score.worst[kind]:.1g})" if score.count[kind] else "0"


def _score(score: Score) -> Figures:
    return {
        "ticks": score.ticks,
        "violated": score.violated,
        "count": score.count,
        "worst": {kind: float(min(size, 1e9)) for kind, size in score.worst.items()},
        "clearance_m": float(max(score.clearance, -1e9)),
    }
