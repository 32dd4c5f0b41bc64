"""Copies of signed checkpoints for those who keep them out of an editor's reach: a file that grows, a program.

A checkpoint stands for every record before it, so a later one covers the earlier: of those that wait for a slow witness
only the newest need to go out. A copy less is a time less at which the journal is known to have had that size.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Condition, Thread
from typing import Final

Anchor = Callable[[bytes], None]
"""Takes a signed note; raises OSError where it does not."""

_PROGRAM_S: Final = 10.0  # that a program gets for a note
_AGAIN_S: Final = 1.0  # before a refused note is handed out again
LAST_S: Final = 15.0
"""Longest time, s, that the end of a run waits for the last checkpoint to be taken."""
_LAST_TRIES: Final = 3  # of a witness that refuses it, a second apart


def to_file(path: Path) -> Anchor:
    """Appends each note, and an empty line."""

    def anchor(note: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, note + b"\n")
        finally:
            os.close(fd)

    return anchor


def to_command(command: Sequence[str]) -> Anchor:
    """Runs a program with the note on its input."""

    def anchor(note: bytes) -> None:
        try:
            subprocess.run(command, input=note, check=True, timeout=_PROGRAM_S, stdout=subprocess.DEVNULL)
        except (subprocess.SubprocessError, OSError, ValueError) as error:  # the last: a null byte in its name
            raise OSError(f"anchor_command {command[0]}: {error}") from error

    return anchor


def anchors(file: str | Path | None, command: Sequence[str]) -> list[Anchor]:
    """What the settings ask for."""
    made = [] if file is None else [to_file(Path(file))]
    return [*made, to_command(tuple(command))] if command else made


def handed(note: bytes, takers: Sequence[Anchor]) -> str:
    """Give a note to all of them, one after the other; who refused it and why, or ""."""
    refused = list[str]()
    for taker in takers:
        try:
            taker(note)
        except OSError as error:
            refused.append(str(error))
    return "; ".join(refused)


class Witness:
    """An anchor that nobody waits for: a thread of its own hands the notes out.

    Args:
        anchor: who takes them.
        waiting: how many notes wait for him at most; the oldest give way.
    """

    def __init__(self, anchor: Anchor, waiting: int = 1) -> None:
        self.problem = ""
        """Why the last note that was handed out was refused, or ""."""
        self._anchor, self._notes = anchor, deque[bytes](maxlen=waiting)
        self._changed, self._closing, self._given_up = Condition(), False, False
        self._refusals = 0  # since the end
        self._thread = Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def __call__(self, note: bytes) -> None:
        """Take a note, at once."""
        with self._changed:
            self._notes.append(note)
            self._changed.notify()

    def close(self, until: float) -> str:
        """Wait for the last note to be taken, until a time of ``time.monotonic``; why it is not, or ""."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            self._given_up = True
            return "" if not self._notes else self.problem or "the last checkpoint was not taken in time"

    def _run(self) -> None:
        while (note := self._next()) is not None:
            try:
                self._anchor(note)
                problem = ""
            except OSError as error:
                problem = str(error)
            with self._changed:
                self.problem = problem
                self._refusals += 1 if problem and self._closing else 0
                if not problem and self._notes and self._notes[0] is note:
                    self._notes.popleft()

    def _next(self) -> bytes | None:
        """The oldest note that waits, after a pause where one was refused; None once all is done."""
        with self._changed:
            if self.problem:
                self._changed.wait(_AGAIN_S)
            while not self._notes and not self._closing:
                self._changed.wait()
            done = not self._notes or self._given_up or self._refusals >= _LAST_TRIES
            return None if done else self._notes[0]


class Witnesses:
    """All witnesses of a run that a process of its own records."""

    def __init__(self, file: str | None, command: Sequence[str]) -> None:
        self.each = [] if file is None else [Witness(to_file(Path(file)), 100)]
        """To be told of every checkpoint. A file gets all of them unless it is many behind, a program the newest."""
        if command:
            self.each.append(Witness(to_command(tuple(command))))

    @property
    def problem(self) -> str:
        """What they refuse, or ""."""
        return "; ".join(filter(None, (witness.problem for witness in self.each)))

    def close(self) -> str:
        """Wait, ``LAST_S`` at most, for the last checkpoint to be taken by all; why it is not, or ""."""
        until = time.monotonic() + LAST_S
        return "; ".join(filter(None, [witness.close(until) for witness in self.each]))
