"""ONNX files and sessions as policies: declared shapes, metadata, states that are fed back."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Observation, RobotState, Vector
from safeguard.policies import Policy, as_policy, onnx_spec
from tests.unit.onnx_guests import adding, counting, saved

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 50.0)
NOW = Observation(RobotState(np.array([0.1, 0.2]), np.zeros(2), 5))

onnxruntime: Any = importlib.import_module("onnxruntime")

LISTS = {
    "joint_names": "a,b",
    "joint_stiffness": "40.000,50.000",
    "joint_damping": "1.500,2.000",
    "action_scale": "0.250,0.500",
    "default_joint_pos": "0.100,-0.200",
}
"""Metadata as exporters write them: numbers between commas, three decimals."""
TEXTS = {
    "dof_names": json.dumps(["a", "b"]),
    "kp": json.dumps([40.0, 50.0]),
    "kd": json.dumps([1.5, 2.0]),
    "action_scale": json.dumps(0.25),
    "default_joint_angles": json.dumps({"b": -0.2, "a": 0.1}),
}
"""The same as JSON."""


def q(observation: Observation) -> Vector:
    """The joint positions, shape (2,), float64."""
    return observation.state.q


def row(policy: Policy) -> list[float]:
    """The row of one call."""
    proposal = policy.infer(NOW)
    assert proposal.actions.shape == (1, 2), proposal.source
    return [round(float(number), 4) for number in proposal.actions[0]]


@pytest.mark.parametrize("kind", ["path", "text", "session"])
def test_a_file_and_a_session_are_policies(tmp_path: Path, kind: str) -> None:
    """The input gets its declared type and a missing batch dimension; the digest is the file's."""
    path = adding(tmp_path / "walk.onnx", [[1.0, 2.0]])
    source: Any = {"path": path, "text": str(path), "session": None}[kind]
    if source is None:
        source = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    policy: Any = as_policy(source, SPEC, encode=q)
    assert row(policy) == [1.1, 2.2]
    assert policy.name == ("InferenceSession" if kind == "session" else "walk")
    assert policy.digest == (None if kind == "session" else hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(("change", "said"), [({"chunk": 3}, r"\(3, 2\)"), ({"joints": ("a", "b", "c")}, r"\(1, 3\)")])
def test_a_declared_shape_that_differs_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """What the file says about its output is compared with the spec at start."""
    path = adding(tmp_path / "walk.onnx", [[1.0, 2.0]])
    with pytest.raises(SpecError, match=rf"'actions' has shape \[1, 2\], the spec says {said}"):
        as_policy(path, SPEC.changed(**change), encode=q)


def test_an_output_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """A file that gives flags gives no actions."""
    nodes = [helper.make_node("Cast", ["obs"], ["actions"], to=TensorProto.STRING)]
    kinds = {"actions": int(TensorProto.STRING)}
    path = saved(tmp_path / "walk.onnx", nodes, {"obs": (1, 2)}, {"actions": (1, 2)}, kinds=kinds)
    with pytest.raises(SpecError, match=r"tensor\(string\), expected numbers"):
        as_policy(path, SPEC, encode=q)


@pytest.mark.parametrize("names", [("h_in", "h_out"), ("state_in_0", "state_out_0"), ("h0", "hn")])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_state_is_fed_back_until_the_episode_ends(tmp_path: Path, names: tuple[str, str], batch: int | str) -> None:
    """Inputs and outputs of like names carry the memory; it starts from zeros with each episode."""
    policy = as_policy(counting(tmp_path / "walk.onnx", names, batch), SPEC, encode=q)
    policy.reset()
    assert [row(policy) for _ in range(3)] == [[1.1, 1.2], [2.1, 2.2], [3.1, 3.2]]
    policy.reset()
    assert row(policy) == [1.1, 1.2]


def test_a_failed_run_leaves_the_memory_alone(tmp_path: Path) -> None:
    """An observation that the model cannot take does not disturb what it remembers."""
    policy = as_policy(counting(tmp_path / "walk.onnx"), SPEC, encode=lambda seen: seen.sensors["x"].value)
    good = as_policy(counting(tmp_path / "walk.onnx"), SPEC, encode=q)
    with pytest.raises(KeyError):
        policy.infer(NOW)
    row(good)
    with pytest.raises(Exception, match=r"(?i)invalid"):
        good.infer(Observation(RobotState(np.zeros(5), np.zeros(5), 6)))
    assert row(good) == [2.1, 2.2]


def test_states_may_be_named(tmp_path: Path) -> None:
    """recurrent= names what names do not show; what the file does not have is refused."""
    path = counting(tmp_path / "walk.onnx", ("before", "after"))
    policy = as_policy(path, SPEC, encode=q, recurrent={"before": "after"})
    assert [row(policy), row(policy)] == [[1.1, 1.2], [2.1, 2.2]]
    with pytest.raises(SpecError, match="has no \\['nothing'\\]"):
        as_policy(path, SPEC, encode=q, recurrent={"before": "nothing"})
    with pytest.raises(SpecError, match="output= must name the actions"):
        as_policy(path, SPEC, encode=q, output="nothing")


def test_states_that_cannot_be_fed_back_are_refused(tmp_path: Path) -> None:
    """Shapes that differ are known at start."""
    nodes = [helper.make_node("Concat", ["h_in", "h_in"], ["h_out"], axis=1), helper.make_node("Neg", ["obs"], ["y"])]
    path = saved(tmp_path / "walk.onnx", nodes, {"obs": (1, 2), "h_in": (1, 2)}, {"y": (1, 2), "h_out": (1, 4)})
    with pytest.raises(SpecError, match="cannot be fed back"):
        as_policy(path, SPEC, encode=q)


def test_several_inputs_are_named_by_the_encoder(tmp_path: Path) -> None:
    """With several inputs encode gives a mapping; unknown and missing names are an error in the policy."""
    nodes = [helper.make_node("Add", ["obs", "time_step"], ["actions"])]
    path = saved(tmp_path / "walk.onnx", nodes, {"obs": (1, 2), "time_step": (1, 1)}, {"actions": (1, 2)})
    assert row(as_policy(path, SPEC, encode=lambda seen: {"obs": q(seen), "time_step": [2.0]})) == [2.1, 2.2]
    bad = as_policy(path, SPEC, encode=lambda seen: {"obs": q(seen), "step": [2.0]})
    with pytest.raises(SpecError, match=r"unknown inputs \['step'\], left out \['time_step'\]"):
        bad.infer(NOW)
    with pytest.raises(SpecError, match="must give a mapping"):
        as_policy(path, SPEC, encode=q).infer(NOW)


def test_the_actions_among_several_outputs(tmp_path: Path) -> None:
    """The one called actions is taken; otherwise output= must say, and decode may make actions of anything."""
    nodes = [helper.make_node("Neg", ["obs"], ["actions"]), helper.make_node("Abs", ["obs"], ["pose"])]
    path = saved(tmp_path / "walk.onnx", nodes, {"obs": (1, 2)}, {"pose": (1, 2), "actions": (1, 2)})
    assert row(as_policy(path, SPEC, encode=q)) == [-0.1, -0.2]
    assert row(as_policy(path, SPEC, encode=q, output="pose")) == [0.1, 0.2]
    assert row(as_policy(path, SPEC, encode=q, decode=lambda out: 2 * out[0])) == [-0.2, -0.4]
    nodes = [helper.make_node("Neg", ["obs"], ["x"]), helper.make_node("Abs", ["obs"], ["y"])]
    vague = saved(tmp_path / "vague.onnx", nodes, {"obs": (1, 2)}, {"x": (1, 2), "y": (1, 2)})
    with pytest.raises(SpecError, match="output= must name"):
        as_policy(vague, SPEC, encode=q)


def test_a_type_that_would_lose_more_than_precision_is_an_error(tmp_path: Path) -> None:
    """A fraction is not cut to an integer, nor text read as a number."""
    nodes = [
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "amount"], ["actions"]),
    ]
    amount, kinds = {"amount": [[0.5, 1.0]]}, {"n": int(TensorProto.INT64)}
    path = saved(tmp_path / "walk.onnx", nodes, {"n": (1, 1)}, {"actions": (1, 2)}, amount, kinds=kinds)
    assert row(as_policy(path, SPEC, encode=lambda seen: np.array([3], dtype=np.int32))) == [3.5, 4.0]
    odd: list[object] = [0.5]
    policy = as_policy(path, SPEC, encode=lambda seen: odd)
    for value in (0.5, "3"):
        odd[0] = value
        with pytest.raises(TypeError, match="Cannot cast"):
            policy.infer(NOW)


@pytest.mark.parametrize("metadata", [LISTS, TEXTS], ids=["lists", "json"])
def test_a_spec_from_metadata(tmp_path: Path, metadata: dict[str, str]) -> None:
    """Names, gains, scale and default positions come from the file; only the rate has to be said."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata=metadata)
    spec = onnx_spec(path, 50.0)
    assert (spec.joints, spec.unit, spec.reference, spec.rate_hz) == (("a", "b"), "rad", Reference.PD_TARGET, 50.0)
    assert spec.column("kp") == (40.0, 50.0)
    assert spec.column("kd") == (1.5, 2.0)
    assert spec.column("scale") == ((0.25, 0.5) if metadata is LISTS else (0.25, 0.25))
    assert spec.column("offset") == (0.1, -0.2)
    assert row(as_policy(path, spec, encode=q)) == [0.1, 0.2]


def test_what_the_metadata_leave_out_must_be_given(tmp_path: Path) -> None:
    """Nothing is guessed: each missing field is named, and can be given."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata={"joint_names": "a,b", "joint_stiffness": "40,50"})
    with pytest.raises(SpecError, match="does not say kd, scale, offset"):
        onnx_spec(path, 50.0)
    assert onnx_spec(path, 50.0, kd=1.0, scale=0.25, offset=0.0).column("kp") == (40.0, 50.0)
    velocities = onnx_spec(path, 50.0, reference=Reference.VELOCITY, unit="rad/s")
    assert velocities.kp is None
    bare = adding(tmp_path / "bare.onnx", [[0.0, 0.0]])
    with pytest.raises(SpecError, match="does not say joints"):
        onnx_spec(bare, 50.0, kp=1.0, kd=1.0, scale=1.0, offset=0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"joints": ("b", "a")}, r"its columns are \('a', 'b'\)"),
        ({"scale": 0.5}, "its scale is"),
        ({"offset": (0.1, 0.2)}, "its offset is"),
    ],
)
def test_a_spec_that_contradicts_the_metadata_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Another order of columns, scale or zero than in the file is refused at start; other gains are the drive's."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata=LISTS)
    spec = onnx_spec(path, 50.0)
    with pytest.raises(SpecError, match=said):
        as_policy(path, spec.changed(**change), encode=q)
    with pytest.raises(SpecError, match=said):
        onnx_spec(path, 50.0, **change)
    as_policy(path, spec.changed(kp=20.0), encode=q)


@pytest.mark.parametrize(
    ("reference", "unit"),
    [
        (Reference.VELOCITY, "rad/s"),
        (Reference.TORQUE, "N.m"),
        (Reference.DELTA, "rad"),
        (Reference.CHUNK_RELATIVE, "rad"),
    ],
)
def test_default_positions_are_no_speeds_torques_or_steps(tmp_path: Path, reference: Reference, unit: str) -> None:
    """What counts from 0 is not moved by the default positions of the file; an absolute position is."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata=LISTS)
    spec = onnx_spec(path, 50.0, reference=reference, unit=unit)
    assert spec.column("offset") == (0.0, 0.0)
    assert spec.column("scale") == (0.25, 0.5)
    as_policy(path, spec, encode=q)
    assert onnx_spec(path, 50.0, reference=Reference.ABSOLUTE).column("offset") == (0.1, -0.2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "deg"}, "gives scale and offset in SI units, the spec is in 'deg'"),
        ({"unit": ("rad", "deg")}, "gives scale and offset in SI units"),
        ({"unit": "deg", "scale": (14.324, 28.648)}, "gives offset in SI units"),
        ({"unit": "rpm", "reference": Reference.VELOCITY}, "gives scale in SI units"),
        ({"unit": "mN.m", "reference": Reference.TORQUE}, "gives scale in SI units"),
    ],
)
def test_numbers_of_the_file_are_not_taken_for_another_unit(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """A file says radians; who wants degrees has to say the numbers in them."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata=LISTS)
    with pytest.raises(SpecError, match=said):
        onnx_spec(path, 50.0, **change)


def test_a_spec_in_degrees_is_compared_in_radians(tmp_path: Path) -> None:
    """The same scale and zero in degrees are accepted, the radians of the file called degrees are not."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata=LISTS)
    same: dict[str, Any] = {"unit": "deg", "scale": (14.324, 28.648), "offset": (5.7296, -11.459)}
    spec = onnx_spec(path, 50.0, **same)
    as_policy(path, spec, encode=q)
    with pytest.raises(SpecError, match=r"its offset is \(0.1, -0.2\) in rad, the spec says \(0.1, -0.2\) in deg"):
        as_policy(path, spec.changed(offset=(0.1, -0.2)), encode=q)
    with pytest.raises(SpecError, match=r"its scale is"):
        as_policy(path, spec.changed(unit=("rad", "deg")), encode=q)


def test_a_column_that_is_no_joint_is_not_compared(tmp_path: Path) -> None:
    """The joints beside a gripper are; before, one foreign unit hid all of them."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata=LISTS)
    given: dict[str, Any] = {"unit": ("rad", "1"), "others": ("b",), "scale": (0.25, 9.0)}
    spec = onnx_spec(path, 50.0, **given)
    as_policy(path, spec, encode=q)
    with pytest.raises(SpecError, match="its scale is"):
        as_policy(path, spec.changed(scale=(0.5, 9.0)), encode=q)


def test_scales_by_name(tmp_path: Path) -> None:
    """A mapping from joint to scale is read as one from joint to default position is."""
    path = adding(
        tmp_path / "walk.onnx", [[0.0, 0.0]], metadata={**LISTS, "action_scale": json.dumps({"b": 0.5, "a": 0.25})}
    )
    assert onnx_spec(path, 50.0).column("scale") == (0.25, 0.5)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("joint_damping", "soft,stiff", "must be numbers"),
        ("action_scale", "0.1,0.2,0.3", "3 entries"),
        ("default_joint_pos", json.dumps({"a": 0.0}), r"no default position of \['b'\]"),
        ("default_joint_pos", json.dumps({"a": 0.0, "b": "low"}), "must give numbers for the default position"),
        ("default_joint_pos", json.dumps({"a": 0.0, "b": None}), "must give numbers for the default position"),
        ("default_joint_pos", f"[0.0, {10**400}]", "must be numbers"),
        ("action_scale", json.dumps({".*": 0.1}), r"no scale of the actions of \['a', 'b'\]"),
    ],
)
def test_metadata_that_cannot_be_read_are_refused(tmp_path: Path, key: str, text: str, said: str) -> None:
    """Words for numbers, too many, or too few of them."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata={**LISTS, key: text})
    with pytest.raises(SpecError, match=said):
        as_policy(path, onnx_spec(path, 50.0), encode=q)
    if key != "joint_damping" and "3 entries" not in said:
        with pytest.raises(SpecError, match=said):
            as_policy(path, SPEC, encode=q)


def test_names_are_needed_to_read_by_name(tmp_path: Path) -> None:
    """Default positions by name in a file that does not say its joints are refused."""
    path = adding(tmp_path / "walk.onnx", [[0.0, 0.0]], metadata={"default_joint_pos": json.dumps({"a": 0.0})})
    with pytest.raises(SpecError, match="no default position of any joint"):
        as_policy(path, SPEC, encode=q)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    """Missing, of another kind, or damaged: refused by its path; so is a file without a spec."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(SpecError, match="cannot be loaded"):
        as_policy(broken, SPEC, encode=q)
    for path in (tmp_path / "none.onnx", tmp_path / "policy.pt"):
        with pytest.raises(SpecError, match="is no ONNX file"):
            as_policy(path, SPEC, encode=q)
    with pytest.raises(SpecError, match=r"onnx_spec\(path, rate_hz\)"):
        as_policy(adding(tmp_path / "walk.onnx", [[0.0, 0.0]]), encode=q)
    with pytest.raises(SpecError, match="needs encode="):
        as_policy(adding(tmp_path / "walk.onnx", [[0.0, 0.0]]), SPEC)
    with pytest.raises(SpecError, match="needs an ONNX file or a session"):
        onnx_spec(3, 50.0)
