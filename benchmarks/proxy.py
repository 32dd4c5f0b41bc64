"""What a proxy with the shield inside adds to a policy server's answer, on loopback with a camera image.

A client, the policy server and the proxy are three processes. The client asks the server directly and through the proxy
in turn, so that both see the same machine. ``added`` is the difference of the two percentiles; ``gate`` is what the
shield takes of it, measured in the proxy. The policy takes no time: it answers rows where the arm stands.

python benchmarks/proxy.py --json benchmarks/proxy.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from safeguard.core.enums import Reference
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Vector
from safeguard.integrations.gate import ChunkGate, GateAnswer
from safeguard.integrations.groot_proxy import GrootProxy
from safeguard.integrations.openpi_proxy import OpenPiProxy
from safeguard.policies import groot_wire
from safeguard.policies.msgpack_arrays import Map, packed, unpacked

TARGET_MS: Final = 1.0
CHUNK: Final = 10
IMAGE: Final = (224, 224, 3)
WARM_UP: Final = 50

Ask = Callable[[], object]
"""Ask once and wait for the answer."""


class TimedGate(ChunkGate):
    """A gate that notes how long its answers take, in ms."""

    def __init__(self) -> None:
        robot = RobotModel.load("panda")
        super().__init__(robot, ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, rate_hz=15.0, chunk=CHUNK))
        self.took: list[float] = []

    def offer(self, *given: Any, **more: Any) -> GateAnswer:
        """As the gate does."""
        begin = time.perf_counter()
        answer = super().offer(*given, **more)
        self.took.append((time.perf_counter() - begin) * 1e3)
        return answer


def standing() -> Vector:
    """Rows where the arm stands, a little different each time, as a policy's are."""
    return home() + np.random.default_rng().normal(scale=1e-5, size=(CHUNK, len(home())))


@cache
def home() -> Vector:
    """Where the arm stands, rad."""
    return RobotModel.load("panda").home


# -- openpi -----------------------------------------------------------------------------------------------


def openpi_server() -> None:
    """As openpi's own: the asyncio server of ``websockets``."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    async def attend(client: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await client.send(packed({}))
            async for question in client:
                assert isinstance(question, bytes)
                unpacked(question)
                await client.send(packed({"actions": standing().astype(np.float32), "server_timing": {"infer_ms": 0}}))

    async def run() -> None:
        async with serve(attend, "127.0.0.1", 0, compression=None, max_size=None) as server:
            say(next(iter(server.sockets)).getsockname()[1])
            await server.serve_forever()

    asyncio.run(run())


def openpi_proxy(port: int) -> None:
    """The proxy, until there is nothing more on standard input; then what the gate took."""

    def joints(seen: Map) -> Vector:
        return np.asarray(seen["observation/joint_position"], dtype=np.float64)

    with (
        TimedGate() as gate,
        OpenPiProxy(gate, f"127.0.0.1:{port}", joints, deadline_s=5.0, port=0, start_by="bench") as proxy,
    ):
        say(proxy.port)
        sys.stdin.read()
        say(gate.took)


@contextmanager
def openpi_client(port: int) -> Generator[Ask]:
    """As openpi's own: the blocking client of ``websockets``."""
    from websockets.sync.client import connect

    image = np.random.default_rng(1).integers(0, 255, IMAGE, dtype=np.uint8)
    q = home().astype(np.float32)
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as socket:
        socket.recv()

        def ask() -> Map:
            socket.send(packed({"observation/image": image, "observation/joint_position": q, "prompt": "stand"}))
            answer = socket.recv()
            assert isinstance(answer, bytes), answer
            return unpacked(answer)

        yield ask


# -- GR00T ------------------------------------------------------------------------------------------------


def groot_server() -> None:
    """As GR00T's own: a REP socket."""
    import zmq

    socket = zmq.Context().socket(zmq.REP)
    say(socket.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        groot_wire.with_arrays(groot_wire.unpacked(socket.recv()))
        socket.send(groot_wire.packed([{"arm": standing()[None].astype(np.float32)}, {}]))


def groot_proxy(port: int) -> None:
    """The proxy, until there is nothing more on standard input; then what the gate took."""

    def joints(seen: Map) -> Vector:
        return np.asarray(seen["state"]["arm"][0, -1], dtype=np.float64)

    columns = {"arm": RobotModel.load("panda").joints}
    with (
        TimedGate() as gate,
        GrootProxy(gate, f"127.0.0.1:{port}", joints, columns, deadline_s=5.0, port=0, start_by="bench") as proxy,
    ):
        say(proxy.port)
        sys.stdin.read()
        say(gate.took)


@contextmanager
def groot_client(port: int) -> Generator[Ask]:
    """As GR00T's own: a REQ socket."""
    import zmq

    image = np.random.default_rng(1).integers(0, 255, (1, 1, *IMAGE), dtype=np.uint8)
    state = RobotModel.load("panda").home.astype(np.float32)[None, None]
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.connect(f"tcp://127.0.0.1:{port}")

        def ask() -> Map:
            observation = {"video": {"front": image}, "state": {"arm": state}, "language": {"task": [["stand"]]}}
            data = {"observation": observation, "options": None}
            socket.send(groot_wire.packed(groot_wire.request("get_action", data)))
            action, _ = groot_wire.opened(groot_wire.unpacked(socket.recv()), "1.6")
            return {key: groot_wire.as_array(array) for key, array in action.items()}

        yield ask


STACKS: Final[Mapping[str, Callable[[int], Any]]] = {"openpi": openpi_client, "groot": groot_client}
"""Name of a protocol to its client; ``PROCESSES`` has its server and its proxy."""

PROCESSES: Final[Mapping[str, Callable[..., None]]] = {
    "openpi_server": openpi_server,
    "openpi_proxy": openpi_proxy,
    "groot_server": groot_server,
    "groot_proxy": groot_proxy,
}


# -- measuring --------------------------------------------------------------------------------------------


def say(what: object) -> None:
    """To the process that started this one."""
    print(json.dumps(what), flush=True)


def started(stack: ExitStack, name: str, *arguments: object) -> tuple[subprocess.Popen[str], Any]:
    """A process of ``PROCESSES`` and the first thing that it says."""
    command = [sys.executable, __file__, "--process", name, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def measured(name: str, rounds: int, pause: float) -> dict[str, dict[str, float]]:
    """p50 and p99, ms: direct, through the proxy, their difference, and the gate alone."""
    times: dict[str, list[float]] = {"direct": [], "proxy": []}
    with ExitStack() as stack:
        _, server = started(stack, f"{name}_server")
        process, proxy = started(stack, f"{name}_proxy", server)
        asks: dict[str, Ask] = {
            "direct": stack.enter_context(STACKS[name](server)),
            "proxy": stack.enter_context(STACKS[name](proxy)),
        }
        for turn in range(rounds + WARM_UP):
            for way in ("direct", "proxy") if turn % 2 else ("proxy", "direct"):
                time.sleep(pause)
                begin = time.perf_counter()
                asks[way]()
                if turn >= WARM_UP:
                    times[way].append((time.perf_counter() - begin) * 1e3)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        times["gate"] = json.loads(process.stdout.readline())[WARM_UP:]
    found = {way: percentiles(took) for way, took in times.items()}
    found["added"] = {each: found["proxy"][each] - found["direct"][each] for each in found["direct"]}
    return found


def percentiles(took: list[float]) -> dict[str, float]:
    """p50 and p99."""
    p50, p99 = np.percentile(took, (50, 99)).tolist()
    return {"p50": p50, "p99": p99}


def main() -> int:
    """0 if no proxy adds more than the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", choices=tuple(STACKS), action="append", help="which protocol; all if not given")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--pause", type=float, default=0.0, help="s before each question; then the caches are cold")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--process", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        PROCESSES[given.process[0]](*map(int, given.process[1:]))
        return 0
    found = {name: measured(name, given.rounds, given.pause) for name in given.stack or STACKS}
    for name, ways in found.items():
        for way, each in ways.items():
            print(f"{name} {way:7} p50 {each['p50']:6.3f} ms   p99 {each['p99']:6.3f} ms")
    if given.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "load": os.getloadavg()[0]}
        given.json.write_text(
            json.dumps({"ms": found, "rounds": given.rounds, "pause_s": given.pause, **machine}, indent=1) + "\n",
            "utf-8",
        )
    return 0 if all(ways["added"]["p50"] <= TARGET_MS for ways in found.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
