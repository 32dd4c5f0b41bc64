from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes import ModeState, ModeTable, words
from safeguard.modes.simulate import RecordedRun, RecordedTicks, merged, page, table_json
from safeguard.modes.spec import Guard
from safeguard.modes.state import ACKED, CALM, CREDIT, ESTOPS, MODE, MOVING
from safeguard.modes.table import ACK, BEYOND, HEAD, READY, STANDSTILL, STRATEGIES, WINDOW, compile_table, load_spec
from tests.unit.modes_javascript import disagreeing_states, disagreements, engine, python, questions

Ints = NDArray[np.int64]
PAIRS = 200_000
WALKS, STEPS = 20, 2_000


def table_of(strategy: str, period: float = 0.002) -> ModeTable:
    """A built-in table, whether or not it has a certificate."""
    return compile_table(load_spec(strategy), period)


def limits(table: ModeTable) -> Ints:
    """The largest value of every place in a state."""
    top = np.zeros(table.size, dtype=np.int64)
    top[[MODE, ACKED, ESTOPS]] = len(Mode) - 1, 1, table.numbers[BEYOND] + 1
    top[[CALM, MOVING]] = table.recoveries[:, 2].max(), table.escalations[:, 1].max()
    top[CREDIT] = table.numbers[WINDOW]
    top[HEAD : table.ages] = table.buckets[:, 1]
    count = len(table.capabilities)
    if count:
        top[table.ages : table.ages + count] = table.capabilities[:, 4]
        top[table.ages + count :] = table.capabilities[:, 2]
    return top


def random_states(table: ModeTable, count: int, rng: np.random.Generator) -> Ints:
    """States within their limits; half of all values lie at an end or next to one, where decisions change."""
    top = limits(table)
    anywhere = rng.integers(0, top + 1, (count, table.size))
    ends = np.clip(rng.choice([0, 0, 1], (count, table.size)) * top + rng.integers(-5, 3, (count, table.size)), 0, top)
    return np.where(rng.random((count, table.size)) < 0.5, anywhere, ends)


def random_inputs(table: ModeTable, count: int, rng: np.random.Generator) -> Ints:
    """Causes, flags, shadow, available: mostly few causes, sometimes many, now and then one that nobody knows."""
    bits, known = len(table.rows), len(Cause)
    chance = rng.choice([0.0, 0.02, 0.1, 0.5], (count, 1))
    causes = ((rng.random((count, known)) < chance) << np.arange(known)).sum(axis=1)
    causes |= np.where(rng.random(count) < 0.02, 1 << rng.integers(known, bits, count), 0)
    parts = 1 << len(table.capabilities)
    return np.column_stack([causes, *(rng.integers(0, end, count) for end in (128, parts, parts))])


def walked(table: ModeTable, rng: np.random.Generator) -> Ints:
    """Questions along random walks from BOOT: mostly quiet, at rest, and with a lively operator."""
    found: list[Ints] = []
    everything = (1 << len(table.capabilities)) - 1
    for _ in range(WALKS):
        state, inputs = ModeState.initial(table).numbers[None], np.zeros((1, 4), dtype=np.int64)
        for _ in range(STEPS):
            if rng.random() < 0.05:
                inputs = random_inputs(table, 1, rng)
                inputs[0, 0] *= rng.random() < 0.4
                if rng.random() < 0.6:
                    inputs[0, 1:] = READY | STANDSTILL, everything, everything
                if rng.random() < 0.2:
                    inputs[0, 0] = table.floors[Mode.DEGRADED]
            inputs[0, 1] ^= ACK * (rng.random() < 0.5)
            found.append(questions(state, inputs))
            state = python(table, found[-1])[:, : table.size]
    return np.vstack(found)


def modes_seen(states: Ints) -> set[Mode]:
    """The modes of states, or of answers."""
    return {Mode(mode) for mode in np.unique(states[:, MODE])}


def reachable(table: ModeTable) -> set[Mode]:
    """Every mode, but DEGRADED only where something can be shed."""
    return set(Mode) - (set() if table.capabilities.size else {Mode.DEGRADED})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_javascript_agrees_with_python(strategy: str) -> None:
    """On random states and inputs, unknown causes and odd flags included, every number of both answers is equal."""
    table, rng = table_of(strategy), np.random.default_rng(1)
    rows = questions(random_states(table, PAIRS, rng), random_inputs(table, PAIRS, rng))

    assert len(disagreements(table, rows)) == 0
    assert modes_seen(python(table, rows[:20_000])) >= reachable(table)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_javascript_agrees_with_python_along_walks(strategy: str) -> None:
    """From BOOT on, through thousands of ticks that see every mode of the strategy; timers are short for that."""
    table = table_of(strategy, 0.05)
    rows = walked(table, np.random.default_rng(2))

    assert len(disagreements(table, rows)) == 0
    assert modes_seen(rows) == reachable(table)


SLIPS = (
    ("level + numbers[FILL]", "level + 1"),
    ("level > buckets[b][2]", "level >= buckets[b][2]"),
    ("mode > least; mode--", "mode > least; mode -= 2"),
    ("if (fit >= capabilities[c][2])", "if (fit > capabilities[c][2])"),
    ("else if (age > 0)", "else if (age > 1)"),
    ("reserved <= numbers[WINDOW]", "reserved < numbers[WINDOW]"),
    ("paid + numbers[COST]", "paid"),
    ("(numbers[KNOWN] + 1) | numbers[ESTOP_BIT]", "(numbers[KNOWN] + 1)"),
    ("causes &= ~numbers[WAIVED]", "causes &= numbers[WAIVED]"),
    ("moving >= escalations[mode][1]", "moving > escalations[mode][1]"),
    ("flags & ACK && !s[ACKED]", "flags & ACK"),
    ("if (floor > target)", "if (floor >= target)"),
    ("person ? numbers[TAKEOVER_FLOOR] : NOMINAL", "NOMINAL"),
    ("if (target !== mode || jog) moving = 0", "if (target !== mode) moving = 0"),
    ("if (target !== mode || jog) moving = 0", "if (jog) moving = 0"),
    ("if (target !== mode) calm = 0", ""),
    ("person && target === HOLD", "target === HOLD"),
    ("target === HOLD && !(active & asking)", "target === HOLD"),
    (" && !bridging ?", " ?"),
    ("numbers[DELAYED] & ~numbers[DEBOUNCED] &", "numbers[DELAYED] &"),
)


@pytest.mark.parametrize(("right", "wrong"), SLIPS, ids=[f"{right} → {wrong}" for right, wrong in SLIPS])
def test_a_slip_in_javascript_is_noticed(right: str, wrong: str) -> None:
    """The comparison sees small mistakes: each of these makes some answers differ."""
    table, rng = table_of("modular"), np.random.default_rng(3)
    rows = questions(random_states(table, 50_000, rng), random_inputs(table, 50_000, rng))
    assert engine().count(right) == 1

    assert len(disagreements(table, rows, engine().replace(right, wrong))) > 0


def test_every_state_with_every_input_by_digest() -> None:
    """The digest over all inputs of a state agrees, and names exactly the states in which a slip shows."""
    table, rng = table_of("modular"), np.random.default_rng(4)
    states, inputs = random_states(table, 300, rng), random_inputs(table, 2_000, rng)
    boot = states[:, MODE] == Mode.BOOT
    slip = engine().replace("if (mode !== BOOT)", "if (true)")

    assert len(disagreeing_states(table, states, inputs)) == 0
    assert slip != engine()
    assert np.array_equal(np.unique(disagreeing_states(table, states, inputs, slip)[:, MODE]), [Mode.BOOT])
    assert boot.any()


def test_numbers_reach_javascript_unharmed() -> None:
    """Masks have more than 32 bits and go into the page as numbers; each of them is exact there."""
    table = table_of("modular")
    written = json.loads(json.dumps(table_json(table)), parse_int=float)

    assert max(table.numbers.tolist()) > 2**32
    for name in ("floors", "buckets", "escalations", "recoveries", "capabilities", "configurations", "numbers"):
        assert np.array_equal(
            np.array(written[name], dtype=np.float64).reshape(getattr(table, name).shape), getattr(table, name)
        )


def test_a_table_too_wide_for_javascript_is_refused() -> None:
    """A number of JavaScript holds 53 bits exactly; a mask with more rows would lose some."""
    table = table_of("modular")
    wide = replace(table, rows=(*table.rows, *(f"X{place}" for place in range(53 + 1 - len(table.rows)))))

    said = f"'modular' has 54 rows and {len(Cause)} causes; the simulator's masks hold 53 and 31"
    with pytest.raises(ModeTableError, match=said):
        table_json(wide)


def test_page_needs_nothing_from_outside() -> None:
    """One file: no address, no import, no font, and every part is filled in."""
    text = page()

    assert not re.search(r"https?://|@import|@font-face|src=|fetch\(|XMLHttpRequest|WebSocket", text)
    assert not re.search(r"/\*(style|data|engine|program)\*/", text)


def test_words_cannot_break_out_of_the_page() -> None:
    """A run whose name looks like the end of a script stays data."""
    name = "</script><script>alert(1)</script>"
    run = RecordedRun(name=name, strategy="dual", period_s=0.002, ticks=(RecordedTicks(mode="HOLD"),))
    text = page(runs=[run])

    assert name not in text
    assert text.count("</script>") == page().count("</script>")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "other"}, "strategy 'other' is not on the page"),
        ({"period_s": 0.001}, "its tick is 0.001 s"),
        ({"ticks": (RecordedTicks(mode="HOLD", shadow=("planner",)),)}, "entry 0: 'planner' is no capability of dual"),
    ],
)
def test_a_run_that_cannot_be_played_is_refused(change: dict[str, object], said: str) -> None:
    """The error names the run, what is wrong with it, and which value."""
    run = RecordedRun(name="odd", strategy="dual", period_s=0.002, ticks=(RecordedTicks(mode="HOLD"),))

    with pytest.raises(ModeTableError, match=f"run 'odd'.*{said}"):
        page(runs=[run.model_copy(update=change)])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_words_explain_every_reason(strategy: str) -> None:
    """Whatever can be a reason has words, and so has every mode, authority, guard and cause."""
    spec = load_spec(strategy)
    explained = words.rows(spec)

    assert all(explained[row] for row in table_of(strategy).rows)
    assert set(words.CAUSES) == set(Cause)
    assert set(words.MODES) == set(Mode)
    assert set(words.GUARDS) == set(Guard)
    assert set(words.AUTHORITIES) == set(Authority)


def test_equal_ticks_are_written_once() -> None:
    """Neighbours that are equal share an entry; what differs, and a new beginning, gets its own."""
    hold, stop = RecordedTicks(mode="HOLD"), RecordedTicks(mode="STOP", causes=(Cause.OPERATOR_STOP,))
    anew = hold.model_copy(update={"start": "BOOT"})

    entries = merged([hold, hold, stop, hold, anew, hold, hold, anew])

    assert [(one.mode, one.start, one.count) for one in entries] == [
        ("HOLD", None, 2), ("STOP", None, 1), ("HOLD", None, 1), ("HOLD", "BOOT", 3), ("HOLD", "BOOT", 1),
    ]  # fmt: skip
    assert sum(one.count for one in entries) == 8
