"""The dossier as one self-contained page, and as data beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from pydantic import JsonValue

from safeguard.audit.evidence.dossier import Answered, Dossier, Judged
from safeguard.audit.evidence.facts import RunFacts
from safeguard.audit.evidence.model import Status, text_of

_MARKS: Final[dict[Status, str]] = {"supported": "✓", "missing": "○", "contradicted": "✗"}
_BASIS: Final = {"read": "text read", "second-hand": "second-hand", "known": "general knowledge, not read for this"}


def write_dossier(dossier: Dossier, out: Path, provenance: Mapping[str, JsonValue]) -> tuple[Path, Path]:
    """Write ``evidence.html`` and ``evidence.json``; what changes from call to call is in ``provenance`` only.

    Raises OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = dossier.as_json()
    content = json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True)
    told = {**provenance, "content": sha256(content.encode()).hexdigest()}
    told |= {name: sha256(text_of(name).encode()).hexdigest() for name in ("argument.yaml", "clauses.yaml")}
    files = out / "evidence.html", out / "evidence.json"
    files[0].write_text(page(dossier), encoding="utf-8")
    whole = json.dumps({**data, "provenance": told}, indent=1, ensure_ascii=False, sort_keys=True)
    files[1].write_text(whole + "\n", encoding="utf-8")
    return files


def page(dossier: Dossier) -> str:
    """The whole page; the same for the same dossier."""
    counts = dossier.counts
    return Template(text_of("page.html")).substitute(
        lead=escape(_lead(dossier)),
        cards="".join(_card(status, count) for status, count in counts.items()),
        runs="".join(map(_run, dossier.runs)),
        open="".join(_open(leaf) for leaf in dossier.root.leaves() if leaf.status != "supported"),
        argument=_node(dossier.root),
        clauses="".join(map(_clause, dossier.clauses)),
    )


def _lead(dossier: Dossier) -> str:
    runs = "one run" if len(dossier.runs) == 1 else f"{len(dossier.runs)} runs"
    return f"What {runs} can show, and what not. Every verdict comes from a check that was run."


def _card(status: Status, count: int) -> str:
    return f'<div class="card {status}"><h2>{_MARKS[status]} {status}</h2><p class="count">{count}</p></div>'


def _badge(status: Status) -> str:
    return f'<span class="badge {status}">{_MARKS[status]} {status}</span>'


def _run(run: RunFacts) -> str:
    report, opened = run.report, run.opened
    robot = "not readable" if opened is None else f"{opened.robot.name}{', simulated' if opened.simulated else ''}"
    cut = f", {report.cut:,} of them cut" if report.cut else ""
    cells = (
        f'<th scope="row"><code>{escape(str(run.folder))}</code></th>',
        f"<td>{escape(robot)}</td>",
        f"<td>{escape(report.verdict)}</td>",
        f"<td>{report.records:,} records{cut}</td>",
        f"<td>{escape(report.purpose or 'unknown')}</td>",
        f"<td><code>{escape(report.root)}</code></td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _open(leaf: Judged) -> str:
    assert leaf.status is not None
    return f'<li>{_badge(leaf.status)} <a href="#{leaf.node.id}">{leaf.node.id}</a> {escape(leaf.node.text)}</li>'


def _node(one: Judged) -> str:
    node = one.node
    head = f'<span class="id">{node.id}</span><span class="kind">{node.kind}</span> <span>{escape(node.text)}</span>'
    badge = "" if one.status is None else _badge(one.status)
    if one.children:
        below = "".join(map(_node, one.children))
        return (
            f'<li class="{node.kind}" id="{node.id}"><details open><summary>{head} {badge}</summary>'
            f"<ul>{below}</ul></details></li>"
        )
    return f'<li class="{node.kind}" id="{node.id}"><p>{head} {badge}</p>{_leaf(one)}</li>'


def _leaf(one: Judged) -> str:
    if not one.findings:
        return ""
    found = "".join(
        f'<li class="{finding.status}">{_MARKS[finding.status]} <code>{escape(run)}</code>: {escape(finding.text)}</li>'
        for run, finding in one.findings
    )
    commands = "".join(f"<code>{escape(command)}</code>" for command in one.commands)
    return f'<ul class="findings">{found}</ul><p class="commands">check it: {commands}</p>'


def _clause(one: Answered) -> str:
    clause = one.clause
    found = [_records(kind, one) for kind in dict.fromkeys(each.kind for each in one.fields if each.records)]
    lacking = [f"<li>{escape(text)}</li>" for text in one.missing]
    basis = f"{_BASIS[clause.basis]}; {clause.reference}; checked {clause.checked}"
    return (
        f'<tr><th scope="row">{escape(clause.source)}<br>{escape(clause.clause)}</th>'
        f'<td>{escape(clause.asks)}<p class="note">{escape(basis)}</p></td>'
        f"<td>{_list(found, 'no record of these runs')}</td><td>{_list(lacking, 'none')}</td></tr>"
    )


def _records(kind: str, one: Answered) -> str:
    """The fields of a kind that are filled, with how many records do so, and where the first of them is."""
    filled = [each for each in one.fields if each.kind == kind and each.records]
    names = ", ".join(f"<code>{escape(each.field)}</code> ({each.records:,})" for each in filled)
    return f"<li><b>{escape(kind)}</b> {names}<br>first: {escape(filled[0].first)}</li>"


def _list(items: Iterable[str], none: str) -> str:
    joined = "".join(items)
    return f"<ul>{joined}</ul>" if joined else f'<span class="note">{none}</span>'
