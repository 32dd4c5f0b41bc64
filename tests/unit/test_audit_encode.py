from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import orjson
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter

from safeguard.audit.journal import frames
from safeguard.audit.journal.scan import unpacked
from safeguard.audit.records.bodies import Array, Spec
from safeguard.audit.records.decode import (
    decode_array,
    decode_command,
    decode_decision,
    decode_number,
    decode_observation,
    decode_proposal,
    decode_spec,
)
from safeguard.audit.records.encode import Json, decision_body, encode_array, encode_number, encode_spec, jsonable
from safeguard.audit.records.registry import KINDS, DecisionRecord, parse_body, plain_body
from safeguard.core.enums import Cause, FilterStatus, Mode, RecordKind
from safeguard.core.types import (
    Command,
    Decision,
    Margins,
    Observation,
    PDCommand,
    PositionCommand,
    Proposal,
    RobotState,
    Sensor,
    TerminalStop,
    TorqueCommand,
    Vector,
    VelocityCommand,
)
from tests.unit.audit_runs import SPEC, decision, observation, proposal

ARRAY: TypeAdapter[Array] = TypeAdapter(Array)
FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
ARRAYS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4), elements=FLOATS)
TIMES = st.integers(-(2**63) + 1, 2**63 - 1)  # the one below means no time
VECTOR7 = hnp.arrays(np.float64, 7, elements=FLOATS)


def same_bits(a: Vector, b: Vector) -> bool:
    """Equal shape and bits, where one NaN is as good as another."""
    nan = np.isnan(a)
    return (
        a.shape == b.shape
        and bool((nan == np.isnan(b)).all())
        and np.where(nan, 0.0, a).tobytes() == np.where(nan, 0.0, b).tobytes()
    )


def through_json(body: Json) -> bytes:
    """As the journal writes it."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def recorded(now: int, seen: Observation, arrived: Proposal | None, outcome: Decision) -> DecisionRecord:
    """A tick, written and read back as the journal does it."""
    packed = ormsgpack.packb(decision_body(now, seen, arrived, outcome), option=ormsgpack.OPT_SERIALIZE_NUMPY)
    kind, version = RecordKind.DECISION, DecisionRecord.version
    content = frames.record(KINDS[kind].code, version, 0, outcome.tick, now, packed)
    head, data = frames.head(content), unpacked(content)
    body = parse_body(kind, version, plain_body(kind, version, data, head.tick, head.t))
    assert isinstance(body, DecisionRecord)
    return body


@given(ARRAYS)
def test_arrays_survive_bit_for_bit(array: Vector) -> None:
    """Any float64 array comes back with its shape and bits: NaN, infinities, -0.0, subnormals, empty axes."""
    back = decode_array(ARRAY.validate_json(through_json(encode_array(array))))
    assert same_bits(array, back)
    assert not back.flags.writeable


@given(FLOATS)
def test_numbers_survive_bit_for_bit(value: float) -> None:
    """Any float comes back with its bits, and JSON never holds null for one."""
    text = through_json(encode_number(value))
    assert text != b"null"
    assert same_bits(np.array([value]), np.array([decode_number(orjson.loads(text))]))


def test_overflowing_sum_is_not_taken_for_a_bad_number() -> None:
    """Finite numbers whose sum overflows are written as the numbers that they are."""
    assert encode_array(np.array([1.7e308, 1.7e308])) == [1.7e308, 1.7e308]


def test_non_finite_numbers_have_names() -> None:
    """NaN and the infinities are written as strings."""
    assert encode_array(np.array([np.nan, np.inf, -np.inf, -0.0])) == ["NaN", "Infinity", "-Infinity", -0.0]


@given(q=ARRAYS, v=VECTOR7, t=TIMES, value=ARRAYS, wrench=st.none() | VECTOR7, estop=st.booleans())
def test_observations_survive(q: Vector, v: Vector, t: int, value: Vector, wrench: Vector | None, estop: bool) -> None:
    """A raw observation, misshapen or not, comes back bit for bit."""
    seen = Observation(RobotState(q, v, t), {"a": Sensor(value, t)}, "go", wrench, estop, "ok")
    back = decode_observation(recorded(t, seen, None, decision()).observation)
    assert same_bits(back.state.q, q)
    assert same_bits(back.state.v, v)
    assert same_bits(back.sensors["a"].value, value)
    assert (back.state.t, back.sensors["a"].t, back.instruction, back.estop) == (t, t, "go", estop)
    assert (back.external_wrench is None) is (wrench is None)
    assert wrench is None or back.external_wrench is None or same_bits(back.external_wrench, wrench)


@given(actions=ARRAYS, features=st.none() | VECTOR7, samples=st.none() | ARRAYS, seq=TIMES)
def test_proposals_survive(actions: Vector, features: Vector | None, samples: Vector | None, seq: int) -> None:
    """A raw proposal, misshapen or not, comes back bit for bit."""
    arrived = Proposal(actions, 1, 2, "policy", seq, features, samples)
    body = recorded(0, observation(0), arrived, decision()).proposal
    assert body is not None
    back = decode_proposal(body)
    assert same_bits(back.actions, actions)
    for old, new in ((features, back.features), (samples, back.samples)):
        assert (old is None) is (new is None)
        assert old is None or new is None or same_bits(old, new)
    assert (back.t_obs, back.t_inferred, back.source, back.seq) == (1, 2, "policy", seq)


Q = np.linspace(-1.0, 1.0, 7)
COMMANDS: list[Command] = [
    TorqueCommand(Q, 1, 2, 3),
    PositionCommand(Q, 1, 2, 3),
    VelocityCommand(Q, 1, 2, 3),
    PDCommand(Q, 2 * Q, 3 * Q, 4 * Q, 5 * Q, 1, 2, 3),
    TerminalStop("the checker refused the backup", 1, 3),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_commands_survive(command: Command) -> None:
    """Every kind of command comes back as its own class, field by field."""
    base = decision()
    outcome = Decision(
        command,
        base.mode,
        base.causes,
        base.reasons,
        base.authority,
        base.verdicts,
        base.filter,
        base.source,
        base.timings,
        base.tick,
        base.episode,
    )
    body = recorded(0, observation(0), None, outcome)
    assert repr(decode_command(body.decision.command)) == repr(command)
    assert repr(decode_decision(body)) == repr(outcome)


@given(
    mode=st.sampled_from(Mode),
    causes=st.lists(st.sampled_from(Cause), unique=True),
    status=st.sampled_from(FilterStatus),
    figures=st.tuples(FLOATS, FLOATS, FLOATS, FLOATS, FLOATS),
    text=st.text(),
)
def test_decisions_survive(
    mode: Mode,
    causes: list[Cause],
    status: FilterStatus,
    figures: tuple[float, float, float, float, float],
    text: str,
) -> None:
    """A decision comes back equal to itself, whatever its margins are."""
    margins = Margins(figures[0], figures[1], figures[2], figures[3], text)
    outcome = decision(3, mode=mode, causes=tuple(causes), status=status, effort=figures[4], margins=margins)
    back = decode_decision(recorded(5, observation(3), proposal(3), outcome))
    assert repr(back) == repr(outcome)


def test_numpy_scalars_are_written_as_numbers() -> None:
    """A policy that counts with numpy integers does not break the record."""
    arrived = Proposal(np.zeros((1, 7)), np.int64(5), np.int64(6), "policy", np.int32(7))  # type: ignore[arg-type]
    body = recorded(0, observation(0), arrived, decision()).proposal
    assert body is not None
    assert (body.t_obs, body.t_inferred, body.seq) == (5, 6, 7)


def test_specs_survive() -> None:
    """An action spec comes back equal."""
    assert decode_spec(Spec.model_validate_json(through_json(encode_spec(SPEC)))) == SPEC


class _Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class _Part:
    size: float
    colour: _Colour


def test_configuration_becomes_json() -> None:
    """Dataclasses, enums, arrays, sets, paths and bad numbers all have a JSON form."""
    value = {
        "part": _Part(float("nan"), _Colour.RED),
        "array": np.array([1.0, np.inf]),
        "scalar": np.float64(0.5),
        "set": {"b", "a"},
        "path": Path("runs/x"),
        _Colour.RED: (1, None, True),
    }
    assert jsonable(value) == {
        "part": {"size": "NaN", "colour": "red"},
        "array": [1.0, "Infinity"],
        "scalar": 0.5,
        "set": ["a", "b"],
        "path": "runs/x",
        "red": [1, None, True],
    }


def test_what_has_no_json_form_is_refused() -> None:
    """An object that configuration is not made of raises, and is named."""
    with pytest.raises(TypeError, match="cannot hold a object"):
        jsonable(object())
