"""What ran: identity, limits and where they come from, certificate, calibrations, mode table, monitors."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from pydantic import JsonValue

from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.registry import JointLimits
from safeguard.audit.report.account import NAMES, MonitorAccount, configured, levels_text
from safeguard.audit.report.parts import (
    NO_NUMBER,
    cell,
    count_text,
    facts_table,
    figure_text,
    numbers,
    table,
)
from safeguard.audit.report.summary import RunSummary
from safeguard.core.enums import Level

CERTIFICATE: Final = ("shield", "filter", "certificate")
LEVEL_NAMES: Final = {level: level.name.lower() for level in Level}


def _word(value: JsonValue) -> str:
    """A recorded value as text; "not recorded" for None."""
    if value is None:
        return "not recorded"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def identity(run: RunSummary) -> str:
    """Versions, machine and digests."""
    opened = run.opened
    facts: dict[str, str | None] = {
        "run": opened.run_id,
        "robot": f"{opened.robot.name}, {opened.robot.digest}",
        "mode table": opened.digests.table,
        "policy": opened.digests.policy,
        "calibration": opened.digests.calibration,
        "record schemas": opened.digests.schemas,
        "enforcement at the start": opened.enforcement.value.replace("_", " "),
        "safeguard": opened.safeguard,
        "python": opened.python,
        "libraries": ", ".join(f"{name} {version}" for name, version in opened.libraries.items()),
        "machine": f"{opened.machine.cpu}, {opened.machine.architecture}, {opened.machine.system}",
    }
    return facts_table({name: value or "none" for name, value in facts.items()})


def certificate(run: RunSummary) -> str:
    """What backs the braking figures."""
    found = configured(run.opened.config, *CERTIFICATE)
    if not isinstance(found, dict):
        return (
            "<p><b>None: the braking figures are provisional.</b> Every stop was verified tick by tick before it was "
            "relied on; no statement covers how far the real arm may differ from the model.</p>"
        )
    return f"{_certificate_words(found)}{facts_table(_certificate_facts(run, found))}"


def _certificate_words(found: Mapping[str, JsonValue]) -> str:
    stated = found.get("statement")
    kind = "A certificate" if found.get("kind") == "certified" else "The quick, provisional certificate"
    if not isinstance(stated, dict):
        return f"<p>{kind}, without a statement.</p>"
    beta = stated.get("beta")
    sure = f"{100 * (1 - beta):.6g} %" if isinstance(beta, int | float) else "the declared"
    return (
        f"<p>{kind}. With {escape(sure)} confidence a fresh stop of the declared distribution breaks its numbers with "
        f"probability at most {escape(_word(stated.get('epsilon')))}. It says nothing about an arm or a load "
        "outside that distribution.</p>"
    )


def _certificate_facts(run: RunSummary, found: Mapping[str, JsonValue]) -> dict[str, str]:
    stated = found.get("statement")
    words: Mapping[str, JsonValue] = stated if isinstance(stated, dict) else {}
    same = (
        "the robot of this run" if found.get("robot_digest") == run.opened.robot.digest else "the model it was made of"
    )
    return {
        "kind": _word(found.get("kind")),
        "digest": _word(found.get("digest")),
        "robot": f"{_word(found.get('robot'))}, {_word(found.get('robot_digest'))} ({same})",
        "period": f"{_word(found.get('dt_s'))} s, delay {_word(found.get('delay_ticks'))} ticks",
        "bound": f"{_word(words.get('bound'))}, declared {_word(words.get('epsilon'))}; β = {_word(words.get('beta'))}",
        "checked with": f"{_word(words.get('validation_samples'))} stops, {_word(words.get('violations'))} broke it",
        "distribution": _word(words.get("distribution")),
    }


def calibrations(run: RunSummary) -> str:
    """The artefact behind the monitors' alarms, and whether it belongs to this robot and policy."""
    made = configured(run.opened.config, "calibration")
    if not isinstance(made, dict):
        return "<p><b>None: no monitor of this run has a calibrated threshold.</b></p>"
    rungs, members = made.get("rungs"), made.get("members")
    head = ("rung", "score", "#n", "#α", "#threshold", "#rate, 90 % interval")
    rows = [_rung(one) for one in (rungs if isinstance(rungs, list) else []) if isinstance(one, dict)]
    origin = made.get("origin")
    known = origin if isinstance(origin, dict) else {}
    wanted = {"robot": run.opened.robot.digest, "policy": run.opened.digests.policy}
    order = made.get("order")
    p_value = _short(order.get("p_value")) if isinstance(order, dict) else "not tested"
    facts = {
        "monitors": ", ".join(_word(m.get("name")) for m in members if isinstance(m, dict))
        if isinstance(members, list)
        else "",
        "made with": ", ".join(f"{'this' if known.get(k) == own else 'another'} {k}" for k, own in wanted.items()),
        "horizon": f"{_short(made.get('horizon_ticks'))} ticks",
        "order of the episodes": f"p = {p_value} that it says nothing",
        "digest": _word(made.get("digest")),
    }
    note = (
        '<p class="note">n: nominal episodes; α: declared rate of false alarms of one episode; both give the '
        "threshold. It holds for the first alarm of episodes like those it was made with, no longer than the horizon."
        "</p>"
    )
    return table(head, rows, "rungs of the calibration") + facts_table(facts) + note


def _rung(one: Mapping[str, JsonValue]) -> str:
    interval = one.get("rate_interval")
    pair = " to ".join(_short(value) for value in interval) if isinstance(interval, list) else NO_NUMBER
    texts = [_short(one.get(key)) for key in ("n", "alpha", "threshold")]
    return (
        f'<tr><th scope="row">{escape(_word(one.get("name")))}</th><td>{escape(_word(one.get("score")))}</td>'
        f"{numbers(map(escape, [*texts, pair]))}</tr>"
    )


def _short(value: JsonValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def mode_table(run: RunSummary) -> str:
    """Which table decided the modes, and which of its rows did."""
    facts = {
        "strategy": ", ".join(run.account.strategies) or _word(configured(run.opened.config, "strategy")),
        "digest": run.opened.digests.table or "none",
    }
    fired, unnamed = run.account.reasons.most_common(), run.account.unnamed
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>{cell(f"{count:,}", numeric=True)}</tr>' for name, count in fired[:100]
    ]
    more = f'<p class="note">{count_text(len(fired) - 100, "row")} more.</p>' if len(fired) > 100 else ""
    more += _unnamed("rows", unnamed["reasons"])
    made = table(("row that changed or kept a mode", "#decisions"), rows, "rows of the mode table") if rows else ""
    return f"{facts_table(facts)}{made}{more}"


def monitors(run: RunSummary) -> str:
    """What every monitor said against its threshold, the loud ones first."""
    found = run.account.monitors
    loud = {name: one for name, one in found.items() if one.levels.total() > one.levels[Level.OK]}
    scored = {name: one for name, one in found.items() if one.score == one.score and name not in loud}
    quiet = [name for name in found if name not in loud and name not in scored]
    rows = [_monitor(name, one) for name, one in (loud | scored).items()]
    head = ("monitor", "#ticks", "alarms, in ticks", "#worst score", "#threshold", "#least p", "first words")
    made = table(head, rows, "monitors against thresholds") if rows else ""
    note = f'<p class="note">Quiet throughout: {escape(", ".join(quiet))}.</p>' if quiet else ""
    note += _unnamed("monitors", run.account.unnamed["monitors"])
    unsure = (
        '<p class="note">unproven: the monitor could not judge; uncalibrated: it has no threshold that holds. Neither '
        "counts as good.</p>"
    )
    return (made + note + unsure) if found else '<p class="note">No monitor spoke.</p>'


def _unnamed(what: str, times: int) -> str:
    """What the summary has no room for."""
    if not times:
        return ""
    return f'<p class="note">{NAMES:,} {what} are told apart; others came {count_text(times, "time")}.</p>'


def _monitor(name: str, one: MonitorAccount) -> str:
    alarms = levels_text(one.levels, LEVEL_NAMES) or "none"
    p = NO_NUMBER if one.p_value is None else figure_text(one.p_value)
    where = f" <small>(episode {one.where[0]}, tick {one.where[1]})</small>" if one.where is not None else ""
    over = one.score > one.threshold
    return (
        f'<tr><th scope="row">{escape(name)}</th>{numbers([f"{one.ticks:,}"])}<td>{alarms}</td>'
        f"{cell(figure_text(one.score), numeric=True, bad=over)}{numbers((figure_text(one.threshold), p))}"
        f"<td>{escape(one.said)}{where}</td></tr>"
    )


def limits(run: RunSummary) -> str:
    """What every joint was held to, and where each figure came from."""
    known = run.limits
    if known is None or not known.joints:
        return '<p class="note">The run recorded no limits.</p>'
    names = ("lower, rad", "upper, rad", "speed, rad/s", "torque, N·m", "acceleration, rad/s²")
    head = ["joint", *(f"#{name.replace(', ', '<br><small>')}</small>" for name in names)]
    sources = [_source(joint) for joint in known.joints]
    alike = len(set(sources)) == 1
    rows = [_limit_row(joint, "" if alike else source) for joint, source in zip(known.joints, sources, strict=True)]
    made = table(head if alike else [*head, "where from"], rows, "limits")
    origin = f'<p class="note">Where from, for every joint: {escape(sources[0])}.</p>' if alike else ""
    kept = "none recorded" if known.clearance is None else figure_text(decode_number(known.clearance), "m")
    return f'{made}{origin}<p class="note">Smallest distance of kept link pairs: {kept}.</p>'


def _source(joint: JointLimits) -> str:
    sources: dict[str, list[str]] = {}
    for name, source in joint.provenance.items():
        sources.setdefault(source, []).append(name)
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items()) or "not recorded"


def _limit_row(joint: JointLimits, source: str) -> str:
    values = (joint.lower, joint.upper, joint.velocity, joint.torque, joint.acceleration)
    texts = (NO_NUMBER if value is None else f"{decode_number(value):.6g}" for value in values)
    where = f"<td>{escape(source)}</td>" if source else ""
    return f'<tr><th scope="row">{escape(joint.joint)}</th>{numbers(texts)}{where}</tr>'
