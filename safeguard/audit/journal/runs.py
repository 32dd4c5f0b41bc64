"""The list of runs: each run names the one that was closed before it, so that none can vanish from the middle.

One line of JSON a run, appended when it is closed: its id, how many records it has, and the root over them.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from safeguard.core.errors import JournalError


class ListedRun(BaseModel):
    """A closed run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    size: int
    root: str


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
    """Why a run is not the one that the list says, or not where the list has it; or ""."""
    runs = listed(file)
    at = next((k for k, known in enumerate(runs) if known.run == run_id), None)
    if at is None:
        return f"the list {file} does not have this run"
    if (runs[at].size, runs[at].root) != (size, root):
        return f"the list {file} has {runs[at].size} records with root {runs[at].root[:16]}… for this run"
    before = [known for known in runs[:at] if previous is not None and known == previous]
    if previous is not None and not before:
        return f"the run before this one, {previous.run}, is not in the list {file}, or not as it was"
    return ""
