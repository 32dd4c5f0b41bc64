"""What must work before anything may move: a few checks of the real parts, run once at start-up."""

from __future__ import annotations

import numpy as np

from safeguard.core.enums import FilterStatus, NominalKind
from safeguard.core.protocols import Platform
from safeguard.core.types import FULL_ENVELOPE, Nominal, RobotState


def self_test(platform: Platform) -> tuple[str, ...]:
    """Why the platform may not move; empty if it may.

    A state that is not finite must be implausible, a proposal that is not finite must be answered by the
    backup, and one beyond every limit must not come out as it went in. The platform is reset afterwards.
    """
    n = len(platform.joints)
    nothing = np.zeros(n)
    broken = RobotState(np.full(n, np.nan), nothing, 0)
    failures: list[str] = []
    if platform.plausible(broken) is None:
        failures.append("a state that is not finite passes for a measurement")
    if platform.guarantee == "braking":
        failures += _filter_failures(platform, n)
    platform.reset()
    return tuple(failures)


def _filter_failures(platform: Platform, n: int) -> list[str]:
    rest = platform.rest
    failures: list[str] = []
    for value, name in ((np.nan, "a proposal that is not finite"), (1e6, "a proposal beyond every limit")):
        platform.reset(rest)
        result = platform.filter(rest, Nominal(NominalKind.ACCELERATION, np.full(n, value)), FULL_ENVELOPE)
        if result.status in (FilterStatus.ADMISSIBLE, FilterStatus.REFUSED):
            failures.append(f"{name} is answered by {result.status.value}")
        if not np.isfinite(result.torque).all():
            failures.append(f"{name} yields a torque that is not finite")
    return failures
