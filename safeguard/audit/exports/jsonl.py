"""JSON Lines: one record a line, envelope and body as ``records.json_schemas`` says, plus the record's hash."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Final

import orjson

from safeguard.audit.timeline import Moment, envelope

LEVEL: Final = 6
"""Of compression: two thirds of the best at a fifth of its time."""


def sink(path: Path) -> Lines:
    """A file of lines; compressed if its name ends in ``.gz``."""
    return Lines(path)


class Lines:
    """Writes lines."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb")
        packed = path.suffix == ".gz"
        self._file = gzip.GzipFile("", "wb", LEVEL, self._raw, mtime=0) if packed else self._raw

    def add(self, moment: Moment) -> None:
        """One line."""
        line = {**envelope(moment.record), "hash": moment.record.hash}
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
        self._raw.close()
