"""The vocabulary inside the loop: frozen, copied, checked."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from safeguard.core import types
from safeguard.core.enums import Mode, Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Proposal, RobotState, Sensor, everywhere, frozen_array, sealed


def test_every_dataclass_is_frozen_and_slotted() -> None:
    """No attribute can be set or added anywhere in the module."""
    classes = [x for x in vars(types).values() if isinstance(x, type) and is_dataclass(x)]
    assert len(classes) > 15
    for cls in classes:
        parameters: Any = getattr(cls, "__dataclass_params__")  # noqa: B009
        assert parameters.frozen, cls
        assert "__slots__" in vars(cls), cls


def test_frozen_array_copies_what_others_can_change() -> None:
    """A later edit of the source doesn't reach the copy; a read-only float64 owner is not copied."""
    source = np.array([1.0, 2.0])
    copy = frozen_array(source)
    source[0] = 9.0
    assert copy[0] == 1.0
    assert not copy.flags.writeable
    assert frozen_array(copy) is copy
    assert frozen_array([1, 2]).dtype == np.float64
    assert frozen_array(np.arange(6.0).reshape(2, 3).T).flags.c_contiguous


def test_a_read_only_view_of_a_writable_array_is_copied() -> None:
    """Read-only is not unchanging: the owner of the memory can still write."""
    source = np.array([1.0, 2.0])
    view = source[:]
    view.setflags(write=False)
    frozen = frozen_array(view)
    source[0] = 9.0
    assert frozen[0] == 1.0


def test_sealed_makes_the_array_itself_read_only() -> None:
    """No copy: the same object comes back."""
    own = np.zeros(3)
    assert sealed(own) is own
    assert not own.flags.writeable


def test_states_sensors_and_proposals_keep_copies() -> None:
    """Whoever made them cannot change them afterwards, and neither can who reads them."""
    q, actions = np.zeros(2), np.zeros((3, 2))
    made = (RobotState(q, q, 0).q, Sensor(q, 0).value, Proposal(actions, 0, 0, "p", 0).actions)
    q[:] = actions[:] = 5.0
    for array in made:
        np.testing.assert_array_equal(array, 0.0)
        assert not array.flags.writeable
    with pytest.raises(FrozenInstanceError):
        RobotState(q, q, 0).t = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": ()}, "distinct names"),
        ({"joints": ("a", "a")}, "distinct names"),
        ({"rate_hz": 0.0}, "rate_hz > 0"),
        ({"rate_hz": float("nan")}, "rate_hz > 0"),
        ({"chunk": 0}, "chunk >= 1"),
    ],
)
def test_an_action_spec_that_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    """No joints, repeated joints, no rate, empty chunks: SpecError with the value."""
    good: dict[str, Any] = {"joints": ("a", "b"), "unit": "rad", "reference": Reference.ABSOLUTE, "rate_hz": 10.0}
    ActionSpec(**good)
    with pytest.raises(SpecError, match=message):
        ActionSpec(**{**good, **changes})


def test_modes_are_ordered_by_severity() -> None:
    """The worst floor is the maximum (law 7)."""
    order = [Mode.NOMINAL, Mode.CAUTIOUS, Mode.DEGRADED, Mode.HOLD, Mode.STOP, Mode.ESTOP, Mode.LOCKOUT]
    assert sorted(order) == order
    assert max(Mode.HOLD, Mode.CAUTIOUS) is Mode.HOLD


def test_a_decisions_margins_are_its_filters() -> None:
    """``Decision.margins`` is no second truth."""
    assert "margins" not in {f.name for f in fields(types.Decision)}


@pytest.mark.parametrize(
    "flags", [[], [True], [True, False], [[True, True], [True, True]], [[True, True], [False, True]]]
)
def test_everywhere_is_all(flags: list[Any]) -> None:
    """It says of flags of any shape what ``all`` says; a comparison with NaN holds nowhere."""
    array = np.array(flags, dtype=bool)
    assert everywhere(array) == array.all()
    assert not everywhere(np.array([0.0, np.nan]) <= 1.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"chunk": 2.5}, "whole number of rows"),
        ({"chunk": True}, "chunk=True"),
        ({"rate_hz": "20"}, "rate_hz='20'"),
        ({"unit": "N.m"}, "column 'a': absolute actions cannot be in 'N.m'"),
        ({"unit": ("rad",)}, "unit has 1 entries for 2 columns"),
        ({"scale": (1.0, 2.0, 3.0)}, "scale has 3 entries for 2 columns"),
        ({"scale": (1.0, 0.0)}, "scale must not be 0"),
        ({"offset": float("nan")}, "offset must be a finite number"),
        ({"offset": "1"}, "offset must be a finite number"),
        ({"low": 1.0, "high": 1.0}, "low must be below high"),
        ({"others": ("c",)}, "others must name some columns"),
        ({"others": ("a", "b")}, "others must name some columns"),
        ({"kp": 1.0, "kd": 1.0}, "go with PD_TARGET"),
        ({"reference": Reference.PD_TARGET}, "go with PD_TARGET"),
        ({"reference": Reference.PD_TARGET, "kp": -1.0, "kd": 1.0}, "must not be negative"),
        ({"joints": "ab"}, "must be a list of names"),
    ],
    ids=str,
)
def test_a_spec_that_means_nothing_is_refused(wrong: dict[str, object], words: str) -> None:
    """The error names the field, the value and what it should be."""
    given: dict[str, Any] = {"joints": ("a", "b"), "unit": "rad", "reference": Reference.ABSOLUTE, "rate_hz": 10.0}
    given |= wrong
    with pytest.raises(SpecError, match=words):
        ActionSpec(**given)


def test_a_spec_takes_arrays_for_tuples() -> None:
    """What numpy gives is held as plain values that can be compared, hashed and recorded."""
    loose: dict[str, Any] = {"joints": ["a", "b"], "unit": np.array(["rad", "deg"]), "reference": Reference.ABSOLUTE}
    loose |= {"rate_hz": np.float32(20.0), "chunk": np.int64(8), "scale": np.ones(2), "low": -1}
    given = ActionSpec(**loose)
    assert given == ActionSpec(("a", "b"), ("rad", "deg"), Reference.ABSOLUTE, 20.0, 8, scale=(1.0, 1.0), low=-1.0)
    assert {type(given.rate_hz), type(given.chunk), type(given.low)} == {float, int}
    assert hash(given)
