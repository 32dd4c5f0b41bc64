from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter

from safeguard.audit import verify_offline
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
from safeguard.audit.records.encode import (
    Json,
    Written,
    decision_body,
    encode_array,
    encode_number,
    encode_spec,
    encode_timings,
    jsonable,
)
from safeguard.audit.records.expand import expanded, named_array, named_decision
from safeguard.audit.records.registry import KINDS, DecisionRecord, parse_body, plain_body
from safeguard.core.enums import Cause, FilterStatus, Level, Mode, RecordKind
from safeguard.core.types import (
    Command,
    Decision,
    Margins,
    Observation,
    Parts,
    PDCommand,
    PositionCommand,
    Proposal,
    RobotState,
    Sensor,
    TerminalStop,
    Timings,
    TorqueCommand,
    Vector,
    VelocityCommand,
    Verdict,
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


def written(now: int, seen: Observation, arrived: Proposal | None, outcome: Decision) -> bytes:
    """A tick as the journal puts it into a frame."""
    packed = ormsgpack.packb(decision_body(now, seen, arrived, outcome), option=ormsgpack.OPT_SERIALIZE_NUMPY)
    return frames.record(KINDS[RecordKind.DECISION].code, DecisionRecord.version, 0, outcome.tick, now, packed)


def recorded(now: int, seen: Observation, arrived: Proposal | None, outcome: Decision) -> DecisionRecord:
    """A tick, written and read back as the journal does it."""
    content = written(now, seen, arrived, outcome)
    head, kind, version = frames.head(content), RecordKind.DECISION, DecisionRecord.version
    body = parse_body(kind, version, plain_body(kind, version, unpacked(content), head.tick, head.t))
    assert isinstance(body, DecisionRecord)
    return body


@given(ARRAYS)
def test_arrays_survive_bit_for_bit(array: Vector) -> None:
    """Any float64 array comes back with its shape and bits: NaN, infinities, -0.0, subnormals, empty axes."""
    back = decode_array(ARRAY.validate_json(through_json(named_array(array))))
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
    assert named_array(np.array([1.7e308, 1.7e308])) == [1.7e308, 1.7e308]


def test_non_finite_numbers_have_names() -> None:
    """NaN and the infinities are written as strings."""
    assert named_array(np.array([np.nan, np.inf, -np.inf, -0.0])) == ["NaN", "Infinity", "-Infinity", -0.0]


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


@given(
    st.lists(
        st.builds(
            Verdict,
            st.text(),
            st.sampled_from(Level),
            FLOATS,
            FLOATS,
            st.none() | FLOATS,
            st.none() | st.sampled_from(Cause),
            st.text(),
        )
    )
)
def test_verdicts_survive(verdicts: list[Verdict]) -> None:
    """Any verdict comes back equal to itself: with or without score, p-value, cause and detail."""
    outcome = replace(decision(), verdicts=tuple(verdicts))
    assert repr(decode_decision(recorded(0, observation(0), None, outcome))) == repr(outcome)


def test_only_a_check_that_found_nothing_is_a_bare_name() -> None:
    """Whatever a verdict says beside its monitor's name is written."""
    nothing = Verdict("a", Level.OK, np.nan, np.nan)
    says: list[dict[str, Any]] = [
        {"level": Level.UNPROVEN},
        {"score": 0.0},
        {"threshold": 1.0},
        {"p_value": np.nan},
        {"cause": Cause.ESTOP},
        {"detail": "b"},
    ]
    verdicts = (nothing, *(replace(nothing, **said) for said in says))
    found: Any = named_decision(replace(decision(), verdicts=verdicts))["verdicts"]
    assert [isinstance(verdict, str) for verdict in found] == [True] + [False] * len(says)


@given(array=ARRAYS)
def test_arrays_are_written_as_their_bytes(array: Vector) -> None:
    """A record holds an array's very bits, payloads of NaN included, and its shape where it is not one row."""
    found: Any = ormsgpack.unpackb(ormsgpack.packb(encode_array(array)))
    shape, data = ([array.size], found) if isinstance(found, bytes) else found
    assert (tuple(shape), data) == (array.shape, array.astype("<f8").tobytes())


def test_a_nan_keeps_its_payload() -> None:
    """NaNs that differ in their bits are told apart in the record."""
    nan = np.array([0x7FF8_0000_0000_1234, 0xFFF0_0000_0000_0001], "<u8").view("<f8")
    assert encode_array(nan) == nan.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(8.0)[::2],
        np.arange(3, dtype=np.float32),
        np.arange(3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(3.0).astype(">f8"),
        np.array([True, False]),
    ],
    ids=["strided", "float32", "int64", "transposed", "big-endian", "bool"],
)
def test_an_odd_array_is_written_as_the_float64_values_that_it_has(array: Any) -> None:
    """Strides, byte order and type do not show, whoever let the array in; read-only arrays are taken."""
    array.setflags(write=False)
    seen = observation(0)
    object.__setattr__(seen.state, "q", array)
    back = decode_observation(recorded(0, seen, None, decision()).observation).state.q
    assert back.dtype == np.float64
    assert np.array_equal(back, array)


@given(now=TIMES, t=TIMES)
def test_any_two_times_are_told_apart(now: int, t: int) -> None:
    """However far a stamp is from the tick, in 64 bits, it comes back."""
    seen = Observation(RobotState(Q, Q, t), {"a": Sensor(Q, t)})
    arrived = Proposal(Q, t, t, "policy", 0)
    body = recorded(now, seen, arrived, decision())
    assert body.proposal is not None
    stamps = body.observation.state.t, body.observation.sensors["a"].t, body.proposal.t_obs, body.proposal.t_inferred
    assert (body.now, *stamps) == (now, t, t, t, t)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=7, max_size=7), st.none() | st.integers(-(2**40), 2**40))
def test_durations_survive(stages: list[int], total: int | None) -> None:
    """Durations come back, and so does a total that is not their sum; one that is takes no room."""
    intake, policy, controller, monitors, modes, moved, record = stages
    whole = sum(stages) if total is None else total
    timings = Timings(intake, policy, controller, monitors, modes, moved, record, whole)
    outcome = replace(decision(), timings=timings)
    assert decode_decision(recorded(0, observation(0), None, outcome)).timings == timings
    assert len(encode_timings(timings)) == (56 if whole == sum(stages) else 64)


@given(q=ARRAYS, actions=ARRAYS, score=FLOATS, t=TIMES, now=TIMES, at=st.integers(0, len(COMMANDS) - 1))
def test_the_offline_verifier_names_a_decision_alike(
    q: Vector, actions: Vector, score: float, t: int, now: int, at: int
) -> None:
    """Who reads a record by the page of the format alone finds in it what a reader of ours finds."""
    arrived = Proposal(actions, t, t, "policy", 0, parts=Parts((Cause.PLANNER_FAILED,), ("a",), ()))
    verdicts = (*decision().verdicts, Verdict("a", Level.WARN, score, score, score, Cause.ESTOP, "b"))
    outcome = replace(decision(), verdicts=verdicts, command=COMMANDS[at])
    content = written(now, Observation(RobotState(q, Q, t), {"a": Sensor(q, t)}), arrived, outcome)
    alone = verify_offline.decision(verify_offline.unpack(content[frames.HEAD.size :], binary=True), 0, now)
    assert through_json(alone) == through_json(expanded(unpacked(content), 0, now))


def test_a_decision_is_named_as_its_record_will_be() -> None:
    """What replay compares with is what a reader gets."""
    outcome = decision(4)
    content = written(0, observation(4), None, outcome)
    read: Any = expanded(unpacked(content), 4, 0)
    assert through_json(named_decision(outcome)) == through_json(read["decision"])


@pytest.mark.parametrize(
    "damage",
    [
        {"observation": []},
        {"observation": None},
        {"proposal": [b""]},
        {"proposal": "policy"},
        {"decision": {}},
        {"decision": [[], [], [], 0, "", "", [], "", ["jump"], ""]},
        {"timings": b""},
        {"timings": bytes(55)},
        {"timings": bytes(72)},
        {"timings": [1] * 7},
        {"episode": b"0"},
        {"more": 1},
    ],
    ids=repr,
)
def test_what_is_no_decision_is_a_value_error(damage: dict[str, Written]) -> None:
    """Whatever stands in a record, a reader says that it is none."""
    body: Any = {**decision_body(0, observation(0), proposal(0), decision()), **damage}
    with pytest.raises((ValueError, TypeError)):  # the second is orjson's: bytes where a number belongs
        parse_body(RecordKind.DECISION, 4, plain_body(RecordKind.DECISION, 4, body, 0, 0))
    content = frames.record(KINDS[RecordKind.DECISION].code, 4, 0, 0, 0, ormsgpack.packb(body))
    assert json.loads(verify_offline.dump_line("decision", content, bytes(32)))["body"] is None


@pytest.mark.parametrize(
    "array", [b"1234567", [[2, 2], bytes(24)], [[-1], bytes(24)], [[1]], [[3.0], bytes(24)], "q", 1]
)
def test_what_is_no_array_is_a_value_error(array: Any) -> None:
    """Bytes that are no numbers, or not as many as the shape says, are refused."""
    body: Any = decision_body(0, observation(0), None, decision())
    body["observation"][0] = array
    with pytest.raises(ValueError, match=r"array|buffer|reshape|decision|unpack"):
        plain_body(RecordKind.DECISION, 4, body, 0, 0)


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
