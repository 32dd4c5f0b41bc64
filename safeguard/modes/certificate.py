"""What the runtime asks of a mode table before it executes it: a passing check of this very table (law 8)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeguard.core.errors import ModeTableError
from safeguard.modes.requirements import abstract
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import STRATEGIES, TABLES, ModeTable, compile_table, compiler_digest, load_spec, table_digest


class World(BaseModel):
    """One walk.

    Attributes:
        slow: the delayed and shedding causes in it; those that act at once are in every world.
        states, edges: how many were visited.
        graph: digest of the transition relation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slow: tuple[str, ...]
    states: int
    edges: int
    graph: str


class TableCertificate(BaseModel):
    """The verdict of ``safeguard modes check`` on one table.

    Attributes:
        strategy: whose.
        table: digest of the table's content and of schema, compiler and engine.
        compiler: digest of schema, compiler and engine alone.
        checker: digest of the properties, the requirements and the walk.
        abstraction: digest of the table with scaled times; a control period with another one is not covered.
        scaled: what the times became, by row.
        merged: every cause and the one that stood for it.
        worlds: the walks.
        modes: that were reached.
        properties: each with "holds", or what is wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["safeguard-mode-certificate-1"] = "safeguard-mode-certificate-1"
    strategy: str
    table: str
    compiler: str
    checker: str
    abstraction: str
    scaled: dict[str, int]
    merged: dict[str, str]
    worlds: tuple[World, ...]
    modes: tuple[str, ...]
    properties: dict[str, str] = Field(min_length=1)

    @property
    def passed(self) -> bool:
        """Every property holds."""
        return all(verdict == HOLDS for verdict in self.properties.values())

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file. Raises ModeTableError with the file and the fix."""
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except OSError as error:
            raise ModeTableError(f"{path.name}: no certificate of this mode table; {_FIX}") from error
        except ValidationError as error:
            raise ModeTableError(f"{path.name}: not a certificate of a mode table: {error}; {_FIX}") from error

    def write(self, path: Path) -> None:
        """To a file, readable line by line."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", "utf-8")


SLOWEST_TICK_S: Final = 0.06
"""Half of the shortest bridge of the tables: one bad output is bridged at any pace, two in a row are not."""

HOLDS: Final = "holds"
_FIX: Final = "run 'safeguard modes check STRATEGY --write' and read what it says"


def certificate_path(strategy: str) -> Path:
    """Where the certificate of a built-in table lies: beside the table."""
    return TABLES / f"{strategy}.certificate.json"


def abstraction_digest(spec: TableSpec, period: float) -> str:
    """SHA-256 of the table with scaled times, which is what is walked."""
    small, _ = abstract(spec, period)
    content = json.dumps(small.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def load_table(strategy: str, period: float = 0.002) -> ModeTable:
    """The built-in table of ``strategy`` for a tick of ``period`` s.

    Ticks longer than ``SLOWEST_TICK_S`` count as ticks of that length: what the table bridges then lasts two ticks,
    and every other time as many ticks as it would there.

    Raises:
        ModeTableError: there is none, it is not well formed, or its certificate is missing, was not passed, or is that
            of another table, compiler or control period.
    """
    period = min(period, SLOWEST_TICK_S)
    spec = load_spec(strategy)
    path = certificate_path(strategy)
    certificate = TableCertificate.read(path)
    table = compile_table(spec, period)
    wrong = refusal(certificate, spec, table, period)
    if wrong:
        raise ModeTableError(f"{path.name}: {wrong}; {_FIX}")
    return table


def refusal(certificate: TableCertificate, spec: TableSpec, table: ModeTable, period: float) -> str:
    """Why a table must not be executed on the strength of ``certificate``, or ""."""
    if certificate.strategy != spec.strategy:
        return f"is the certificate of {certificate.strategy!r}, not of {spec.strategy!r}"
    if certificate.compiler != compiler_digest():
        return "the engine or the compiler has changed since the check"
    if certificate.table != table.digest or table.digest != table_digest(spec):
        return f"{spec.strategy}.toml or its core has changed since the check"
    if not certificate.passed:
        failed = next(name for name, verdict in certificate.properties.items() if verdict != HOLDS)
        return f"{failed} did not hold"
    if certificate.abstraction != abstraction_digest(spec, period):
        return f"the check does not cover a control period of {period} s"
    return ""


__all__ = ["STRATEGIES", "TableCertificate", "World", "load_table", "refusal"]
