"""Robustness beside rtamt (Nickovic and Yamaguchi 2020), where that is installed: ``make rtamt`` does it."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from hypothesis import assume, given

from tests.unit.stl_support import Row, Tree, formulas, inner, requirement, run, text, traces

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its antlr runtime uses names that Python has deprecated
    rtamt: Any = pytest.importorskip("rtamt", reason="rtamt is not installed")

LARGEST = 1e12
NAMES = ("qa", "vb", "sc")


def _theirs(formula: str, trace: list[Row]) -> list[float]:
    specification = rtamt.StlDiscreteTimeSpecification()
    for name in NAMES:
        specification.declare_var(name, "float")
    specification.spec = re.sub(r"previously", "s_prev", formula)
    specification.parse()
    return [specification.update(t, list(zip(NAMES, row, strict=True))) for t, row in enumerate(trace)]


def _with_memory(tree: Tree) -> list[Tree]:
    """Every subformula that remembers something."""
    below = [found for part in inner(tree) for found in _with_memory(part)]
    return [tree, *below] if tree[0] in ("once", "historically", "since", "previously") else below


@given(formulas, traces)
def test_robustness_is_what_rtamt_says(tree: Tree, trace: list[Row]) -> None:
    """Random formulas on random signals have the robustness that rtamt's online monitor computes, tick by tick.

    Formulas that say the same subformula twice are left out: rtamt 0.4.10 gives both one memory and steps it twice.
    """
    remembering = _with_memory(tree)
    assume(len(set(remembering)) == len(remembering))
    ours = [0.0 - verdict.score for verdict in run(requirement(text(tree, 1.0), period=1.0), trace)]
    theirs = [max(-LARGEST, min(LARGEST, value)) for value in _theirs(text(tree, 1.0, NAMES), trace)]
    assert ours == theirs
