"""A run in the formats of other tools: JSONL, Parquet, MCAP, Rerun, OpenTelemetry.

Records are read, checked and written one after the other, in bounded memory. An export is a copy for looking at: what
proves something is the journal, and every exported record can be found there by its ``seq``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Protocol, cast

from safeguard.audit.timeline import CutShortError, Moment, moments
from safeguard.core.errors import ConfigError, JournalError, MissingExtraError

EVERY: Final = 100
"""Records between two calls of a progress callback."""


class Sink(Protocol):
    """Writes one export; a module of this package has a function ``sink(path)`` that opens one."""

    def add(self, moment: Moment) -> None:
        """Take the next record of the run."""
        ...

    def close(self) -> None:
        """Finish the file; after this it can be read. Called once, also after an error."""
        ...


@dataclass(frozen=True, slots=True)
class Export:
    """A format.

    Attributes:
        title: what it is, for people.
        suffix: of the file; "" for a folder.
        module: of this package, with the function ``sink``.
        needs: top-level modules of optional packages.
    """

    title: str
    suffix: str
    module: str
    needs: tuple[str, ...] = ()


EXPORTS: Final[Mapping[str, Export]] = {
    "jsonl": Export("JSON, a line for each record; compressed if OUT ends in .gz", ".jsonl", "jsonl"),
    "parquet": Export("a folder with a Parquet file for each kind of record", "", "parquet", ("pyarrow",)),
    "mcap": Export("MCAP with JSON channels, for Foxglove", ".mcap", "mcap", ("mcap", "zstandard")),
    "rerun": Export("Rerun recording: modes, margins, joints, the robot in 3-D", ".rrd", "rerun", ("rerun", "pyarrow")),
    "otel": Export("OpenTelemetry events, as OTLP JSON lines", ".otlp.jsonl", "otel", ("opentelemetry",)),
}
"""Every format by name."""


def default_out(path: str | Path, to: str) -> Path:
    """Where an export goes unless told otherwise: into the run folder, as ``export.SUFFIX`` or ``export-FORMAT``."""
    export = _known(to)
    return Path(path) / (f"export{export.suffix}" if export.suffix else f"export-{to}")


def export_run(path: str | Path, to: str, out: str | Path, progress: Callable[[int], None] | None = None) -> Path:
    """Write the run in folder ``path`` to ``out`` in the format ``to``; returns ``out``.

    The file appears under its name when it is complete.

    Args:
        path: the run folder.
        to: a name of ``EXPORTS``.
        out: file or folder to create.
        progress: called with the number of records written so far, every ``EVERY`` records and at the end.

    Raises:
        ConfigError: no such format, or ``out`` exists.
        MissingExtraError: the package of the format is not installed.
        JournalError: there is no journal, or ``out`` cannot be written.
        CutShortError: the journal is damaged; ``out`` then holds the records before the damage.
    """
    export, target = _known(to), Path(out)
    if target.exists():
        raise ConfigError(f"{target} exists and is not overwritten: remove it, or give another --out")
    if any(find_spec(name) is None for name in export.needs):
        raise MissingExtraError(f"export to {to}", "export")
    found = moments(path)
    first = next(found)  # nothing is made for a run that there is not
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        damage = _write(chain([first], found), _open(export, scratch / target.name), progress)
        (scratch / target.name).rename(target)
    except OSError as error:
        raise JournalError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    if damage is not None:
        raise damage
    return target


def _known(to: str) -> Export:
    if to not in EXPORTS:
        raise ConfigError(f"--format {to!r}: there is no such format; known: {', '.join(EXPORTS)}")
    return EXPORTS[to]


def _open(export: Export, path: Path) -> Sink:
    opened = cast("Callable[[Path], Sink]", import_module(f"{__name__}.{export.module}").sink)
    return opened(path)


def _write(found: Iterable[Moment], sink: Sink, progress: Callable[[int], None] | None) -> CutShortError | None:
    """Write everything that can be read; returns the damage that ended it, if any."""
    done, damage = 0, None
    try:
        for moment in found:
            sink.add(moment)
            done += 1
            if progress is not None and done % EVERY == 0:
                progress(done)
    except CutShortError as error:
        damage = error
    finally:
        sink.close()
    if progress is not None:
        progress(done)
    return damage
