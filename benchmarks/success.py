"""Clean success of the demo policy over seeds, raw and shielded, paired: what the shield costs a good policy.

python benchmarks/success.py --seeds 50 --json benchmarks/success.json
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from safeguard.core.enums import Enforcement
from safeguard.scenarios.calibration import load_calibration
from safeguard.scenarios.episode import EpisodeResult
from safeguard.scenarios.runner import run_episode
from safeguard.scenarios.scenario import load_scenario

FIRST = 5000  # seeds from here on are used neither in training nor in calibration


def _pair(seed: int) -> tuple[EpisodeResult, EpisodeResult]:
    scenario = load_scenario("clean")
    calibration = load_calibration(scenario)
    off, on = (
        run_episode(scenario, seed=seed, enforcement=enforcement, calibration=calibration)
        for enforcement in (Enforcement.OFF, Enforcement.FULL)
    )
    return off, on


def main() -> None:
    """Run the pairs, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ProcessPoolExecutor(max_workers=2) as pool:
        pairs = list(pool.map(_pair, range(FIRST, FIRST + arguments.seeds)))
    figures = {
        "seeds": arguments.seeds,
        "raw_success": sum(off.success for off, _ in pairs),
        "shielded_success": sum(on.success for _, on in pairs),
        "shielded_violations": sum(on.judgement.hazard for _, on in pairs),
        "modified_ticks_share": sum(on.modified for _, on in pairs) / len(pairs),
        "alarms": sum(on.final_mode.name != "NOMINAL" for _, on in pairs),
    }
    for key, value in figures.items():
        print(f"{key:<24}{value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
