"""The simulator's JavaScript makes the same moves as Python, on all that the tables are checked on."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from safeguard.modes.properties import Ints
from safeguard.modes.table import ACK, PERSON, READY, STANDSTILL, STRATEGIES, load_spec
from safeguard.modes.walk import Abstraction, walk, worlds
from tests.unit.modes_javascript import disagreeing_states, engine

PERIOD = 0.002
WORLDS = [(strategy, k) for strategy in STRATEGIES for k in range(len(worlds(load_spec(strategy), PERIOD)))]


def inputs(model: Abstraction) -> Ints:
    """Every input of the walk: masks of causes, flags, agreement and substitutes."""
    flags = [a | s | p | READY for a, s, p in product((0, ACK), (0, STANDSTILL), (0, PERSON))]
    sets = range(1 << len(model.spec.capabilities))
    rows = list(product(model.masks.tolist(), flags, sets, sets))
    rows += [(mask, 0, 0, 0) for mask in model.masks.tolist()]  # before the self-test
    return np.array(rows, dtype=np.int64)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "k"), WORLDS)
def test_every_reachable_state_with_every_input(strategy: str, k: int) -> None:
    """In every world of every table no reachable state is answered differently, whatever the input."""
    model = worlds(load_spec(strategy), PERIOD)[k]
    found = walk(model)
    assert len(found.vectors) > 100
    assert len(disagreeing_states(model.table, found.vectors, inputs(model))) == 0


def test_a_slip_in_the_script_is_seen() -> None:
    """The negative control: a bucket that drains too fast differs somewhere."""
    model = worlds(load_spec("vla"), PERIOD)[2]
    slip = engine().replace("numbers[DRAIN]", "(numbers[DRAIN] + 1)")
    assert slip != engine()
    assert len(disagreeing_states(model.table, walk(model).vectors, inputs(model), slip)) > 0
