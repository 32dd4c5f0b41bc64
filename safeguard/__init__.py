"""safeguard lets a learned policy move a robot without being trusted.

The names below are loaded on first use (PEP 562): importing the package costs nothing but the import itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from safeguard.core.version import __version__

if TYPE_CHECKING:
    from safeguard.core.config import ShieldConfig
    from safeguard.core.robot import RobotModel
    from safeguard.core.types import Decision, Observation, RobotState
    from safeguard.shield import Shield


__all__ = [
    "Decision",
    "Observation",
    "RobotModel",
    "RobotState",
    "Shield",
    "ShieldConfig",
    "__version__",
]

_HOMES = {
    "Decision": "safeguard.core.types",
    "Observation": "safeguard.core.types",
    "RobotModel": "safeguard.core.robot",
    "RobotState": "safeguard.core.types",
    "Shield": "safeguard.shield",
    "ShieldConfig": "safeguard.core.config",
}


def __getattr__(name: str) -> object:
    """Loads a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'safeguard' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Every name of the module, loaded or not."""
    return sorted({*globals(), *__all__})
