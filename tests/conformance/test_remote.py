"""Policies behind a network: whatever the server does, the tick does not wait, the record says why, the arm stops.

A transport joins with one line in ``TRANSPORTS``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.types import ActionSpec, Decision, TorqueCommand, Vector
from safeguard.policies.waiting import WaitingPort
from tests.conformance.remote_groot import GrootServer
from tests.conformance.remote_openpi import EXPLODED, OpenPiServer
from tests.laws.lab import ROWS, Lab, panda, spec

PERIOD, DEADLINE = 0.005, 0.08
SLOWEST_TICK = 5.0  # s; a tick takes under 1 ms and a server that is waited for takes for ever, but machines stall
TRIES = 10  # in which a machine that stalls for longer than the deadline gets its turn
CAUSES = {Cause.POLICY_LATE, Cause.PROPOSAL_INVALID, Cause.PROPOSAL_ORDER}


class Remote(Protocol):
    """A server on loopback, in a thread, that fails on demand."""

    fault: str

    def port(self, spec: ActionSpec, deadline_s: float, period: float) -> WaitingPort:
        """A port that asks it."""
        ...

    def __enter__(self) -> Self:
        """It is up."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It is gone."""
        ...


@dataclass(frozen=True)
class Transport:
    """How to start a server, and what can go wrong with it.

    Attributes:
        name: for the tests' ids.
        faults: what ``Remote.fault`` may be set to.
        serve: makes a server that answers these rows of the joint positions it was sent, while ``fault`` is "".
    """

    name: str
    faults: tuple[str, ...]
    serve: Callable[[Callable[[Vector], Vector]], Remote]


TRANSPORTS = (
    Transport("openpi", OpenPiServer.faults, OpenPiServer),
    Transport("groot", GrootServer.faults, GrootServer),
)


def rows(q: Vector) -> Vector:
    """A slow turn of the wrist from where it is."""
    turn = np.zeros(7)
    turn[6] = 0.02
    return np.asarray(q) + np.arange(1, ROWS + 1)[:, None] * turn


def play(lab: Lab, seconds: float) -> list[Decision]:
    """``seconds`` of decisions, no faster than real time, none of them slow."""
    decisions: list[Decision] = []
    for _ in range(round(seconds / PERIOD)):
        started = time.monotonic()
        decisions.append(lab.tick())
        took = time.monotonic() - started
        assert took < SLOWEST_TICK, f"a tick took {took:.3f} s"
        time.sleep(max(0.0, PERIOD - took))
    return decisions


def started(lab: Lab, port: WaitingPort) -> None:
    """Acknowledge until the remote policy moves the arm."""
    decisions = play(lab, PERIOD)
    for _ in range(TRIES):
        lab.acknowledge()
        decisions = play(lab, 0.3)
        if decisions[-1].authority is Authority.POLICY:
            break
    assert decisions[-1].authority is Authority.POLICY, (decisions[-1].mode, decisions[-1].causes, port.last_error)


def under_way(port: WaitingPort) -> Lab:
    """An arm that the remote policy moves."""
    lab = Lab(port, period=PERIOD)
    play(lab, 0.1)
    started(lab, port)
    assert lab.q[6] > panda().home[6]
    return lab


@pytest.mark.parametrize(
    ("transport", "fault"),
    [
        pytest.param(transport, fault, id=f"{transport.name}-{fault}")
        for transport in TRANSPORTS
        for fault in transport.faults
    ],
)
def test_a_server_that_fails_costs_the_shield_nothing(transport: Transport, fault: str) -> None:
    """No tick waits, the cause is in the decisions, the arm stands still; back in order, it goes on standing."""
    EXPLODED.clear()
    with transport.serve(rows) as server:
        port = server.port(spec(), DEADLINE, 0.05)
        lab = under_way(port)
        server.fault = fault
        decisions = play(lab, 0.5)
        causes = {cause for decision in decisions for cause in decision.causes}

        assert causes & CAUSES
        assert decisions[-1].mode is Mode.HOLD
        assert all(np.isfinite(d.command.tau).all() for d in decisions if isinstance(d.command, TorqueCommand))
        assert np.abs(lab.v).max() < 1e-3
        assert EXPLODED == []
        assert port.failures or Cause.PROPOSAL_INVALID in causes
        assert bool(port.last_error) == bool(port.failures)

        server.fault = ""
        decisions = play(lab, 0.5)
        before, tries = -1, 0
        while port.failures != before and tries < TRIES:
            before, tries = port.failures, tries + 1
            decisions += play(lab, 0.15)
        assert port.failures == before, port.last_error
        assert {decision.mode for decision in decisions} == {Mode.HOLD}
        assert not CAUSES & set(decisions[-1].causes)
        port.close()


@pytest.mark.parametrize("transport", [pytest.param(transport, id=transport.name) for transport in TRANSPORTS])
def test_a_server_that_was_never_there(transport: Transport) -> None:
    """A shield whose server is not up yet starts, stands still and says why; once it is up, the arm can be started."""
    with transport.serve(rows) as server:
        server.fault = "silent"
        port = server.port(spec(), DEADLINE, 0.05)
        lab = Lab(port, period=PERIOD)
        lab.acknowledge()
        decisions = play(lab, 0.5)
        assert Cause.POLICY_LATE in decisions[-1].causes
        assert all(decision.authority is Authority.BACKUP for decision in decisions)
        assert port.last_error
        server.fault = ""
        play(lab, 0.5)
        started(lab, port)
        port.close()
