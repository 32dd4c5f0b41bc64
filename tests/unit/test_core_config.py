"""Configuration at the edge: strict, frozen, with units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from safeguard.core.config import BrakeConfig, FilterConfig, MarginConfig, ShieldConfig, SolverConfig


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and every section below it."""
    yield model
    for info in model.model_fields.values():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from sections(info.annotation)


def test_every_section_forbids_unknown_keys_and_changes() -> None:
    """A misspelt key is an error in every section, and a section cannot be edited."""
    for section in sections(ShieldConfig):
        assert section.model_config.get("extra") == "forbid", section
        assert section.model_config.get("frozen") is True, section
        with pytest.raises(ValidationError, match="floor"):
            section.model_validate({"no_such_floor": 1.0})


def test_every_number_with_a_unit_says_so_or_is_described() -> None:
    """Float keys end in their unit or carry a description."""
    units = ("_m", "_s", "_rad", "_radps", "_share")
    for section in sections(ShieldConfig):
        for key, info in section.model_fields.items():
            if info.annotation is float:
                assert key.endswith(units) or info.description or section is SolverConfig, f"{section.__name__}.{key}"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (BrakeConfig, {"share_of_authority": 0.0}),
        (BrakeConfig, {"share_of_authority": 1.1}),
        (BrakeConfig, {"plan_share": 1.0}),
        (BrakeConfig, {"samples": 99}),
        (BrakeConfig, {"path_samples": 1}),
        (MarginConfig, {"velocity_share": 1.0}),
        (MarginConfig, {"position_rad": -1e-3}),
        (SolverConfig, {"eps_abs": 0.0}),
        (SolverConfig, {"eps_abs": math.inf}),
        (SolverConfig, {"max_iter": 0}),
        (FilterConfig, {"standstill_radps": math.nan}),
        (FilterConfig, {"brake": {"share": 0.5}}),
    ],
)
def test_values_that_cannot_work_are_refused(section: type[BaseModel], values: dict[str, Any]) -> None:
    """Zero and negative tolerances, shares beyond one, NaN and infinity never reach the loop."""
    with pytest.raises(ValidationError):
        section.model_validate(values)


def test_a_configuration_survives_json() -> None:
    """What a journal records is what comes back."""
    config = ShieldConfig.model_validate({"filter": {"brake": {"samples": 200}}, "real_time": True})
    assert ShieldConfig.model_validate_json(config.model_dump_json()) == config
    assert config.filter.brake.samples == 200
