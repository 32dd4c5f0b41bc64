# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

import ast
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.protocols import Policy
from safeguard.core.types import Observation, Proposal
from safeguard.policies import InlinePort, as_policy
from tests.laws.lab import ROWS, Lab, near, outcome, panda, spec

Patch = pytest.MonkeyPatch
FOLDERS = ("safeguard", "monitors", "controllers", "policies", "scenarios")
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOCKETS = {"socket", "socketserver", "xmlrpc", "http.server", "asyncio", "websockets", "zmq"}
TALKERS = ("policies/websocket.py", "policies/groot", "policies/openpi", "safeguard/integrations/")
"""What talks to other processes; nothing else may, and these only where they were asked to."""
LOADERS = {("torch", "load"): "weights_only", ("np", "load"): "", ("numpy", "load"): ""}


class RaisesAfter:
    """A guest that is well for a while and then raises at every call."""

    spec, name = spec(), "raises"

    def __init__(self, error: BaseException, after: int = 4) -> None:
        self.error, self.after, self.calls = error, after, 0

    def infer(self, observation: Observation) -> Any:
        """The proposal of a good policy, or the error."""
        self.calls += 1
        if self.calls > self.after:
            raise self.error
        return self._good.infer(observation)

    def reset(self) -> None:
        """Start well again."""
        self.calls, self._good = 0, as_policy(near, spec=spec(), name="raises")


def check_law_12_crash(error: BaseException) -> None:
    """A policy that raises costs the shield no more than one that has nothing to say: a stop, tick for tick."""

    def hangs(number: int, now: int) -> float:
        return 0.02 if number < 4 else float("inf")

    raising = Lab(RaisesAfter(error)).start(400)
    silent = Lab(InlinePort(as_policy(near, spec=spec(), name="raises"), latency=hangs)).start(400)
    assert list(map(outcome, raising.decisions)) == list(map(outcome, silent.decisions))
    last = raising.decisions[-1]
    assert Cause.POLICY_LATE in last.causes
    assert (last.mode, last.authority) == (Mode.HOLD, Authority.BACKUP)
    assert np.abs(raising.v).max() < 1e-3


class Vandal:
    """A guest that tries to edit what it was shown, and spoils what it returned after it was checked.

    Args:
        lock: it returns its numbers read-only, as a view, and keeps a way to write them.
    """

    spec, name = spec(), "guest"

    def __init__(self, lock: bool) -> None:
        self._lock, self._seq = lock, 0
        self._kept: Any = None

    def infer(self, observation: Observation) -> Proposal:
        """A good proposal; the last one is spoilt."""
        for numbers in (observation.state.q, observation.state.v):
            with suppress(ValueError):
                numbers[:] = 0.0
        if self._kept is not None:
            self._kept[:] = np.nan
        self._kept = near(observation)
        actions = self._kept.view()
        actions.setflags(write=not self._lock)
        t, self._seq = observation.state.t, self._seq + 1
        return Proposal(actions, t, t, self.name, self._seq - 1)

    def reset(self) -> None:
        """Start again."""
        self._kept, self._seq = None, 0


def check_law_12_fingers(guest: Policy) -> None:
    """What a guest does to its inputs, or afterwards to its outputs, changes no decision."""
    honest, other = Lab(near), Lab(guest)
    for lab in (honest, other):
        lab.acknowledge()
        lab.run(400)
    assert honest.decisions[-1].authority is Authority.POLICY
    assert list(map(outcome, honest.decisions)) == list(map(outcome, other.decisions))


def sources(root: Path) -> dict[str, str]:
    """Every module of the package, by path."""
    files = [file for folder in FOLDERS for file in sorted((root / folder).rglob("*.py"))]
    return {str(file.relative_to(root)): file.read_text("utf-8") for file in files}


def named(node: ast.AST) -> list[str]:
    """Modules that a statement or a call names."""
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [module, *(f"{module}.{name.name}" for name in names)]
        case ast.Call(func=ast.Name(id="__import__" | "import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
        case _:
            return []


def loads_pickle(node: ast.AST) -> bool:
    """A loader of numpy or torch that may unpickle."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name), keywords=words):
            flags = {word.arg: getattr(word.value, "value", None) for word in words}
            if flags.get("allow_pickle"):
                return True
            needed = LOADERS.get((module, name), "")
            return bool(needed) and flags.get(needed) is not True
        case _:
            return False


def check_law_12_boundaries(modules: dict[str, str]) -> None:
    """No pickle in the package, and no socket but in what talks to remote policies."""
    assert len(modules) > 50
    for path, text in modules.items():
        closed = PICKLES if path.startswith(TALKERS) else PICKLES | SOCKETS
        for node in ast.walk(ast.parse(text)):
            bad = [name for name in named(node) if {name, name.split(".")[0]} & closed]
            assert not bad, f"{path}:{getattr(node, 'lineno', 0)} imports {bad[0]}"
            assert not loads_pickle(node), f"{path}:{getattr(node, 'lineno', 0)} may unpickle"


def check_law_12_binds(run: Callable[[], object], patch: Patch) -> None:
    """Nothing listens while a shield works."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a socket was bound")

    class Deaf(socket.socket):
        bind = listen = refuse

    patch.setattr(socket, "socket", Deaf)
    run()


@pytest.mark.parametrize(
    "error",
    [ValueError("bad day"), KeyError("camera"), MemoryError(), RecursionError(), StopIteration()],
    ids=lambda error: type(error).__name__,
)
def test_law_12_crash(error: Exception) -> None:
    """An exception of the policy is a policy that is late."""
    check_law_12_crash(error)


@pytest.mark.parametrize("lock", [False, True], ids=["writable", "read-only view"])
def test_law_12_fingers(lock: bool) -> None:
    """Observations cannot be edited, and outputs are copied."""
    check_law_12_fingers(Vandal(lock))


def test_law_12_boundaries(root: Path) -> None:
    """The source names no pickle, and no socket but where remote policies are talked to."""
    check_law_12_boundaries(sources(root))


def test_law_12_binds(monkeypatch: Patch) -> None:
    """An episode binds no socket."""
    check_law_12_binds(lambda: Lab().start(50), monkeypatch)


# -- planted ------------------------------------------------------------------------------------------


def test_law_12_planted_crash(monkeypatch: Patch) -> None:
    """A shield that stands still for a policy that raised is seen: it goes on following the last chunk."""
    real = InlinePort._infer

    def infer(self: InlinePort, observation: Observation) -> Any:
        made = real(self, observation)
        return made or as_policy(near, spec=spec(), name="raises").infer(observation)

    monkeypatch.setattr(InlinePort, "_infer", infer)
    with pytest.raises(AssertionError):
        check_law_12_crash(ValueError("bad day"))


def test_law_12_planted_exception(monkeypatch: Patch) -> None:
    """A port that lets the guest's exception through is seen."""

    def infer(self: InlinePort, observation: Observation) -> Any:
        return self._policy.infer(observation)

    monkeypatch.setattr(InlinePort, "_infer", infer)
    with pytest.raises(AssertionError):
        check_law_12_crash(AssertionError("from the guest"))


def shown(seen: Observation) -> Observation:
    """The shield's own observation, as a guest must not get it."""
    return seen


def test_law_12_planted_fingers(monkeypatch: Patch) -> None:
    """A vocabulary that keeps the guest's own array, and a port that shows it the shield's own, are seen."""
    monkeypatch.setattr("safeguard.core.types.frozen_array", np.asarray)
    monkeypatch.setattr("safeguard.policies.port._own", shown)
    with pytest.raises(AssertionError):
        check_law_12_fingers(Vandal(lock=False))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as cp",
        "from importlib import import_module\nimport_module('pickle')",
        "__import__('dill')",
        "import numpy as np\nnp.load('x.npy', allow_pickle=True)",
        "import torch\ntorch.load('x.pt')",
        "import torch\ntorch.load('x.pt', weights_only=False)",
        "import socket",
        "from http.server import HTTPServer",
        "def late():\n    import socketserver",
    ],
)
def test_law_12_planted_boundaries(root: Path, text: str) -> None:
    """A module that could unpickle or listen is named; one that talks may listen, and not unpickle."""
    with pytest.raises(AssertionError, match=r"planted\.py"):
        check_law_12_boundaries({**sources(root), "planted.py": text})
    talking = {**sources(root), "safeguard/integrations/planted.py": text}
    if "socket" in text or "http" in text:
        check_law_12_boundaries(talking)
    else:
        with pytest.raises(AssertionError, match=r"planted\.py"):
            check_law_12_boundaries(talking)


def test_law_12_planted_binds(monkeypatch: Patch) -> None:
    """A part that binds a socket at run time is seen."""

    def run() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))

    with pytest.raises(AssertionError, match="bound"):
        check_law_12_binds(run, monkeypatch)


def test_lab_proposes_chunks() -> None:
    """The guests of these tests are real policies: chunks of the announced shape."""
    seen = Lab().observe()
    assert as_policy(near, spec=spec()).infer(seen).actions.shape == (ROWS, panda().n)
