"""Proving and refuting with z3: a theorem is a negation without a solution."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import z3

SECONDS = 10


def solve(*constraints: Any) -> Any:
    """A model, or None; fails if z3 does not know within ten seconds."""
    solver = z3.Solver()
    solver.set("timeout", SECONDS * 1000)
    solver.add(*constraints)
    verdict = solver.check()
    assert verdict != z3.unknown, f"z3 gave up: {solver.reason_unknown()}"
    return solver.model() if verdict == z3.sat else None


def prove(claim: Any, *assumptions: Any) -> None:
    """``claim`` follows from the assumptions, and the assumptions are possible."""
    assert solve(*assumptions) is not None, "an empty theorem: its assumptions contradict each other"
    counterexample = solve(*assumptions, z3.Not(claim))
    assert counterexample is None, f"not a theorem: {counterexample}"


def refute(claim: Any, *assumptions: Any) -> dict[str, float]:
    """Numbers that meet the assumptions and break the claim."""
    model = solve(*assumptions, z3.Not(claim))
    assert model is not None, "z3 found no counterexample"
    return {str(name): number(model[name]) for name in model.decls() if z3.is_arith(model[name])}


def number(value: Any) -> float:
    """A value of a model; algebraic numbers to 30 digits."""
    exact = value.approx(30) if z3.is_algebraic_value(value) else value
    return float(Fraction(exact.as_string()))
