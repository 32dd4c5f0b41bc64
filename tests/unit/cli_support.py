"""The command line as a function: what a call prints, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from safeguard import cli


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything that people read, without the terminal's line breaks."""
        return " ".join((self.out + self.err).split())

    @property
    def data(self) -> Any:
        """What machines read."""
        return json.loads(self.out)


Call = Callable[..., Done]


@pytest.fixture
def safeguard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """The ``safeguard`` command, in an empty folder and a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["safeguard", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(left.value.code or 0), printed.out, printed.err)

    return call
