"""The soak: many blocks of an arena, split over processes, and the verdict over all of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context

import numpy as np
from pydantic import JsonValue
from rich.table import Table

from safeguard.core.errors import ConfigError
from safeguard.scenarios.arena import Arena, SoakPlan
from safeguard.scenarios.ledger import KINDS, BlockResult, Finding

_EXCEPTIONS_SHOWN = 10  # distinct ones
_EXCEPTION_LENGTH = 200
_REFUSALS_SHOWN = 12


def run_soak(
    plan: SoakPlan,
    workers: int = 1,
    blocks: Sequence[int] | None = None,
    on_block: Callable[[BlockResult], None] | None = None,
) -> SoakVerdict:
    """Run ``plan``, or some of its ``blocks``; apart from the times, the verdict does not depend on ``workers``.

    Args:
        plan: what to run.
        workers: processes.
        blocks: only these; all if None.
        on_block: told about every block as it ends, in order.

    Raises:
        ConfigError: the plan has no such block, or asks for what the robot or the filter has not.
    """
    wanted = range(plan.blocks) if blocks is None else blocks
    for block in wanted:
        if not 0 <= block < plan.blocks:
            raise ConfigError(f"block {block}: this plan has blocks 0 to {plan.blocks - 1}")
    results: list[BlockResult] = []
    for result in _results(plan, wanted, workers):
        results.append(result)
        if on_block is not None:
            on_block(result)
    return SoakVerdict(plan, tuple(results))


def _results(plan: SoakPlan, blocks: Sequence[int], workers: int) -> Iterator[BlockResult]:
    if workers == 1:
        arena = Arena(plan)
        yield from (arena.run(block) for block in blocks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_run_block, [plan] * len(blocks), blocks)


def _run_block(plan: SoakPlan, block: int) -> BlockResult:
    return _arena(plan).run(block)


@lru_cache(maxsize=1)
def _arena(plan: SoakPlan) -> Arena:
    """One per process: models take longer to build than a block to run."""
    return Arena(plan)


@dataclass(frozen=True, slots=True)
class SoakVerdict:
    """What a soak showed.

    Attributes:
        plan: what was run.
        results: of every block, in order.
    """

    plan: SoakPlan
    results: tuple[BlockResult, ...]

    @property
    def findings(self) -> dict[str, Finding]:
        """By kind, over all blocks; only kinds that were seen."""
        found: dict[str, Finding] = {}
        for result in self.results:
            for kind, finding in result.findings.items():
                found[kind] = found[kind] | finding if kind in found else finding
        return found

    @property
    def exceptions(self) -> tuple[str, ...]:
        """What came out of ticks, with its block."""
        return tuple(f"block {r.block} ({r.adversary}), {text}" for r in self.results for text in r.exceptions)

    @property
    def distinct_exceptions(self) -> tuple[str, ...]:
        """The first of every text, at most ten, cut to 200 characters."""
        first = {text.split(": ", 1)[-1]: text[:_EXCEPTION_LENGTH] for text in reversed(self.exceptions)}
        return tuple(reversed(first.values()))[:_EXCEPTIONS_SHOWN]

    @property
    def ticks(self) -> int:
        """Ticks that were run."""
        return sum(result.ticks for result in self.results)

    @property
    def passed(self) -> bool:
        """Nothing that is claimed was violated, and no tick raised."""
        return not self.exceptions and self.findings.keys().isdisjoint(self.plan.claimed)

    @property
    def fingerprint(self) -> str:
        """Of every torque and final state: equal for equal runs."""
        return hashlib.sha256("".join(result.fingerprint for result in self.results).encode()).hexdigest()

    def shares(self, adversary: str | None = None) -> dict[str, float]:
        """Share of the ticks by status, and ``stuck``; of one adversary or of all."""
        mine = [result for result in self.results if adversary in (None, result.adversary)]
        statuses = sum((result.statuses for result in mine), Counter[str]())
        ticks = max(sum(statuses.values()), 1)
        stuck = sum(result.stuck for result in mine)
        return {**{name: count / ticks for name, count in sorted(statuses.items())}, "stuck": stuck / ticks}

    def timing(self) -> dict[str, float]:
        """Percentiles of the filter's tick in µs, ticks/s of the loop, and the share of every stage in it."""
        spent = sum((result.spent_ns for result in self.results), Counter[str]())
        whole = max(sum(spent.values()), 1)
        filter_us = np.array([ns for result in self.results for ns in result.filter_ns] or [0]) / 1e3
        p50, p99, most = (float(x) for x in np.percentile(filter_us, [50, 99, 100]))
        shares = {f"{stage}_share": ns / whole for stage, ns in spent.items()}
        return {"p50_us": p50, "p99_us": p99, "max_us": most, "ticks_per_s": self.ticks / (whole / 1e9), **shares}

    def as_json(self) -> dict[str, JsonValue]:
        """The verdict for machines; ``timing`` alone depends on the machine."""
        findings, refusals = self.findings, sum((result.refusals for result in self.results), Counter[str]())
        kinds = [*KINDS, *sorted(findings.keys() - set(KINDS))]
        violations: dict[str, JsonValue] = {
            kind: _plain(findings[kind]) if kind in findings else {"ticks": 0, "worst": 0.0} for kind in kinds
        }
        return {
            "passed": self.passed,
            "plan": {**asdict(self.plan), "adversaries": list(self.plan.adversaries)},
            "ticks": self.ticks,
            "violations": violations,
            "exceptions": len(self.exceptions),
            "distinct_exceptions": list(self.distinct_exceptions),
            "clearance_m": min((result.clearance for result in self.results), default=float("inf")),
            "shares": dict(self.shares()),
            "by_adversary": {name: dict(self.shares(name)) for name in self.plan.adversaries},
            "refusals": dict(refusals.most_common(_REFUSALS_SHOWN)),
            "fingerprint": self.fingerprint,
            "timing": dict(self.timing()),
        }

    def tables(self) -> tuple[Table, Table]:
        """The verdict for people: violations by kind, outcomes by adversary."""
        return self._violations(), self._outcomes()

    def _violations(self) -> Table:
        plan, timing = self.plan, self.timing()
        name = f"{plan.robot}, {self.ticks} ticks of {plan.dt * 1e3:g} ms, seed {plan.seed}"
        table = Table(title=f"{name}: {'passed' if self.passed else 'FAILED'}")
        for column in ("kind", "ticks", "worst", "where", "adversary", "block:tick"):
            table.add_column(column, justify="right" if column in ("ticks", "worst") else "left", overflow="fold")
        findings = self.findings
        for kind in [*KINDS, *sorted(findings.keys() - set(KINDS))]:
            label = kind if kind in plan.claimed else f"{kind} *"
            seen = findings.get(kind)
            if seen is None:
                table.add_row(label, "0")
            else:
                where = (seen.where, seen.adversary, f"{seen.block}:{seen.first}")
                table.add_row(label, str(seen.ticks), f"{seen.worst:.3g}", *where)
        table.add_row("exceptions", str(len(self.exceptions)))
        spent = ", ".join(f"{key.removesuffix('_share')} {timing[key]:.0%}" for key in timing if key.endswith("_share"))
        table.caption = (
            f"* not claimed. "
            f"filter p50 {timing['p50_us']:.0f} µs, p99 {timing['p99_us']:.0f} µs; "
            f"{timing['ticks_per_s']:.0f} ticks/s a process ({spent})"
        )
        return table

    def _outcomes(self) -> Table:
        columns = [*sorted(self.shares().keys() - {"stuck"}), "stuck"]
        table = Table(title="share of the ticks")
        for column in ("adversary", *columns):
            table.add_column(column, justify="left" if column == "adversary" else "right")
        for name in (*self.plan.adversaries, None):
            shares = self.shares(name)
            table.add_row(name or "all", *(f"{shares.get(column, 0.0):.2%}" for column in columns))
        return table


def _plain(finding: Finding) -> dict[str, JsonValue]:
    return {**asdict(finding), "worst": finding.worst if np.isfinite(finding.worst) else None}
