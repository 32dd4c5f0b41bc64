from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from safeguard import cli
from safeguard.audit import AuditConfig, open_run
from safeguard.audit.journal import frames
from tests.unit.audit_edit import contents, put
from tests.unit.audit_runs import append_tick, decision, observation, run_open
from tests.unit.cli_support import Call
from tests.unit.cli_support import safeguard as safeguard  # the fixture


@pytest.fixture
def signed(tmp_path: Path, safeguard: Call) -> Path:
    """A closed run, signed with the key beside it."""
    assert safeguard("audit", "keygen", tmp_path / "cell.key", "--purpose", "test").code == cli.OK
    run = tmp_path / "run"
    with open_run(AuditConfig(run=run, key=tmp_path / "cell.key", writer="inline"), run_open()) as journal:
        append_tick(journal, 0, observation(0), decision(0))
    return run


def test_keygen_makes_a_pair(tmp_path: Path, safeguard: Call) -> None:
    """The private key is its owner's alone, the public one is said, and neither is ever written over."""
    done = safeguard("audit", "keygen", tmp_path / "k" / "robot.key")
    assert done.code == cli.OK
    private, public = tmp_path / "k" / "robot.key", tmp_path / "k" / "robot.key.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert public.read_text().strip() in done.said
    assert private.read_text().splitlines()[1] == "field"
    before = private.read_bytes()
    assert safeguard("audit", "keygen", private).code == cli.USAGE
    assert private.read_bytes() == before
    assert safeguard("audit", "keygen", tmp_path / "other", "--purpose", "fun").code == cli.USAGE


def test_verify_has_an_exit_code_for_each_verdict(signed: Path, safeguard: Call) -> None:
    """Complete needs the key; without it the best is self-signed; the rest is as documented."""
    key = signed.parent / "cell.key.pub"
    assert safeguard("audit", "verify", signed, "--key", key).code == 0
    assert safeguard("audit", "verify", signed, "--key", key.read_text().strip()).code == 0
    assert safeguard("audit", "verify", signed).code == 7
    found = contents(signed)
    put(signed, b"".join(map(frames.frame, found[:-2])))
    assert safeguard("audit", "verify", signed, "--key", key).code == 6
    put(signed, b"".join(map(frames.frame, found))[:-3])
    assert safeguard("audit", "verify", signed, "--key", key).code == 4
    put(signed, b"".join(map(frames.frame, [found[0], *found[2:]])))
    done = safeguard("audit", "verify", signed, "--key", key, "--json")
    assert (done.code, done.data["verdict"]) == (3, "altered")


def test_verify_with_a_wrong_key(signed: Path, tmp_path: Path, safeguard: Call) -> None:
    """Another key is a verdict; a file that is no key is an error that names it."""
    safeguard("audit", "keygen", tmp_path / "other.key")
    assert safeguard("audit", "verify", signed, "--key", tmp_path / "other.key.pub").code == 3
    (tmp_path / "nonsense").write_text("hello")
    assert safeguard("audit", "verify", signed, "--key", tmp_path / "nonsense").code == cli.USAGE
    assert safeguard("audit", "verify", signed, "--key", tmp_path / "missing").code == cli.USAGE


def test_recover(signed: Path, safeguard: Call) -> None:
    """A run that was left open is closed with its private key."""
    found = contents(signed)
    put(signed, b"".join(map(frames.frame, found[:-2])))
    done = safeguard("audit", "recover", signed, "--key", signed.parent / "cell.key", "--reason", "battery")
    assert done.code == cli.OK
    assert safeguard("audit", "verify", signed, "--key", signed.parent / "cell.key.pub").code == 0


def test_schemas(safeguard: Call) -> None:
    """Every record kind has its schema."""
    assert {"decision", "gap", "run_open"} <= set(json.loads(safeguard("audit", "schemas").said))
