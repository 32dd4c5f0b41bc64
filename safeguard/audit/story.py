"""What happened in a run, boiled down to rows: modes, causes, people, faults, and interventions folded into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, cast

from pydantic import JsonValue

from safeguard.audit.event_words import ECHOES, EVENTS, Grade, told_event
from safeguard.audit.fold import (
    UNTOUCHED,
    Folder,
    Intervention,
    margins_of,
    reason_of,
    rows_of,
    seconds_of,
    verdicts_of,
)
from safeguard.audit.records.bodies import UNITS, OutcomeBody
from safeguard.audit.records.cut import CutRange
from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.encode import Json
from safeguard.audit.records.events import Fallback, FaultDetected, ModeChange
from safeguard.audit.records.registry import (
    DecisionRecord,
    EpisodeClose,
    EpisodeOpen,
    FaultCleared,
    FaultInjected,
    Human,
    Limits,
    RunClose,
    RunOpen,
)
from safeguard.audit.timeline import Moment
from safeguard.core.enums import Enforcement, FilterStatus, Mode, RecordKind
from safeguard.core.types import NS_PER_S

SCALES: Final = {"position": 1.0, "velocity": 1.0, "torque": 10.0, "clearance": 0.1}
"""What a margin counts as wide by default; a run's limits replace all but the clearance's."""

SHOWN_ROWS: Final = 3

HELD: Final = 1000
"""Most events that wait for the intervention in which they happen; more of them, and it is told in parts."""


@dataclass(frozen=True, slots=True)
class Margin:
    """The margin that is smallest for its kind of limit: its name, value and unit."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a timeline.

    Attributes:
        seq, kind, hash: of the record, or of the first of several.
        at, until: ns on the run's axis (see ``Moment``); ``until`` is later where several ticks are one row.
        since, last: the same in s after the first tick of the episode; None outside episodes.
        episode, tick: where; None outside.
        what: "run", "episode", "mode", "cause", "filter", "decision", "person", "fault", or the record's kind.
        mode, causes, status: in force; None and () where the record says nothing of them.
        margins: smallest margin by name, with its unit in ``UNITS``.
        smallest: the one of them that is smallest against its limit.
        detail: in words.
        count: how many decisions the row stands for.
        rows: constraint rows that bound.
        changed: causes that came or went.
        grade: how bad it is.
    """

    seq: int
    kind: RecordKind
    hash: str
    at: int
    until: int
    since: float | None
    last: float | None
    episode: int | None
    tick: int | None
    what: str
    detail: str
    grade: Grade = "info"
    mode: Mode | None = None
    configuration: str = ""
    causes: tuple[str, ...] = ()
    status: FilterStatus | None = None
    margins: Mapping[str, float] = field(default_factory=dict[str, float])
    smallest: Margin | None = None
    count: int = 1
    rows: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def story(moments: Iterable[Moment], *, every: bool = False, echoes: bool = False) -> Iterator[Row]:
    """Rows of what mattered in ``moments``, in order; with ``every``, one for each decision instead of folding them.

    With ``echoes`` also records that only repeat what decisions say (``event_words.ECHOES``).
    """
    teller = Teller(every, echoes)
    for moment in moments:
        yield from teller.hear(moment)
    yield from teller.fold()


def told_cut(one: CutRange) -> str:
    """What was cut, when, by whom, by which rule and why, in words."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in one.counts.items())
    try:
        when = datetime.fromtimestamp(one.utc // NS_PER_S, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # no calendar has this year
        when = f"{one.utc} ns"
    why = f": {one.reason}" if one.reason else ""
    return f"records {one.first:,} to {one.last:,} cut ({counts}) on {when} by {one.operator}, rule {one.rule}{why}"


def scales_of(limits: Limits | None) -> dict[str, float]:
    """What a margin of each kind counts as wide: half the narrowest range, and the lowest speed and torque limits."""
    scales = dict(SCALES)
    if limits is not None and limits.joints:
        number = decode_number
        scales["position"] = min(number(joint.upper) - number(joint.lower) for joint in limits.joints) / 2.0
        scales["velocity"] = min(number(joint.velocity) for joint in limits.joints)
        scales["torque"] = min(number(joint.torque) for joint in limits.joints)
    return {name: scale if 0.0 < scale < float("inf") else SCALES[name] for name, scale in scales.items()}


def smallest_of(margins: Mapping[str, float], scales: Mapping[str, float]) -> Margin | None:
    """The margin that is smallest against its scale; one that is not a number before all others."""

    def rank(name: str) -> float:
        value = margins[name]
        return float("-inf") if value != value else value / scales[name]

    name = min(margins, key=rank, default=None)
    return None if name is None else Margin(name, margins[name], UNITS[name])


@dataclass(frozen=True, slots=True)
class _Change:
    """What is different from the decision before: about what, which causes, in words."""

    what: str
    causes: tuple[str, ...]
    said: list[str]


class Teller:
    """Hears a run's moments in order and says what is worth a row."""

    def __init__(self, every: bool = False, echoes: bool = False) -> None:
        self._every, self._echoes = every, echoes
        self._held: list[Row] = []  # of events in an intervention that is not over
        self._scales = dict(SCALES)
        self._mode: tuple[Mode, str] = Mode.BOOT, ""
        self._since: dict[str, float] = {}  # cause → when it came, s
        self._folder = Folder()
        self._told_at = -1  # number of the last decision that has a row of its own

    def hear(self, moment: Moment) -> Iterator[Row]:
        """The rows that are complete now that ``moment`` is known."""
        if isinstance(moment.record.body, DecisionRecord):
            yield from self._hear_decision(moment, moment.record.body)
        elif moment.record.kind not in EVENTS:
            yield from self.fold()
            yield self._other(moment)
        elif self._echoes or moment.record.kind not in ECHOES:
            self._held.append(self._other(moment))
            yield from self._ordered(()) if len(self._held) < HELD else self.fold()

    def fold(self) -> Iterator[Row]:
        """The row of the intervention that is over, if any."""
        yield from self._ordered(self._folded(self._folder.end()))

    def _ordered(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows and those of events that need not wait for an intervention any longer, as they happened."""
        begun = self._folder.begun
        ready = [row for row in self._held if begun is None or row.seq < begun]
        self._held = self._held[len(ready) :]
        yield from sorted([*rows, *ready], key=lambda row: row.seq)

    def _folded(self, over: Iterable[Intervention]) -> Iterator[Row]:
        """Rows of interventions in which something was changed; the others have rows for mode and causes."""
        for one in over:
            told = one.ticks == 1 and one.first.record.seq == self._told_at and not one.active and not one.reason
            if not told and one.status not in UNTOUCHED:
                times = f"{one.ticks} ticks to {one.end:.3f} s" if one.ticks > 1 else ""
                text = "; ".join(filter(None, [times, _most(one.active), one.reason]))
                yield _replaced(self._told(one.first, one.body.decision, "filter", text), one, self._scales)

    def _hear_decision(self, moment: Moment, body: DecisionRecord) -> Iterator[Row]:
        decision = body.decision
        change = self._change(moment, decision)
        if self._every:
            text = "; ".join(filter(None, [*change.said, reason_of(decision)]))
            yield self._told(moment, decision, "decision", text, change.causes)
            return
        yield from self._ordered(self._folded(self._folder.hear(moment, body)))
        if change.said:
            self._told_at = moment.record.seq
            yield self._told(moment, decision, change.what, "; ".join(change.said), change.causes)

    def _change(self, moment: Moment, decision: OutcomeBody) -> _Change:
        """What is different from the decision before."""
        before, self._mode = self._mode, (decision.mode, decision.configuration)
        now = [cause.value for cause in decision.causes]
        came = [name for name in now if name not in self._since]
        gone = [name for name in self._since if name not in now]
        said: list[str] = []
        if before != self._mode:
            by = f" by {', '.join(decision.reasons)}" if decision.reasons else ""
            said.append(f"{self._label(before)} → {self._label(self._mode)}{by}")
        why = _why(decision)
        what = "mode" if said else "cause"
        said += [f"+{name}{why.get(name, '')}" for name in came]
        said += [f"−{name} after {seconds_of(moment) - self._since.pop(name):.3f} s" for name in gone]
        self._since.update(dict.fromkeys(came, seconds_of(moment)))
        return _Change(what, (*came, *gone), said)

    @staticmethod
    def _label(mode: tuple[Mode, str]) -> str:
        return f"{mode[0].name}[{mode[1]}]" if mode[1] else mode[0].name

    def _told(
        self, moment: Moment, decision: OutcomeBody, what: str, detail: str, changed: tuple[str, ...] = ()
    ) -> Row:
        """A row about one decision."""
        result, record = decision.filter, moment.record
        margins = margins_of(result)
        return Row(
            seq=record.seq,
            kind=record.kind,
            hash=record.hash,
            at=moment.at,
            until=moment.at,
            since=moment.since,
            last=moment.since,
            episode=moment.episode,
            tick=record.tick,
            what=what,
            detail=detail,
            grade=_grade(decision),
            mode=decision.mode,
            configuration=decision.configuration,
            causes=tuple(cause.value for cause in decision.causes),
            status=result.status,
            margins=margins,
            smallest=smallest_of(margins, self._scales),
            rows=tuple(rows_of(result)),
            changed=changed,
        )

    def _other(self, moment: Moment) -> Row:
        """A row about a record that is no decision."""
        body, record = moment.record.body, moment.record
        if isinstance(body, RunOpen):
            self._scales = scales_of(body.limits)
        if isinstance(body, EpisodeOpen):
            self._mode, self._since, self._folder = (body.mode, ""), {}, Folder()
        what, detail, grade = words(moment)
        times = (moment.at, moment.at, moment.since, moment.since)
        named = (body.cause,) if isinstance(body, FaultDetected) else ()
        active = body.causes if isinstance(body, ModeChange | Fallback) else ()
        row = Row(record.seq, record.kind, record.hash, *times, moment.episode, record.tick, what, detail, grade)
        return replace(row, changed=tuple(c.value for c in named), causes=tuple(c.value for c in active))


def _replaced(row: Row, one: Intervention, scales: Mapping[str, float]) -> Row:
    """The row of the first decision with what all of them have in common."""
    return replace(
        row,
        until=one.until,
        last=one.last,
        margins=one.margins,
        smallest=smallest_of(one.margins, scales),
        count=one.ticks,
        rows=tuple(one.active),
    )


def _most(rows: Counter[str]) -> str:
    """The rows that bound most often."""
    names = [name for name, _ in rows.most_common(SHOWN_ROWS)]
    more = f" and {len(rows) - len(names)} more" if len(rows) > len(names) else ""
    return f"{', '.join(names)}{more}" if names else ""


def _why(decision: OutcomeBody) -> dict[str, str]:
    """What a monitor said of the cause that it named, by cause."""
    return {
        v.cause.value: f" ({v.detail})" for v in reversed(verdicts_of(decision)) if v.cause is not None and v.detail
    }


def _grade(decision: OutcomeBody) -> Grade:
    if decision.mode in (Mode.STOP, Mode.ESTOP, Mode.LOCKOUT) or decision.filter.status is FilterStatus.REFUSED:
        return "error"
    quiet = decision.mode in (Mode.NOMINAL, Mode.BOOT) and decision.filter.status in UNTOUCHED
    return "info" if quiet and not decision.causes else "warn"


def words(moment: Moment) -> tuple[str, str, Grade]:
    """What a record that is no decision is about, what it says, and how bad that is."""
    match moment.record.body:
        case RunOpen() as body:
            place = "simulated" if body.simulated else "on hardware"
            text = f"{body.run_id}: {body.robot.name}, {place}, safeguard {body.safeguard}, {body.created_utc}"
            return "run", text, "info"
        case RunClose() as body:
            return "run", f"closed: {body.reason}, after {sum(body.counts.values()):,} records", "info"
        case EpisodeOpen() as body:
            return "episode", _opened(body), "info" if body.enforcement is Enforcement.FULL else "warn"
        case EpisodeClose() as body:
            return "episode", f"closed: {_flat(body.outcome) or 'no outcome'}", "info"
        case Human() as body:
            who = f"{body.operator}{' (simulated)' if body.simulated else ''}"
            to = "" if body.to is None else f" the command to {body.to}"
            return "person", f"{body.action}{to} by {who}: {body.reason}", "info"
        case FaultCleared() as body:
            return "fault", f"{body.id} cleared", "info"
        case FaultInjected() as body:
            return "fault", f"{body.id} acts: {_flat(body.parameters) or body.kind}", "warn"
        case body if (told := told_event(body)) is not None:
            return told
        case _:
            kind = moment.record.kind
            return kind.value, _flat(moment.record.data), "error" if kind is RecordKind.GAP else "warn"


def _opened(body: EpisodeOpen) -> str:
    said = [body.scenario or body.task, f"strategy {body.strategy}"]
    said += [f"policy {body.policy}"] if body.policy else []
    said += [f"seed {body.seed}"] if body.seed is not None else []
    said += [f"enforcement {body.enforcement.value}"] if body.enforcement is not Enforcement.FULL else []
    return ", ".join(said)


def _flat(values: Mapping[str, JsonValue] | Mapping[str, Json]) -> str:
    """Scalars of a mapping in words; what counts something inside it, where the count is not 0."""
    said = [f"{name} {_brief(value)}" for name, value in values.items() if isinstance(value, bool | int | float | str)]
    return ", ".join([*said, *(text for inside in values.values() for text in _counted(inside))])


def _counted(inside: object) -> Iterator[str]:
    """What a mapping of mappings counted: ``{"torque": {"count": 3}}``."""
    if isinstance(inside, dict):
        for name, value in cast("dict[str, object]", inside).items():
            number = cast("dict[str, object]", value).get("count") if isinstance(value, dict) else None
            if number:
                yield f"{name} × {number}"


def _brief(value: bool | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
