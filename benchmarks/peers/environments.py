"""One virtual environment for each peer, made once with pip's ordinary configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "pink": (
        "pin-pink==4.4.0",
        "daqp==0.11.0",
        "example-robot-data==6.0.0",
        "osqp==1.1.3",
        "piqp==0.7.0",
        "proxsuite==0.8.0",
        "quadprog==0.1.14",
    ),
    "mink": ("mink==1.3.0",),
    "placo": ("placo==0.10.2",),
    # Both warn that later versions of jax are slower on a CPU: three times here with 0.10.2.
    "oscbf": ("cbfpy==0.1.0", "frax==0.1.0", "jax==0.4.30", "jaxlib==0.4.30"),
}


def prepare(name: str, folder: Path) -> Path:
    """The interpreter of the environment ``name``, installed if it is not there in these versions.

    Raises:
        OSError: it could not be made; says what pip said last.
    """
    if name not in REQUIREMENTS:
        return Path(sys.executable)
    home, wanted = folder / name, json.dumps(REQUIREMENTS[name])
    python, mark = home / "bin" / "python", home / "installed.json"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    print(f"installing {' '.join(REQUIREMENTS[name])} in {home}", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(home)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *REQUIREMENTS[name]])
    mark.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Name and version of every package of an environment."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {str(entry["name"]): str(entry["version"]) for entry in json.loads(listed.stdout)}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command[:4])} …: {done.stderr.strip()[-500:]}")
