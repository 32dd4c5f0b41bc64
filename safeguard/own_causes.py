"""Causes that the shield itself brings about: its filter, its journal, its operator, its guest."""

from __future__ import annotations

from safeguard.audit.journal.journal import Journal
from safeguard.core.enums import Authority, Cause, FilterStatus, Level
from safeguard.core.types import Decision, Proposal, Verdict

_NAN = float("nan")


def parts_failures(current: Proposal | None) -> tuple[Verdict, ...]:
    """Causes that the strategy reports about its own parts, as long as that proposal is followed."""
    if current is None or current.parts is None:
        return ()
    return tuple(failure("parts", cause, "reported with the proposal") for cause in current.parts.failed)


def own_failures(previous: Decision | None, journal: Journal | None, stop_reason: str, unsaved: str) -> list[Verdict]:
    """Causes that the shield itself brings about: what the filter, the journal and the operator did."""
    found: list[Verdict] = []
    if previous is not None:
        result = previous.filter
        if result.status is FilterStatus.REFUSED and previous.authority is not Authority.NONE:
            found.append(failure("backup", Cause.BACKUP_REFUSED, result.refusal))
        elif result.status is FilterStatus.BACKUP and previous.authority in (Authority.POLICY, Authority.OPERATOR):
            found.append(failure("filter", Cause.FILTER_FAILED, result.refusal or "no nominal"))
        if result.slack:
            name, amount = max(result.slack, key=lambda row: row[1])
            found.append(failure("filter", Cause.FILTER_SLACK, f"{name} relaxed by {amount:.2g}", Level.WARN))
    if journal is not None and journal.failed:
        found.append(failure("journal", Cause.AUDIT_FAILED, journal.failed))
    if unsaved:
        found.append(failure("lockout", Cause.AUDIT_FAILED, unsaved))
    if stop_reason:
        found.append(failure("operator", Cause.OPERATOR_STOP, stop_reason))
    return found


def failure(monitor: str, cause: Cause, detail: str, level: Level = Level.STOP) -> Verdict:
    """A verdict without a score."""
    return Verdict(monitor, level, _NAN, _NAN, None, cause, detail)
