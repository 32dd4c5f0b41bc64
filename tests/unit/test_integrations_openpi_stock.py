"""Ours between the stock ends of openpi. ``scripts/openpi`` installs those and runs this."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.core.config import BrakeConfig, FilterConfig, ShieldConfig
from safeguard.core.enums import Reference
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Observation, RobotState, Vector
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.openpi_proxy import OpenPiProxy
from safeguard.policies.msgpack_arrays import Map
from safeguard.policies.openpi import OpenPiPolicy, PolicyServerError
from tests.unit import openpi_stock
from tests.unit.openpi_support import Clock

STOCK = os.environ.get("OPENPI_STOCK", "")
pytestmark = pytest.mark.skipif(not STOCK, reason="scripts/openpi installs the stock packages and runs this")

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec(ROBOT.joints, "rad", Reference.ABSOLUTE, rate_hz=15.0, chunk=8)
CONFIG = ShieldConfig(filter=FilterConfig(brake=BrakeConfig(samples=200)))
PROGRAM = Path(openpi_stock.__file__)


def stock(*arguments: object) -> list[str]:
    """A command that sees the stock packages and nothing else."""
    return [sys.executable, "-S", "-W", "ignore", str(PROGRAM), *map(str, arguments)]


def environment() -> dict[str, str]:
    """For such a command."""
    return {**os.environ, "PYTHONPATH": STOCK}


def ran(*arguments: object) -> Map:
    """What such a command says, as JSON."""
    done = subprocess.run(stock(*arguments), env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: Map = json.loads(done.stdout)
    return said


def failed(*arguments: object) -> str:
    """The error of such a command."""
    done = subprocess.run(stock(*arguments), env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


@contextmanager
def served() -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """The stock server in a process, once it takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with subprocess.Popen(stock("serve", port), env=environment(), stderr=subprocess.DEVNULL) as process:
        try:
            _await(port, process)
            yield port, process
        finally:
            process.kill()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20.0
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.fixture
def gate() -> Iterator[ChunkGate]:
    """The shield; the client's rows take no time."""
    with ChunkGate(ROBOT, SPEC, config=CONFIG, clock=Clock()) as gate:
        yield gate


def joints(seen: Map) -> Vector:
    """Where the client says the arm is."""
    return np.asarray(seen["observation/joint_position"], dtype=np.float64)


def proxied(gate: ChunkGate, port: int, start_by: str = "ada") -> OpenPiProxy:
    """The proxy before the stock server."""
    return OpenPiProxy(gate, f"127.0.0.1:{port}", joints, deadline_s=2.0, port=0, start_by=start_by)


def encode(seen: Observation) -> dict[str, Any]:
    """As the stock client sends it."""
    return openpi_stock.observation(seen.state.q.astype(np.float32), seen.instruction or "turn")


def test_our_client_and_the_stock_server() -> None:
    """The same rows as the policy computes, the server's metadata, and its traceback where it fails."""
    home = np.array(openpi_stock.HOME)
    with served() as (port, _):
        policy = OpenPiPolicy(f"localhost:{port}", SPEC, encode, deadline_s=5.0)
        first = policy.infer(Observation(RobotState(home, np.zeros(7), 5)))
        with pytest.raises(PolicyServerError, match="ValueError: no such skill"):
            policy.infer(Observation(RobotState(home, np.zeros(7), 6), instruction="fail"))
        again = policy.infer(Observation(RobotState(home, np.zeros(7), 7)))
        metadata = policy.metadata
        policy.close()
    rows = np.tile(home, (8, 1)).astype(np.float32)
    rows[:, 6] += openpi_stock.TURN * np.arange(1, 9, dtype=np.float32)

    np.testing.assert_array_equal(first.actions, rows)
    np.testing.assert_array_equal(again.actions, rows)
    assert metadata == {"action_horizon": 8}


def test_the_stock_client_through_the_proxy_to_the_stock_server(gate: ChunkGate) -> None:
    """Unchanged, it gets the server's metadata and timing, and once the arm moves, its actions bit for bit."""
    with served() as (port, _), proxied(gate, port) as proxy:
        direct, through = ran("infer", port, 2), ran("infer", proxy.port, 10)

    assert through["numpy"].startswith("1.")
    assert through["metadata"] == direct["metadata"] == {"action_horizon": 8}
    assert {tuple(a["shape"]) for a in through["answers"]} == {(8, 7)}
    assert {a["dtype"] for a in through["answers"]} == {"float32"}
    last, plain = through["answers"][-1], direct["answers"][-1]
    assert last["direct"]
    assert last["moved"] == pytest.approx(openpi_stock.TURN, rel=1e-3)
    assert last["safeguard"]["mode"] in ("NOMINAL", "CAUTIOUS")
    assert set(last["keys"]) == {*plain["keys"], "safeguard"}
    assert last["timing"] == plain["timing"] == ["infer_ms", "prev_total_ms"]


def test_the_stock_broker_through_the_proxy(gate: ChunkGate) -> None:
    """``ActionChunkBroker`` hands out our rows one by one, the entry ``safeguard`` with each."""
    with served() as (port, _), proxied(gate, port) as proxy:
        played = ran("broker", proxy.port, 80)

    assert played["shape"] == [7]
    assert played["modes"][-1] in ("NOMINAL", "CAUTIOUS")
    steps = np.diff(played["wrist"][-16:])
    assert steps.min() > 0.5 * openpi_stock.TURN
    assert steps.max() < 1.5 * openpi_stock.TURN


def test_a_stock_server_that_dies(gate: ChunkGate) -> None:
    """The stock client goes on getting rows, and they hold."""
    with served() as (port, process), proxied(gate, port) as proxy:
        ran("infer", proxy.port, 8)
        process.kill()
        process.wait()
        answers = ran("infer", proxy.port, 3)["answers"]

    assert all(answer["finite"] and answer["shape"] == [8, 7] for answer in answers)
    assert answers[-1]["safeguard"]["mode"] == "HOLD"
    assert "cannot be reached" in answers[-1]["safeguard"]["error"]
    assert answers[-1]["moved"] < 1e-6


def test_a_stock_policy_that_raises(gate: ChunkGate) -> None:
    """The server's traceback is in the answer, beside rows that hold."""
    with served() as (port, _), proxied(gate, port) as proxy:
        answers = ran("infer", proxy.port, 3, "fail")["answers"]

    assert "no such skill" in answers[-1]["safeguard"]["error"]
    assert answers[-1]["moved"] < 1e-6


def test_what_the_stock_client_raises(gate: ChunkGate) -> None:
    """It says so where another one has the robot, and where the observation cannot be used."""
    with served() as (port, _):
        with proxied(gate, port) as proxy:
            holder = subprocess.Popen(stock("infer", proxy.port, 100_000), env=environment(), stdout=subprocess.DEVNULL)
            with holder:
                time.sleep(2.0)
                assert "HTTP 503" in failed("infer", proxy.port, 1)
                holder.kill()
        with OpenPiProxy(
            gate, f"127.0.0.1:{port}", lambda seen: seen["observation/state"], deadline_s=2.0, port=0
        ) as wrong:
            assert "RuntimeError: Error in inference server:\nthe observation cannot be used: KeyError" in failed(
                "infer", wrong.port, 1
            )
