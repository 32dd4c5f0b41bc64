"""An SO-101 with position servos in MuJoCo behind LeRobot's methods: violations, usefulness, and time per action.

    python benchmarks/lerobot_arm.py [--seeds 10] [--frames 900]

One frame is 1/30 s. The referee is the one of the scenarios; the negative control sends the same actions as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.unit.lerobot_support import REST, Cell
from tests.unit.lerobot_world import Outcome, adversary, drive, waving


def violations(outcomes: list[Outcome]) -> dict[str, int]:
    """Control periods of 2 ms with a violation, by kind."""
    found: dict[str, int] = {}
    for outcome in outcomes:
        for kind, violation in outcome.judgement.violations.items():
            found[kind.value] = found.get(kind.value, 0) + violation.ticks
    return found


def microseconds(repeat: int = 2000) -> dict[str, float]:
    """Time of ``send_action`` on an arm that needs none: a small motion, and a target that is far."""
    figures: dict[str, float] = {}
    for name, far in (("unchanged", 0.0), ("corrected", 60.0)):
        cell, spent = Cell(), list[int]()
        for k in range(repeat):
            target = far * (-1.0) ** (k // 60) if far else 5.0 * np.sin(0.1 * k)
            cell.robot.get_observation()
            begin = time.perf_counter_ns()
            cell.robot.send_action(REST | {"shoulder_pan.pos": float(target)})
            spent.append(time.perf_counter_ns() - begin)
            cell.clock.now += 33_333_333
        for share in (50, 99):
            figures[f"{name}_p{share}_us"] = round(float(np.percentile(spent, share)) / 1e3, 1)
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--frames", type=int, default=900)
    given = parser.parse_args()
    seeds = range(given.seeds)
    shielded = [drive(adversary, seed, given.frames) for seed in seeds]
    bare = [drive(adversary, seed, given.frames, shield=False) for seed in seeds]
    sound, alone = (drive(waving, 0, given.frames, shield=shield) for shield in (True, False))
    report = {
        "frames": given.seeds * given.frames,
        "adversary_shielded": violations(shielded),
        "adversary_bare": violations(bare),
        "adversary_policy_share": round(float(np.mean([o.authority for o in shielded])), 3),
        "adversary_travelled_share": round(sum(o.travelled for o in shielded) / sum(o.travelled for o in bare), 3),
        "smallest_clearance_m": round(min(o.judgement.clearance for o in shielded), 4),
        "sound_violations": violations([sound]),
        "sound_unchanged_share": sound.unchanged,
        "sound_off_deg": [round(o.off, 3) for o in (sound, alone)],
        "send_action": microseconds(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
