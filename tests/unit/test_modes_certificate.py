from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import safeguard.modes.certificate as module
import safeguard.modes.table as compiler
from safeguard.core.enums import Cause
from safeguard.core.errors import ModeTableError
from safeguard.modes import TableCertificate, compile_table, load_spec, load_table
from safeguard.modes.certificate import World, abstraction_digest, certificate_path, refusal
from safeguard.modes.read import read_spec
from safeguard.modes.table import compiler_digest, table_digest
from tests.unit.modes_support import ALL, PERIOD, TEXT, folder

Patch = pytest.MonkeyPatch
SPEC = load_spec("vla")


def passed(strategy: str = "vla", **other: Any) -> TableCertificate:
    """A certificate that covers the table of ``strategy``, or differs from such a one."""
    spec = load_spec(strategy)
    right: dict[str, Any] = {
        "strategy": strategy,
        "table": table_digest(spec),
        "compiler": compiler_digest(),
        "checker": "0" * 64,
        "abstraction": abstraction_digest(spec, PERIOD),
        "scaled": {"VLA-D01": 3},
        "merged": {"estop": "estop"},
        "worlds": (World(slow=("policy_late",), states=2, edges=5, graph="0" * 16),),
        "modes": ("nominal",),
        "properties": {"P1 floor": "holds", "P2 authority": "holds"},
    }
    return TableCertificate(**{**right, **other})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Where ``load_table`` looks for the certificate."""
    path = tmp_path / "vla.certificate.json"

    def found(strategy: str) -> Path:
        assert strategy == "vla"
        return path

    monkeypatch.setattr(module, "certificate_path", found)
    return path


def test_certified_table_is_loaded(file: Path) -> None:
    """With its certificate the table is what the compiler makes of the file, for every period that is covered."""
    passed().write(file)
    for period in (0.001, 0.002, 0.005):
        assert load_table("vla", period) == compile_table(SPEC, period)


@pytest.mark.parametrize("strategy", ALL)
def test_certificates_lie_beside_the_tables(strategy: str) -> None:
    """Every built-in table has its certificate beside it: passed, and of that strategy."""
    found = TableCertificate.read(certificate_path(strategy))
    assert found.strategy == strategy
    assert found.passed
    assert len(found.properties) >= 25
    assert len(found.merged) == len(Cause)


def test_written_certificates_are_read_again(file: Path) -> None:
    """Nothing is lost on the way to the file and back."""
    passed().write(file)
    assert TableCertificate.read(file) == passed()
    assert file.read_text("utf-8").endswith("}\n")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"strategy": "dual"}, "is the certificate of 'dual', not of 'vla'"),
        ({"compiler": "0" * 64}, "the engine or the compiler has changed since the check"),
        ({"table": "0" * 64}, "vla.toml or its core has changed since the check"),
        ({"properties": {"P1 floor": "holds", "P3 re-entry": "BOOT: …"}}, "P3 re-entry did not hold"),
        ({"abstraction": "0" * 64}, "the check does not cover a control period of 0.002 s"),
    ],
)
def test_wrong_certificates_are_refused(file: Path, other: dict[str, Any], words: str) -> None:
    """A certificate of something else, or one that was not passed, is refused with its name, why, and the fix."""
    passed(**other).write(file)
    with pytest.raises(ModeTableError) as caught:
        load_table("vla")
    fix = "run 'safeguard modes check STRATEGY --write' and read what it says"
    assert str(caught.value) == f"vla.certificate.json: {words}; {fix}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a certificate of a mode table"),
        ("{}", "not a certificate of a mode table"),
        ("\x00\x01", "not a certificate of a mode table"),
        ('{"format": "safeguard-certificate-1"}', "not a certificate of a mode table"),
        (None, "no certificate of this mode table"),
    ],
    ids=["empty", "nothing in it", "noise", "of something else", "missing"],
)
def test_unreadable_certificates_are_refused(file: Path, text: str | None, words: str) -> None:
    """What is no certificate is refused with its name and the fix, and so is none at all."""
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(ModeTableError, match=f"vla.certificate.json: {words}(.|\n)*modes check"):
        load_table("vla")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"safeguard-mode-certificate-1"', '"safeguard-mode-certificate-2"'),
        ('"states": 2', '"states": 2,\n   "sure": true'),
        ('"table": ', '"tables": '),
        ('"P1 floor": "holds",', '"P1 floor": true,'),
    ],
)
def test_foreign_certificates_are_refused(file: Path, old: str, new: str) -> None:
    """Another format, a key too many or missing, and a verdict that is no words are refused."""
    passed().write(file)
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ModeTableError, match="not a certificate of a mode table"):
        TableCertificate.read(file)


def test_a_certificate_without_properties_is_none(file: Path) -> None:
    """No verdicts are no pass."""
    passed().write(file)
    file.write_text(re.sub(r'"properties": \{[^}]*\}', '"properties": {}', file.read_text("utf-8")), "utf-8")
    with pytest.raises(ModeTableError, match="properties"):
        load_table("vla")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("vla", "stay_s = 0.2", "stay_s = 0.202"), ("core", "beyond = 2", "beyond = 3"), ("vla", "decays = true", "")],
)
def test_a_table_that_changed_is_refused(
    file: Path, tmp_path: Path, monkeypatch: Patch, name: str, old: str, new: str
) -> None:
    """An edit of the table or its core after the check is refused, whatever it changes."""
    passed().write(file)
    assert old in TEXT[name]
    where = folder(tmp_path, **{name: TEXT[name].replace(old, new, 1)})
    monkeypatch.setattr(compiler, "TABLES", where)
    with pytest.raises(ModeTableError, match=r"vla.toml or its core has changed since the check"):
        load_table("vla")


def test_a_comment_is_no_change(file: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """What does not change the content does not cost the certificate."""
    passed().write(file)
    monkeypatch.setattr(compiler, "TABLES", folder(tmp_path, core="# a comment\n" + TEXT["core"]))
    assert load_table("vla").strategy == "vla"


def test_a_compiler_that_changed_is_refused(file: Path, monkeypatch: Patch) -> None:
    """A certificate does not outlive the engine or compiler that it was made with."""
    passed().write(file)
    for where in (module, compiler):
        monkeypatch.setattr(where, "compiler_digest", lambda: "1" * 64)
    with pytest.raises(ModeTableError, match="the engine or the compiler has changed"):
        load_table("vla")


def test_a_table_edited_in_memory_is_refused() -> None:
    """A table whose digest is not that of its own content is refused."""
    right = compile_table(SPEC, PERIOD)
    assert refusal(passed(), SPEC, right, PERIOD) == ""
    longer = SPEC.configurations[0].model_copy(update={"stay_s": 0.4})
    other = SPEC.model_copy(update={"configurations": (longer,)})
    assert "has changed" in refusal(passed(), other, compile_table(other, PERIOD), PERIOD)
    assert "has changed" in refusal(passed(), other, right, PERIOD)
    assert "has changed" in refusal(passed(), SPEC, compile_table(other, PERIOD), PERIOD)


def test_a_period_that_scales_otherwise_is_not_covered() -> None:
    """Ten ticks are 20 ms at 2 ms and too short at 1 ms: that is another walk, which nobody did."""
    row = SPEC.capabilities[0].model_copy(update={"dwell_s": None, "dwell_ticks": 10})
    ticked = SPEC.model_copy(update={"capabilities": (row,)})
    found = passed(table=table_digest(ticked), abstraction=abstraction_digest(ticked, 0.002))
    assert refusal(found, ticked, compile_table(ticked, 0.002), 0.002) == ""
    told = refusal(found, ticked, compile_table(ticked, 0.001), 0.001)
    assert told == "the check does not cover a control period of 0.001 s"


def test_compiler_digest_is_of_the_source() -> None:
    """It is the same in every call and 64 hexadecimal digits long; the table's own digest contains it."""
    assert compiler_digest() == compiler_digest()
    assert re.fullmatch(r"[0-9a-f]{64}", compiler_digest())
    assert table_digest(SPEC) != table_digest(read_spec(compiler.TABLES / "dual.toml"))
