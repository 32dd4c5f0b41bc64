"""Each checker is shown an error that it must find, in the configuration that the code is checked with.

A green run proves nothing until a planted error turns it red: checkers skip linked folders silently.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.packaging.conftest import FOLDERS, PARTS, layers, run

CHECKED = (*FOLDERS, "tests", "scripts", "benchmarks", "examples")
TYPE_ERROR = '"""A planted error."""\n\nCOUNT: int = "three"\n'


def checker(tool: str, skeleton: Path) -> subprocess.CompletedProcess[str]:
    """What ``make check`` runs."""
    commands = {
        "mypy": ["mypy"],
        "pyright": ["pyright", "--pythonpath", sys.executable],
        "ruff": ["ruff", "check", "."],
        "layers": ["lint-imports", "--no-logo"],
    }
    name, *arguments = commands[tool]
    return run(Path(sys.executable).with_name(name), *arguments, cwd=skeleton)


@pytest.mark.parametrize("tool", ["mypy", "pyright", "ruff", "layers"])
def test_checker_accepts_the_skeleton(tool: str, skeleton: Path) -> None:
    """Without a planted error every checker is content, so the tests below see the error they planted."""
    done = checker(tool, skeleton)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_type_checker_finds_an_error_in_every_folder(tool: str, skeleton: Path) -> None:
    """A wrong type is found in the core, in each of the four linked folders, in tests and in scripts."""
    for folder in CHECKED:
        (skeleton / folder / f"planted_in_{folder}.py").write_text(TYPE_ERROR)

    done = checker(tool, skeleton)

    assert done.returncode != 0
    assert [folder for folder in CHECKED if f"planted_in_{folder}.py:3" not in done.stdout] == []


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_type_checker_is_strict(tool: str, skeleton: Path) -> None:
    """An argument without a type is an error."""
    (skeleton / "monitors" / "planted.py").write_text('"""Planted."""\n\n\ndef double(x):\n    return 2 * x\n')

    assert checker(tool, skeleton).returncode != 0


@pytest.mark.parametrize("part", PARTS)
def test_ruff_refuses_the_short_name_of_a_part(part: str, skeleton: Path) -> None:
    """``import monitors`` would give second copies of the classes of ``safeguard.monitors``."""
    (skeleton / "tests" / "test_planted.py").write_text(f"import {part}\n\nprint({part})\n")

    done = checker("ruff", skeleton)

    assert done.returncode != 0
    assert f"import safeguard.{part}" in done.stdout


def plant_import(skeleton: Path, importer: str, imported: str) -> None:
    """Lets one module of the skeleton import another."""
    folder = skeleton / "safeguard" / importer
    target = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    target.write_text(f'"""Planted."""\n\nimport safeguard.{imported}\n')


def test_layers_may_import_downwards(root: Path, skeleton: Path) -> None:
    """A layer may import the one below."""
    for upper, lower in pairwise(layers(root)):
        plant_import(skeleton, upper[0], lower[0])

    done = checker("layers", skeleton)

    assert done.returncode == 0, done.stdout


def test_layers_may_not_import_upwards(root: Path, skeleton: Path) -> None:
    """An import from a layer into the one above is named, for every pair of neighbours."""
    pairs = [(lower[0], upper[0]) for upper, lower in pairwise(layers(root))]
    for importer, imported in pairs:
        plant_import(skeleton, importer, imported)

    done = checker("layers", skeleton)

    assert done.returncode != 0
    for importer, imported in pairs:
        assert f"safeguard.{importer} -> safeguard.{imported}" in done.stdout


def test_siblings_may_not_import_each_other(skeleton: Path) -> None:
    """What two siblings share belongs in the core."""
    plant_import(skeleton, "monitors", "controllers")

    done = checker("layers", skeleton)

    assert done.returncode != 0
    assert "safeguard.monitors -> safeguard.controllers" in done.stdout


def test_a_new_module_must_be_given_a_layer(skeleton: Path) -> None:
    """A module that the contract does not name is an error, not a hole."""
    (skeleton / "safeguard" / "planted.py").write_text('"""Planted."""\n')

    done = checker("layers", skeleton)

    assert done.returncode != 0
    assert "planted" in done.stdout + done.stderr
