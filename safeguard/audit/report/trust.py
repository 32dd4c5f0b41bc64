"""How far the page can be believed: integrity in words, which assumptions held, what is not covered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final, Literal, TypeAlias

from safeguard.audit.report.account import LOSSES, Age, configured
from safeguard.audit.report.facts import CERTIFICATE
from safeguard.audit.report.parts import command, count_text, duration_text, facts_table, table
from safeguard.audit.report.summary import RunSummary
from safeguard.audit.story import told_cut
from safeguard.audit.verify import IntegrityVerdict
from safeguard.core.enums import Enforcement, FilterStatus, Level

MEANINGS: Final[Mapping[IntegrityVerdict, str]] = {
    "complete": "Every record is as it was written, none is missing, the run was closed, and the key that was given "
    "signed all of it.",
    "self-signed": "Nothing is wrong in itself, but no key was given to check against: somebody who rewrote the "
    "journal could have signed it anew with a key of his own. Only the public key, got by another way, settles that.",
    "open": "The records are as written, but the run was never closed. What the last signature does not cover can have "
    "been changed, and more can be missing.",
    "gap": "The records are as written, and they say themselves that others were lost.",
    "truncated": "The journal ends in the middle, or a part of it is missing. This page shows what is proved before.",
    "altered": "A record was changed, added, removed or moved, or another key signed. This page shows only what is "
    "proved before it; do not rely on it for the rest.",
}

PURPOSES: Final = {
    "field": "a key for machines at work",
    "test": "a key for test runs: this is no evidence of a machine at work",
    "ephemeral": "a key that nobody kept: it finds accidents, but nobody vouches for the run",
}

NOT_COVERED: Final = (
    "Inside its stated assumptions (state error, model error, delay, external torque, enclosed geometry, "
    "static obstacles, drives that obey) the shield claims that no limit is exceeded. Outside them it claims "
    "detection and a stop, not zero violations. Each scenario states on which side it lies.",
    "The journal shows that its records are those that were written. It cannot show that what was written was true, "
    "that a whole run is missing, or what somebody did who holds the private key and can reach the anchored copies.",
    "Monitors report what they were built to see. Quiet monitors are no proof that nothing was wrong.",
    "Of an intervention the page shows the first decision in full; the others are in the journal.",
    "This is not a safety-rated function. It relies on the robot's own drive limits and a hardware e-stop.",
)

Held: TypeAlias = Literal["held", "not held", "not checked"]


def integrity(run: RunSummary) -> str:
    """The verdict, in words and in figures."""
    found, account = run.integrity, run.account
    purpose = PURPOSES.get(found.purpose, "purpose not recorded")
    facts = {
        "verdict": found.verdict + (f": {found.problem}" if found.problem else ""),
        "records proved": ", ".join([f"{found.records:,}", *(f"{n:,} {kind}" for kind, n in found.counts.items())]),
        "signed by": f"{found.key}, {purpose}" if found.key else "nobody: the run names no key",
        "not covered by a signature": count_text(found.unprotected, "record"),
        "lost": count_text(found.lost, "record"),
        "closed": account.closed.reason if account.closed is not None else "no",
        "cut since": f"{count_text(found.cut, 'record')}, proved and no longer there" if found.cut else "nothing",
        "Merkle root": found.root or "none",
        "chain value of the last proved record": found.head or "none",
    }
    losses = [told_cut(one) for one in run.cut.cuts] if run.cut is not None else []
    losses += [f"records {gap.first} to {gap.last} ({gap.count}): {gap.cause}" for gap in account.gaps]
    losses += [
        f"taken up again: {one.cut_bytes} bytes cut off, {one.from_ring} records from the ring; {one.reason}"
        for one in account.recoveries
    ]
    listed = "".join(f"<li>{escape(text)}</li>" for text in losses[:LOSSES])
    left = len(losses[LOSSES:]) + account.more_losses
    where = command(run, "show", "--kind gap --kind recovery")
    more = f"<li>{left:,} more in the journal: {where}</li>" if left else ""
    check = command(run, "verify", "--key PUB")
    return (
        f"<p><b>{escape(found.verdict)}.</b> {MEANINGS[found.verdict]}</p>{facts_table(facts)}"
        + (f"<ul>{listed}{more}</ul>" if losses else "")
        + f'<p class="note">Check it yourself: {check}, or <code>verify_offline.py</code>, which needs only Python.</p>'
    )


@dataclass(frozen=True, slots=True)
class Assumption:
    """Something that the claims rest on, and what the run says about it."""

    name: str
    held: Held
    text: str


def assumptions(run: RunSummary) -> str:
    """What the claims rest on, what of it is recorded, and whether it held."""
    styles: Mapping[Held, str] = {"held": "on", "not held": "off", "not checked": "dim"}
    rows = (
        f'<tr><th scope="row">{escape(one.name)}</th><td><span class="badge {styles[one.held]}">{one.held}</span></td>'
        f"<td>{escape(one.text)}</td></tr>"
        for one in _assumptions(run)
    )
    return table(("assumption", "here", "what the journal says"), rows, "assumptions")


def _assumptions(run: RunSummary) -> Iterator[Assumption]:
    account = run.account
    yield _enforcement(run)
    yield _age("states are fresh", account.state_age, "an older one is refused, and the shield stops")
    yield _age("proposals are fresh on arrival", account.proposal_age, "an older one is not followed")
    yield _certified(run)
    yield _calibrated(run)
    yield _unproven(run)
    yield _slack(run)
    yield _terminal(run)
    lost = run.integrity.lost
    yield Assumption("every decision is recorded", "not held" if lost else "held", f"{count_text(lost, 'record')} lost")
    yield _obeyed(run)
    yield _in_time(run)
    yield _people(run)
    world = (
        "simulated: it says nothing about drives, friction or sensors of a real arm"
        if run.opened.simulated
        else ("hardware moved, as the run itself states")
    )
    yield Assumption("the world is the real one", "not held" if run.opened.simulated else "not checked", world)
    yield from (Assumption(name, "not checked", text) for name, text in _stated(run))


def _enforcement(run: RunSummary) -> Assumption:
    counts = run.account.enforcement
    names = {Enforcement.FULL: "enforced", Enforcement.MONITOR_ONLY: "watched only", Enforcement.OFF: "off"}
    text = ", ".join(f"{names[kind]} in {counts[kind]:,} decisions" for kind in Enforcement if counts[kind])
    if run.account.outside:
        text += f"; {count_text(run.account.outside, 'decision')} outside any episode, not on this page"
    full = counts[Enforcement.FULL] == run.account.decisions
    return Assumption("the shield enforces", "held" if full else "not held", text or "no decision")


def _age(name: str, age: Age, otherwise: str) -> Assumption:
    if not age.seen:
        return Assumption(name, "not checked", "none came in")
    seen = f"oldest {duration_text(age.worst)}"
    if age.limit is None:
        return Assumption(name, "not checked", f"{seen}; no limit recorded")
    limit = f"{seen}, limit {duration_text(age.limit)}"
    if not age.outside:
        return Assumption(name, "held", limit)
    return Assumption(name, "not held", f"{limit}; {age.outside:,} of {age.seen:,} were older: {otherwise}")


def _certified(run: RunSummary) -> Assumption:
    account = run.account
    name = "a certificate backs the braking figures"
    text = f"provisional in {account.provisional:,} of {account.filtered:,} filtered decisions"
    if not account.filtered:
        return Assumption(name, "not checked", "nothing was filtered")
    if configured(run.opened.config, *CERTIFICATE) is None:
        text += ": every stop was verified tick by tick, with the model as it is"
    return Assumption(name, "not held" if account.provisional else "held", text)


def _levels(run: RunSummary, level: Level) -> str:
    found = {name: one.levels[level] for name, one in run.account.monitors.items() if one.levels[level]}
    return ", ".join(f"{name} in {count:,} ticks" for name, count in found.items())


def _calibrated(run: RunSummary) -> Assumption:
    without = _levels(run, Level.UNCALIBRATED)
    text = f"without: {without}" if without else "no monitor said that it lacked one"
    return Assumption("monitors with thresholds are calibrated", "not held" if without else "held", text)


def _unproven(run: RunSummary) -> Assumption:
    without = _levels(run, Level.UNPROVEN)
    text = f"could not: {without}" if without else "no monitor said that it could not"
    return Assumption("every check could judge", "not held" if without else "held", text)


def _slack(run: RunSummary) -> Assumption:
    relaxed, stuck = run.account.relaxed, run.account.stuck
    text = f"relaxed in {relaxed:,} decisions; stuck in {stuck:,}"
    return Assumption("no limit had to give way", "not held" if relaxed else "held", text)


def _terminal(run: RunSummary) -> Assumption:
    refused = run.account.statuses[FilterStatus.REFUSED]
    text = f"the checker refused even the stop in {refused:,} decisions" if refused else "no terminal stop"
    return Assumption("a verified stop was always ready", "not held" if refused else "held", text)


def _obeyed(run: RunSummary) -> Assumption:
    found, name = run.account.effects, "the body does what it is told"
    if found.worst is None:
        return Assumption(name, "not checked", "no effect record has judged a tick")
    at = f"episode {found.worst.episode}, ticks {found.worst.first} to {found.worst.last}"
    said = ", ".join(f"{kind.replace('_', ' ')} {found.agreements[kind]:,}" for kind in sorted(found.agreements))
    text = (
        f"{found.judged:,} of {found.ticks:,} ticks judged; effect records: {said}; "
        f"a joint's speed was up to {found.largest:.3g} rad/s off what the model said ({at})"
    )
    checked: Held = "not checked" if found.bare else "held"
    return Assumption(name, "not held" if found.agreements["differs"] else checked, text)


def _in_time(run: RunSummary) -> Assumption:
    total, name = run.account.total, "decisions are in time"
    if not total.seen:
        return Assumption(name, "not checked", "no decision")
    seen = f"slowest {duration_text(total.worst)}"
    if total.limit is None:
        return Assumption(name, "not checked", f"{seen}; no period recorded")
    over = f"{seen}, period {duration_text(total.limit)}; {total.outside:,} of {total.seen:,} took longer"
    if configured(run.opened.config, "shield", "real_time") is not True:
        return Assumption(name, "not checked", f"{over}; simulated time does not care")
    return Assumption(name, "not held" if total.outside else "held", over)


def _people(run: RunSummary) -> Assumption:
    if not run.account.people:
        return Assumption("people are real", "not checked", "nobody acted")
    pretended = any(simulated for _, _, simulated in run.account.people)
    acts = [
        f"{action} by {who}{' (a script)' if simulated else ''}: {count:,}"
        for (action, who, simulated), count in run.account.people.most_common(8)
    ]
    more = len(run.account.people) - len(acts) + run.account.unnamed["people"]
    text = "; ".join(acts) + (f"; {more} more" if more else "")
    return Assumption("people are real", "not held" if pretended else "held", text)


def _stated(run: RunSummary) -> Iterable[tuple[str, str]]:
    """The assumptions that the configuration states itself."""
    stated = configured(run.opened.config, "assumptions")
    match stated:
        case None:
            return []
        case dict():
            return [(f"stated: {key}", str(value)) for key, value in stated.items()]
        case list():
            return [("stated", str(item)) for item in stated]
        case _:
            return [("stated", str(stated))]


def not_covered(run: RunSummary) -> str:
    """What no page of this version can show, and what this run leaves open, as a list."""
    texts: list[str] = [*NOT_COVERED]
    if run.opened.simulated:
        texts.insert(0, "Nothing real moved: the whole run happened in simulation.")
    if not run.integrity.ok:
        texts.insert(
            0, f"The journal's verdict is “{run.integrity.verdict}”, not “complete”: {MEANINGS[run.integrity.verdict]}"
        )
    return "".join(f"<li>{escape(text)}</li>" for text in texts)
