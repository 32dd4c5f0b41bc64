"""The policy port for a policy that blocks: it runs in a thread of its own, and nobody waits for it.

Deadlines are on the injected clock: what matters is when the shield could have used an answer. Only the thread itself
waits in real time. A thread shares the interpreter: it keeps waiting (for a network, a device) away from the tick, not
computing in Python.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass, replace
from typing import Any, Final

from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Policy
from safeguard.core.types import NS_PER_S, Observation, Proposal
from safeguard.policies.port import PortOf, own, usual_period

LONGEST_DEADLINE_S: Final = 1e5
_LONGEST: Final = 2000  # characters of an error that are kept
_CLOSING_S: Final = 0.1  # that close waits for a thread that is not in a call


@dataclass(slots=True, eq=False)
class _Call:
    """One call of the policy. The thread writes ``proposal`` and ``error``, then ``done``, and nothing after that."""

    observation: Observation
    forget: bool  # reset the policy first; False again once that is done
    started: int
    proposal: Proposal | None = None
    error: str = ""
    done: bool = False
    wanted: bool = True
    missed: bool = False


class WaitingPort(PortOf):
    """Keeps one call of a blocking policy under way, at most one for every policy period.

    A call that is not back in time is given up: whatever it returns later is dropped. The next one starts when it has
    returned, because a policy is never called twice at once. A policy that raises proposes nothing. It gets
    arrays of its own, copied in the thread, as from ``InlinePort``.

    Args:
        policy: who proposes. It is only ever used from the port's thread, ``reset`` and ``close`` included.
        deadline_s: from ``post`` to ``poll`` on the injected clock, s.
        period: between starts, s. None: 0.1 s, or half a chunk where that is shorter, and never less than one row.

    Attributes:
        failures: calls of this episode that raised, returned no ``Proposal`` or were not back in time.
        last_error: what the last of them said, or "".

    Raises:
        ConfigError: a deadline or period that is not positive and finite, or a deadline beyond 100,000 s.
    """

    def __init__(self, policy: Policy, *, deadline_s: float, period: float | None = None) -> None:
        if not 0.0 < deadline_s <= LONGEST_DEADLINE_S:
            raise ConfigError(f"WaitingPort: deadline_s must be above 0 and at most 1e5 s, got {deadline_s}")
        super().__init__(policy, usual_period(policy.spec) if period is None else period)
        self._deadline_ns = round(deadline_s * NS_PER_S)
        self._jobs: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._call: _Call | None = None
        self._ready: Proposal | None = None
        self._started: int | None = None
        self._forget = self._closed = False
        self.failures, self.last_error = 0, ""

    def post(self, observation: Observation, now: int) -> None:
        """Offer an observation at ``now`` ns. Never waits."""
        self._land(now)
        early = self._started is not None and now - self._started < self._period_ns
        if self._call is not None or early or self._closed or not self._running():
            return
        self._call = _Call(observation, self._forget, now)
        self._forget, self._started = False, now
        self._jobs.put(self._call)

    def poll(self, now: int) -> Proposal | None:
        """The newest proposal that has arrived by ``now`` ns and was not handed out before, or None. Never waits."""
        self._land(now)
        ready, self._ready = self._ready, None
        return ready

    def reset(self) -> None:
        """Forget the episode; what is under way is not wanted any more. A thread that ended is replaced.

        The policy's own ``reset`` comes before the next call, in the thread.
        """
        if self._call is not None:
            self._call.wanted, self._call.missed = False, False
        if self._thread is not None and not self._thread.is_alive():
            self._thread = self._call = None
        self._ready = self._started = None
        self._forget = True
        self.failures, self.last_error = 0, ""

    def close(self) -> None:
        """End the thread, after the call that is under way; waits at most 0.1 s for it. Again is nothing."""
        if self._closed:
            return
        closes = callable(getattr(self._policy, "close", None))  # in the thread, even where there was no call yet
        alive = (closes or self._thread is not None) and self._running()
        self._closed, self._ready = True, None
        if self._call is not None:
            self._call.wanted = False
        if alive and self._thread is not None:
            self._jobs.put(None)
            self._thread.join(_CLOSING_S)

    def _running(self) -> bool:
        """Whether there is a thread. One that ended is replaced by ``reset`` only: the policy may be half way."""
        if self._thread is None:
            self._jobs = queue.SimpleQueue()
            work = (self._policy, self._jobs)
            self._thread = threading.Thread(target=_work, args=work, name=f"safeguard-policy-{self.name}", daemon=True)
            self._thread.start()
        return self._thread.is_alive()

    def _land(self, now: int) -> None:
        """Put what has come back on the shelf, give up what has not."""
        call = self._call
        if call is None:
            return
        late = now - call.started > self._deadline_ns
        if call.done:
            self._call, self._forget = None, self._forget or call.forget
            if call.wanted and not late and call.proposal is not None:
                self._ready = replace(call.proposal, t_inferred=now)
            elif call.wanted and not call.missed:
                self._failed(call.error or self._too_late("came after"))
        elif self._thread is not None and not self._thread.is_alive():
            self._call = None
            self._failed(call.error or "the policy's thread ended")
        elif late and not call.missed:
            call.wanted, call.missed = False, True
            self._failed(self._too_late("none within"))

    def _too_late(self, what: str) -> str:
        return f"no answer in time: {what} {self._deadline_ns / NS_PER_S:g} s"

    def _failed(self, error: str) -> None:
        self.failures, self.last_error = self.failures + 1, error


def _work(policy: Policy, jobs: queue.SimpleQueue[_Call | None]) -> None:
    """What the thread does until it is told to end, or the policy ends it."""
    while (call := jobs.get()) is not None:
        try:
            if call.forget:
                policy.reset()
                call.forget = False
            call.proposal, call.error = _answer(policy.infer(own(call.observation)))
        except Exception as error:  # noqa: BLE001  a guest may raise anything
            call.error = _said(error)
        except BaseException as error:  # noqa: BLE001  such as SystemExit: the guest's thread ends, and only that
            call.error = f"the policy ended its thread: {_said(error)}"
            return
        call.done = True
        del call  # an answer that nobody wants is not kept until the next one
    close: Any = getattr(policy, "close", None)
    if callable(close):
        with contextlib.suppress(BaseException):
            close()


def _answer(answer: Any) -> tuple[Proposal | None, str]:
    if isinstance(answer, Proposal):
        return answer, ""
    return None, f"infer returned {type(answer).__name__}, expected Proposal"


def _said(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"[:_LONGEST]
    except Exception:  # noqa: BLE001  its text is the guest's, too
        return name
