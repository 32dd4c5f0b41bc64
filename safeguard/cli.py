"""The ``safeguard`` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from safeguard import cli_robot as declared
from safeguard.cli_audit import commands as shows
from safeguard.cli_evidence import commands as evidence
from safeguard.cli_journal import TEST_KEY, test_key
from safeguard.cli_journal import commands as journals
from safeguard.cli_modes import modes
from safeguard.cli_replay import commands as replays
from safeguard.core.errors import CalibrationError, ConfigError, SafeguardError

if TYPE_CHECKING:
    from safeguard.audit import AuditConfig
    from safeguard.monitors import Calibration

OK, USAGE, FAILED = 0, 2, 3

app = typer.Typer(
    name="safeguard",
    help="Wrap any robot policy as a safety shield, inject faults, export audit logs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
robots = typer.Typer(help="Robot models.", no_args_is_help=True)
audits = typer.Typer(help="Journals: keys, verify, replay, report.", no_args_is_help=True)
guests = typer.Typer(help="Policies that come with safeguard.", no_args_is_help=True)
app.add_typer(robots, name="robot")
app.add_typer(audits, name="audit")
for part in (journals, shows, replays, evidence):
    audits.registered_commands += part.registered_commands
app.add_typer(guests, name="policies")
app.add_typer(modes, name="modes")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]

console = Console()
progress_console = Console(stderr=True)


def main() -> None:
    """Entry point: errors that name the fix instead of tracebacks."""
    try:
        app()
    except SafeguardError as error:
        progress_console.print(f"[bold red]error[/]: {type(error).__name__}: ", end="")
        progress_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command(epilog="Example: safeguard demo --out runs/demo")
def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder to create; runs/demo-N by default.")] = None,
    as_json: Json = False,
) -> None:
    """A learned policy on a Panda arm with seven kinds of trouble, without and with the shield."""
    from safeguard.scenarios.demo import run_demo
    from safeguard.scenarios.table import results_table

    folder = out or _fresh("demo")
    key = test_key(folder.parent)
    with _bar() as tell:
        result = run_demo(folder, tell, key=key)
    problems = result.problems
    if as_json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        console.print(results_table(result.results))
        console.print(
            "red: a limit was exceeded; – : did not happen; brake counts the hold before the start\n", style="dim"
        )
        console.print(f"journal: {result.verified.verdict}, {result.verified.records:,} records")
        same = "every decision came out identical" if result.replayed.identical else "NOT identical"
        console.print(f"replay: {result.replayed.decisions:,} decisions recomputed, {same}")
        for problem in problems:
            console.print(f"problem: {problem}", style="red", markup=False)
        _next_steps(folder)
    raise typer.Exit(FAILED if problems else OK)


def _next_steps(folder: Path) -> None:
    steps = [
        ("look at it", f"open {folder / 'report.html'} in a browser"),
        ("one scenario", "safeguard run self_collision --seed 7"),
        ("without the shield", "safeguard run self_collision --seed 7 --no-shield"),
        ("harder", "safeguard run torque_spikes --set faults.0.severity=5"),
        ("check the evidence", f"safeguard audit verify {folder} --key {folder.parent / TEST_KEY}.pub"),
    ]
    console.print("\nWhat to try next", style="bold")
    for name, command in steps:
        console.print(f"  {name:<20}{command}", markup=False, highlight=False)


@app.command(epilog="Example: safeguard run joint_limits --seed 3 --set faults.0.severity=4")
def run(
    scenario: Annotated[str, typer.Argument(help="A name of the library, or a YAML file.")],
    seed: Annotated[int | None, typer.Option(help="Replaces the scenario's seed.")] = None,
    no_shield: Annotated[bool, typer.Option("--no-shield", help="Send raw proposals; marked in every record.")] = False,
    monitor_only: Annotated[
        bool, typer.Option("--monitor-only", help="Record what the shield would do; raw proposals go out, marked.")
    ] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the scenario.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to create; runs/SCENARIO-N by default.")] = None,
    log: Annotated[str, typer.Option(help="Tell what changes on standard error: none, console or json.")] = "none",
    as_json: Json = False,
) -> None:
    """Run one episode of a scenario."""
    from safeguard.core.enums import Enforcement
    from safeguard.scenarios.calibration import load_calibration
    from safeguard.scenarios.referee import MOTION
    from safeguard.scenarios.runner import run_episode
    from safeguard.scenarios.scenario import load_scenario
    from safeguard.scenarios.table import results_table

    if no_shield and monitor_only:
        raise ConfigError("--no-shield and --monitor-only exclude each other: leave one of them out")
    loaded = load_scenario(scenario, assignments or ())
    folder = out or _fresh(loaded.name)
    try:
        calibration = load_calibration(loaded)
    except CalibrationError as error:
        if not assignments:
            raise
        progress_console.print(f"note: monitors are uncalibrated: {error}", markup=False, soft_wrap=True)
        calibration = None
    recording = _recording(folder, log)
    off = Enforcement.MONITOR_ONLY if monitor_only else Enforcement.OFF
    enforcement = off if no_shield or monitor_only else Enforcement.FULL
    with _bar() as tell:
        done = 0

        def ticked(decision: object) -> None:
            nonlocal done
            done += 1
            if done % 50 == 0:
                tell(loaded.name, done, loaded.ticks)

        result = run_episode(
            loaded,
            seed=seed,
            enforcement=enforcement,
            audit=recording,
            calibration=calibration,
            progress=ticked,
        )
    if as_json:
        print(json.dumps({"run": str(folder), **result.as_json()}, indent=1))
    else:
        console.print(results_table([result]))
        console.print(f"run folder: {folder}", markup=False, soft_wrap=True)
    unsafe = enforcement is Enforcement.FULL and not MOTION.isdisjoint(result.judgement.violations)
    raise typer.Exit(FAILED if unsafe else OK)


@app.command(epilog="Example: safeguard calibrate clean --episodes 260 --out clean.calibration.json")
def calibrate(
    scenario: Annotated[str, typer.Argument(help="A scenario without faults.")],
    episodes: Annotated[int, typer.Option(min=6, help="Nominal episodes to record.")] = 260,
    first: Annotated[int, typer.Option(min=1000, help="Number of the first; others are other random streams.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    out: Annotated[Path, typer.Option(help="Artefact to write.")] = Path("calibration.json"),
    as_json: Json = False,
) -> None:
    """Calibrate the shield's monitors on nominal episodes, with the shield on."""
    from safeguard.scenarios.calibration import calibrate_scenario
    from safeguard.scenarios.scenario import load_scenario

    loaded = load_scenario(scenario)
    with _bar() as tell:
        artefact = calibrate_scenario(
            loaded, episodes=episodes, first=first, workers=workers, progress=lambda n: tell("episodes", n, episodes)
        )
    artefact.save(out)
    if as_json:
        print(artefact.model_dump_json(indent=1, exclude={"learned": {"__all__": {"data"}}}))
    else:
        console.print(_rungs_table(artefact))
        for rung in artefact.rungs:
            if not rung.calibrated:
                console.print(f"{rung.name} is uncalibrated: {rung.shortage}", style="red", markup=False)
        if artefact.order is not None and artefact.order.rejected:
            console.print(
                f"void: the order of the episodes matters (p = {artefact.order.p_value:.3g}, look at number "
                f"{artefact.order.change}); find out why, then record others with --first",
                style="red",
                markup=False,
            )
        if artefact.origin.excluded:
            console.print(f"left out, not nominal for the referee: {len(artefact.origin.excluded)} episodes")
        console.print(f"written: {out}", markup=False)
    raise typer.Exit(OK if artefact.sound else FAILED)


def _rungs_table(artefact: Calibration) -> Table:
    """The rungs of a calibration with what they promise."""
    table = Table("rung", "score", "declared rate", "n", "k", "threshold", "true rate, 90 %")
    for rung in artefact.rungs:
        limit = "none" if rung.threshold is None else f"{rung.threshold:.4g}"
        span = "" if rung.rate_interval is None else "{:.3f} to {:.3f}".format(*rung.rate_interval)
        table.add_row(rung.name, rung.score, f"{rung.alpha:g}", str(rung.n), str(rung.k), limit, span)
    return table


@robots.command("list", epilog="Example: safeguard robot list")
def robot_list(as_json: Json = False) -> None:
    """Robots that can be loaded by name."""
    from safeguard.core.robot import RobotModel

    _print_names(RobotModel.known(), as_json)


@robots.command("show", epilog="Example: safeguard robot show panda")
def robot_show(name: Annotated[str, typer.Argument(help="A name of 'robot list'.")], as_json: Json = False) -> None:
    """Joints, limits with provenance, collision pairs and digest of a robot."""
    from safeguard.core.robot import RobotModel

    robot = RobotModel.load(name)
    limits = robot.limits
    if as_json:
        fields = ("q_min", "q_max", "v_max", "a_max", "tau_max", "tau_rate_max")
        numbers = {field: getattr(limits, field).tolist() for field in fields}
        data = {"name": robot.name, "joints": robot.joints, "limits": numbers}
        extra = {
            "provenance": dict(limits.provenance),
            "pairs": robot.collision.names,
            "digest": robot.digest,
        }
        print(json.dumps({**data, **extra}, indent=1))
        return
    table = Table("joint", "position, rad", "speed, rad/s", "acceleration, rad/s²", "torque, N·m", title=robot.name)
    for i, joint in enumerate(robot.joints):
        span = f"{limits.q_min[i]:.4f} … {limits.q_max[i]:.4f}"
        table.add_row(joint, span, f"{limits.v_max[i]:g}", f"{limits.a_max[i]:g}", f"{limits.tau_max[i]:g}")
    console.print(table)
    for key, source in limits.provenance.items():
        console.print(f"{key}: {source}", markup=False, highlight=False)
    console.print(f"{len(robot.collision.pairs)} collision pairs; digest {robot.digest}", highlight=False)


@robots.command("certify", epilog="Example: safeguard robot certify panda --payload-kg 0:0.5 --out panda.json")
def robot_certify(
    name: Annotated[str, typer.Argument(help="A name of 'robot list'.")],
    payload_kg: declared.PayloadKg = None,
    payload_com_m: declared.PayloadCom = None,
    payload_error_kg: declared.PayloadError = None,
    mass_error: declared.MassError = None,
    friction_nm: declared.Friction = None,
    external_torque_nm: declared.ExternalTorque = None,
    position_error_rad: declared.PositionError = None,
    velocity_error_radps: declared.VelocityError = None,
    delay_ticks: declared.Delay = 1,
    dt: declared.Period = 0.002,
    epsilon: declared.Epsilon = 0.01,
    beta: declared.Beta = 1e-6,
    seed: declared.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Certificate to write.")] = None,
    as_json: Json = False,
) -> None:
    """Certify how fast a robot may be and how hard it then brakes; exit code 3 where nothing is left to brake with."""
    from safeguard.core.certificate import NotCertifiableError

    told = {
        "payload_kg": payload_kg,
        "payload_com_m": payload_com_m,
        "payload_error_kg": payload_error_kg,
        "mass_error_share": mass_error,
        "friction_nm": friction_nm,
        "external_torque_nm": external_torque_nm,
        "position_error_rad": position_error_rad,
        "velocity_error_radps": velocity_error_radps,
    }
    try:
        with _bar() as tell:
            made = declared.certify_robot(name, told, dt, delay_ticks, epsilon, beta, seed, tell)
    except NotCertifiableError as error:
        progress_console.print(f"not certified: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None
    if out is not None:
        made.save(out)
    if as_json:
        print(made.model_dump_json(indent=1))
        return
    console.print(declared.certificate_table(made))
    console.print(declared.certificate_sentence(made), highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"written: {out}", markup=False, highlight=False)


@audits.command("report", epilog="Example: safeguard audit report runs/demo-1")
def audit_report(
    run: Run,
    key: Annotated[str | None, typer.Option(help="Public key that must have signed: its file, or its text.")] = None,
) -> None:
    """Write RUN/report.html and the pictures beside it."""
    from safeguard.audit import read_public, write_report

    page = write_report(run, key=None if key is None else read_public(key))
    console.print(str(page), markup=False, highlight=False)


@guests.command("list", epilog="Example: safeguard policies list")
def policies_list(as_json: Json = False) -> None:
    """Policies that scenarios can name."""
    from safeguard.scenarios.runner import POLICIES

    _print_names(tuple(POLICIES), as_json)


@guests.command("show", epilog="Example: safeguard policies show push_policy")
def policies_show(name: Annotated[str, typer.Argument(help="A name of 'policies list'.")]) -> None:
    """What a policy was made from and how well it does: its card, as JSON."""
    from importlib import resources

    from safeguard.core.errors import UnknownNameError
    from safeguard.scenarios.runner import POLICIES

    if name not in POLICIES:
        raise UnknownNameError("policy", name, POLICIES)
    card = resources.files("safeguard.policies") / name / "card.json"
    print(card.read_text() if card.is_file() else json.dumps({"name": name, "card": None}))


@app.command(epilog="Example: safeguard bench --json bench.json")
def bench(
    robot: Annotated[str, typer.Option(help="A name of 'robot list'.")] = "panda",
    ticks: Annotated[int, typer.Option(min=100, help="Ticks of each kind.")] = 3000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Time the whole tick and its stages, with the QP active and with admissible proposals."""
    from safeguard.scenarios.bench import bench_filter, bench_table, bench_tick, filter_table

    figures = bench_tick(robot, ticks)
    calls = bench_filter(robot, ticks)
    console.print(bench_table(figures))
    console.print(filter_table(calls, robot))
    figures["filter"] = calls
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def _recording(folder: Path, log: str) -> AuditConfig:
    """How a simulated run is recorded: signed with the test key beside it."""
    from pydantic import ValidationError

    from safeguard.audit import AuditConfig

    made = AuditConfig.of(folder, real_time=False, key=test_key(folder.parent))
    try:
        return AuditConfig.model_validate({**made.model_dump(), "mirror": log})
    except ValidationError as error:
        raise ConfigError(f"--log {log!r}: none, console or json") from error


def _print_names(names: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps(names))
    else:
        for name in names:
            console.print(name, highlight=False)


def _fresh(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, … that does not exist."""
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


@contextmanager
def _bar() -> Generator[Any]:
    """A progress bar on standard error, as a function (what, done, total)."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress_console, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield tell
