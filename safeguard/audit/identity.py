"""What a run ran on: versions and the machine, gathered once when a run opens (never inside a decision)."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from uuid import uuid4

from safeguard.audit.records.encode import Json, JsonObject
from safeguard.core.enums import Enforcement
from safeguard.core.version import __version__

LIBRARIES = (
    "numpy",
    "scipy",
    "osqp",
    "daqp",
    "numba",
    "llvmlite",
    "pin",
    "coal",
    "orjson",
    "pydantic",
    "torch",
    "mujoco",
)
"""Packages whose version can change a decision or a record."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions of ``names``; packages that are not installed are left out."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> JsonObject:
    """Operating system, processor and thread settings, as in ``records.Machine``."""
    model, flags = _cpu()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": model or platform.processor(),
        "cpu_flags": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest() if flags else "",
        "threads": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
    }


def _cpu(source: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """Processor model and feature flags, empty where the system does not say."""
    try:
        lines = source.read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return "", []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", ""), fields.get("flags", fields.get("Features", "")).split()


def run_open_body(
    *,
    robot: Mapping[str, Json],
    config: Json,
    enforcement: Enforcement,
    simulated: bool,
    digests: Mapping[str, str | None],
    limits: Mapping[str, Json] | None = None,
    run_id: str | None = None,
    created_utc: str | None = None,
) -> JsonObject:
    """The body of ``run_open``: what the caller knows, plus versions, machine, a fresh id and the wall clock.

    Args:
        robot: ``name``, ``digest``, ``source`` (what loads the model again).
        config: the shield's full configuration.
        enforcement: what the run sets out with; an episode may differ and says so.
        simulated: true unless real hardware moves.
        digests: SHA-256 of ``table``, ``policy``, ``calibration``, or None for what there is not.
        limits: as ``records.Limits``; reports draw and list them.
        run_id, created_utc: for tests and reproductions; by default random and now.
    """
    return {
        "run_id": run_id or uuid4().hex,
        "created_utc": created_utc or datetime.now(UTC).isoformat(timespec="seconds"),
        "safeguard": __version__,
        "python": platform.python_version(),
        "machine": machine(),
        "libraries": versions(),
        "robot": dict(robot),
        "config": config,
        "digests": dict(digests),
        "enforcement": enforcement.value,
        "simulated": simulated,
        "limits": None if limits is None else dict(limits),
    }
