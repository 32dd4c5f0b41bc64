from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import safeguard

HEAVY = ("torch", "cvxpy", "mapie", "sklearn", "mujoco", "matplotlib", "pinocchio", "scipy", "numpy")


def loaded_after(statement: str, root: Path) -> set[str]:
    """Top-level modules that a fresh interpreter holds after ``statement``."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split())


def test_importing_safeguard_loads_nothing_heavy(root: Path) -> None:
    """``import safeguard`` leaves every numerical library alone."""
    assert loaded_after("import safeguard", root) & set(HEAVY) == set()


def test_the_vocabulary_loads_no_optional_dependency(root: Path) -> None:
    """Types and enums need numpy and nothing that an extra brings."""
    loaded = loaded_after("from safeguard import Decision, Observation, RobotState", root)

    assert loaded & (set(HEAVY) - {"numpy"}) == set()


@pytest.mark.parametrize("name", [name for name in safeguard.__all__ if not name.startswith("_")])
def test_public_name_is_the_one_its_module_defines(name: str) -> None:
    """A name of the package is the same object as in the module that defines it."""
    value = getattr(safeguard, name)

    assert getattr(import_module(value.__module__), name) is value


def test_dir_lists_the_public_names() -> None:
    """Completion in a shell shows names that are not loaded yet."""
    assert set(safeguard.__all__) <= set(dir(safeguard))


def test_unknown_name_lists_the_known_ones() -> None:
    """A misspelt name is answered with what exists."""
    with pytest.raises(AttributeError, match=r"no attribute 'Sheild'; it has: .*\bShield\b"):
        _ = safeguard.Sheild
