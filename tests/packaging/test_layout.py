from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.packaging.conftest import PARTS


@pytest.mark.parametrize("part", PARTS)
def test_part_is_a_real_folder_with_a_relative_link(root: Path, part: str) -> None:
    """The code is in the top-level folder; ``safeguard/`` holds a relative link to it."""
    link = root / "safeguard" / part

    assert (root / part).is_dir()
    assert not (root / part).is_symlink()
    assert os.readlink(link) == f"../{part}"


def test_lock_is_exact(root: Path) -> None:
    """Every line of the lock names one version, and none of them a build or a place."""
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    assert "torch==2.13.0" in pins
    assert [line for line in pins if line.startswith(("nvidia", "cuda", "triton"))] == []


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/lock", "scripts/ci", ".ci/run"])
def test_script_is_executable(root: Path, script: str) -> None:
    """The Makefile and people start the scripts by name."""
    assert os.access(root / script, os.X_OK)


def test_changelog_has_a_place_for_unreleased_changes(root: Path) -> None:
    """A change finds the heading under which it says what it did."""
    assert "## [Unreleased]" in (root / "CHANGELOG.md").read_text("utf-8")
