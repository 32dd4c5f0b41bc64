from __future__ import annotations

from enum import Enum
from pathlib import Path

import pytest

from safeguard.core import enums
from scripts import gen_reference

ENUMS = [kind for kind in vars(enums).values() if isinstance(kind, type) and issubclass(kind, Enum)]
OURS = [kind for kind in ENUMS if kind.__module__ == enums.__name__]


def test_page_of_enums_is_what_the_code_says() -> None:
    """The committed page equals the generated one."""
    assert gen_reference.main(["--check"]) == 0


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_page_lists_every_member(kind: type[Enum]) -> None:
    """The generator reads text; nothing that Python sees escapes it."""
    section = gen_reference.PAGE.read_text("utf-8").split(f"\n## {kind.__name__}\n")[1].split("\n## ")[0]

    for member in kind:
        assert f"| `{member.name}` | `{member.value}` |" in section


def test_a_changed_enum_turns_the_check_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member that the page does not have is noticed, and the message says what to run."""
    source = tmp_path / "enums.py"
    source.write_text(gen_reference.SOURCE.read_text("utf-8") + "\n\nclass New(Enum):\n    ONE = 1\n")
    monkeypatch.setattr(gen_reference, "SOURCE", source)

    assert gen_reference.main(["--check"]) == 1
    assert "make reference" in capsys.readouterr().err
