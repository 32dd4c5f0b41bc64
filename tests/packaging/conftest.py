"""Throw-away copies of the repository and what is built from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PARTS = ("monitors", "controllers", "policies", "scenarios")
FOLDERS = ("safeguard", *PARTS)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command's outcome with its output as text; the caller looks at the exit code."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def layers(root: Path) -> list[list[str]]:
    """The layers of the import contract from top to bottom, each a list of siblings."""
    config = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    contract: dict[str, list[str]] = config["tool"]["importlinter"]["contracts"][0]
    return [layer.split(" | ") for layer in contract["layers"]]


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[str]:
    """Every file of the repository that git tracks or would track, without the four links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted({name for name in listing.split("\0") if name and (root / name).is_file()})


@pytest.fixture(scope="session")
def wheels(root: Path, tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two wheels: ``direct`` from a copy of the tree, ``sdist`` from that copy's source archive."""
    copy = tmp_path_factory.mktemp("copy") / "safeguard"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name, follow_symlinks=False)
    for part in PARTS:
        (copy / "safeguard" / part).symlink_to(f"../{part}")
    return {"direct": _build(copy, "--wheel"), "sdist": _build(copy)}


def _build(copy: Path, *arguments: str) -> Path:
    out = copy.parent / ("direct" if arguments else "sdist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "-o", out, *arguments, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture
def skeleton(root: Path, tmp_path: Path) -> Path:
    """The repository's shape and configuration without its code: every layer is an empty module.

    Checkers run on it in a second, with exactly the configuration that they run with on the code.
    """
    shutil.copy2(root / "pyproject.toml", tmp_path)
    for folder in (*FOLDERS, "tests", "scripts", "benchmarks", "examples"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(f'"""The folder {folder}."""\n')
    for module in {name for layer in layers(root) for name in layer} - set(PARTS):
        (tmp_path / "safeguard" / f"{module}.py").write_text(f'"""The module {module}."""\n')
    for part in PARTS:
        (tmp_path / "safeguard" / part).symlink_to(f"../{part}")
    return tmp_path
