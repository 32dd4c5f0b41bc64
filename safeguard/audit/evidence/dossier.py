"""The argument and the clauses held against runs: every leaf with its verdict, every clause with its records."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from safeguard.audit.evidence.checks import DAMAGED, examine
from safeguard.audit.evidence.facts import RunFacts
from safeguard.audit.evidence.model import (
    ORDER,
    Clause,
    Finding,
    Need,
    Node,
    Outside,
    Status,
    argument,
    clauses,
    worst,
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A node of the argument with what was found.

    Attributes:
        node: as the argument has it.
        status: of a goal, a strategy or a solution; None where there is nothing to show.
        findings: of a solution: (run, finding).
        commands: that check it, one for each run, or one for all.
        children: below it.
    """

    node: Node
    status: Status | None
    findings: tuple[tuple[str, Finding], ...] = ()
    commands: tuple[str, ...] = ()
    children: tuple[Judged, ...] = ()

    def walk(self) -> Iterator[Judged]:
        """This node and all below, from top to bottom."""
        yield self
        for child in self.children:
            yield from child.walk()

    def leaves(self) -> Iterator[Judged]:
        """The solutions."""
        return (one for one in self.walk() if one.node.kind == "solution")


@dataclass(frozen=True, slots=True)
class FieldCount:
    """How many records hold something in a field, and the first of them: "run: record N", or "".

    ``occurs``: there are such records only where something happened.
    """

    kind: str
    field: str
    records: int
    first: str
    occurs: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A clause with the records of these runs that are evidence for it, and what is missing."""

    clause: Clause
    fields: tuple[FieldCount, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Fields that no record of these runs fills, and what this version has no record for."""
        bare = (f"{one.kind}: {one.field}" for one in self.fields if not one.records and not one.occurs)
        return (*bare, *(f"not recorded: {text}" for text in self.clause.not_recorded))


@dataclass(frozen=True, slots=True)
class Dossier:
    """All of it.

    Attributes:
        runs: what was read.
        root: the argument.
        clauses: the rules.
    """

    runs: tuple[RunFacts, ...]
    root: Judged
    clauses: tuple[Answered, ...]

    @property
    def counts(self) -> dict[Status, int]:
        """Leaves by verdict."""
        found = [leaf.status for leaf in self.root.leaves()]
        return {status: found.count(status) for status in ORDER}

    def as_json(self) -> dict[str, JsonValue]:
        """Plain data, the same for the same runs."""
        return {
            "format": "safeguard-evidence/1",
            "runs": [_run_json(run) for run in self.runs],
            "argument": _node_json(self.root),
            "clauses": [_clause_json(one) for one in self.clauses],
            "missing": [f"{leaf.node.id}: {leaf.node.text}" for leaf in self.root.leaves() if leaf.status == "missing"],
        }


def assemble(runs: Sequence[RunFacts], outside: Outside, key: str | None = None) -> Dossier:
    """Check every leaf of the argument on ``runs``, and count the records that clauses ask for.

    Args:
        runs: of ``gather``; at least one.
        outside: checks that need more than a journal.
        key: as a command names the public key.
    """
    root = _judged(argument(), runs, outside, key or "PUB")
    return Dossier(tuple(runs), root, tuple(_answered(clause, runs) for clause in clauses()))


def _judged(node: Node, runs: Sequence[RunFacts], outside: Outside, key: str) -> Judged:
    if node.kind == "solution":
        findings = tuple((str(run.folder), examine(node, run, outside)) for run in runs)
        commands = dict.fromkeys(
            node.command.replace("{run}", shlex.quote(str(run.folder))).replace("{key}", shlex.quote(key))
            for run in runs
        )
        return Judged(node, _over([one for _, one in findings], node.over), findings, tuple(commands))
    children = tuple(_judged(child, runs, outside, key) for child in node.children)
    below: list[Status] = [child.status for child in children if child.status is not None]
    return Judged(node, worst(below) if node.children else None, children=children)


def _over(findings: Sequence[Finding], over: str) -> Status:
    """One verdict for several runs: the worst, or where one is enough the best, unless one contradicts."""
    found: list[Status] = [finding.status for finding in findings]
    if over == "every" or "contradicted" in found:
        return worst(found)
    return "supported" if "supported" in found else "missing"


def _answered(clause: Clause, runs: Sequence[RunFacts]) -> Answered:
    sound = [run for run in runs if run.report.verdict not in DAMAGED]
    return Answered(clause, tuple(_field(need, name, sound) for need in clause.needs for name in need.fields))


def _field(need: Need, name: str, runs: Sequence[RunFacts]) -> FieldCount:
    kind = need.kind
    first = next((f"{run.folder}: record {run.first[kind, name]}" for run in runs if (kind, name) in run.first), "")
    return FieldCount(kind, name, sum(run.fields[kind, name] for run in runs), first, need.occurs)


def _run_json(run: RunFacts) -> JsonValue:
    report = run.report
    return {
        "folder": str(run.folder),
        "run_id": None if run.opened is None else run.opened.run_id,
        "verdict": report.verdict,
        "records": report.records,
        "cut": report.cut,
        "root": report.root,
        "key": report.key,
        "key_purpose": report.purpose,
    }


def _node_json(one: Judged) -> JsonValue:
    found: dict[str, JsonValue] = {"id": one.node.id, "kind": one.node.kind, "text": one.node.text}
    if one.status is not None:
        found["status"] = one.status
    if one.findings:
        found["check"], found["commands"] = one.node.check, list(one.commands)
        found["findings"] = [{"run": run, "status": each.status, "text": each.text} for run, each in one.findings]
    if one.children:
        found["children"] = [_node_json(child) for child in one.children]
    return found


def _clause_json(one: Answered) -> JsonValue:
    clause = one.clause
    return {
        **{name: getattr(clause, name) for name in ("source", "clause", "asks", "basis", "checked", "reference")},
        "evidence": [
            {"kind": each.kind, "field": each.field, "records": each.records, "first": each.first}
            for each in one.fields
        ],
        "missing": list(one.missing),
    }
