from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packaging.conftest import FOLDERS, PARTS, run

pytestmark = pytest.mark.slow


def contents(wheel: Path) -> set[str]:
    """Names in a wheel without its metadata."""
    return {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}


def installed_name(tracked_name: str) -> str:
    """Where a file of the five folders lands in the wheel."""
    return tracked_name if tracked_name.startswith("safeguard/") else f"safeguard/{tracked_name}"


def test_source_archive_and_tree_give_the_same_wheel(wheels: dict[str, Path]) -> None:
    """A wheel built from the source archive holds the files of a wheel built from the tree."""
    assert contents(wheels["sdist"]) == contents(wheels["direct"])


def test_wheel_holds_every_tracked_file_of_the_five_folders(wheels: dict[str, Path], tracked: list[str]) -> None:
    """Nothing of the five folders is missing in the wheel and nothing else is in it."""
    expected = {installed_name(name) for name in tracked if name.split("/")[0] in FOLDERS}

    assert contents(wheels["direct"]) == expected


def test_wheel_installs_one_top_level_name(wheels: dict[str, Path]) -> None:
    """No generic name such as ``monitors`` lands in site-packages."""
    assert {name.split("/")[0] for name in contents(wheels["direct"])} == {"safeguard"}


def test_wheel_is_marked_as_typed(wheels: dict[str, Path]) -> None:
    """Users' type checkers read our annotations."""
    assert "safeguard/py.typed" in contents(wheels["direct"])


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel as pip unpacks it."""
    target = tmp_path_factory.mktemp("site")
    done = run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--target", target, wheels["sdist"]),
        cwd=target,
    )
    assert done.returncode == 0, done.stderr
    return target


def outside(installed: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in ``cwd``, with the installed wheel first on Python's path."""
    return run(sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {code}", cwd=cwd)


def test_parts_load_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """Outside the repository the parts come from the wheel, without the links."""
    names = ", ".join(f"safeguard.{part}" for part in PARTS)
    places = ", ".join(f"safeguard.{part}.__file__" for part in PARTS)
    done = outside(installed, tmp_path, f"import {names}; print({places})")

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "safeguard" / part / "__init__.py") for part in PARTS]


def test_command_works_from_the_installed_wheel(installed: Path, tmp_path: Path, root: Path) -> None:
    """The entry point of the wheel runs outside the repository and lists its commands."""
    declared = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["safeguard"]
    module, function = declared.split(":")
    call = f"sys.argv = ['safeguard', '--help']; from {module} import {function}; sys.exit({function}())"
    done = outside(installed, tmp_path, call)

    assert (installed / "bin" / "safeguard").exists()
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
