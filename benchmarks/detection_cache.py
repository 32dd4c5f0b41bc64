"""The cache of ``detection.py``: which episodes it needs, one file for each, and what is missing simulated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from benchmarks.detection_episodes import SEVERITIES, UNSCALED, Cell, Episode, cells, simulate
from safeguard.core.config import ShieldConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Proposal
from safeguard.monitors.registry import Setting
from safeguard.scenarios.calibration import Trace
from safeguard.scenarios.episode import Outcome
from safeguard.scenarios.runner import load_policy


def save(episode: Episode, path: Path) -> None:
    """Write one episode; the file appears whole or not at all."""
    trace, setting = episode.trace, episode.trace.setting
    proposals = [proposal for _, proposal in trace.followed]
    meta = {
        "bare_success": episode.bare_success,
        "kind": episode.cell.kind,
        "severity": episode.cell.severity,
        "number": episode.number,
        "outcome": trace.outcome.value,
        "onset": episode.onset,
        "hazard": episode.hazard,
        "success": episode.success,
        "period": episode.period,
        "ftti_s": episode.ftti_s,
        "names": list(trace.scores),
        "delay": setting.delay_ticks,
    }
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            meta=np.array(json.dumps(meta)),
            scores=np.stack(list(trace.scores.values())),
            checked=episode.checked,
            stop_s=episode.stop_s,
            v_max=setting.v_max,
            a_max=setting.a_max,
            ticks=np.array([tick for tick, _ in trace.followed]),
            t_obs=np.array([p.t_obs for p in proposals]),
            actions=np.stack([p.actions for p in proposals]),
            features=np.stack([p.features for p in proposals if p.features is not None]),
        )
    partial.replace(path)


def load(path: Path, spec: ActionSpec) -> Episode:
    """Read what ``save`` wrote; ``spec`` is the policy's."""
    with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        data = {name: file[name] for name in file.files if name != "meta"}
    config = ShieldConfig()
    setting = Setting(
        spec.joints, meta["period"], spec, data["v_max"], data["a_max"], config.monitors, delay_ticks=meta["delay"]
    )
    followed = tuple(
        (int(tick), Proposal(actions, int(t), int(t), "recorded", k, features=features))
        for k, (tick, t, actions, features) in enumerate(
            zip(data["ticks"], data["t_obs"], data["actions"], data["features"], strict=True)
        )
    )
    trace = Trace(Outcome(meta["outcome"]), dict(zip(meta["names"], data["scores"], strict=True)), followed, setting)
    return Episode(
        Cell(meta["kind"], meta["severity"]),
        meta["number"],
        trace,
        data["checked"],
        data["stop_s"],
        meta["onset"],
        meta["hazard"],
        meta["success"],
        meta["bare_success"],
        meta["period"],
        meta["ftti_s"],
    )


# -- sets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sets:
    """Disjoint sets of episodes: no number occurs in two.

    Attributes:
        calibration: nominal; by their order they learn, scale or calibrate (``safeguard.monitors.calibration.role``).
        nominal, positive: what is judged; those for the report, or those that a design may be chosen on.
    """

    calibration: tuple[Episode, ...]
    nominal: tuple[Episode, ...]
    positive: tuple[Episode, ...]


Job: TypeAlias = tuple[Cell, int, Path]

_FIRST: Final = {"calibration": 20_000, "nominal": 50_000, "positive": 200_000}
_TUNING: Final = {"calibration": 20_000, "nominal": 30_000, "positive": 100_000}
"""Number of the first episode of a set; a cell has 1000 numbers. Designs were also chosen on numbers 40,000 on, and on
those from the 501st of a cell of the second row on."""


def jobs(nominal: Mapping[str, int], each: int, folder: Path, *, tuning: bool = False) -> dict[str, list[Job]]:
    """What has to be simulated: ``nominal`` episodes of every such set, and ``each`` positives a cell."""
    plain, first = Cell("nominal"), _TUNING if tuning else _FIRST
    found = {name: [_job(plain, first[name] + k, folder) for k in range(count)] for name, count in nominal.items()}
    found["positive"] = []
    for k, cell in enumerate(cells()):
        count = each * (len(SEVERITIES) if cell.kind in UNSCALED else 1)
        found["positive"] += [_job(cell, first["positive"] + 1000 * k + i, folder) for i in range(count)]
    return found


def _job(cell: Cell, number: int, folder: Path) -> Job:
    return cell, number, folder / f"{cell.label}-{number}.npz"


def record(wanted: Sequence[Job], workers: int, progress: Callable[[], None] | None = None) -> None:
    """Simulate what is not in the cache yet."""
    missing = [job for job in wanted if not job[2].exists()]
    if not missing:
        return
    missing[0][2].parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_record, missing):
            if progress is not None:
                progress()


def _record(job: Job) -> None:
    cell, number, path = job
    save(simulate(cell, number), path)


def collect(
    nominal: Mapping[str, int],
    each: int,
    folder: Path,
    workers: int,
    progress: Callable[[], None] | None = None,
    *,
    tuning: bool = False,
) -> Sets:
    """All sets, simulated where the cache does not hold them."""
    wanted = jobs(nominal, each, folder, tuning=tuning)
    record([job for name in wanted for job in wanted[name]], workers, progress)
    clean = Cell("nominal").scenario
    spec = load_policy(clean, RobotModel.load(clean.robot)).spec
    found = {name: tuple(load(path, spec) for _, _, path in files) for name, files in wanted.items()}
    # As in safeguard.scenarios.calibration: an episode counts only if the referee found nothing.
    found["calibration"] = tuple(one for one in found["calibration"] if one.trace.outcome is Outcome.CLEAN)
    return Sets(**found)
