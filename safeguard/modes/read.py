"""From a strategy's file and its core to a checked table, with the line of every row for messages."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError

from safeguard.core.errors import ModeTableError
from safeguard.modes.lint import lint
from safeguard.modes.spec import TableSpec

_SCHEMA: Final = 2
_CORE_ONLY: Final = ("bridge", "lockout", "takeover", "jog", "escalations")
_HEADER: Final = re.compile(r"\s*\[\[?\s*([\w-]+)\s*\]")
_KEY: Final = re.compile(r"\s*([\w-]+)\s*=")


@dataclass(frozen=True, slots=True)
class _Part:
    """A table of a file, such as ``[bridge]`` or one of ``[[causes]]``: where it begins, and where its keys are."""

    file: str
    line: int
    keys: dict[str, int]

    def at(self, key: str = "id") -> str:
        """``file:line`` of a key; of the id or the header if it is missing."""
        return f"{self.file}:{self.keys.get(key, self.keys.get('id', self.line))}"


@dataclass(frozen=True, slots=True)
class _File:
    """One file: what it says, and where.

    Attributes:
        name: without its folder.
        content: as TOML.
        top: what comes before the first header.
        parts: the tables, by header.
    """

    name: str
    content: dict[str, Any]
    top: _Part
    parts: dict[str, list[_Part]]

    def rows(self, key: str) -> list[tuple[object, _Part]]:
        """The rows under ``[[key]]``, each with its place."""
        found = self.content.get(key)
        rows = cast("list[object]", found) if isinstance(found, list) else []
        parts = self.parts.get(key, [])
        return list(zip(rows, parts if len(parts) == len(rows) else [self.part(key)] * len(rows), strict=True))

    def part(self, key: str) -> _Part:
        """The place of ``[key]``, or of ``key = …``."""
        found = self.parts.get(key)
        return found[0] if found else _Part(self.name, self.top.keys.get(key, 1), {})


@dataclass(frozen=True, slots=True)
class _Merged:
    """A strategy's rows put into its core's, and where each comes from.

    Attributes:
        content: as ``TableSpec`` takes it.
        rows: the places of the rows under each ``[[key]]``.
        single: the place of everything else, and of what only a core may have.
        top: what the strategy's file says before its first header.
    """

    content: dict[str, Any]
    rows: dict[str, list[_Part]]
    single: dict[str, _Part]
    top: _Part

    def places(self) -> dict[str, str]:
        """``file:line`` of the strategy and of every id; of both rows where it is used twice."""
        found = {str(self.content["strategy"]): [self.top.at("strategy")]}
        for row, part in self._rows():
            if isinstance(name := _child(row, "id"), str):
                found.setdefault(name, []).append(part.at())
        return {name: " and ".join(lines) for name, lines in found.items()}

    def _rows(self) -> Iterator[tuple[object, _Part]]:
        for key, parts in self.rows.items():
            yield from zip(self.content[key], parts, strict=True)
        for key, part in self.single.items():
            yield self.content.get(key), part

    def where(self, path: tuple[int | str, ...]) -> str:
        """``file:line``, and the id if there is one, of what a schema problem is about."""
        key, *rest = path
        part, row = self.single.get(str(key), self.top), self.content.get(str(key))
        if key in self.rows and rest and isinstance(rest[0], int):
            part, row, rest = self.rows[str(key)][rest[0]], _child(row, rest[0]), rest[1:]
        name = _child(row, "id")
        return part.at(str(rest[0]) if rest else "id") + (f" row {name}" if isinstance(name, str) else "")


def read_spec(path: Path) -> TableSpec:
    """The checked content of a strategy's file and its core. Raises ModeTableError naming file, line, row and fix."""
    own = _file(path)
    core_name = own.content.pop("core", None)
    if not isinstance(core_name, str) or not isinstance(own.content.get("strategy"), str):
        raise ModeTableError(f'{path.name}:1: needs strategy = "…" and core = "core.toml"')
    merged = _merged(own, _file(path.parent / core_name))
    try:
        spec = TableSpec.model_validate(merged.content).placed(merged.places())
    except ValidationError as error:
        raise ModeTableError("\n".join(_told(merged, error))) from error
    problems = [f"{spec.place(row)}: {what}" for row, what in lint(spec)]
    if problems:
        raise ModeTableError("\n".join(problems))
    return spec


def _file(path: Path) -> _File:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModeTableError(f"{path.name}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModeTableError(f"{path.name}: cannot be read: {error}") from error
    top, parts = _parts(path.name, text)
    if content.pop("schema", None) != _SCHEMA:
        raise ModeTableError(f"{top.at('schema')}: schema must be {_SCHEMA}")
    return _File(path.name, content, top, parts)


def _parts(name: str, text: str) -> tuple[_Part, dict[str, list[_Part]]]:
    """(what comes before the first header, the tables by header)."""
    top = part = _Part(name, 1, {})
    parts: dict[str, list[_Part]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            part = _Part(name, number, {})
            parts.setdefault(header[1], []).append(part)
        elif key := _KEY.match(line):
            part.keys.setdefault(key[1], number)
    return top, parts


def _merged(own: _File, core: _File) -> _Merged:
    """The core with a strategy's rows added; a cause of the strategy replaces the core's row for it."""
    for key in _CORE_ONLY:
        if key in own.content:
            raise ModeTableError(f"{own.part(key).at()}: [{key}] belongs to {core.name}; move it")
    if "strategy" in core.content:
        raise ModeTableError(f"{core.top.at('strategy')}: strategy does not belong in a core; remove it")
    replaced = [_child(row, "cause") for row, _ in own.rows("causes")]
    content: dict[str, Any] = {}
    rows: dict[str, list[_Part]] = {}
    single: dict[str, _Part] = {key: core.part(key) for key in _CORE_ONLY}
    for file in (core, own):
        for key, value in file.content.items():
            if not isinstance(value, list):
                content[key], single[key] = value, file.part(key)
                rows.pop(key, None)
                continue
            found = file.rows(key)
            if file is core and key == "causes":
                found = [(row, part) for row, part in found if _child(row, "cause") not in replaced]
            content[key] = [*(content[key] if key in rows else ()), *(row for row, _ in found)]
            rows[key] = [*rows.get(key, ()), *(part for _, part in found)]
    return _Merged(content, rows, single, own.top)


def _told(merged: _Merged, error: ValidationError) -> Iterator[str]:
    """One line a problem of the schema."""
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        yield f"{merged.where(problem['loc'])}: {key}: {problem['msg']} (got {problem['input']!r})"


def _child(node: object, part: object) -> object:
    """``node[part]`` where that exists, else None."""
    if isinstance(node, dict):
        return cast("dict[object, object]", node).get(part)
    if isinstance(node, list) and isinstance(part, int):
        return cast("list[object]", node)[part]
    return None
