"""Random past-time formulas, their text, and two slow evaluators written from the definitions alone.

A formula is a nested tuple. Signals and bounds are eighths, so that every sum is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isnan, nan
from typing import Any, TypeAlias, cast

import numpy as np
from hypothesis import strategies as st

from safeguard.core.config import FormulaConfig
from safeguard.core.types import Evidence, Observation, RobotState, Sensor, Verdict
from safeguard.monitors.stl import Requirement

NAMES = ("q.a", "v.b", "sensor.s[1]")
PERIOD = 0.002
TICK = 2_000_000

Tree: TypeAlias = tuple[Any, ...]
Terms: TypeAlias = tuple[tuple[float, bool, int], ...]  # factor, magnitude or not, number of the signal
Row: TypeAlias = tuple[float, float, float]  # a value per name; NaN is missing

_eighths = st.integers(-24, 24).map(lambda k: k / 8.0)
_factors = st.sampled_from([1.0, -1.0, 2.0, 0.5])
_sums = st.lists(st.tuples(_factors, st.booleans(), st.integers(0, 2)), min_size=1, max_size=2).map(tuple)
_atoms = st.tuples(st.just("cmp"), st.sampled_from(["<", "<=", ">", ">="]), _sums, _eighths)
_intervals = st.tuples(st.integers(0, 4), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def _grow(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or", "implies"]), inner, inner),
        st.tuples(st.sampled_from(["once", "historically"]), st.none() | _intervals, inner),
        st.tuples(st.just("since"), st.none() | _intervals, inner, inner),
        st.tuples(st.just("previously"), inner),
    )


formulas: st.SearchStrategy[Tree] = st.recursive(_atoms, _grow, max_leaves=6)
_whole = st.tuples(_eighths, _eighths, _eighths)
_holed = st.tuples(_eighths, _eighths, st.one_of(_eighths, _eighths, _eighths, st.just(nan)))
traces: st.SearchStrategy[list[Row]] = st.lists(_whole, min_size=1, max_size=25)
traces_with_holes: st.SearchStrategy[list[Row]] = st.lists(_holed, min_size=1, max_size=25)


def _interval_text(interval: tuple[int, int] | None, period: float) -> str:
    return "" if interval is None else f"[{interval[0] * period:.9g}:{interval[1] * period:.9g}]"


def text(tree: Tree, period: float = PERIOD, names: Sequence[str] = NAMES) -> str:
    """The formula in the grammar."""
    match tree:
        case ("cmp", sign, terms, bound):
            parts = [f"{c} * {f'abs({names[i]})' if magnitude else names[i]}" for c, magnitude, i in terms]
            return f"{' + '.join(parts)} {sign} {bound}"
        case ("not", of):
            return f"not ({text(of, period, names)})"
        case ("previously", of):
            return f"previously({text(of, period, names)})"
        case (("once" | "historically") as word, interval, of):
            return f"{word}{_interval_text(interval, period)}({text(of, period, names)})"
        case ("since", interval, left, right):
            since = f"since{_interval_text(interval, period)}"
            return f"(({text(left, period, names)}) {since} ({text(right, period, names)}))"
        case (word, left, right):
            return f"(({text(left, period, names)}) {word} ({text(right, period, names)}))"
        case _:
            raise AssertionError(tree)


def _value(terms: Terms, row: Row) -> float:
    return sum(c * (abs(row[i]) if magnitude else row[i]) for c, magnitude, i in terms)


def _truth(sign: str, value: float, bound: float) -> bool:
    return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[sign]


def _ago(interval: tuple[int, int] | None, t: int) -> range:
    """The ticks that an interval covers at tick t."""
    lower, upper = interval or (0, t)
    return range(max(0, t - upper), t - lower + 1)


def _strict(values: list[float], pick: Callable[[list[float]], float], empty: float) -> float:
    if any(isnan(value) for value in values):
        return nan
    return pick(values) if values else empty


def inner(tree: Tree) -> list[Tree]:
    """The formulas that a formula is made of."""
    return [] if tree[0] == "cmp" else [cast("Tree", part) for part in tree[1:] if part and isinstance(part[0], str)]


def robustness(tree: Tree, trace: Sequence[Row]) -> list[float]:
    """From the definition, at every tick, looking at the whole past again."""
    ticks = range(len(trace))
    parts = [robustness(part, trace) for part in inner(tree)]
    match tree:
        case ("cmp", sign, terms, bound):
            values = [_value(terms, row) for row in trace]
            return [bound - x if sign in ("<", "<=") else x - bound for x in values]
        case ("not", _):
            return [-x for x in parts[0]]
        case ("previously", _):
            return [-inf, *parts[0][:-1]]
        case ("once", interval, _):
            return [_strict([parts[0][u] for u in _ago(interval, t)], max, -inf) for t in ticks]
        case ("historically", interval, _):
            return [_strict([parts[0][u] for u in _ago(interval, t)], min, inf) for t in ticks]
        case ("since", interval, _, _):
            return [_since(interval, parts[0], parts[1], t) for t in ticks]
        case ("and", _, _):
            return [_strict([x, y], min, inf) for x, y in zip(*parts, strict=True)]
        case ("or", _, _):
            return [_strict([x, y], max, -inf) for x, y in zip(*parts, strict=True)]
        case ("implies", _, _):
            return [_strict([-x, y], max, -inf) for x, y in zip(*parts, strict=True)]
        case _:
            raise AssertionError(tree)


def _since(interval: tuple[int, int] | None, held: list[float], reached: list[float], t: int) -> float:
    ticks = _ago(interval, t)
    first = 0 if interval is None else max(0, t - interval[1] + 1)
    if any(map(isnan, held[first : t + 1])) or any(isnan(reached[u]) for u in ticks):
        return nan
    return max([min([reached[u], *held[u + 1 : t + 1]]) for u in ticks], default=-inf)


def holds(tree: Tree, trace: Sequence[Row], t: int) -> bool:
    """Whether the formula is true at tick t, in truth values only."""
    match tree:
        case ("cmp", sign, terms, bound):
            return _truth(sign, _value(terms, trace[t]), bound)
        case ("not", of):
            return not holds(of, trace, t)
        case ("previously", of):
            return t > 0 and holds(of, trace, t - 1)
        case ("once", interval, of):
            return any(holds(of, trace, u) for u in _ago(interval, t))
        case ("historically", interval, of):
            return all(holds(of, trace, u) for u in _ago(interval, t))
        case ("since", interval, left, right):
            return any(
                holds(right, trace, u) and all(holds(left, trace, w) for w in range(u + 1, t + 1))
                for u in _ago(interval, t)
            )
        case ("and", left, right):
            return holds(left, trace, t) and holds(right, trace, t)
        case ("or", left, right):
            return holds(left, trace, t) or holds(right, trace, t)
        case ("implies", left, right):
            return not holds(left, trace, t) or holds(right, trace, t)
        case _:
            raise AssertionError(tree)


def evidence(row: Row, tick: int) -> Evidence:
    """Evidence of two joints a and b and a sensor s, with these values; a NaN of the sensor is its absence."""
    q, v = np.array([row[0], 0.0]), np.array([0.0, row[1]])
    sensors = {} if isnan(row[2]) else {"s": Sensor(np.array([[9.0, row[2]]]), tick * TICK)}
    return Evidence(Observation(RobotState(q, v, tick * TICK), sensors), tick * TICK)


def requirement(formula: str, rung: Any = "warn", period: float = PERIOD) -> Requirement:
    """A requirement on evidence as above."""
    return Requirement(FormulaConfig(name="r", formula=formula, rung=rung), ("a", "b"), period)


def run(monitor: Requirement, trace: Sequence[Row]) -> list[Verdict]:
    """The verdicts of an episode."""
    monitor.reset()
    return [monitor.check(evidence(row, tick)) for tick, row in enumerate(trace)]
