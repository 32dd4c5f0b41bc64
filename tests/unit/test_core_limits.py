"""Joint limits: complete, consistent, and with their provenance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from safeguard.core.errors import LimitError
from safeguard.core.limits import Limits, Sourced

GOOD = Limits(
    -np.ones(2), np.ones(2), np.ones(2), np.ones(2), np.ones(2), np.ones(2), {"v_max": "data sheet", "tau_max": "URDF"}
)
JOINTS = ("shoulder", "elbow")


def test_good_limits_pass() -> None:
    """Finite, increasing, positive."""
    GOOD.validate(JOINTS, "arm.urdf")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("name", ["v_max", "a_max", "tau_max", "tau_rate_max"])
def test_a_missing_or_senseless_limit_is_named(name: str, bad: float) -> None:
    """The message has the joint, the file, the limit, its value and where it comes from."""
    overrides: dict[str, Any] = {name: np.array([1.0, bad])}
    with pytest.raises(LimitError, match=f"'elbow' of arm.urdf: {name} is {bad}") as caught:
        replace(GOOD, **overrides).validate(JOINTS, "arm.urdf")
    assert GOOD.provenance.get(name, "nowhere") in str(caught.value)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (-np.inf, 1.0), (0.0, np.nan)])
def test_position_limits_must_be_finite_and_increasing(low: float, high: float) -> None:
    """Both values are in the message, and what to add to the URDF."""
    bad = replace(GOOD, q_min=np.array([low, -1.0]), q_max=np.array([high, 1.0]))
    with pytest.raises(LimitError, match=r"'shoulder'.*finite and increasing; add <limit"):
        bad.validate(JOINTS, "arm.urdf")


def test_numbers_without_a_source_are_refused() -> None:
    """Limits carry their provenance: an empty source, NaN and unknown keys don't pass."""
    assert Sourced.model_validate({"values": [1, 2], "source": "x"}).values == (1.0, 2.0)
    for bad in ({"values": [1.0], "source": ""}, {"values": [np.nan], "source": "x"}, {"values": [1.0]}):
        with pytest.raises(ValidationError):
            Sourced.model_validate(bad)
