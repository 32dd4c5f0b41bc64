"""What the two data files say: the argument and the clauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

Status: TypeAlias = Literal["supported", "missing", "contradicted"]
"""Of a leaf and of what stands above it; the worst of what stands below counts."""

ORDER: Final[Sequence[Status]] = ("supported", "missing", "contradicted")


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(_Data):
    """A node of the argument; a solution has a check, goals and strategies have children."""

    id: str
    kind: Literal["goal", "strategy", "assumption", "context", "solution"]
    text: str
    check: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    over: Literal["every", "any"] = "every"
    command: str = ""
    children: tuple[Node, ...] = ()

    @model_validator(mode="after")
    def _it_has_what_its_kind_has(self) -> Self:
        if (self.kind == "solution") != bool(self.check and self.command):
            raise ValueError(f"{self.id}: a solution has check and command, and nothing else has")
        if (self.kind in ("goal", "strategy")) != bool(self.children):
            raise ValueError(f"{self.id}: goals and strategies have children, and nothing else has")
        return self

    def walk(self) -> Iterator[Node]:
        """This node and all below, from top to bottom."""
        yield self
        for child in self.children:
            yield from child.walk()


class Need(_Data):
    """Fields of a record kind; ``occurs``: it is written only where something happened, so that none lacks nothing."""

    kind: str
    fields: tuple[str, ...] = Field(min_length=1)
    occurs: bool = False


class Clause(_Data):
    """What a rule asks for, and what of the records is evidence for it."""

    source: str
    clause: str
    asks: str
    basis: Literal["read", "second-hand", "known"]
    checked: str
    reference: str
    needs: tuple[Need, ...]
    not_recorded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, in a word and a sentence."""

    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class Outside:
    """Checks that need more than a journal; None where nobody provides one.

    Attributes:
        replay: recomputes the decisions of a run.
        table: (strategy, digest, period in s) says whether the certificate is that of this very mode table.
    """

    replay: Callable[[Path], Finding] | None = None
    table: Callable[[str, str, float], Finding] | None = None


def text_of(name: str) -> str:
    """A file of this package."""
    return resources.files("safeguard.audit.evidence").joinpath(name).read_text(encoding="utf-8")


@cache
def argument() -> Node:
    """The argument."""
    found = Node.model_validate(yaml.safe_load(text_of("argument.yaml")))
    ids = [node.id for node in found.walk()]
    if len(set(ids)) != len(ids):
        raise ValueError("argument.yaml: an id is there twice")
    return found


@cache
def clauses() -> tuple[Clause, ...]:
    """The clauses, in the order of their file."""
    return TypeAdapter(tuple[Clause, ...]).validate_python(yaml.safe_load(text_of("clauses.yaml")))


def worst(found: Sequence[Status]) -> Status:
    """The worst of several; of none it is missing."""
    return ORDER[max((ORDER.index(status) for status in found), default=1)]
