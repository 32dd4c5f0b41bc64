from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from safeguard.core.errors import ConfigError
from safeguard.integrations.gym import ShieldedVectorEnv
from safeguard.scenarios.push import READY
from tests.unit.gym_support import Slab, short, slab

NAN = np.full(7, np.nan)
STILL = np.zeros(7)


def rows(*ends: int) -> list[Any]:
    """Makers of slabs whose episodes have that many actions."""
    return [lambda end=end: slab([READY], ends_after=5 * end) for end in ends]


def batch(*actions: Any) -> Any:
    """One action for each row."""
    return np.array(actions)


@pytest.fixture(params=list(AutoresetMode))
def mode(request: pytest.FixtureRequest) -> AutoresetMode:
    """Every autoreset mode."""
    found = request.param
    assert isinstance(found, AutoresetMode)
    return found


@pytest.fixture
def two(mode: AutoresetMode) -> Iterator[ShieldedVectorEnv]:
    """Episodes of two actions and of many."""
    env = ShieldedVectorEnv(rows(2, 100), autoreset_mode=mode)
    yield env
    env.close()


def test_infos_are_arrays_with_masks(two: ShieldedVectorEnv) -> None:
    """As Gymnasium vectorises them: an array for every key, and a mask that says which rows have it."""
    two.reset(seed=0)
    infos = two.step(batch(STILL, NAN))[4]
    said = infos["safeguard"]

    assert infos["_safeguard"].tolist() == said["_intervened"].tolist() == [True, True]
    assert said["intervened"].tolist() == [False, True]
    assert said["intervention"].tolist() == [0.0, 1.0]
    assert said["raw"].shape == said["shielded"].shape == (2, 7)
    assert list(said["refusal"]) != ["", ""]
    assert said["mode"][0] == "CAUTIOUS"


def test_a_row_that_is_reset_takes_no_action(two: ShieldedVectorEnv, mode: AutoresetMode) -> None:
    """The episode after an automatic reset begins with its own first action, whatever the batch held for the reset."""
    two.reset(seed=0)
    two.step(batch(STILL, STILL))
    ended = two.step(batch(STILL, STILL))
    assert ended[2].tolist() == [True, False]
    first, second = (env.shield for env in two.shielded)
    match mode:
        case AutoresetMode.NEXT_STEP:
            _, reward, _, _, infos = two.step(batch(NAN, STILL))
            assert reward[0] == 0.0
            assert infos["safeguard"]["_start_ticks"].tolist() == [True, False]
            assert infos["safeguard"]["_intervened"].tolist() == [False, True]
        case AutoresetMode.SAME_STEP:
            infos = ended[4]
            assert infos["safeguard"]["_start_ticks"].tolist() == [True, False]
            assert infos["final_info"]["safeguard"]["_intervened"].tolist() == [True, False]
        case AutoresetMode.DISABLED:
            _, infos = two.reset(options={"reset_mask": np.array([True, False])})
            assert infos["_safeguard"].tolist() == [True, False]
    assert (first.episode, second.episode) == (1, 0)

    said = two.step(batch(STILL, STILL))[4]["safeguard"]
    assert said["backup_ticks"].tolist() == [0, 0]
    assert said["intervened"].tolist() == [False, False]
    inner: Any = two.shielded[0].unwrapped
    assert inner.steps == 5  # periods of one action: the one that came with the reset was not executed


@pytest.mark.parametrize("actions", ["forward", None, np.zeros((3, 7)), np.zeros(7), [[0.0] * 7, [0.0] * 6]])
def test_a_batch_that_is_none_is_the_backups_in_every_row(actions: Any) -> None:
    """No exception; every row says that it was no action."""
    env = ShieldedVectorEnv(rows(100, 100))
    env.reset()
    said = env.step(actions)[4]["safeguard"]

    assert said["intervention"].tolist() == [1.0, 1.0]
    assert all("shape" in why for why in said["refusal"])


def test_rows_do_not_share_a_shield() -> None:
    """Garbage in one row holds that row only."""
    env = ShieldedVectorEnv(rows(100, 100))
    env.reset()
    said: Any = {}
    for _ in range(20):
        said = env.step(batch(NAN, STILL))[4]["safeguard"]

    assert (said["mode"][0], said["mode"][1]) == ("HOLD", "CAUTIOUS")
    assert said["backup_ticks"].tolist() == [5, 0]


def test_rows_may_have_other_wrappers_outside_but_need_a_shield() -> None:
    """A time limit around the shield is fine; a row without a shield is refused by name."""
    env = ShieldedVectorEnv([lambda: TimeLimit(slab([READY]), 1)])
    env.reset()
    assert env.step(batch(STILL))[3].tolist() == [True]
    with pytest.raises(ConfigError, match="no ShieldedEnv"):
        ShieldedVectorEnv([lambda: Slab([READY])])


def test_spaces_and_seeds_are_gymnasiums(mode: AutoresetMode) -> None:
    """Two Pandas: batched spaces, one seed for each row, and the mode in the metadata."""
    env = ShieldedVectorEnv([short, short], autoreset_mode=mode)
    one, _ = env.reset(seed=5)
    other, _ = env.reset(seed=5)

    assert env.action_space.shape == (2, 7)
    assert env.metadata["autoreset_mode"] is mode
    assert (one == other).all()
    assert (one[0] != one[1]).any()
    env.close()
