"""The list of runs: each run names the one that was closed before it, so that none can vanish from the middle.

One line of JSON a run, appended when it is closed: its id, how many records it has, the root over them, and what it ran
on. Nobody signs the list. A run signs id, size and root of the one before it (``run_open.previous``), and these prove
that one's ``run_open``. What the list says of software and configuration is a copy: enough to notice a change when a
run opens, and whoever can write the list can hide one there; comparing the two ``run_open`` cannot be deceived so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from safeguard.audit.records.encode import Json, JsonObject
from safeguard.audit.records.registry import RunOpen
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError

LONGEST: Final = 200
"""Characters of a setting that the list holds as it is."""


class RunIdentity(BaseModel):
    """What a run ran on, as far as the next one is compared with it.

    Attributes:
        run: id.
        software: versions and digests by name; None for what the run did not have.
        settings: JSON of every setting by its dotted path; ``sha256:`` and digest of the JSON where that is long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    software: dict[str, str | None]
    settings: dict[str, str]

    @classmethod
    def of(cls, opened: RunOpen) -> Self:
        """That of a ``run_open``."""
        software: dict[str, str | None] = {
            "safeguard": opened.safeguard,
            "python": opened.python,
            "robot": opened.robot.digest,
            **opened.digests.model_dump(),
            **{f"library {name}": version for name, version in opened.libraries.items()},
        }
        return cls(run=opened.run_id, software=software, settings=dict(_settings("", opened.config)))


class ListedRun(BaseModel):
    """A closed run; ``identity`` is None in lists of versions that did not have it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    size: int
    root: str
    identity: RunIdentity | None = None


def replaced(before: ListedRun | None, now: RunIdentity) -> list[tuple[RecordKind, JsonObject]]:
    """Records of what the run ``now`` has other than the one before it; none where that is not known."""
    if before is None or before.identity is None:
        return []
    old, found = before.identity, list[tuple[RecordKind, JsonObject]]()
    for kind, was, known in (
        (RecordKind.SOFTWARE_CHANGE, old.software, now.software),
        (RecordKind.CONFIG_INTERVENTION, old.settings, now.settings),
    ):
        changes: list[Json] = [
            {"name": name, "old": was.get(name), "new": known.get(name)}
            for name in sorted({*was, *known})
            if was.get(name) != known.get(name)
        ]
        if changes:
            found.append((kind, {"previous": before.run, "changes": changes}))
    return found


def _settings(path: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """Every leaf of a configuration with its dotted path, but for the calibration, which has a digest."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            if path or name != "calibration":
                yield from _settings(f"{path}.{name}" if path else name, inner)
        return
    told = json.dumps(value, sort_keys=True, ensure_ascii=False)
    yield path, told if len(told) <= LONGEST else f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"


def listed(file: Path) -> list[ListedRun]:
    """The runs in a list, oldest first; none without a list. Raises JournalError for a line that is no run."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise JournalError(f"cannot read the list of runs {file}: {error}") from error
    found: list[ListedRun] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(ListedRun.model_validate_json(line))
        except ValidationError as error:
            raise JournalError(f"{file}, line {number}: not a run: {line[:60]!r}") from error
    return found


def add(file: Path, run: ListedRun) -> None:
    """Append a run, whole or not at all, whoever else appends; raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        line = json.dumps(run.model_dump(), separators=(",", ":")).encode() + b"\n"
        before = os.fstat(fd).st_size
        if os.write(fd, line) != len(line):
            os.ftruncate(fd, before)
            raise OSError(28, f"short write to {file}")
        os.fsync(fd)
    finally:
        os.close(fd)


def place_problem(file: Path, run_id: str, size: int, root: str, previous: ListedRun | None) -> str:
    """Why a run is not the one that the list says, or not where the list has it; or "". Identities do not matter."""
    runs = listed(file)
    at = next((k for k, known in enumerate(runs) if known.run == run_id), None)
    if at is None:
        return f"the list {file} does not have this run"
    if (runs[at].size, runs[at].root) != (size, root):
        return f"the list {file} has {runs[at].size} records with root {runs[at].root[:16]}… for this run"
    before = {(known.run, known.size, known.root) for known in runs[:at]}
    if previous is not None and (previous.run, previous.size, previous.root) not in before:
        return f"the run before this one, {previous.run}, is not in the list {file}, or not as it was"
    return ""
