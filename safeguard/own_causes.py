"""Causes that the shield itself brings about: its filter, its journal, its operator, its guest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from safeguard.audit.journal.journal import Journal
from safeguard.audit.records.bodies import VerdictBody
from safeguard.core.enums import Authority, Cause, FilterStatus, Level
from safeguard.core.types import Decision, Proposal, Verdict

_NAN = float("nan")


def parts_failures(current: Proposal | None) -> tuple[Verdict, ...]:
    """Causes that the strategy reports about its own parts, as long as that proposal is followed."""
    if current is None or current.parts is None:
        return ()
    return tuple(failure("parts", cause, "reported with the proposal") for cause in current.parts.failed)


def own_failures(previous: Decision | None, kept: Sequence[Verdict], stop_reason: str) -> list[Verdict]:
    """Causes that the shield itself brings about: what the filter, the journal (``kept``) and the operator did."""
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
    found.extend(kept)
    if stop_reason:
        found.append(failure("operator", Cause.OPERATOR_STOP, stop_reason))
    return found


def unkept(journal: Journal | None, unsaved: str) -> tuple[Verdict, ...]:
    """What could not be kept: records by the journal, the count of emergency stops (``unsaved`` says why)."""
    problem = "" if journal is None else journal.failed
    said = (("journal", problem), ("lockout", unsaved))
    return tuple(failure(name, Cause.AUDIT_FAILED, why) for name, why in said if why)


def recorded_unkept(verdicts: Iterable[VerdictBody | str]) -> tuple[Verdict, ...]:
    """Those verdicts of a recorded decision that came from ``unkept``: inputs, which no replay can compute."""
    return tuple(
        failure(v.monitor, Cause.AUDIT_FAILED, v.detail)
        for v in verdicts
        if isinstance(v, VerdictBody) and v.cause is Cause.AUDIT_FAILED and v.monitor in ("journal", "lockout")
    )


def fed_back(port: object) -> tuple[Verdict, ...]:
    """What a replay's port says was ``unkept`` in this tick; a policy's port can only add causes this way."""
    found: object = getattr(port, "unkept", ())
    if not isinstance(found, tuple):
        return ()
    return tuple(verdict for verdict in cast("tuple[object, ...]", found) if isinstance(verdict, Verdict))


def failure(monitor: str, cause: Cause, detail: str, level: Level = Level.STOP) -> Verdict:
    """A verdict without a score."""
    return Verdict(monitor, level, _NAN, _NAN, None, cause, detail)


def held_by(source: str) -> Verdict:
    """Somebody else than the policy holds the command; the scored monitors were calibrated for the policy and rest."""
    return Verdict("lease", Level.OK, _NAN, _NAN, detail=f"{source} holds the command; the policy's monitors rest")
