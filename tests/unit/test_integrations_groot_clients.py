from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import zmq

from safeguard.core.errors import ConfigError, SpecError
from safeguard.integrations.gate import ChunkGate, GateAnswer
from safeguard.integrations.groot_proxy import GrootProxy
from tests.unit.groot_proxy_support import (
    COLUMNS,
    ROBOT,
    SPEC,
    World,
    joints,
    saying,
    wave,
)
from tests.unit.groot_support import Client, Server, from_bytes, npy, seen, to_bytes

# -- clients that fail ------------------------------------------------------------------------------------


def test_one_client_has_the_arm_and_silence_lets_go_of_it() -> None:
    """Another one's actions and resets are refused, its pings are not; after ``idle_s`` it may."""
    with World(idle_s=0.4) as world, Client(world.proxy.port) as other:
        world.ask()
        for endpoint, data in (("get_action", {"observation": seen(world.q)}), ("reset", {"options": None})):
            with pytest.raises(RuntimeError, match="another client has the arm"):
                other.call(endpoint, data)
        assert other.call("ping")["status"] == "ok"
        time.sleep(0.5)
        other.get_action(seen(world.q))
        with pytest.raises(RuntimeError, match="another client"):
            world.ask()


def test_what_others_ask_takes_nothing_from_a_deadline() -> None:
    """A ping that the server leaves hanging does not make the arm's answer late."""

    class Hanging(Server):
        def _said(self, request: dict[str, Any]) -> Any:
            return None if request["endpoint"] == "ping" else super()._said(request)

    server = Hanging(wave)
    with World() as world:
        proxy = GrootProxy(world.gate, f"127.0.0.1:{server.port}", joints, COLUMNS, deadline_s=2.0, port=0)
        holder, others = Client(proxy.port), [Client(proxy.port) for _ in range(12)]
        threads = [threading.Thread(target=_refused, args=(other,)) for other in others]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        started = time.monotonic()
        _, info = holder.get_action(seen(world.q))
        took = time.monotonic() - started
        for thread in threads:
            thread.join()
        for client in (holder, *others):
            client.close()
        proxy.close()
    server.close()

    assert took < 5.0
    assert info["safeguard"]["error"] == ""


def _refused(client: Client) -> None:
    with pytest.raises(RuntimeError, match=r"did not answer|too many"):
        client.call("ping")


def _bad_requests() -> Iterator[tuple[str, bytes, str]]:
    state = {"state": {"single_arm": np.zeros((1, 1, 7), np.float32)}}
    pickled = {"state": {"single_arm": npy(np.array([{}], dtype=object))}}
    yield "garbage", b"\xc1\xc1", "no msgpack"
    yield "nothing", b"", "no msgpack"
    yield "number", to_bytes(7), "expected a map"
    yield "no data", to_bytes({"endpoint": "get_action"}), "expected an observation"
    yield "no endpoint", to_bytes({}), "expected an observation"
    yield "endpoint of another type", to_bytes({"endpoint": [1]}), "unknown endpoint"
    yield "flat", to_bytes({"endpoint": "get_action", "data": state}), "expected an observation"
    yield "no joints", to_bytes({"endpoint": "get_action", "data": {"observation": {"state": {}}}}), "KeyError"
    yield "pickle", to_bytes({"endpoint": "get_action", "data": {"observation": pickled}}), "dtype object"
    yield "deep", b"\x81\xa4data" + b"\x91" * 600 + b"\x01", "nested deeper than 32"


@pytest.mark.parametrize(("message", "why"), [pytest.param(*rest, id=name) for name, *rest in _bad_requests()])
def test_messages_that_are_none_are_refused_and_the_next_is_served(message: bytes, why: str) -> None:
    """With a reason; they reach neither the server nor the gate, and nobody gets the arm for them."""
    with World() as world, Client(world.proxy.port) as other:
        with pytest.raises(RuntimeError, match=why):
            other.raw(message)
        assert world.server.requests == []
        assert world.gate.shield.episode == -1
        world.ask()


def _overwrites(observation: Any) -> Any:
    observation["state"]["single_arm"][0] = 1.0


def _divides(_: Any) -> Any:
    return 1 / 0


def _gives(what: Any) -> Any:
    """An encoder that always gives the same."""

    def encode(_: Any) -> Any:
        return what

    return encode


def _first(times: int, then: Any) -> Any:
    """``joints`` for so many observations."""
    asked = count()

    def encode(observation: Any) -> Any:
        return joints(observation) if next(asked) < times else then

    return encode


@pytest.mark.parametrize(
    ("encode", "why"),
    [
        (_divides, "ZeroDivisionError"),
        (_gives([[0.0] * 7]), "shape"),
        (_gives("here"), "ValueError"),
        (_gives(None), "shape"),
        (_overwrites, "read-only"),
    ],
)
def test_an_encoder_that_fails_is_said_to_the_client(encode: Any, why: str) -> None:
    """The thread survives it."""
    with World(encode=encode) as world:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=why):
                world.ask()
        assert world.client.call("ping")["status"] == "ok"


@pytest.mark.parametrize(
    ("q", "cause"), [([np.nan] * 7, "state_invalid"), ([0.0] * 6, "state_invalid"), ([9.0] * 7, "state_jump")]
)
def test_positions_that_cannot_be_measured_stop_the_arm(q: list[float], cause: str) -> None:
    """Before any good ones nobody knows where the arm is, and the client is told not to move."""
    with World(encode=_gives(q)) as world, pytest.raises(RuntimeError, match="nobody knows where the arm is"):
        world.ask()
    with World(encode=_first(6, q)).started() as world:
        action, info = world.ask()

    assert np.isfinite(action["single_arm"]).all()
    assert cause in info["safeguard"]["causes"]


def test_a_dealer_that_speaks_otherwise_is_not_answered_and_disturbs_nobody() -> None:
    """Without the empty frame of a REQ socket there is nobody to answer."""
    with World() as world:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://127.0.0.1:{world.proxy.port}")
        for parts in ([b"x"], [b"", b"a", b"b"], [b"", to_bytes({"endpoint": "ping"})]):
            dealer.send_multipart(parts)
        dealer.poll(2000)
        answered = dealer.recv_multipart(zmq.NOBLOCK)
        context.destroy(linger=0)
        world.ask()

    assert from_bytes(answered[1])["status"] == "ok"


class Failing(ChunkGate):
    """A gate with a mistake."""

    def offer(self, *_: Any, **__: Any) -> GateAnswer:
        """Fails."""
        raise ZeroDivisionError("by \ud800 zero")


def test_a_gate_that_fails_is_said_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not move; and the thread survives it, whatever the error says."""
    # What a log of such an error looks like is the handler's business; pytest's workers cannot send it on.
    monkeypatch.setattr(logging.getLogger("safeguard.groot"), "disabled", True)
    with World(gate=Failing) as world:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="do not move: ZeroDivisionError"):
                world.ask()
        assert world.client.call("ping")["status"] == "ok"


# -- life -------------------------------------------------------------------------------------------------


def test_closing_is_quick_again_is_nothing_and_nothing_is_left() -> None:
    """Also with a question under way, whose client is told; port, thread and sockets are free afterwards."""
    with World(saying(None), deadline_s=60.0) as world:
        before = threading.active_count()
        told: list[str] = []
        asking = threading.Thread(target=lambda: told.append(_error_of(world)))
        asking.start()
        while not world.server.requests:
            time.sleep(0.01)
        started = time.monotonic()
        world.proxy.close()
        world.proxy.close()
        took = time.monotonic() - started
        asking.join()
        assert threading.active_count() == before - 1
        GrootProxy(world.gate, "127.0.0.1:1", joints, COLUMNS, deadline_s=1.0, port=world.proxy.port).close()
        gc.collect()  # a socket left open would warn here

    assert took < 5.0
    assert told == ["Server error: the proxy was closed"]


def _error_of(world: World) -> str:
    try:
        world.ask()
    except RuntimeError as error:
        return str(error)
    return ""


def test_an_encoder_may_close_the_proxy() -> None:
    """From within its thread."""
    worlds: list[World] = []

    def closing(observation: Any) -> Any:
        worlds[0].proxy.close()
        return joints(observation)

    with World(encode=closing, deadline_s=0.2) as world:
        worlds.append(world)
        assert "closed" in _error_of(world)


def test_an_encoder_that_hangs_does_not_keep_close() -> None:
    """It goes on without the thread after two seconds; the thread ends when the encoder lets it."""
    free = threading.Event()

    def waiting(observation: Any) -> Any:
        free.wait(20.0)
        return joints(observation)

    with World(encode=waiting) as world:
        asking = threading.Thread(target=_error_of, args=(world,))
        asking.start()
        time.sleep(0.1)
        started = time.monotonic()
        world.proxy.close()
        took = time.monotonic() - started
        free.set()
        asking.join()

    assert took < 10.0


@pytest.mark.parametrize(
    ("changes", "kind", "why"),
    [
        ({"upstream": "localhost"}, ConfigError, "host:port"),
        ({"upstream": "tcp://h:5555"}, ConfigError, "host"),
        ({"upstream": "h:99999"}, ConfigError, "port"),
        ({"host": "0.0.0.0"}, ConfigError, "run the proxy where"),
        ({"port": -1}, ConfigError, "-1"),
        ({"deadline_s": 0.0}, ConfigError, "deadline_s"),
        ({"deadline_s": float("inf")}, ConfigError, "deadline_s"),
        ({"deadline_s": 1e6}, ConfigError, "deadline_s"),
        ({"idle_s": -1.0}, ConfigError, "idle_s"),
        ({"version": "1"}, ConfigError, "version"),
        ({"columns": {"single_arm": ROBOT.joints}}, SpecError, "gripper"),
    ],
)
def test_what_cannot_work_is_refused_at_set_up(changes: dict[str, Any], kind: type[Exception], why: str) -> None:
    """And leaves no thread and no socket."""
    with World() as world:
        threads = threading.active_count()
        given: dict[str, Any] = {"upstream": "127.0.0.1:1", "columns": COLUMNS, "deadline_s": 1.0, "port": 0}
        with pytest.raises(kind, match=why):
            GrootProxy(world.gate, encode=joints, **{**given, **changes})
        given["port"] = world.proxy.port
        with pytest.raises(ConfigError, match="cannot listen"):
            GrootProxy(world.gate, encode=joints, **given)
        assert threading.active_count() == threads


def test_the_spec_of_these_tests_has_a_gripper_beside_the_joints() -> None:
    """What the other tests lean on."""
    assert SPEC.others == ("gripper",)
