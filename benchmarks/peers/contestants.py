"""Who takes part, and how the driver talks to each: a child process in its own environment."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from benchmarks.peers.environments import prepare
from benchmarks.peers.wire import Array, receive, send

Quantity = Literal["velocity", "acceleration", "torque"]

_ROOT = Path(__file__).resolve().parents[2]
_START_S, _ANSWER_S = 300.0, 120.0
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A filter that takes part.

    Attributes:
        name: in the tables.
        environment: whose interpreter runs it; "" for this one.
        runner: module of ``benchmarks.peers``.
        variant: what the runner is told.
        takes, gives: what the action and the command are.
    """

    name: str
    environment: str
    runner: str
    variant: str
    takes: Quantity
    gives: Quantity


# OSQP's default tolerance of 1e-3 is half a rad/s in a displacement of 2 ms: it takes part with a useful one, too.
_PINK_SOLVERS = ("daqp", "quadprog", "proxqp", "piqp", "osqp", "osqp:1e-6", "daqp@default", "daqp@srdf", "osqp@srdf")

CONTESTANTS: tuple[Contestant, ...] = (
    Contestant("safeguard osqp", "", "ours_runner", "velocity:osqp", "velocity", "torque"),
    Contestant("safeguard daqp", "", "ours_runner", "velocity:daqp", "velocity", "torque"),
    Contestant("safeguard torque", "", "ours_runner", "torque:osqp", "torque", "torque"),
    *(Contestant(f"pink {solver}", "pink", "pink_runner", solver, "velocity", "velocity") for solver in _PINK_SOLVERS),
    Contestant("mink daqp", "mink", "mink_runner", "daqp", "velocity", "velocity"),
    Contestant("placo hard", "placo", "placo_runner", "hard", "acceleration", "torque"),
    Contestant("placo soft", "placo", "placo_runner", "soft", "acceleration", "torque"),
    Contestant("cbfpy+frax", "oscbf", "oscbf_runner", "nearest", "torque", "torque"),
    Contestant("cbfpy+frax shipped", "oscbf", "oscbf_runner", "shipped", "torque", "torque"),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """A block of answered ticks.

    Attributes:
        command: shape (k, n); NaN where there is none.
        status: 0 answered, 1 no solution, 2 error, 3 the process died; shape (k,).
        ns: time of each call, shape (k,).
        cpu_ns: processor time of each call, which others on the machine do not lengthen, shape (k,).
        solved: 1 where a problem was solved, shape (k,).
    """

    command: Array
    status: Array
    ns: Array
    cpu_ns: Array
    solved: Array


class Child:
    """A contestant's process. If it dies it is started again, and the death is counted among its errors.

    Raises:
        OSError: its environment could not be made, or it did not start; says why.
    """

    def __init__(self, contestant: Contestant, description: Path, folder: Path, core: str) -> None:
        self.contestant = contestant
        self.python = prepare(contestant.environment, folder)
        self._command = [
            *(str(self.python), "-m", f"benchmarks.peers.{contestant.runner}"),
            *(str(description), contestant.variant, core),
        ]
        self._log = folder / f"{contestant.name.replace(' ', '_')}.log"
        self.errors: Counter[str] = Counter()
        self._process = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()
        self._process.wait()

    def reset(self, q: Array, v: Array) -> None:
        """Start anew at this state."""
        self._ask({"op": "reset"}, _START_S, q=q, v=v)

    def block(self, q: Array, v: Array, action: Array) -> Answers | None:
        """Answers to consecutive ticks, arrays of shape (k, n); None if the process died of them."""
        told = self._ask({"op": "block"}, _ANSWER_S, q=q, v=v, action=action)
        if told is None:
            return None
        head, arrays = told
        self.errors.update(head["errors"])
        return Answers(arrays["command"], *arrays["told"].T)

    def _ask(
        self, head: dict[str, object], timeout: float, **arrays: Array
    ) -> tuple[dict[str, Any], dict[str, Array]] | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            send(stdin.fileno(), head, **arrays)
            return receive(stdout.fileno(), timeout)
        except (EOFError, TimeoutError, BrokenPipeError) as error:
            self.errors[f"process died ({type(error).__name__})"] += 1
            self.close()
            self._process = self._start()
            return None

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                env={**os.environ, **_QUIET},
            )
        assert process.stdout is not None
        try:
            receive(process.stdout.fileno(), _START_S)
        except (EOFError, TimeoutError) as error:
            process.kill()
            process.wait()
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"did not start: {last[0] if last else type(error).__name__}") from error
        return process


def start(
    contestants: Sequence[Contestant], description: Path, folder: Path, core: str
) -> tuple[list[Child], dict[str, str]]:
    """The children that could be started, and why the others could not, by name."""
    children, missing = list[Child](), dict[str, str]()
    for contestant in contestants:
        try:
            children.append(Child(contestant, description, folder, core))
        except OSError as error:
            missing[contestant.name] = str(error)
    return children, missing
