"""The joint scores: what several monitors say together, folded before anything is calibrated.

    g_act  = max(m-th largest of the last n of max(action, effort, residual), min(novelty, max(action, residual)))
    g_warn = max(g_act, novelty)

Erratic or model-breaking behaviour acts alone once it lasts; what merely looks new needs a second witness to act and
alone only warns (what a policy has not seen is not yet a failure). Any causal function of scores is again a score, so
each of the two is calibrated once, and its false-alarm rate holds under any dependence between the monitors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

Witness: TypeAlias = Literal["effort", "residual", "action", "novelty"]
"""What a monitor bears witness to: see the formulas above."""

_ALONE: Final = frozenset({"action", "effort", "residual"})
_SECOND: Final = frozenset({"action", "residual"})


class Joint:
    """Folds the z of all monitors into g_act and g_warn, once a tick.

    Args:
        witnesses: of every monitor, in the order of the z.
        debounce: m and n.
    """

    def __init__(self, witnesses: Sequence[Witness], debounce: tuple[int, int]) -> None:
        self._m = debounce[0]
        self._alone = tuple(i for i, witness in enumerate(witnesses) if witness in _ALONE)
        self._second = tuple(i for i, witness in enumerate(witnesses) if witness in _SECOND)
        self._novel = tuple(i for i, witness in enumerate(witnesses) if witness == "novelty")
        self._last: deque[float] = deque(maxlen=debounce[1])

    def reset(self) -> None:
        """Start a new episode."""
        self._last.clear()

    def fold(self, z: Sequence[float]) -> tuple[float, float]:
        """(g_act, g_warn) of this tick; both at least 0."""
        self._last.append(_largest(z, self._alone))
        lasting = sorted(self._last)[-self._m] if len(self._last) >= self._m else 0.0
        novel = _largest(z, self._novel)
        act = max(lasting, min(novel, _largest(z, self._second)))
        return act, max(act, novel)


def _largest(z: Sequence[float], indices: tuple[int, ...]) -> float:
    largest = 0.0
    for i in indices:
        if z[i] > largest:
            largest = z[i]
    return largest
