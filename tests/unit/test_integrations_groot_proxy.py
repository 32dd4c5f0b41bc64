from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.audit import read_run, verify_run
from safeguard.audit.records.registry import DecisionRecord
from safeguard.core.enums import Cause
from safeguard.integrations.gate import ChunkGate, GateAnswer
from safeguard.integrations.groot_proxy import GrootProxy
from tests.conformance.remote_groot import endless
from tests.unit.groot_proxy_support import (
    COLUMNS,
    ROBOT,
    SPEC,
    STEP,
    World,
    after,
    bad,
    joints,
    late,
    saying,
    stands,
    wave,
)
from tests.unit.groot_support import CHUNK, Answer, Client, HalfServer, seen, to_bytes

# -- what comes through -----------------------------------------------------------------------------------


def test_an_unchanged_client_gets_the_servers_answer_bit_for_bit() -> None:
    """Keys, shapes, dtypes, values, keys that the shield does not know, info; the server sees the observation."""
    with World().started() as world:
        action, info = world.ask()
        expected, _ = wave({"data": world.server.requests[-1]["data"]})

    assert list(action) == list(expected)
    for key, array in expected.items():
        assert (action[key].dtype, action[key].shape) == (array.dtype, array.shape)
        assert np.array_equal(action[key], array)
    assert info["took_ms"] == 3
    assert info["safeguard"]["changed"] is False
    assert world.server.requests[-1]["data"]["observation"]["video"]["front"].shape == (1, 1, 224, 224, 3)


def gripper(_: Any) -> list[float]:
    """Where the gripper is measured."""
    return [0.7]


def last(observation: Any) -> Any:
    """Joint positions of an N1.5 observation."""
    return observation["state.arm"][-1]


def test_nothing_moves_before_somebody_acknowledges() -> None:
    """BOOT and HOLD: the rows hold the arm where it is, the gripper where it was told to be measured."""
    with World(others=gripper) as world:
        for _ in range(5):
            action, info = world.ask()
            assert stands(action, world.q)
            assert np.allclose(action["gripper"], 0.7)
            assert info["safeguard"]["mode"] == "HOLD"
            world.play(action)


def test_the_supervised_start_is_given_once_and_only_from_boot() -> None:
    """In the name of ``start_by``; neither a second episode nor one that began badly is started so."""
    with World(start_by="mira") as world:
        assert not world.ride(6)[1]["safeguard"]["changed"]
        world.client.call("reset", {"options": None})
        assert world.ride(8)[1]["safeguard"]["mode"] == "HOLD"
    answers = iter([saying(b"\xc1")])
    with World(lambda request: next(answers, wave)(request), start_by="mira") as world:
        assert world.ride(8)[1]["safeguard"]["mode"] == "HOLD"


def test_the_supervised_start_is_not_that_of_an_episode_that_a_person_began() -> None:
    """The first episode failed; the second one waits for whoever began it, although its server is well."""
    answers = iter([saying(b"\xc1")])
    with World(lambda request: next(answers, wave)(request), start_by="mira") as world:
        world.ask()
        world.proxy.begin_episode("second")
        assert world.ride(8)[1]["safeguard"]["mode"] == "HOLD"


def test_rows_that_break_a_limit_are_changed_in_the_same_form() -> None:
    """A jump of the wrist: other numbers, same keys, shapes and dtypes; the gripper and the lamp as they were."""
    far = np.tile(ROBOT.home + np.array([0, 0, 0, 0, 0, 0, 0.5]), (1, CHUNK, 1))
    with World(after(6, bad(single_arm=far))).started() as world:
        action, info = world.ask()

    assert info["safeguard"]["changed"] is True
    assert action["single_arm"].dtype == np.float64
    assert action["single_arm"].shape == (1, CHUNK, 7)
    assert np.abs(np.diff(action["single_arm"][0], axis=0)).max() < 2.7 / SPEC.rate_hz  # rad/s
    assert not np.array_equal(action["single_arm"], far)
    assert np.array_equal(action["lamp"], np.ones((1, CHUNK, 2)))


def test_other_endpoints_are_forwarded_and_kill_is_not() -> None:
    """ping, reset and get_modality_config as the server answers them, with the client's token."""
    with World() as world, Client(world.proxy.port, api_token="secret") as client:
        assert client.call("ping") == {"status": "ok", "message": "Server is running"}
        config = client.call("get_modality_config")
        assert config["action"]["as_json"] == {"modality_keys": ["single_arm"]}
        assert client.call("reset", {"options": {"a": 1}}) == {"was": "reset"}
        with pytest.raises(RuntimeError, match="kill is refused"):
            client.call("kill")
        with pytest.raises(RuntimeError, match="unknown endpoint 'shell'"):
            client.call("shell", {})
        assert client.call("ping")["status"] == "ok"
        requests = list(world.server.requests)

    assert [r["endpoint"] for r in requests] == ["ping", "get_modality_config", "reset", "ping"]
    assert {r["api_token"] for r in requests} == {"secret"}
    assert requests[2]["data"] == {"options": {"a": 1}}


def test_a_second_meaning_of_a_request_does_not_get_through() -> None:
    """A map with the endpoint twice is sent on with what the proxy understood, once."""
    twice = b"\x82" + to_bytes({"endpoint": "kill"})[1:] + to_bytes({"endpoint": "ping"})[1:]
    with World() as world:
        assert world.client.raw(twice)["status"] == "ok"
        assert world.server.messages == [to_bytes({"endpoint": "ping"})]


def test_n15_clients_and_servers() -> None:
    """Flat observations, actions without info, sides of length 1 dropped, in the server's shapes also when changed."""

    def answer(request: dict[str, Any]) -> Any:
        rows = np.tile(request["data"]["state.arm"][-1], (CHUNK, 1)) + STEP * np.arange(1, CHUNK + 1)[:, None]
        return {"action.arm": rows, "action.gripper": np.full(CHUNK, 0.5)}

    columns = {"action.arm": ROBOT.joints, "action.gripper": "gripper"}
    encode: dict[str, Any] = {"encode": last, "columns": columns, "version": "1.5"}
    flat = {"state.arm": ROBOT.home[None], "annotation.human.task": ["pick"]}
    with World(answer, **encode) as world:
        action = world.client.call("get_action", flat)
        with pytest.raises(RuntimeError, match="observation"):
            world.client.call("get_action", [1])

    assert sorted(action) == ["action.arm", "action.gripper"]
    assert action["action.arm"].shape == (CHUNK, 7)
    assert action["action.gripper"].shape == (CHUNK,)
    assert action["action.gripper"].dtype == np.float64
    assert np.abs(action["action.arm"] - ROBOT.home).max() < 1e-6


class Recording(ChunkGate):
    """A gate that keeps what it answered."""

    def offer(self, *given: Any, **more: Any) -> GateAnswer:
        """As the gate, and kept."""
        self.answer = super().offer(*given, **more)
        return self.answer


def test_changed_rows_are_not_rounded_to_the_servers_coarse_type() -> None:
    """Of a server that answers in float16 and whole numbers, rows of the gate are those that it told, as float32."""
    far = np.tile(ROBOT.home + np.array([0, 0, 0, 0, 0, 0, 0.5]), (1, CHUNK, 1)).astype(np.float16)
    with World(
        after(6, bad(single_arm=far, gripper=np.ones((1, CHUNK, 1), np.int64))), gate=Recording
    ).started() as world:
        action, info = world.ask()
        assert isinstance(world.gate, Recording)
        told = world.gate.answer.actions

    assert info["safeguard"]["changed"] is True
    assert (action["single_arm"].dtype, action["gripper"].dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(action["single_arm"][0], told[:, :7], atol=1e-6)
    np.testing.assert_allclose(action["gripper"][0], told[:, 7:], atol=1e-6)


# -- servers that fail ------------------------------------------------------------------------------------

ARM = np.zeros((1, CHUNK, 7), np.float32)
HUGE = {"__ndarray_class__": True, "as_npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"}


def nested(levels: int) -> Any:
    """Lists in lists."""
    return [nested(levels - 1)] if levels else 0


MANY: list[list[Any]] = [[]] * 200_000
FAULTS: dict[str, Answer] = {
    "never": saying(None),
    "late": late,
    "garbage": saying(b"\xc1\xc1\xc1"),
    "pickle": saying(b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins"),
    "pickle in an array": bad(single_arm=np.array([{}], dtype=object)),
    "huge header": bad(single_arm=HUGE),
    "endless side": bad(single_arm={"__ndarray_class__": True, "as_npy": endless(ARM)}),
    "deep": lambda request: to_bytes([wave(request)[0], {"more": nested(500)}]),
    "many values": lambda request: to_bytes([wave(request)[0], {"more": MANY}]),
    "cut": lambda request: to_bytes(wave(request))[:-9],
    "error": saying({"error": "cuda out of memory"}),
    "empty": saying([]),
    "other form": lambda request: wave(request)[0],
    "no gripper": bad(gripper=None),
    "narrow": bad(single_arm=ARM[:, :, :6]),
    "short": bad(single_arm=ARM[:, :4]),
    "batch": bad(single_arm=np.zeros((2, CHUNK, 7), np.float32)),
    "swapped": bad(single_arm=np.zeros((1, CHUNK, 1), np.float32), gripper=ARM),
    "integers": bad(single_arm=ARM.astype(np.int64)),
    "not finite": bad(single_arm=ARM * np.nan),
    "infinite": bad(single_arm=ARM + np.inf),
    "gripper not finite": bad(gripper=np.full((1, CHUNK, 1), np.nan, np.float32)),
    "degrees": bad(single_arm=np.degrees(np.tile(ROBOT.home, (1, CHUNK, 1)))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_costs_the_deadline_and_the_rows_stop_the_arm(fault: str) -> None:
    """In time, in the form of the last good answer, finite, braking and holding; HOLD with its cause."""
    with World(after(6, FAULTS[fault]), deadline_s=0.25).started() as world:
        started = time.monotonic()
        action, info = world.ask()
        took = time.monotonic() - started
        assert stands(action, world.q)
        world.play(action)
        again, later = world.ask()

    assert took < 5.0
    for rows in (action, again):
        assert {key: (rows[key].shape, rows[key].dtype) for key in COLUMNS} == {
            "single_arm": ((1, CHUNK, 7), np.dtype("f8" if fault == "degrees" else "f4")),
            "gripper": ((1, CHUNK, 1), np.dtype("f4")),
        }
        assert all(np.isfinite(rows[key]).all() for key in COLUMNS)
    assert stands(again, world.q)
    assert later["safeguard"]["mode"] == "HOLD"
    assert "proposal_invalid" in info["safeguard"]["causes"]


def test_whatever_reading_an_answer_raises_the_gate_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the decoding is a server that failed: rows that stop the arm, and the cause."""

    def broken(*_: object) -> None:
        raise RuntimeError("not thought of")

    with World().started() as world, monkeypatch.context() as patched:
        patched.setattr("safeguard.integrations.groot_gate.as_array", broken)
        action, info = world.ask()
        assert stands(action, world.q)

    assert info["safeguard"]["error"] == "RuntimeError: not thought of"
    assert "proposal_invalid" in info["safeguard"]["causes"]


def test_a_deadline_is_kept_to_milliseconds() -> None:
    """The best of several tries: the machine may be busy."""
    with World(saying(None), deadline_s=0.01) as world:
        took: list[float] = []
        for _ in range(8):
            started = time.monotonic()
            world.ask()
            took.append(time.monotonic() - started)

    assert 0.01 <= min(took) < 0.04


def test_a_server_that_hangs_up_half_way_costs_the_deadline() -> None:
    """Half a frame is no answer; before any good one the rows have the form of the spec."""
    server = HalfServer()
    with World() as world:
        proxy = GrootProxy(world.gate, f"127.0.0.1:{server.port}", joints, COLUMNS, deadline_s=0.3, port=0)
        client = Client(proxy.port)
        started = time.monotonic()
        action, info = client.get_action(seen(world.q))
        took = time.monotonic() - started
        client.close()
        proxy.close()
    server.close()

    assert server.taken
    assert took < 5.0
    assert sorted(action) == ["gripper", "single_arm"]
    assert (action["single_arm"].shape, action["single_arm"].dtype) == ((1, CHUNK, 7), np.float32)
    assert stands(action, world.q)
    assert "did not answer within 0.3 s" in info["safeguard"]["error"]
    assert proxy.failures == 1


def test_the_cause_is_in_the_record(tmp_path: Path) -> None:
    """A run with a dead server is sound, and the decision without an answer names the cause."""
    with World(after(6, saying(None)), deadline_s=0.1, audit=tmp_path / "run").started() as world:
        world.ride(1)
    bodies = [record.body for record in read_run(tmp_path / "run")]
    decisions = [body.decision for body in bodies if isinstance(body, DecisionRecord)]

    assert verify_run(tmp_path / "run").sound
    assert Cause.PROPOSAL_INVALID not in decisions[-2].causes
    assert Cause.PROPOSAL_INVALID in decisions[-1].causes


def test_a_late_answer_does_not_become_the_next_one() -> None:
    """What came after the deadline is nobody's: the next rows are those that were asked for."""
    answers = iter([late])
    with World(after(6, lambda request: next(answers, wave)(request)), deadline_s=0.25).started() as world:
        _, info = world.ride(1)
        time.sleep(0.3)
        action, good = world.ask()
        expected, _ = wave(world.server.requests[-1])

    assert "did not answer" in info["safeguard"]["error"]
    assert good["safeguard"]["changed"] is False
    assert np.array_equal(action["single_arm"], expected["single_arm"])


def test_after_a_fault_it_takes_a_person() -> None:
    """Neither good answers nor a client's reset clear HOLD; an acknowledgement at standstill does."""
    faults = iter([saying({"error": "cuda"})] * 2)
    with World(after(6, lambda request: next(faults, wave)(request))).started() as world:
        world.ride(1)  # one answer that is none is ridden out
        held = [world.ride(1)[1]["safeguard"]["mode"] for _ in range(4)]
        world.client.call("reset", {"options": None})
        assert world.gate.shield.episode == 0
        held += [world.ride(1)[1]["safeguard"]["mode"] for _ in range(4)]
        world.proxy.acknowledge(operator="test", reason="looked at it")
        changed = world.ride(6)[1]["safeguard"]["changed"]

    assert set(held) == {"HOLD"}
    assert changed is False


def test_a_person_can_stop_the_arm() -> None:
    """The next answer brakes, with the cause."""
    with World().started() as world:
        world.proxy.stop(operator="test", reason="enough")
        action, info = world.ask()

    assert stands(action, world.q)
    assert info["safeguard"]["mode"] == "STOP"
    assert "operator_stop" in info["safeguard"]["causes"]


def test_a_reset_while_all_is_well_begins_an_episode() -> None:
    """Which a person acknowledges; before the first rows a reset begins nothing new."""
    with World() as world:
        world.proxy.acknowledge(operator="test", reason="cell is clear")
        world.client.call("reset", {"options": None})
        assert world.ride(6)[1]["safeguard"]["changed"] is False
        episode = world.gate.shield.episode
        world.client.call("reset", {"options": None})
        assert world.gate.shield.episode == episode + 1
        action, info = world.ride(6)

    assert info["safeguard"]["mode"] == "HOLD"
    assert stands(action, world.q)
