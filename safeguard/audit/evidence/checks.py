"""The checks that leaves of the argument name: each looks at the facts of one run and says what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from pydantic import JsonValue

from safeguard.audit import verify_offline
from safeguard.audit.evidence.facts import EpisodeFacts, RunFacts
from safeguard.audit.evidence.model import Finding, Node, Outside
from safeguard.audit.verify import VerifyReport
from safeguard.core.enums import Enforcement

Check: TypeAlias = Callable[[RunFacts, Mapping[str, JsonValue], Outside], Finding]
"""(facts, parameters of the leaf, what the caller can do) → finding."""

DAMAGED: Final = ("altered", "truncated")


def examine(node: Node, run: RunFacts, outside: Outside) -> Finding:
    """Run the check of a solution; what a damaged journal says is no evidence."""
    if node.check not in _OF_THE_JOURNAL and run.report.verdict in DAMAGED:
        return Finding("missing", f"the journal is {run.report.verdict}: what it says is no evidence")
    found = CHECKS[node.check](run, node.parameters, outside)
    if found.status == "supported" and node.check in _OF_ALL_RECORDS and (unseen := _unseen(run.report)):
        return Finding("missing", f"{found.text}; but not all records are there: {unseen}")
    return found


def _unseen(report: VerifyReport) -> str:
    """What of the run nobody can look at, or ""."""
    said = [f"{report.lost:,} lost"] if report.lost else []
    said += [f"{report.cut:,} cut"] if report.cut else []
    said += ["not closed"] if report.verdict == "open" else []
    return ", ".join(said)


def _journal(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    report = run.report
    if report.ok:
        return Finding("supported", f"complete, {report.records:,} records, signed by {report.key}")
    text = f"{report.verdict}: {report.problem}"
    return Finding("contradicted" if report.verdict in (*DAMAGED, "gap") else "missing", text)


def _second_verifier(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    other = verify_offline.verify(str(run.folder), None if run.key is None else str(run.key))
    ours = (run.report.verdict, run.report.records, run.report.counts, run.report.cut)
    if ours != (other["verdict"], other["records"], other["counts"], other["cut"]):
        return Finding("contradicted", f"{other['verdict']}, {other['records']:,} records, where ours says {ours[0]}")
    return Finding("supported" if run.report.ok else "missing", f"{other['verdict']}, {other['records']:,} records")


def _no_gap(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    if run.report.lost:
        return Finding("contradicted", f"{run.report.lost:,} records were lost, and counted")
    if run.report.verdict == "open":
        return Finding("missing", "the run was not closed: nobody counted")
    return Finding("supported", "record numbers have no gap, and run_close counts the same")


def _nothing_cut(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    cut = run.report.cut
    return (
        Finding("missing", f"{cut:,} records were cut by a retention rule")
        if cut
        else Finding("supported", "none was cut")
    )


def _key_purpose(run: RunFacts, wanted: Mapping[str, JsonValue], _: Outside) -> Finding:
    purpose = run.report.purpose
    return Finding(
        "supported" if purpose == wanted["purpose"] else "missing", f"the key is for: {purpose or 'unknown'}"
    )


def _replay(run: RunFacts, _: Mapping[str, JsonValue], outside: Outside) -> Finding:
    return Finding("missing", "not replayed") if outside.replay is None else outside.replay(run.folder)


def _digest(run: RunFacts, wanted: Mapping[str, JsonValue], _: Outside) -> Finding:
    name = str(wanted["name"])
    found = cast("str | None", getattr(run.opened.digests, name)) if run.opened is not None else None
    return Finding("supported", found) if found else Finding("missing", f"run_open has no digest of the {name}")


def _limit_sources(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    limits = None if run.opened is None else run.opened.limits
    if limits is None or not limits.joints:
        return Finding("missing", "run_open has no limits")
    names = ("lower", "upper", "velocity", "torque")
    bare = [f"{joint.joint}.{name}" for joint in limits.joints for name in names if not joint.provenance.get(name)]
    if bare:
        return Finding("missing", f"no source for {', '.join(bare[:4])}{' and others' if bare[4:] else ''}")
    return Finding("supported", f"{len(limits.joints)} joints, each limit with its source")


def _enforced(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    enforced, all_of_them = run.decisions[Enforcement.FULL], run.decisions.total()
    return Finding("supported" if enforced else "missing", f"{enforced:,} of {all_of_them:,} decisions were enforced")


def _no_violation(run: RunFacts, wanted: Mapping[str, JsonValue], _: Outside) -> Finding:
    judged = [one for one in run.episodes if one.enforced and _judged(one, wanted)]
    if not judged:
        return Finding("missing", "no enforced episode was judged by a referee")
    bad = [str(one.opened.episode) for one in judged if _amount(one, wanted)]
    if bad:
        return Finding("contradicted", f"violations in {len(bad)} of {len(judged)} episodes: {', '.join(bad[:8])}")
    return Finding("supported", f"none; enforced episodes that were judged: {len(judged)}")


def _violation_without(run: RunFacts, wanted: Mapping[str, JsonValue], _: Outside) -> Finding:
    judged = [one for one in run.episodes if not one.enforced and _judged(one, wanted)]
    bad = sum(_amount(one, wanted) > 0 for one in judged)
    return Finding(
        "supported" if bad else "missing", f"violations in {bad} of {len(judged)} episodes without enforcement"
    )


def _braking_certificate(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    found = _configured(run, "shield", "filter", "certificate")
    if not isinstance(found, dict):
        return Finding("missing", "no certificate: the braking figures are provisional")
    sure = found.get("kind") == "certified" and found.get("statement")
    return Finding("supported" if sure else "missing", f"{found.get('kind')} certificate {found.get('digest')}")


def _table_certificate(run: RunFacts, _: Mapping[str, JsonValue], outside: Outside) -> Finding:
    digest = None if run.opened is None else run.opened.digests.table
    strategy, period = _configured(run, "strategy"), _configured(run, "period_s")
    if outside.table is None or digest is None or not isinstance(strategy, str) or not isinstance(period, int | float):
        return Finding("missing", "not checked" if digest else "run_open has no digest of the mode table")
    return outside.table(strategy, digest, period)


def _calibration(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    found = _configured(run, "calibration")
    rungs = found.get("rungs") if isinstance(found, dict) else None
    if not isinstance(rungs, list) or not rungs:
        return Finding("missing", "uncalibrated: the run has no calibration")
    if run.uncalibrated:
        return Finding("missing", f"{run.uncalibrated:,} decisions were made with an uncalibrated rung")
    return Finding("supported", f"{len(rungs)} calibrated rungs, no decision was made uncalibrated")


def _faults(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    told = ", ".join(f"{kind} ({count})" for kind, count in sorted(run.faults.items()))
    return Finding("supported", told) if told else Finding("missing", "no fault was injected")


def _reacted(run: RunFacts, wanted: Mapping[str, JsonValue], _: Outside) -> Finding:
    faulty = [one for one in run.episodes if one.enforced and one.opened.faults and one.outcome is not None]
    keys = _names(wanted)
    seen = sum(any((one.outcome or {}).get(key) is not None for key in keys) for one in faulty)
    text = f"a time of reaction in {seen} of {len(faulty)} enforced episodes with a fault"
    return Finding("supported" if faulty and seen == len(faulty) else "missing", text)


def _people(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    real, scripted = run.acts["acknowledge", False], run.acts["acknowledge", True]
    if not real and not scripted:
        return Finding("missing", "nobody acknowledged anything")
    text = f"{real} by people, {scripted} simulated: by a script in somebody's place"
    return Finding("missing" if scripted else "supported", text)


def _hardware(run: RunFacts, _: Mapping[str, JsonValue], __: Outside) -> Finding:
    if run.opened is None or run.opened.simulated:
        return Finding("missing", "simulated: nothing real moved")
    return Finding("supported", "hardware moved, as the run itself states")


CHECKS: Final[Mapping[str, Check]] = {
    "journal": _journal,
    "second_verifier": _second_verifier,
    "no_gap": _no_gap,
    "nothing_cut": _nothing_cut,
    "key_purpose": _key_purpose,
    "replay": _replay,
    "digest": _digest,
    "limit_sources": _limit_sources,
    "enforced": _enforced,
    "no_violation": _no_violation,
    "violation_without": _violation_without,
    "braking_certificate": _braking_certificate,
    "table_certificate": _table_certificate,
    "calibration": _calibration,
    "faults": _faults,
    "reacted": _reacted,
    "people": _people,
    "hardware": _hardware,
}
"""By the name that a leaf has for it."""

_OF_THE_JOURNAL: Final = ("journal", "second_verifier")
_OF_ALL_RECORDS: Final = ("replay", "no_violation", "calibration", "reacted", "people")
"""Checks that say something of all decisions, episodes or people of a run: of records that are missing nobody knows."""


def _configured(run: RunFacts, *path: str) -> JsonValue:
    value: JsonValue = None if run.opened is None else run.opened.config
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _names(wanted: Mapping[str, JsonValue]) -> Sequence[str]:
    return cast("Sequence[str]", wanted["keys"])


def _judged(episode: EpisodeFacts, wanted: Mapping[str, JsonValue]) -> bool:
    return episode.outcome is not None and any(key in episode.outcome for key in _names(wanted))


def _amount(episode: EpisodeFacts, wanted: Mapping[str, JsonValue]) -> float:
    outcome = episode.outcome or {}
    return sum(_count(outcome.get(key)) for key in _names(wanted))


def _count(value: JsonValue) -> float:
    if isinstance(value, dict):
        return _count(value["count"]) if "count" in value else sum(_count(item) for item in value.values())
    return float(value) if isinstance(value, int | float) else 0.0
