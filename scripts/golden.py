"""Golden runs: recorded in the repository, and every decision of them must come out again.

    python scripts/golden.py check [NAME …]    verify each with its key and replay it: exactly on the machine that
                                               recorded it, elsewhere within the tolerances of the schema
    python scripts/golden.py update [NAME …]   record them anew and say what changed; runs whose decisions are the same
                                               stay as they are (unless --force)

Each run is tests/golden/NAME: the journal, and the public key that signed it. The private key is thrown away.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np

from safeguard.audit import AuditConfig, keygen, open_run, read_public, read_run, verify_run
from safeguard.audit.identity import machine
from safeguard.audit.records.encode import Json
from safeguard.controllers.dynamics import Dynamics
from safeguard.core.config import BrakeConfig, FilterConfig, ShieldConfig, SolverConfig
from safeguard.core.enums import Enforcement, RecordKind, Reference
from safeguard.core.errors import JournalError
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Decision, Observation, RobotState, TorqueCommand, Vector
from safeguard.policies import as_policy
from safeguard.replay import current_body, replay_run
from safeguard.replay_compare import Comparison, Difference, Outline, shortened
from safeguard.scenarios.calibration import load_calibration
from safeguard.scenarios.scenario import load_scenario
from safeguard.shield import Shield

FOLDER: Final = Path(__file__).resolve().parent.parent / "tests" / "golden"
KEY: Final = "golden.pub"
TICK: Final = 2_000_000
PERIOD: Final = 0.002
CHUNK: Final = 8
CONFIG: Final = ShieldConfig(filter=FilterConfig(brake=BrakeConfig(samples=200)))
Guest = Callable[[Observation], Vector]
Body = Mapping[str, Json]

# --- what is recorded --------------------------------------------------------------------------------


class Cell:
    """A Panda that moves as its own model says, with a shield in front of it."""

    def __init__(
        self, guest: Guest, run: Path, key: Path, *, config: ShieldConfig = CONFIG, turn: float = 0.0, **shield: Any
    ) -> None:
        robot = RobotModel.load("panda")
        spec = ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, rate_hz=20.0, chunk=CHUNK)
        policy = as_policy(guest, spec=spec, name="scripted")
        self.shield = Shield(robot, policy, config=config, **shield)
        opened = self.shield.run_open()
        opened["machine"] = {**machine(), "system": platform.system()}  # no kernel of some developer
        settings = AuditConfig(run=run, key=key, writer="inline", durability="os")
        self.shield.journal = self._journal = open_run(settings, opened)
        self.q, self.v, self.now = np.array(robot.home), np.zeros(robot.n), 0
        self.q[6] += turn  # the wrist, rad from home
        self._dynamics = Dynamics(robot)
        self.shield.begin_episode("golden run")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def ticks(self, count: int) -> Decision:
        """Decide and move ``count`` times; the last decision."""
        decision = self._tick()
        for _ in range(count - 1):
            decision = self._tick()
        return decision

    def _tick(self) -> Decision:
        decision = self.shield.step(Observation(RobotState(self.q, self.v, self.now)), now=self.now)
        command = decision.command
        if isinstance(command, TorqueCommand):
            self._dynamics.update(self.q, self.v)
            a = self._dynamics.acceleration(command.tau)
            self.q, self.v = self.q + self.v * PERIOD + 0.5 * a * PERIOD**2, self.v + a * PERIOD
        else:
            self.v = np.zeros_like(self.v)
        self.now += TICK
        return decision

    def acknowledge(self, reason: str) -> None:
        """A scripted person lets the body move."""
        self.shield.acknowledge(operator="golden", reason=reason, simulated=True)

    def jog(self, joint: int, speed: float, ticks: int) -> None:
        """A scripted person moves one joint at ``speed``, rad/s, and asks for it in every tenth tick."""
        velocity = np.zeros_like(self.q)
        velocity[joint] = speed
        for _ in range(ticks // 10):
            self.shield.jog(velocity, operator="golden", reason="away", simulated=True)
            self.ticks(10)


def _home() -> Vector:
    return RobotModel.load("panda").home


def near(seen: Observation) -> Vector:
    """A swing within every limit."""
    return np.tile(_home() + 0.1 * np.sin(seen.state.t * 1e-9 * np.pi + np.arange(7)), (CHUNK, 1))


def gentle(seen: Observation) -> Vector:
    """A small motion that begins where the arm stands."""
    return np.tile(_home() + 0.02 * (1.0 - np.cos(seen.state.t * 1e-9 * np.pi)), (CHUNK, 1))


def beyond(seen: Observation) -> Vector:
    """Far past the limits of the shoulder and of the wrist."""
    return np.tile(_home() + np.array([0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 3.0]) + 1e-9 * seen.state.t, (CHUNK, 1))


def broken(seen: Observation) -> Vector:
    """The swing, and no numbers from 0.2 s to 0.36 s."""
    return near(seen) * (np.nan if 200_000_000 <= seen.state.t < 360_000_000 else 1.0)


def halting(seen: Observation) -> Vector:
    """The swing, and no answer from 0.25 s to 0.5 s."""
    if 250_000_000 <= seen.state.t < 500_000_000:
        raise TimeoutError("the model does not answer")
    return near(seen)


def _clean_start(run: Path, key: Path) -> None:
    """Acknowledged, with calibrated monitors; then the policy moves the arm."""
    calibration = load_calibration(load_scenario("clean"))
    with Cell(gentle, run, key, calibration=calibration) as cell:
        cell.ticks(10)
        cell.acknowledge("start")
        cell.ticks(380)


def _joint_limits(run: Path, key: Path) -> None:
    """The policy wants past the limits, and the solver corrects it."""
    solved = CONFIG.filter.model_copy(update={"solver": SolverConfig(settle=False)})
    with Cell(beyond, run, key, config=CONFIG.model_copy(update={"filter": solved}), turn=1.95) as cell:
        cell.acknowledge("start")
        cell.ticks(350)


def _nan_burst(run: Path, key: Path) -> None:
    """Proposals without numbers: the backup stops, HOLD, and a person lets it go on."""
    with Cell(broken, run, key) as cell:
        cell.acknowledge("start")
        cell.ticks(465)
        cell.acknowledge("the policy answers again")
        cell.ticks(25)


def _vla_tail(run: Path, key: Path) -> None:
    """The policy is late: what is left of its chunk is played, more and more slowly."""
    with Cell(halting, run, key, strategy="vla") as cell:
        cell.acknowledge("start")
        cell.ticks(400)


def _jog(run: Path, key: Path) -> None:
    """A person moves a joint by hand in HOLD, and then starts the policy."""
    with Cell(near, run, key) as cell:
        cell.ticks(10)
        cell.jog(3, 0.2, 100)
        cell.ticks(100)
        cell.acknowledge("start")
        cell.ticks(100)


def _monitor_only(run: Path, key: Path) -> None:
    """Nothing is enforced: raw proposals go out, and what would have been done is recorded."""
    with Cell(near, run, key, enforcement=Enforcement.MONITOR_ONLY) as cell:
        cell.acknowledge("start")
        cell.ticks(300)


RUNS: Final[Mapping[str, Callable[[Path, Path], None]]] = {
    "clean_start": _clean_start,
    "joint_limits": _joint_limits,
    "nan_burst": _nan_burst,
    "vla_tail": _vla_tail,
    "jog": _jog,
    "monitor_only": _monitor_only,
}


def record(name: str, run: Path) -> None:
    """Record the golden run ``name`` in the new folder ``run``, signed by a key that only its public half survives."""
    with tempfile.TemporaryDirectory() as hidden:
        key = Path(hidden) / "golden.key"
        keygen(key, f"golden-{name}", "test")
        RUNS[name](run, key)
        shutil.copyfile(f"{key}.pub", run / KEY)


# --- what changed ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Diff:
    """How the decisions of two runs differ.

    Attributes:
        decisions: of the new run.
        changed: how many are not as before, bit for bit; missing and added ones count.
        lines: for a reviewer.
    """

    decisions: int
    changed: int
    lines: tuple[str, ...]


def decisions_of(run: Path) -> list[Body]:
    """The decisions of a run in the current version, as plain JSON."""
    return [current_body(found) for found in read_run(run, check=False) if found.kind is RecordKind.DECISION]


def timeline(bodies: list[Body]) -> list[str]:
    """Mode and causes over the ticks of a run."""
    outlines = [(at, Outline.of(body)) for at, body in enumerate(bodies)]
    lines: list[str] = []
    for (mode, causes), group in groupby(outlines, key=lambda item: (item[1].mode, item[1].causes)):
        ticks = [at for at, _ in group]
        lines.append(f"decisions {ticks[0]:>4} to {ticks[-1]:>4}  {mode:<10} {', '.join(causes)}".rstrip())
    return lines


def diff(old: list[Body], new: list[Body]) -> Diff:
    """What a reviewer should see: how many decisions changed, the first one, and the modes if they changed."""
    exact = Comparison("exact")
    changed = [at for at, (a, b) in enumerate(zip_longest(old, new)) if a is None or b is None or exact.first(a, b)]
    lines = [f"{len(changed)} of {len(new)} decisions changed"]
    if changed and changed[0] < min(len(old), len(new)):
        at = changed[0]
        found = exact.first(old[at], new[at])
        assert found is not None
        lines += _first(at, found, old[at], new[at])
    if len(old) != len(new):
        lines.append(f"there were {len(old)} decisions and are {len(new)}")
    before, after = timeline(old), timeline(new)
    if before != after:
        lines += ["modes before", *(f"  {line}" for line in before), "modes after", *(f"  {line}" for line in after)]
    return Diff(len(new), len(changed), tuple(lines))


def _first(at: int, found: Difference, old: Body, new: Body) -> Iterator[str]:
    tick = cast("Mapping[str, Any]", new)["tick"]
    yield f"first: decision {at} (tick {tick}), stage {found.stage}, {found.path}"
    yield f"  before  {shortened(found.expected)}"
    yield f"  after   {shortened(found.got)}"
    if found.delta is not None:
        yield f"  apart   {found.delta.absolute:.3g}, {found.delta.ulps:,} ULP"
    yield f"  before  {Outline.of(old)}"
    yield f"  after   {Outline.of(new)}"


# --- commands ----------------------------------------------------------------------------------------


def update(name: str, folder: Path = FOLDER, *, force: bool = False) -> Diff:
    """Record a golden run anew; the files stay as they are where no decision changed. Returns what changed."""
    old = folder / name
    with tempfile.TemporaryDirectory() as place:
        new = Path(place) / name
        record(name, new)
        try:
            had = decisions_of(old)
        except JournalError as error:
            found = Diff(0, 1, (f"new: {error}" if old.exists() else "new", *timeline(decisions_of(new))))
        else:
            found = diff(had, decisions_of(new))
        if found.changed or force:
            shutil.rmtree(old, ignore_errors=True)
            shutil.copytree(new, old)
    return found


def check(name: str, folder: Path = FOLDER) -> tuple[bool, list[str]]:
    """Whether a golden run is as it was signed and comes out again; and what to tell."""
    run = folder / name
    if not run.is_dir():
        return False, [f"there is no {run}: python scripts/golden.py update {name}"]
    verified = verify_run(run, read_public(run / KEY))
    replayed = replay_run(run, strictness="machine")
    ok = verified.verdict == "complete" and replayed.agrees
    return ok, [f"{verified.verdict} {verified.problem}".rstrip(), *replayed.lines()]


def main(arguments: list[str]) -> int:
    """0 if all is well."""
    parser = argparse.ArgumentParser(description="Golden runs.")
    parser.add_argument("command", choices=["check", "update"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all by default")
    parser.add_argument("--force", action="store_true", help="update: write files anew also where no decision changed")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(RUNS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(RUNS)}")
    well = True
    for name in given.names or RUNS:
        if given.command == "check":
            ok, lines = check(name)
            well = well and ok
            print(f"{name}: {'good' if ok else 'BAD'}", *lines, sep="\n  ")
        else:
            print(name, *update(name, force=given.force).lines, sep="\n  ")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
