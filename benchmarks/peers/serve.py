"""A child's side: read the robot's description, build the filter, answer and time blocks of ticks.

Needs nothing but numpy, because it runs in every peer's own environment. A runner ends with
``serve(make)``; it is started with the description's path, a variant and a core to stay on.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import Any, Protocol

import numpy as np

from benchmarks.peers.wire import Array, receive, send

ANSWERED, NO_SOLUTION, ERROR = 0.0, 1.0, 2.0
SMOOTH = 0.01  # rad/s, under which Coulomb friction is smoothed, as in the robot model


class NoSolutionError(Exception):
    """The library said in its own way that its problem has no solution."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A convex collision piece.

    Attributes:
        name: unique.
        joint: index of the joint that carries it, 0 for the base.
        body: name of the link whose frame ``rotation`` and ``translation`` refer to.
        rotation, translation: pose in that frame, shapes (3, 3) and (3,), m.
        kind: sphere, capsule, cylinder, box or hull.
        size: radius; radius and half length; half sides. Empty for a hull.
        points: corners of a hull in the piece's frame, shape (k, 3), m.
    """

    name: str
    joint: int
    body: str
    rotation: Array
    translation: Array
    kind: str
    size: tuple[float, ...]
    points: Array


@dataclass(frozen=True, slots=True)
class Description:
    """The robot as every peer gets it: a URDF without collision geometry, and everything beside it.

    All arrays have shape (n,) and the units of ``safeguard.core.limits.Limits``; ``pairs`` index ``pieces``.
    """

    name: str
    urdf: str
    dt: float
    joints: tuple[str, ...]
    home: Array
    q_min: Array
    q_max: Array
    v_max: Array
    a_max: Array
    tau_max: Array
    armature: Array
    viscous: Array
    coulomb: Array
    clearance: float
    brake_share: float
    pieces: tuple[Piece, ...]
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, path: Path) -> Description:
        """The description in a JSON file."""
        raw: dict[str, Any] = json.loads(path.read_text())
        vectors = ("home", "q_min", "q_max", "v_max", "a_max", "tau_max", "armature", "viscous", "coulomb")
        raw |= {name: np.array(raw[name], dtype=np.float64) for name in vectors}
        raw["joints"] = tuple(raw["joints"])
        raw["pairs"] = tuple((int(i), int(j)) for i, j in raw["pairs"])
        raw["pieces"] = tuple(_piece(piece) for piece in raw["pieces"])
        return cls(**raw)


class Peer(Protocol):
    """A safety filter, called once a period.

    Attributes:
        solved: the last call solved an optimisation problem (False where the action was passed on as it is).
    """

    solved: bool

    def reset(self, q: Array, v: Array) -> None:
        """Start anew at this state."""
        ...

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """The command for the next period; raises ``NoSolutionError`` or whatever the library raises."""
        ...


def serve(make: Callable[[Description, str], Peer]) -> None:
    """Answer the driver until it hangs up. Whatever the library prints goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    path, variant, core = sys.argv[1:]
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    peer = make(Description.read(Path(path)), variant)
    send(out, {"ready": variant})
    while True:
        try:
            head, arrays = receive(0)
        except EOFError:
            return
        if head["op"] == "reset":
            peer.reset(arrays["q"], arrays["v"])
            send(out, {})
        else:
            answer_block(out, peer, **arrays)


def answer_block(out: int, peer: Peer, q: Array, v: Array, action: Array) -> None:
    """Answer consecutive ticks and send commands; of each: status, time and processor time in ns, problem solved."""
    command, told = np.full(q.shape, np.nan), np.zeros((len(q), 4))
    errors: Counter[str] = Counter()
    if len(q) > 1:  # a closed loop asks tick by tick; it is not timed
        gc.collect()
    gc.disable()
    for k in range(len(q)):
        status, working, begin = ANSWERED, thread_time_ns(), perf_counter_ns()
        try:
            command[k] = peer(q[k], v[k], action[k])
        except NoSolutionError:
            status = NO_SOLUTION
        except Exception as error:  # noqa: BLE001 - a foreign library may raise anything, and that is counted
            status = ERROR
            errors[type(error).__name__] += 1
        elapsed, worked = perf_counter_ns() - begin, thread_time_ns() - working
        if status == ANSWERED and not np.isfinite(command[k]).all():
            status, command[k] = ERROR, np.nan
            errors["answer is not finite"] += 1
        told[k] = status, elapsed, worked, peer.solved
    gc.enable()
    send(out, {"errors": errors}, command=command, told=told)


def _piece(raw: dict[str, Any]) -> Piece:
    arrays: dict[str, Any] = {
        "rotation": np.array(raw["rotation"], dtype=np.float64),
        "translation": np.array(raw["translation"], dtype=np.float64),
        "points": np.array(raw["points"], dtype=np.float64).reshape(-1, 3),
        "size": tuple(raw["size"]),
    }
    return Piece(**{**raw, **arrays})
