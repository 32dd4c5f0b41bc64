from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

import safeguard.audit
from safeguard.audit.identity import machine, run_open_body, versions
from safeguard.audit.records.registry import Machine, RunOpen
from safeguard.core.enums import Enforcement


def test_what_is_not_installed_is_left_out() -> None:
    """Versions are those of installed packages only."""
    found = versions(["numpy", "no-such-package-as-this"])
    assert list(found) == ["numpy"]


def test_a_machine_that_tells_nothing_of_its_cpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/cpuinfo the description is shorter but still valid."""

    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert Machine.model_validate(machine()).cpu_flags == ""


def test_runs_have_distinct_ids() -> None:
    """Two runs that are opened alike are told apart by id."""

    def opened() -> RunOpen:
        body = run_open_body(
            robot={"name": "panda", "digest": "", "source": None},
            config=None,
            enforcement=Enforcement.OFF,
            simulated=True,
            digests={},
        )
        return RunOpen.model_validate_json(orjson.dumps(body))

    assert opened().run_id != opened().run_id


def test_unknown_names_are_refused() -> None:
    """The lazy package names what it does not have, and lists what it has."""
    with pytest.raises(AttributeError, match="no attribute 'open_rum'"):
        _ = getattr(safeguard.audit, "open_rum")  # noqa: B009
    assert set(safeguard.audit.__all__) <= set(dir(safeguard.audit))


def test_importing_the_package_loads_no_heavy_library() -> None:
    """Neither matplotlib nor pydantic is loaded before it is used; a journal needs no matplotlib."""
    code = (
        "import sys, safeguard.audit as a; assert 'pydantic' not in sys.modules; a.open_run, a.verify_run;"
        "assert not {'matplotlib', 'torch', 'mujoco', 'structlog'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
