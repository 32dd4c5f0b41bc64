"""Exhaustive breadth-first walk over a mode table: every reachable state, every input.

The walk runs on a declared abstraction (``Abstraction``): times scaled to a few ticks, and causes of equal
rows and equal requirements represented by one of them. It stops at the first broken property and tells how to
get there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import product
from typing import Final, TypeAlias

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes.engine import ModeInputs, ModeOutputs, ModeState, step
from safeguard.modes.properties import Observer, Rules, observe, rules, violations
from safeguard.modes.requirements import FLOORS, LOCKOUT_CAUSES, Bounds, abstract
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import ALL_CAUSES, CAUSE_BIT, ModeTable, cause_mask, compile_table

Node: TypeAlias = tuple[ModeState, Observer]


@dataclass(frozen=True, slots=True)
class Abstraction:
    """What is walked instead of the real table, and what it stands for.

    Attributes:
        table: compiled with scaled times.
        limits: the requirements on the same scale.
        classes: representatives; only these causes occur in the walk.
        merged: every cause and the representative that stands for it.
    """

    table: ModeTable
    limits: Bounds
    classes: tuple[Cause, ...]
    merged: dict[Cause, Cause]


@dataclass(slots=True)
class Walk:
    """What a walk found. ``broken`` is "" when every property holds; then ``story`` is empty too."""

    states: int = 0
    edges: int = 0
    modes: set[Mode] = field(default_factory=set[Mode])
    rows: set[str] = field(default_factory=set[str])
    broken: str = ""
    story: tuple[str, ...] = ()


def abstraction(spec: TableSpec, period: float, only: tuple[Cause, ...] | None = None) -> Abstraction:
    """The walk's model of ``spec``: causes of equal rows merged, or exactly the causes in ``only``."""
    small, limits = abstract(spec, period)
    table = compile_table(small, period)
    first: dict[object, Cause] = {}
    merged: dict[Cause, Cause] = {}
    for row in small.causes:
        owed = (FLOORS[row.cause], limits.bridge.get(row.cause), row.cause in LOCKOUT_CAUSES)
        key = (row.floor, row.bridge_ticks, row.lockout, owed)
        merged[row.cause] = first.setdefault(key, row.cause)
    return Abstraction(table, limits, only or tuple(first.values()), merged)


def walk(model: Abstraction) -> Walk:
    """Visit every reachable state with every input; check every edge, then the graph as a whole."""
    explorer = _Explorer(model)
    explorer.run()
    return explorer.found


_PULSE: Final = (ModeInputs(standstill=True), ModeInputs(standstill=True, ack=True))


class _Explorer:
    """The walk's bookkeeping. Nodes are numbered in the order of discovery."""

    def __init__(self, model: Abstraction) -> None:
        self.model = model
        self.table = model.table
        self.rule: Rules = rules(model.table, model.limits, model.classes)
        self.masks = _masks(model.classes)
        start = (ModeState.initial(model.table), Observer((0,) * len(model.classes)))
        self.number: dict[Node, int] = {start: 0}
        self.nodes: list[Node] = [start]
        self.parents: list[tuple[int, ModeInputs]] = [(0, ModeInputs())]
        self.successors: list[set[int]] = []
        self.found = Walk()

    def run(self) -> None:
        """Explore, then judge the graph; stop at the first broken property."""
        queue = deque([0])
        while queue and not self.found.broken:
            index = queue.popleft()
            known = len(self.nodes)
            self._expand(index)
            queue.extend(range(known, len(self.nodes)))
        self.found.states = len(self.nodes)
        self.found.modes = {state.mode for state, _ in self.nodes}
        if not self.found.broken:
            self._whole()

    def _expand(self, index: int) -> None:
        reached: set[int] = set()
        state = self.nodes[index][0]
        for ack, still in product((False, True), repeat=2):
            for ready in (False, True) if state.mode is Mode.BOOT else (True,):
                ranks: list[tuple[Mode, bool]] = []
                for mask in self.masks:
                    outputs = self._edge(index, ModeInputs(mask, ack, still, ready), reached)
                    ranks.append((outputs.mode, outputs.authority is not Authority.POLICY))
                    if self.found.broken:
                        return
                self._monotone(index, ranks)
        self.successors.append(reached)

    def _edge(self, index: int, inputs: ModeInputs, reached: set[int]) -> ModeOutputs:
        state, seen = self.nodes[index]
        after, outputs = step(self.table, state, inputs)
        watching, edge = observe(self.rule, seen, state.mode, inputs, outputs)
        for broken in violations(self.rule, edge):
            self._tell(broken, index, inputs, outputs)
            break
        self.found.edges += 1
        self.found.rows.update(outputs.reasons)
        if after.why:
            after = ModeState(  # what is only reported does not tell states apart
                after.mode, after.buckets, after.calm, after.moving, after.ack, after.estops
            )
        node = (after, watching)
        number = self.number.setdefault(node, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(node)
            self.parents.append((index, inputs))
        reached.add(number)
        return outputs

    def _monotone(self, index: int, ranks: list[tuple[Mode, bool]]) -> None:
        """P10: one cause more never lowers the next mode, and never hands the body to the policy."""
        size = len(ranks)
        bit = 1
        while bit < size:
            for i in range(size):
                if not i & bit and not _no_better(ranks[i | bit], ranks[i]):
                    inputs = ModeInputs(self.masks[i | bit])
                    self._tell("P10 monotone: a further cause made things better", index, inputs, None)
                    return
            bit <<= 1

    def _whole(self) -> None:
        """P13: every row fires. P14: from everywhere but LOCKOUT, fair inputs lead to NOMINAL in time."""
        silent = [row for row in self._expected() if row not in self.found.rows]
        if silent:
            self._tell(f"P13 every row fires: {', '.join(silent)} never did", 0, _PULSE[0], None)
            return
        ends = {i for i, (state, _) in enumerate(self.nodes) if state.mode is Mode.NOMINAL}
        home = _backwards(self.successors, ends)
        for index, (state, _) in enumerate(self.nodes):
            if state.mode is not Mode.LOCKOUT and (index not in home or not self._returns(state)):
                self._tell("P14 no trap: no timely way back to NOMINAL", index, _PULSE[0], None)
                return

    def _expected(self) -> tuple[str, ...]:
        """Rows that have to fire: all of them, where no cause is left out but by merging."""
        if set(self.model.classes) != set(self.model.merged.values()):
            return ()
        causes = cause_mask(self.model.classes)
        transitions = ~ALL_CAUSES & ((1 << len(self.table.rows)) - 1)
        return self.table.ids(causes | transitions)

    def _returns(self, state: ModeState) -> bool:
        """NOMINAL is reached in time when nothing is wrong, the body rests and an operator pulses ack."""
        limits = self.rule.bounds
        full = max((one.full for one in self.rule.watched), default=0)
        drain = -(-full // limits.drain)
        for tick in range(2 + drain + 2 * (limits.ack_dwell + 1) + limits.cautious_dwell):
            if state.mode is Mode.NOMINAL:
                return True
            state, _ = step(self.table, state, _PULSE[tick % 2])
        return state.mode is Mode.NOMINAL

    def _tell(self, broken: str, index: int, inputs: ModeInputs, outputs: ModeOutputs | None) -> None:
        steps = [_line(self.nodes[index][0], inputs, outputs)]
        while index:
            index, cause = self.parents[index]
            steps.append(_line(self.nodes[index][0], cause, None))
        self.found.broken = broken
        self.found.story = tuple(reversed(steps))


def _no_better(worse: tuple[Mode, bool], base: tuple[Mode, bool]) -> bool:
    return worse[0] >= base[0] and worse[1] >= base[1]


def _masks(classes: tuple[Cause, ...]) -> tuple[int, ...]:
    """Every subset of ``classes`` as a cause mask; the index has one bit a class."""
    masks = [0]
    for cause in classes:
        masks += [mask | CAUSE_BIT[cause] for mask in masks]
    return tuple(masks)


def _backwards(successors: list[set[int]], ends: set[int]) -> set[int]:
    """Every node from which one of ``ends`` can be reached."""
    before: list[list[int]] = [[] for _ in successors]
    for source, targets in enumerate(successors):
        for target in targets:
            before[target].append(source)
    home = set(ends)
    queue = deque(ends)
    while queue:
        for source in before[queue.popleft()]:
            if source not in home:
                home.add(source)
                queue.append(source)
    return home


def _line(state: ModeState, inputs: ModeInputs, outputs: ModeOutputs | None) -> str:
    causes = [cause.value for cause in Cause if inputs.causes & CAUSE_BIT[cause]]
    flags = [name for name in ("ack", "standstill", "ready") if getattr(inputs, name)]
    then = f" → {outputs.mode.name}, {outputs.authority.value}, {outputs.reasons}" if outputs else ""
    return f"{state.mode.name}: {', '.join(causes) or 'no cause'}; {', '.join(flags) or 'no flag'}{then}"
