"""The two measurements: recorded ticks answered in turn, and every filter in a loop of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np

from benchmarks.peers.contestants import Answers, Contestant
from benchmarks.peers.inputs import BLOCK, Inputs, Kind, propose
from benchmarks.peers.score import Judge, Score
from benchmarks.peers.wire import Array, Mask
from safeguard.core.robot import RobotModel

DIED = 3.0
WARM_UP = 500  # ticks


class Filter(Protocol):
    """A contestant's process, or a double of one."""

    @property
    def contestant(self) -> Contestant:
        """Who it is."""
        ...

    def reset(self, q: Array, v: Array) -> None:
        """Start anew at this state."""
        ...

    def block(self, q: Array, v: Array, action: Array) -> Answers | None:
        """Answers to consecutive ticks; None if the process died of them."""
        ...


@dataclass(slots=True)
class Loop:
    """A contestant's closed loops: violations, ticks without an answer, and how far the joints went.

    ``unanswered_before`` counts those of ``score.violated`` that follow a tick without an answer of the same kind.
    """

    score: Score = field(default_factory=Score)
    unanswered: int = 0
    unanswered_before: int = 0
    travel: float = 0.0  # rad, of all joints together


def interleaved(children: Sequence[Filter], inputs: Inputs, progress: Callable[[], None]) -> list[Answers]:
    """Every contestant's answers to all recorded ticks: block by block, in changing order.

    Blocks of all contestants alternate, so that a slow moment of the machine hits all alike.
    """
    ticks = len(inputs.kind)
    for child in children:
        _block(child, inputs, slice(0, min(WARM_UP, ticks)))
    blocks = list(_blocks(inputs.kind))
    parts: list[list[Answers]] = [[] for _ in children]
    for number, block in enumerate(blocks):
        fresh = block.start == 0 or inputs.kind[block.start] != inputs.kind[block.start - 1]
        for turn in range(len(children)):
            k = (number + turn) % len(children)
            if fresh:
                children[k].reset(inputs.q[block.start], inputs.v[block.start])
            parts[k].append(_block(children[k], inputs, block))
        progress()
    return [_joined(part) for part in parts]


def one_step_scores(answers: Answers, child: Filter, inputs: Inputs, judge: Judge, open_to_stop: Mask) -> Score:
    """Judge every answer from its recorded state: the next state and whether a stop from there is still clear.

    The stop is judged only where ``open_to_stop``, shape (T,), says that stopping at once would have been clear.
    """
    score, gives = Score(), child.contestant.gives
    for k in np.flatnonzero(answers.status == 0.0):
        step = judge.step(inputs.q[k], inputs.v[k], answers.command[k], gives)
        excess, clearance = judge.judge(step)
        excess["unavoidable"] = judge.unavoidable(step) if open_to_stop[k] else 0.0
        score.add(excess, clearance)
    return score


def avoidable(judge: Judge, inputs: Inputs) -> Mask:
    """Where stopping at once keeps every limit, shape (T,)."""
    steps = (
        judge.step(q, v, judge.brake(q, v, "velocity"), "velocity") for q, v in zip(inputs.q, inputs.v, strict=True)
    )
    return np.array([judge.unavoidable(step) <= 0.0 for step in steps])


def closed_loop(child: Filter, robot: RobotModel, judge: Judge, inputs: Inputs) -> Loop:
    """Follow the recorded targets of every kind from rest at home with this filter in the loop."""
    loop, contestant = Loop(), child.contestant
    for kind in np.unique(inputs.kind):
        q, v, braked = np.array(robot.home), np.zeros(robot.n), False
        child.reset(q, v)
        for target in inputs.target[inputs.kind == kind]:
            action = propose(robot, judge, contestant.takes, q, v, target)
            answers = child.block(q[None], v[None], action[None])
            if answers is None or answers.status[0]:
                loop.unanswered, braked = loop.unanswered + 1, True
                command = judge.brake(q, v, contestant.gives)
            else:
                command = answers.command[0]
            step = judge.step(q, v, command, contestant.gives)
            violated = loop.score.violated
            loop.score.add(*judge.judge(step))
            loop.unanswered_before += braked and loop.score.violated > violated
            loop.travel += float(np.abs(step.q - q).sum())
            q, v = step.q, step.v
            if not (np.isfinite(q).all() and np.isfinite(v).all()):
                break
    return loop


def kinds(inputs: Inputs) -> list[Kind]:
    """The kind of every tick."""
    return [list(Kind)[int(k)] for k in inputs.kind]


def _blocks(kind: Array) -> Sequence[slice]:
    """Blocks of at most ``BLOCK`` ticks that never span two kinds."""
    edges = np.flatnonzero(np.diff(kind)) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(kind)]
    return [
        slice(begin, min(begin + BLOCK, end))
        for start, end in zip(starts, ends, strict=True)
        for begin in range(start, end, BLOCK)
    ]


def _block(child: Filter, inputs: Inputs, block: slice) -> Answers:
    action = inputs.action(child.contestant.takes)[block]
    answers = child.block(inputs.q[block], inputs.v[block], action)
    if answers is not None:
        return answers
    nothing = np.full(len(action), np.nan)
    status, solved = np.full(len(action), DIED), np.zeros(len(action))
    return Answers(np.full(action.shape, np.nan), status, nothing, nothing, solved)


def _joined(parts: Sequence[Answers]) -> Answers:
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Answers))
    return Answers(*(np.concatenate(column) for column in columns))
