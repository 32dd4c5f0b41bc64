"""A mode table as a page: what the file says, in Markdown, with its state diagram. Tests and CI compare the pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from safeguard.core.enums import Authority, Mode
from safeguard.modes import words
from safeguard.modes.diagram import SHORT, compact, svg
from safeguard.modes.spec import CauseSpec, TableSpec
from safeguard.modes.table import STRATEGIES, load_spec

__all__ = ["drift", "mermaid", "pages", "render_markdown", "svg", "write_pages"]


def pages() -> dict[str, str]:
    """File name → content of everything that ``write_pages`` writes."""
    found: dict[str, str] = {}
    for strategy in STRATEGIES:
        spec = load_spec(strategy)
        found[f"{strategy}.md"], found[f"{strategy}.svg"] = render_markdown(spec), svg(spec)
    return found


def write_pages(folder: Path) -> list[Path]:
    """Write the page and the diagram of every strategy into ``folder`` (made if missing); what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, content in pages().items():
        (folder / name).write_text(content, encoding="utf-8")
        written.append(folder / name)
    return written


def drift(folder: Path) -> list[str]:
    """Names of files in ``folder`` that are missing or differ from what ``write_pages`` would write."""
    return [name for name, content in pages().items() if _content(folder / name) != content]


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def render_markdown(spec: TableSpec) -> str:
    """The reference page of a table; it shows ``<strategy>.svg``, which lies beside it."""
    about = words.STRATEGIES.get(spec.strategy, "")
    blocks = [
        f"# Modes: {spec.strategy}",
        f"{about} This page is generated from the table: `safeguard modes render`.".strip(),
        f"![State diagram of the strategy {spec.strategy}]({spec.strategy}.svg)",
        *_modes(spec),
        *_causes(spec),
        *_configurations(spec),
        *_escalations(spec),
        *_recoveries(spec),
        "## The diagram as Mermaid",
        f"```mermaid\n{mermaid(spec)}```",
    ]
    return "\n\n".join(blocks) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or '–' for cell in line)} |" for line in lines)


def _modes(spec: TableSpec) -> Iterator[str]:
    yield "## Modes"
    yield "From harmless to severe. The envelope restricts what the policy may propose, never the brake."
    rows: list[list[str]] = []
    for row in sorted(spec.modes, key=lambda row: row.mode):
        own = row.authority is Authority.POLICY and row.mode is not Mode.DEGRADED
        envelope = f"{words.percent(row.velocity_share)}, {words.percent(row.acceleration_share)}" if own else ""
        if row.mode is Mode.DEGRADED:
            envelope = "by configuration"
        rows.append([row.id, row.mode.name, words.AUTHORITIES[row.authority], envelope, words.MODES[row.mode]])
    yield _table(["row", "mode", "who moves the body", "speed, acceleration", "in words"], rows)
    if spec.jog is not None:
        speed, acceleration = words.percent(spec.jog.velocity_share), words.percent(spec.jog.acceleration_share)
        yield (
            f"{spec.jog.id}: in HOLD a person who has the command may jog the body while no cause asks for HOLD or"
            " worse and none waits on its bridge: through the filter, only away from what is near, with"
            f" {speed} of the speed and {acceleration} of the acceleration. The mode stays HOLD."
        )


def _causes(spec: TableSpec) -> Iterator[str]:
    bridge = spec.bridge
    yield "## Causes"
    yield (
        "Each active cause asks for its floor at least; the worst floor wins in the same tick. While a *bridge* lasts"
        " the backup stands in for the policy; while a *debounce* lasts nothing changes."
    )
    yield (
        f"Both are buckets: {bridge.fill} in for every tick with the cause, {bridge.drain} out for every tick without;"
        f" full at {bridge.fill} times the ticks of the delay. An acknowledgement counts once every bucket is at most"
        f" {words.percent(bridge.rearm_share)} full."
    )
    rows = [_cause(row) for row in sorted(spec.causes, key=lambda row: row.id.rpartition("-")[2])]
    yield _table(["row", "cause", "in words", "about", "floor", "sheds", "delay", "clears"], rows)
    yield (
        f"`about` policy: does not count while a person has the command ({spec.takeover.id}: the mode is then"
        f" {spec.takeover.floor.name} at least). Counted towards LOCKOUT:"
        f" {compact(row.id for row in spec.causes if row.lockout)}."
    )


def _cause(row: CauseSpec) -> list[str]:
    kind = "debounce" if row.debounced else "bridge"
    seconds, ticks = (row.debounce_s, row.debounce_ticks) if row.debounced else (row.bridge_s, row.bridge_ticks)
    delay = f"{kind} {words.span(seconds, ticks)}" if row.delayed else ""
    clears = "by itself" if row.clear == "auto" else "acknowledged"
    cause = f"`{row.cause.value}`"
    return [row.id, cause, words.CAUSES[row.cause], row.about, row.floor.name, ", ".join(row.sheds), delay, clears]


def _configurations(spec: TableSpec) -> Iterator[str]:
    yield "## What can be left out"
    if not spec.configurations:
        yield "Nothing: there is no DEGRADED, and what would be degraded elsewhere is HOLD here."
        return
    yield "A part that was left out comes back when nothing has shed it for its dwell, one part at a time."
    yield _table(
        ["row", "part", "comes back when", "for"],
        [
            [row.id, row.name, ", ".join(words.GUARDS[g] for g in row.guards) or "nothing sheds it",
             words.span(row.dwell_s, row.dwell_ticks)]
            for row in spec.capabilities
        ],
    )  # fmt: skip
    yield "Without these parts the policy goes on like this; beyond the stay, or with a warning that is too much, HOLD."
    yield _table(
        ["row", "configuration", "without", "speed, acceleration", "longest stay", "does not tolerate"],
        [
            [row.id, row.name, ", ".join(row.sheds),
             f"{words.percent(row.velocity_share)}, {words.percent(row.acceleration_share)}"
             + (", slowing to a stop" if row.decays else ""),
             words.span(row.stay_s, row.stay_ticks), ", ".join(f"`{cause.value}`" for cause in row.intolerable)]
            for row in spec.configurations
        ],
    )  # fmt: skip
    if spec.flapping is not None:
        window = words.span(spec.flapping.window_s, spec.flapping.window_ticks)
        yield f"{spec.flapping.id}: at most {spec.flapping.recoveries} parts come back in any {window}; beyond, HOLD."


def _escalations(spec: TableSpec) -> Iterator[str]:
    yield "## Worse with time"
    yield "A stop that does not come to rest becomes the next worse one."
    rows = [
        [row.id, row.source.name, row.target.name, f"still moving after {words.span(row.moving_s, row.moving_ticks)}"]
        for row in spec.escalations
    ]
    number = f"emergency stop number {spec.lockout.beyond + 1}; the count survives a restart"
    rows.append([spec.lockout.id, Mode.ESTOP.name, Mode.LOCKOUT.name, number])
    yield _table(["row", "from", "to", "when"], rows)


def _recoveries(spec: TableSpec) -> Iterator[str]:
    yield "## Recovery"
    yield "Every guard must hold, and all but the acknowledgement must have held for the dwell."
    rows = [
        [row.id, row.source.name, row.target.name, "; ".join(words.GUARDS[guard] for guard in row.guards),
         words.span(row.dwell_s, row.dwell_ticks)]
        for row in spec.recoveries
    ]  # fmt: skip
    yield _table(["row", "from", "to", "when", "dwell"], rows)


def mermaid(spec: TableSpec) -> str:
    """The state diagram in Mermaid's language, with a line feed at the end."""
    lines = ["stateDiagram-v2", "    [*] --> BOOT", *_mermaid_states(spec)]
    for row in spec.escalations:
        moving = f"moving{_for(row.moving_s, row.moving_ticks)}"
        lines.append(f"    {row.source.name} --> {row.target.name} : {row.id} {moving}")
    lines.append(f"    ESTOP --> LOCKOUT : {spec.lockout.id} number {spec.lockout.beyond + 1}")
    if spec.configurations:
        lines.append(f"    DEGRADED --> HOLD : {compact(row.id for row in spec.configurations)} stay over")
        lines.append(f"    DEGRADED --> CAUTIOUS : {compact(row.id for row in spec.capabilities)} all is back")
    for back in spec.recoveries:
        guards = ", ".join(SHORT[guard] for guard in back.guards) + _for(back.dwell_s, back.dwell_ticks)
        lines.append(f"    {back.source.name} --> {back.target.name} : {back.id} {guards}")
    return "\n".join(lines) + "\n"


def _mermaid_states(spec: TableSpec) -> Iterator[str]:
    """Titles say who asks for a mode, because Mermaid draws notes in some places and refuses them in others."""
    for mode in (Mode.CAUTIOUS, Mode.DEGRADED, Mode.HOLD, Mode.STOP, Mode.ESTOP):
        asking = compact(row.id for row in spec.causes if row.floor is mode)
        if not asking:
            continue
        inside = [f"        {row.name} : {row.id} {row.name.replace('_', ' ')}" for row in spec.configurations]
        opens = mode is Mode.DEGRADED and bool(inside)
        yield f'    state "{mode.name}, asked for by {asking}" as {mode.name}{" {" if opens else ""}'
        yield from [*inside, "    }"] if opens else []


def _for(seconds: float | None, ticks: int | None) -> str:
    found = words.span(seconds, ticks)
    return "" if found == "–" else f" for {found}"
