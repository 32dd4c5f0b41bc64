"""How many one-token slips in the mode engine and its compiler the unit tests notice.

    python benchmarks/mutation.py [--json FILE] [--every N] [--only FILE.py] [--name TEXT …]

Every comparison, boundary, sum, bit operation, negation, condition, constant, min, max and rounding in the functions
of ``engine.py`` and ``table.py`` is changed, one at a time, and the tests run until one fails. The kernels run
interpreted, so that a mutant costs no compilation: the tests are collected once, and each mutant is a forked child in
which one function has other code.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final, cast

os.environ["NUMBA_DISABLE_JIT"] = "1"
os.environ["HYPOTHESIS_PROFILE"] = "mutation"

import pytest
from hypothesis import Phase, settings

ROOT: Final = Path(__file__).resolve().parent.parent
MODES: Final = ROOT / "safeguard" / "modes"
TESTS: Final = {
    "engine.py": ("engine", "degraded", "return", "jog", "table", "totality"),
    "table.py": ("table", "spec", "engine", "degraded", "return", "certificate"),
}
NO_REWRITE: Final = "ignore::pytest.PytestAssertRewriteWarning"  # this file has imported hypothesis already
OPTIONS: Final = ("-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", NO_REWRITE)
LIMIT_S: Final = 15.0
"""A test that takes more CPU time does not end: killed."""
ENDLESS: Final = "it does not even end"
MEMORY: Final = 4 << 30
"""Bytes that a mutant may have: some lists never end."""

_NO_ROW = "a configuration that a table does not have has neither stay nor row, so either tells"
_NO_CAPABILITY = "without configurations there are no capabilities, and the number is not used"
_ENOUGH = "only what the ages of that set are compared with: any start above the stay does"
EQUIVALENT: Final[dict[str, str]] = {
    "_endured: configurations[shed, 0] == 0 → configurations[shed, -1] == 0": _NO_ROW,
    "_endured: range(1, shed + 1) → range(0, shed + 1)": "nothing has no configuration, so it is skipped",
    "_endured: range(1, shed + 1) → range(1, shed + 2)": "one more than a set is no part of it, so it is skipped",
    "_endured: less & ~shed or configurations[less, 0] == 0 → less & ~shed or configurations[less, -1] == 0": _NO_ROW,
    "_endured: least = configurations[less, 0] + 1 → least = configurations[less, 0] + 2": _ENOUGH,
    "_endured: least = configurations[less, 0] + 1 → least = configurations[less, -1] + 1": _ENOUGH,
    "_lost: fit = min(s[start + count + c] + 1, capabilities[c, 2]) → fit = min(s[start + count + c] + 1,"
    " capabilities[c, 3])": "what is fit for its whole dwell comes back in that tick, or all that is shed ends in HOLD",
    "_lost: after[start + c] = min(age + 1, capabilities[c, 4]) if lost >> c & 1 else 0 → after[start + c] ="
    " min(age + 1, capabilities[c, 3]) if lost >> c & 1 else 0": "an age above every stay ends in HOLD: forgotten",
    "table_digest: content = json.dumps(spec.model_dump(mode='json'), sort_keys=True, separators=(',', ':')) → content"
    " = json.dumps(spec.model_dump(mode='json'), sort_keys=False, separators=(',', ':'))": "one order anyway",
    "_Compiler.capabilities: longest = max((self._stay(row) for row in self.spec.configurations), default=0) → longest"
    " = max((self._stay(row) for row in self.spec.configurations), default=-1)": _NO_CAPABILITY,
    "_Compiler.capabilities: longest = max((self._stay(row) for row in self.spec.configurations), default=0) → longest"
    " = max((self._stay(row) for row in self.spec.configurations), default=1)": _NO_CAPABILITY,
    "_table: made = np.array(rows, dtype=np.int64).reshape(-1, columns) → made = np.array(rows, dtype=np.int64)"
    ".reshape(-2, columns)": "numpy takes every negative length for the one that fits",
    "_returning: ripe >> c & 1 and (less == 0 or _endured(less, active, available, paid + numbers[COST], "
    "floors, capabilities, configurations, numbers, start, after)[0]) → ripe >> c & 1 and (less == 0 or _"
    "endured(less, active, available, paid - numbers[COST], floors, capabilities, configurations, numbers"
    ", start, after)[0])": "whatever is shed was reserved for, and credit only falls until it returns",
    "_returning: return -1 → return -2": "the caller asks whether it is negative",
    "_timers: escalations[mode, 0] >= 0 and (not flags & STANDSTILL) → escalations[mode, 0] >= 1 and (not"
    " flags & STANDSTILL)": "an escalation leads to something worse, so never to mode 0",
    "_holding: range(min(mode, _ESTOP), _ESTOP + 1) → range(min(mode, _ESTOP), _ESTOP + 2)": "no cause asks for it",
    "_timers: escalations[mode, 0] >= 0 and (not flags & STANDSTILL) → escalations[mode, 0] > 0 and"
    " (not flags & STANDSTILL)": "an escalation leads to something worse, so never to mode 0",
    "_arrays: return (block[block[0]:block[1]], rows(block, block[1], block[2], 3), rows(block, block[2], bloc"
    "k[3], 3), rows(block, block[3], block[4], 5), rows(block, block[4], block[5], 5), rows(block, block[5], b"
    "lock[6], 3), block[block[6]:]) → return (block[block[0]:block[2]], rows(block, block[1], block[2], 3), ro"
    "ws(block, block[2], block[3], 3), rows(block, block[3], block[4], 5), rows(block, block[4], block[5], 5),"
    " rows(block, block[5], block[6], 3), block[block[6]:])": "more floors than there are modes are never asked for",
    "_tell: range(len(arrays[4])) → range(len(arrays[3]))": "what is no capability is never shed",
    "_tell: range(len(arrays[4])) → range(len(arrays[5]))": "what is no capability is never shed",
    "_tell: age = after[start + c] if age == 0 else min(age, after[start + c]) → age = after[start - c] if ag"
    "e == 0 else min(age, after[start + c])": "only what decays reads it, and no table has that beside another",
    "step: rest is not None and rest[1] == inputs and (rest[0] is table) → rest is not None and rest[0] == in"
    "puts and (rest[0] is table)": "what is kept is never found: slower, and the same answers",
    "step: rest is not None and rest[1] == inputs and (rest[0] is table) → rest is not None and rest[2] == in"
    "puts and (rest[0] is table)": "what is kept is never found: slower, and the same answers",
    "step: rest is not None and rest[1] == inputs and (rest[0] is table) → rest is not None and rest[1] == in"
    "puts and (rest[-1] is table)": "what is kept is never found: slower, and the same answers",
    "step: rest is not None and rest[1] == inputs and (rest[0] is table) → rest is not None and rest[1] == in"
    "puts and (rest[1] is table)": "what is kept is never found: slower, and the same answers",
    "_outputs: len(table.said) >= _REMEMBERED → len(table.said) > _REMEMBERED": "how many answers are kept, not which",
    "_outputs: len(table.said) >= _REMEMBERED → len(table.said) < _REMEMBERED": "how many answers are kept, not which",
    "_outputs: if → if not: len(table.said) >= _REMEMBERED": "how many answers are kept, not which",
}
"""Survivors that no test tells from the original, and why."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed token: where, what, and the code of the function that has it."""

    file: str
    function: str
    line: int
    change: str
    code: CodeType

    @property
    def name(self) -> str:
        """Without the line, which moves."""
        return f"{self.function}: {self.change}"


_SWAPS: Final[dict[type[ast.AST], tuple[type[ast.AST], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.Div: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Invert: (ast.UAdd,),
    ast.USub: (ast.UAdd,),
}
_NAMES: Final = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "any": "all", "all": "any"}
Edit = tuple[Callable[[], None], Callable[[], None]]
"""The change and the way back."""


def mutants(file: str) -> Iterator[Mutant]:
    """All mutants of one file, from top to bottom."""
    path = MODES / file
    tree = ast.parse(path.read_text("utf-8"))
    for name, function in _functions(tree):
        for statement, head in _statements(function.body):
            for node in (node for part in head for node in ast.walk(part)):
                for apply, back in _edits(node):
                    before = "; ".join(map(ast.unparse, head))
                    apply()
                    after = "; ".join(map(ast.unparse, head))
                    code = _code(compile(ast.fix_missing_locations(tree), str(path), "exec"), name)
                    yield Mutant(file, name, statement.lineno, f"{before} → {after}", code)
                    back()
            for negated in _negated(statement):
                code = _code(compile(ast.fix_missing_locations(tree), str(path), "exec"), name)
                yield Mutant(file, name, statement.lineno, f"if → if not: {negated}", code)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{one.name}", one) for one in node.body if isinstance(one, ast.FunctionDef))


def _statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, list[ast.expr] | list[ast.stmt]]]:
    """Every statement, and what of it is its own; documentation and error messages are left out."""
    for node in body:
        match node:
            case ast.If() | ast.While():
                yield node, [node.test]
            case ast.For():
                yield node, [node.iter]
            case ast.Raise() | ast.Expr(value=ast.Constant()):
                continue
            case ast.AnnAssign(value=ast.expr() as value):
                yield node, [value]
            case _:
                yield node, [node]
        for inner in ("body", "orelse"):
            yield from _statements(getattr(node, inner, []))


def _edits(node: ast.AST) -> Iterator[Edit]:
    """Ways to change this node alone, each with the way back."""
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                yield from ((_set_item(node.ops, i, new()), _set_item(node.ops, i, op)) for new in _SWAPS[type(op)])
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() | ast.UnaryOp():
            for new in _SWAPS.get(type(node.op), ()):
                yield _set(node, "op", new()), _set(node, "op", node.op)
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
                twice = ast.UnaryOp(ast.Not(), node.operand)
                yield _set(node, "operand", twice), _set(node, "operand", node.operand)
        case ast.IfExp():
            yield _set(node, "test", ast.UnaryOp(ast.Not(), node.test)), _set(node, "test", node.test)
        case ast.Constant(value=bool() as value):
            yield _set(node, "value", not value), _set(node, "value", value)
        case ast.Constant(value=int() as value):
            for other in (value - 1, value + 1):
                yield _set(node, "value", other), _set(node, "value", value)
        case ast.Name(id=name) if name in _NAMES and isinstance(node.ctx, ast.Load):
            yield _set(node, "id", _NAMES[name]), _set(node, "id", name)
        case ast.Attribute(attr=name) if name in _NAMES:
            yield _set(node, "attr", _NAMES[name]), _set(node, "attr", name)
        case _:
            return


def _negated(statement: ast.stmt) -> Iterator[str]:
    """The statement with its condition the other way round, while the caller looks."""
    if isinstance(statement, ast.If):
        test = statement.test
        statement.test = ast.UnaryOp(ast.Not(), test)
        yield ast.unparse(test)
        statement.test = test


def _set(node: ast.AST, key: str, value: object) -> Callable[[], None]:
    return lambda: setattr(node, key, value)


def _set_item(items: list[ast.cmpop], place: int, value: Any) -> Callable[[], None]:
    return lambda: items.__setitem__(place, value)


def _code(module: CodeType, name: str) -> CodeType:
    """The code of a function within that of its module."""
    for constant in module.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == name:
                return constant
            if name.startswith(f"{constant.co_qualname}."):
                return _code(constant, name)
    raise LookupError(name)


def _plant(mutant: Mutant) -> None:
    """Give the function its other code; whoever holds the function has it from now on."""
    found: Any = importlib.import_module(f"safeguard.modes.{mutant.file.removesuffix('.py')}")
    for part in mutant.function.split("."):
        found = cast("Any", vars(found)[part])
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    assert isinstance(found, FunctionType)
    found.__code__ = mutant.code


class Trial:
    """A pytest plugin that runs the collected tests once for every mutant, each time in a child of its own."""

    def __init__(self, planted: list[Mutant]) -> None:
        self.planted, self.results = planted, dict[int, str]()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Every mutant in turn; the sound code first, which must pass."""
        if self._child(session, None):
            raise SystemExit("the tests fail without any mutant")
        for i, mutant in enumerate(self.planted):
            self.results[i] = self._child(session, mutant)
            if sys.stderr.isatty():
                print(f"\r{i + 1}/{len(self.planted)}", end="", file=sys.stderr)
        return True

    def _child(self, session: pytest.Session, mutant: Mutant | None) -> str:
        """What killed it, or ""."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _run(session, mutant, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        return told or ("" if os.waitstatus_to_exitcode(status) == 0 else ENDLESS)


def _run(session: pytest.Session, mutant: Mutant | None, write: int) -> None:
    """In the child: the tests until one fails, whose name is told; the child never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    status = 2
    try:
        if mutant is not None:
            _plant(mutant)
            forget()
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                os.write(write, item.name.encode())
                break
        else:
            status = 0
    finally:
        os._exit(status)


def forget() -> None:
    """What the tests have compiled before is made again by the mutant."""
    support: Any = importlib.import_module("tests.unit.modes_support")
    support.compiled.cache_clear()
    support.nominal.cache_clear()


def trial(file: str, planted: list[Mutant]) -> list[tuple[Mutant, str]]:
    """Every mutant of one file with the test that killed it, "" if none did."""
    plugin = Trial(planted)
    names = [str(ROOT / "tests" / "unit" / f"test_modes_{name}.py") for name in TESTS[file]]
    pytest.main([*names, *OPTIONS], [plugin])
    return [(mutant, plugin.results[i]) for i, mutant in enumerate(planted)]


def main() -> int:
    """Run the mutants, print the survivors, write the figures; 3 if fewer than 95 % were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures and the survivors here")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th mutant")
    parser.add_argument("--only", choices=sorted(TESTS), help="only one file")
    parser.add_argument("--name", action="append", metavar="TEXT", help="only mutants whose name begins so")
    arguments = parser.parse_args()
    settings.register_profile("mutation", derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
    started = time.monotonic()
    results: list[tuple[Mutant, str]] = []
    for file in [arguments.only] if arguments.only else TESTS:
        names = tuple(arguments.name or [""])
        chosen = [mutant for mutant in mutants(file) if mutant.name.startswith(names)]
        results += trial(file, chosen[:: arguments.every]) if chosen else []
    survivors = [mutant for mutant, killer in results if not killer]
    equivalent = [mutant for mutant in survivors if mutant.name in EQUIVALENT]
    for mutant in survivors:
        print(f"survived: {mutant.file}:{mutant.line} {mutant.name}   [{EQUIVALENT.get(mutant.name, 'not found')}]")
    killed, counted = len(results) - len(survivors), len(results) - len(equivalent)
    figures = {
        "mutants": len(results),
        "killed": killed,
        "killed_by_not_ending": sum(killer == ENDLESS for _, killer in results),
        "equivalent": len(equivalent),
        "killed_share": round(killed / max(counted, 1), 4),
        "seconds": round(time.monotonic() - started, 1),
        "survivors": [
            {"file": m.file, "line": m.line, "mutant": m.name, "reason": EQUIVALENT.get(m.name, "")} for m in survivors
        ],
    }
    print(json.dumps({key: value for key, value in figures.items() if key != "survivors"}))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0 if killed >= 0.95 * counted else 3


if __name__ == "__main__":
    sys.exit(main())
