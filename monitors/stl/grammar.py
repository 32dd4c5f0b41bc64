"""Formulas of past-time signal temporal logic, from text to a tree; mistakes are shown with their column.

formula     = either { "implies" either }                     a implies b implies c: c holds where a and b do
either      = both { "or" both }
both        = one { "and" one }
one         = inner [ "since" [ interval ] inner ]
inner       = { "not" } ( comparison | operator | "(" formula ")" )
operator    = ( "once" | "historically" ) [ interval ] "(" formula ")" | "previously" "(" formula ")"
interval    = "[" number ":" number "]"                       seconds ago, both ends included
comparison  = sum ( "<" | "<=" | ">" | ">=" ) sum { … }       0 < x < 1 is both
sum         = linear in signals, with + - * / and abs(sum)
signal      = name, sensor.name[index]; parts with other characters in quotes: q.'left-hip'
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from safeguard.core.errors import ConfigError
from safeguard.monitors.stl.tree import (
    Absolute,
    Comparison,
    Every,
    Formula,
    Historically,
    Interval,
    Linear,
    Not,
    Once,
    Parsed,
    Previously,
    Signal,
    Since,
    Some,
    Term,
)

LONGEST_TICKS: Final = 60_000
_DEEPEST: Final = 30
_MOST_TOKENS: Final = 500
_LONGEST_INDEX: Final = 6


_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>(?:[^\W\d]\w*|'[^']+')(?:\.(?:\w+|'[^']+'))*)"
    r"|(?P<sign><=|>=|==|!=|&&|\|\||->|=>|[-<>=()\[\]:+*/!&|,])"
    r"|(?P<other>\S)|(?P<end>\Z))"
)
_COMPARATORS: Final = ("<", "<=", ">", ">=")
_OPERATORS: Final = ("once", "historically", "previously")
_WORDS: Final = (*_OPERATORS, "since", "not", "and", "or", "implies", "abs")
_FUTURE: Final = ("always", "eventually", "finally", "globally", "until", "release", "next", "F", "G", "U", "X")
_INSTEAD: Final = {
    "&&": "write 'and'",
    "&": "write 'and'",
    "||": "write 'or'",
    "|": "write 'or', or abs(…) for a magnitude",
    "!": "write 'not'",
    "->": "write 'implies'",
    "=>": "write 'implies'",
    "=": "measured values are never equal; write abs(x - y) <= tolerance",
    "==": "measured values are never equal; write abs(x - y) <= tolerance",
    "!=": "measured values are never equal; write abs(x - y) > tolerance",
    ",": "an interval is [from:to], in seconds ago",
}
_PAST: Final = (
    "it looks into the future, and a monitor has to answer now: say it of the past. "
    "'within 0.2 s after X, Y' is once[0.2:0.2](X) implies once[0:0.2](Y); "
    "'always' is historically, 'eventually' once, 'until' since"
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    column: int

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def complaint(where: str, text: str, column: int, message: str) -> ConfigError:
    """What is wrong after ``column`` characters of ``text``, with a mark under the place."""
    return ConfigError(f"{where}, column {column + 1}: {message}\n    {_one_line(text)}\n    {' ' * column}^")


def parse(text: str, period: float, where: str = "formula") -> Parsed:
    """``text`` as a tree, intervals in ticks of ``period`` s.

    An end of an interval that is not a whole number of ticks (to one part in 10⁹) is refused: rounding it would
    silently check another requirement. Raises ConfigError with ``where``, the column, what was found and what was
    expected there.
    """
    if not (period > 0.0 and math.isfinite(period)):
        raise ConfigError(f"{where} needs a period > 0 s, got {period!r}")
    return _Parser(_one_line(text), period, where).whole()


def _one_line(text: str) -> str:
    """``text`` with its columns kept."""
    return re.sub(r"\s", " ", text)


class _Parser:
    """Recursive descent. A method per rule leaves ``self._now`` at the first token that it did not use."""

    def __init__(self, text: str, period: float, where: str) -> None:
        self._text, self._period, self._where = text, period, where
        self._tokens = self._split()
        self._at = self._end = 0  # the next token; where the last one that was used ends
        self._signals: dict[str, int] = {}

    # -- tokens ---------------------------------------------------------------------------------------

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        depth = 0
        for match in _TOKEN.finditer(self._text):
            kind = match.lastgroup or "end"
            token = _Token(kind, match[kind], match.start(kind))
            depth += (token.text == "(") - (token.text == ")")
            if depth > _DEEPEST or len(tokens) > _MOST_TOKENS:
                message = f"a formula may have {_DEEPEST} levels of parentheses and {_MOST_TOKENS} words, not more"
                raise self._complaint(token.column, message)
            tokens.append(token)
            if kind == "end":
                break
        return tokens

    def _complaint(self, column: int, message: str) -> ConfigError:
        return complaint(self._where, self._text, column, message)

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._now
        self._at += token.kind != "end"
        self._end = token.column + len(token.text)
        return token

    def _took(self, text: str) -> bool:
        """Whether the next token is ``text``; then it is used."""
        return self._now.text == text and self._take().text == text

    def _need(self, text: str) -> None:
        if not self._took(text):
            raise self._unexpected(repr(text))

    def _unexpected(self, expected: str, token: _Token | None = None) -> ConfigError:
        found = token or self._now
        why = _PAST if found.text in _FUTURE else _INSTEAD.get(found.text, "")
        if found.text.lower() in _WORDS and found.text not in _WORDS:
            why = f"write {found.text.lower()!r}"
        message = f"found {found.shown}, expected {expected}" + (f" ({why})" if why else "")
        return self._complaint(found.column, message)

    # -- formulas -------------------------------------------------------------------------------------

    def whole(self) -> Parsed:
        formula = self._formula(self._implication())
        if self._now.kind != "end":
            raise self._unexpected("and, or, implies, since or the end")
        return Parsed(formula, self._signals)

    def _formula(self, node: Formula | Linear) -> Formula:
        """``node``, just parsed, where a formula has to be."""
        if isinstance(node, Linear):
            raise self._unexpected("a comparison (<, <=, >, >=)")
        return node

    def _implication(self) -> Formula | Linear:
        node = self._either()
        parts = [node]
        while self._now.text == "implies":
            self._formula(node)
            self._take()
            node = self._formula(self._either())
            parts.append(node)
        if len(parts) == 1:
            return node
        return Some((*(Not(self._formula(part)) for part in parts[:-1]), self._formula(node)))

    def _either(self) -> Formula | Linear:
        node = self._both()
        parts = [node]
        while self._now.text == "or":
            self._formula(node)
            self._take()
            node = self._formula(self._both())
            parts.append(node)
        return node if len(parts) == 1 else Some(tuple(self._formula(part) for part in parts))

    def _both(self) -> Formula | Linear:
        node = self._one()
        parts = [node]
        while self._now.text == "and":
            self._formula(node)
            self._take()
            node = self._formula(self._one())
            parts.append(node)
        return node if len(parts) == 1 else Every(tuple(self._formula(part) for part in parts))

    def _one(self) -> Formula | Linear:
        node = self._inner()
        if self._now.text != "since":
            return node
        left = self._formula(node)
        self._take()
        interval = self._interval()
        right = self._formula(self._inner())
        if self._now.text == "since":
            raise self._unexpected("parentheses around one since inside another")
        return Since(left, right, interval)

    def _inner(self) -> Formula | Linear:
        negated = given = False
        while self._took("not"):
            negated, given = not negated, True
        node = self._comparison()
        if given:
            node = self._formula(node)
            return Not(node) if negated else node
        return node

    def _operator(self, word: str) -> Formula:
        interval = None if word == "previously" else self._interval()
        self._need("(")
        of = self._formula(self._implication())
        self._need(")")
        if word == "previously":
            return Previously(of)
        return Once(of, interval) if word == "once" else Historically(of, interval)

    # -- intervals ------------------------------------------------------------------------------------

    def _interval(self) -> Interval | None:
        if not self._took("["):
            return None
        lower = self._ticks()
        self._need(":")
        token, upper = self._now, self._ticks()
        self._need("]")
        if upper < lower:
            raise self._complaint(token.column, f"an interval runs from the smaller number: {token.text} is less")
        return Interval(lower, upper)

    def _ticks(self) -> int:
        token = self._take()
        if token.kind != "number":
            raise self._unexpected("a number of seconds ago, 0 or more", token)
        seconds, period = float(token.text), self._period
        if not seconds <= LONGEST_TICKS * period:
            longest = f"{LONGEST_TICKS} ticks ({LONGEST_TICKS * period:g} s)"
            message = f"an interval may look back {longest}, not {token.text} s; without one: the whole episode"
            raise self._complaint(token.column, message)
        ticks = round(seconds / period)
        if abs(ticks * period - seconds) > 1e-9 * max(seconds, period):
            below = math.floor(seconds / period)
            near = f"{below * period:.9g} or {(below + 1) * period:.9g}"
            message = f"{token.text} s is not a whole number of ticks of {period:g} s; nearest: {near}"
            raise self._complaint(token.column, message)
        return ticks

    # -- numbers --------------------------------------------------------------------------------------

    def _comparison(self) -> Formula | Linear:
        start, node = self._now.column, self._sum()
        parts: list[Comparison] = []
        while self._now.text in _COMPARATORS:
            left = self._linear(node, self._now)
            sign, begin = self._take(), self._now
            right = self._linear(self._sum(), begin)
            margin = right.plus(left, -1.0) if sign.text in ("<", "<=") else left.plus(right, -1.0)
            if not margin.terms:
                raise self._complaint(sign.column, f"this {sign.shown} compares numbers only; name a signal")
            parts.append(Comparison(margin, self._text[start : self._end]))
            start, node = begin.column, right
        if not parts:
            return node
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _linear(self, node: Formula | Linear, token: _Token) -> Linear:
        """``node`` where a number has to be; ``token`` is where to point if it is a condition."""
        if isinstance(node, Linear):
            return node
        message = f"at {token.shown} a number was expected, but it has a condition (true or false) there"
        raise self._complaint(token.column, message)

    def _sum(self) -> Formula | Linear:
        node = self._product()
        while self._now.text in ("+", "-"):
            left = self._linear(node, self._now)
            sign, begin = self._take(), self._now
            node = left.plus(self._linear(self._product(), begin), 1.0 if sign.text == "+" else -1.0)
        return node

    def _product(self) -> Formula | Linear:
        node = self._factor()
        while self._now.text in ("*", "/"):
            left = self._linear(node, self._now)
            sign, begin = self._take(), self._now
            right = self._linear(self._factor(), begin)
            node = self._times(left, right, sign) if sign.text == "*" else self._over(left, right, sign)
        return node

    def _times(self, left: Linear, right: Linear, sign: _Token) -> Linear:
        if left.terms and right.terms:
            raise self._complaint(sign.column, "a signal times a signal is not linear; scale by numbers only")
        factor, of = (right.constant, left) if left.terms else (left.constant, right)
        return self._scaled(of, factor, sign)

    def _over(self, left: Linear, right: Linear, sign: _Token) -> Linear:
        if right.terms or right.constant == 0.0:
            raise self._complaint(sign.column, "only a number other than 0 may stand under '/'")
        return self._scaled(left, 1.0 / right.constant, sign)

    def _scaled(self, of: Linear, factor: float, sign: _Token) -> Linear:
        if of.terms and not (factor != 0.0 and math.isfinite(factor)):
            raise self._complaint(sign.column, f"a signal scaled by {factor:g} says nothing")
        return of.scaled(factor)

    def _factor(self) -> Formula | Linear:
        token, sign, signed = self._now, 1.0, False
        while self._now.text in ("-", "+"):
            sign, signed = -sign if self._take().text == "-" else sign, True
        node = self._atom()
        return self._linear(node, token).scaled(sign) if signed else node

    def _atom(self) -> Formula | Linear:
        token = self._take()
        if token.text == "(":
            node = self._implication()
            self._need(")")
            return node
        if token.text in _OPERATORS:
            return self._operator(token.text)
        if token.text == "abs":
            return self._absolute()
        if token.kind == "number" and math.isfinite(float(token.text)):
            return Linear((), float(token.text))
        if token.kind == "name" and token.text.lower() not in _WORDS and token.text not in _FUTURE:
            return Linear((Term(1.0, self._signal(token)),))
        raise self._unexpected("a signal, a number, not, once, historically, previously, abs or '('", token)

    def _absolute(self) -> Linear:
        self._need("(")
        begin = self._now
        of = self._linear(self._implication(), begin)
        self._need(")")
        return Linear((Term(1.0, Absolute(of)),)) if of.terms else Linear((), abs(of.constant))

    def _signal(self, token: _Token) -> Signal:
        name = token.text.replace("'", "")
        if self._took("["):
            index = self._take()
            if not index.text.isdecimal() or len(index.text) > _LONGEST_INDEX:
                raise self._unexpected("the number of an element, 0 or more", index)
            self._need("]")
            name = f"{name}[{int(index.text)}]"
        self._signals.setdefault(name, token.column)
        return Signal(name)
