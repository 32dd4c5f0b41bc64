"""Two decisions compared: bit for bit, or within what the schema allows."""

from __future__ import annotations

import copy
import json
import math
import platform
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.audit.identity import machine, versions
from safeguard.audit.records.encode import decision_body
from safeguard.audit.records.expand import expanded
from safeguard.audit.records.registry import SCHEMAS, DecisionRecord, RunOpen, json_schemas
from safeguard.core.enums import RecordKind
from safeguard.replay_compare import (
    NOTED,
    Comparison,
    Delta,
    Difference,
    Tolerance,
    machine_differences,
    strictness_text,
    tolerances,
)
from tests.unit.audit_runs import PERIOD, decision, observation, proposal, run_open

finite = st.floats(allow_nan=False, allow_infinity=False)
ordinary = st.floats(min_value=-1e3, max_value=1e3)

BODY: dict[str, Any] = json.loads(
    json.dumps(expanded(decision_body(3 * PERIOD, observation(3), proposal(3), decision(3)), 3, 3 * PERIOD))
)
EXACT = {
    "decision.verdicts.threshold": "a setting",
    "decision.command.kp": "a setting",
    "decision.command.kd": "a setting",
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The body with one value at a dotted path."""
    body = copy.deepcopy(BODY)
    node: Any = body
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in parents:
        node = node[key]
    node[last] = value
    return body


def tolerant(path: str, old: object, new: object) -> Difference | None:
    """What a tolerant comparison finds between two values of one field."""
    return Comparison("tolerant").first(changed(path, old), changed(path, new))


@given(finite, finite)
def test_the_distance_of_two_floats_is_symmetric_and_zero_only_for_equals(a: float, b: float) -> None:
    """ULP count float64 numbers: none between equals (both zeros are one), at least one between any others."""
    there, back = Delta.of(a, b), Delta.of(b, a)
    assert there == back
    assert there is not None
    assert (there.ulps == 0) == (a == b)
    assert (there.absolute == 0.0) == (a == b)


@given(finite, st.integers(min_value=1, max_value=50))
def test_ulps_count_steps(a: float, steps: int) -> None:
    """So many steps to the next float64 are so many ULP, across zero too."""
    b = a
    for _ in range(steps):
        b = math.nextafter(b, math.inf)
    if math.isfinite(b):
        assert Delta.of(a, b) == Delta(abs(b - a), steps)


@pytest.mark.parametrize(("a", "b"), [(1.0, "NaN"), ("NaN", "NaN"), (1, 2), (math.inf, 1.0), (None, 1.0)])
def test_only_finite_floats_have_a_distance(a: Any, b: Any) -> None:
    """Names of non-finite numbers, counters and nothing have none."""
    assert Delta.of(a, b) is None


@given(ordinary, st.integers(min_value=1, max_value=1000), st.sampled_from(["effort", "margins.clearance"]))
def test_exact_finds_every_bit(value: float, steps: int, field: str) -> None:
    """In exact mode no float may be one bit off, whatever its tolerance; tolerant mode lets such bits pass."""
    path = f"decision.filter.{field}"
    other = value
    for _ in range(steps):
        other = math.nextafter(other, math.inf)
    old, new = changed(path, value), changed(path, other)
    found = Comparison("exact").first(old, new)
    assert found is not None
    assert found.path == path
    assert found.delta is not None
    assert found.delta.ulps == steps
    comparison = Comparison("tolerant")
    assert comparison.first(old, new) is None
    assert [(passed.path, passed.decisions, passed.ulps) for passed in comparison.deviations] == [(path, 1, steps)]


@given(ordinary, st.floats(min_value=0.0, max_value=3.0), st.booleans())
def test_the_tolerance_is_the_border(value: float, share: float, up: bool) -> None:
    """A number passes if it is within absolute + relative × magnitude, and not beyond."""
    limit = tolerances()["decision.filter.effort"]
    step = share * (limit.absolute + limit.relative * abs(value)) * (1.0 if up else -1.0)
    other = value + step
    allowed = limit.absolute + limit.relative * max(abs(value), abs(other))
    found = tolerant("decision.filter.effort", value, other)
    assert (found is None) == (abs(other - value) <= allowed)


def test_the_magnitude_is_that_of_the_whole_field() -> None:
    """A small torque beside a large one may be off by a share of the large one; alone it may not."""
    off = 3e-5
    beside: list[object] = [60.0, *[0.0] * 6]
    assert tolerant("decision.filter.torque", beside, [60.0, off, *[0.0] * 5]) is None
    alone = tolerant("decision.filter.torque", [0.0] * 7, [0.0, off, *[0.0] * 5])
    assert alone is not None
    assert alone.path == "decision.filter.torque[1]"
    assert alone.delta is not None
    assert alone.delta.absolute == off


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("decision.mode", 4),
        ("decision.causes", ["estop"]),
        ("decision.reasons", ["x"]),
        ("decision.filter.status", "refused"),
        ("decision.filter.active", ["upper:panda_joint1"]),
        ("decision.filter.solver", "unsolved"),
        ("decision.filter.refusal", "so"),
        ("decision.filter.effort", "NaN"),
        ("decision.filter.torque", [1.0]),
        ("decision.filter.torque.0", "Infinity"),
        ("decision.source", "x"),
        ("decision.command.seq", 77),
        ("decision.command.expires", 1),
        ("decision.enforcement", "off"),
        ("decision.verdicts", []),
        ("tick", 4),
    ],
)
def test_tolerant_is_exact_in_all_but_numbers(path: str, new: object) -> None:
    """Enums, causes, texts, counters, times, lengths and non-finite numbers must be the same in both modes."""
    for strictness in ("exact", "tolerant"):
        found = Comparison(strictness).first(BODY, changed(path, new))
        assert found is not None
        assert found.path.split("[")[0].startswith(path.removesuffix(".0"))


def test_iterations_are_noted_elsewhere_and_compared_here() -> None:
    """Another number of solver iterations is a difference in exact mode, and reported in tolerant mode."""
    other = changed("decision.filter.iterations", BODY["decision"]["filter"]["iterations"] + 10)
    found = Comparison("exact").first(BODY, other)
    assert found is not None
    assert found.path == "decision.filter.iterations"
    comparison = Comparison("tolerant")
    assert comparison.first(BODY, other) is None
    assert [(passed.path, passed.absolute) for passed in comparison.deviations] == [("decision.filter.iterations", 10)]


def test_slack_is_compared_by_name_and_number() -> None:
    """Another row is another decision; the same row may be relaxed by a little more or less."""
    assert tolerant("decision.filter.slack", [["a", 1e-4]], [["a", 1e-4 + 1e-11]]) is None
    assert tolerant("decision.filter.slack", [["a", 1e-4]], [["a", 1e-4 + 1e-8]]) is not None
    assert tolerant("decision.filter.slack", [["a", 1e-4]], [["b", 1e-4]]) is not None
    assert tolerant("decision.filter.slack", [["a", 1e-4]], []) is not None


def test_deviations_add_up_over_decisions() -> None:
    """A field's worst difference and the number of decisions that have one."""
    comparison = Comparison("tolerant")
    for off in (1e-12, 3e-12, 0.0, 2e-12):
        assert (
            comparison.first(changed("decision.filter.effort", 1.0), changed("decision.filter.effort", 1.0 + off))
            is None
        )
    (passed,) = comparison.deviations
    assert passed.decisions == 3
    assert passed.absolute == pytest.approx(3e-12, rel=1e-3)
    assert 0.0 < passed.share < 1e-3


def test_every_float_of_an_outcome_has_a_tolerance_or_a_reason() -> None:
    """A new number cannot come without a decision on how exactly it must come out."""
    declared = set(tolerances())
    assert _numbers("decision") - declared == set(EXACT)
    assert {path for path in declared if not path.startswith("decision.")} == set()


def _numbers(path: str) -> set[str]:
    schema: dict[str, Any] = DecisionRecord.model_json_schema()
    return {found for found in _floats("", schema, schema["$defs"], "") if found.startswith(f"{path}.")}


def _floats(path: str, node: Mapping[str, Any], parts: Mapping[str, Any], within: str) -> set[str]:
    found: set[str] = set()
    if node.get("type") == "number":
        found.add(path)
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name == "ShapedArray":
            return {path}
        found |= _floats(path, parts[name], parts, name)
    for word in ("anyOf", "oneOf", "prefixItems"):
        for option in node.get(word, ()):
            found |= _floats(path, option, parts, within)
    if isinstance(node.get("items"), Mapping):
        found |= _floats(path, node["items"], parts, within)
    for name, below in node.get("properties", {}).items():
        found |= _floats(f"{path}.{name}" if path else name, below, parts, within)
    return found


def test_tolerances_stand_in_the_exported_schema() -> None:
    """A reviewer reads them in the JSON Schema of the record."""
    assert "replay_tolerance" in json.dumps(json_schemas()[RecordKind.DECISION.value])
    assert tolerances()["decision.filter.iterations"] is NOTED
    assert SCHEMAS[RecordKind.DECISION] is DecisionRecord


def test_a_tolerance_of_nothing_allows_nothing() -> None:
    """Without room any difference is too far, and none is none."""
    none = Tolerance(0.0, 0.0)
    assert none.share(1e-300, 1.0) == math.inf
    assert none.share(0.0, 1.0) == 0.0


def here(**changes: Any) -> RunOpen:
    """A run_open of this very machine, with some of its words changed."""
    body = dict(run_open())
    then: dict[str, Any] = {"machine": machine(), "libraries": versions(), "python": platform.python_version()}
    then["machine"] = {**then["machine"], **changes.pop("machine", {})}
    then["libraries"] = {**then["libraries"], **changes.pop("libraries", {})}
    return RunOpen.model_validate_json(json.dumps({**body, **then, **changes}))


def test_this_machine_is_as_this_machine() -> None:
    """Nothing differs, so a replay is exact."""
    assert machine_differences(here()) == ()
    assert strictness_text("exact", ()) == "compared bit for bit: this machine is as the recording one"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"python": "3.9.1"}, "python is"),
        ({"libraries": {"numpy": "1.0"}}, "numpy is"),
        ({"libraries": {"leftpad": "1.0"}}, "leftpad is not there here and was 1.0"),
        ({"machine": {"architecture": "riscv"}}, "architecture is"),
        ({"machine": {"cpu_flags": "ab" * 32}}, "CPU flags is"),
        ({"machine": {"cpu_flags": "", "cpu": "abacus"}}, "CPU is"),
        ({"machine": {"threads": {"OMP_NUM_THREADS": "77"}}}, "OMP_NUM_THREADS is"),
    ],
)
def test_what_can_change_a_number_is_named(changes: dict[str, Any], word: str) -> None:
    """Python, libraries, architecture, CPU features and thread settings make a replay tolerant, and it says which."""
    found = machine_differences(here(**changes))
    assert any(word in text for text in found), found
    assert word in strictness_text("tolerant", found)


@pytest.mark.parametrize(
    "changes",
    [{"libraries": {"torch": "0.1", "mujoco": "0.1"}}, {"safeguard": "0.0.0"}, {"machine": {"system": "Plan 9"}}],
)
def test_what_cannot_is_not(changes: dict[str, Any]) -> None:
    """The policy's and the simulator's library do not run in a replay, and the code is what a replay tries."""
    assert machine_differences(here(**changes)) == ()
