from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safeguard.core.enums import Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.core.types import Envelope
from safeguard.modes import cause_mask, compile_table, engine, load_spec, state
from safeguard.modes.read import read_spec
from safeguard.modes.spec import CauseSpec, TableSpec
from safeguard.modes.table import (
    ACK,
    CLEAR,
    COST,
    DRAINED,
    FLAPPING_ROW,
    JOG_ROW,
    PERSON,
    READY,
    STANDSTILL,
    WINDOW,
    source_digest,
)
from tests.unit.modes_support import ALL, TEXT, compiled, folder


@pytest.mark.parametrize("period", [0.0, -0.002, 1e-7, float("nan"), float("inf")])
def test_period_must_be_positive(period: float) -> None:
    """A period that is no positive time of at least a microsecond is refused."""
    with pytest.raises(ModeTableError, match="period"):
        compile_table(load_spec("monolithic"), period)


def test_a_digest_of_sources_is_that_of_their_text() -> None:
    """SHA-256 of the modules in order, a zero byte between them."""
    texts = [Path(state.__file__).read_bytes(), Path(engine.__file__).read_bytes()]
    assert source_digest(("state", "engine")) == hashlib.sha256(b"\0".join(texts)).hexdigest()


def test_a_microsecond_is_a_period() -> None:
    """The shortest period that is accepted."""
    assert compile_table(load_spec("monolithic"), 1e-6).period_ns == 1000


def test_digest_names_the_content(tmp_path: Path) -> None:
    """Comments and the period leave the digest alone; any value of either file changes it."""
    digest = compiled("vla").digest
    path = folder(tmp_path, core="# another comment\n" + TEXT["core"]) / "vla.toml"
    assert compile_table(read_spec(path), 0.005).digest == digest
    folder(tmp_path, core=TEXT["core"].replace("beyond = 2", "beyond = 3"))
    assert compile_table(read_spec(path), 0.002).digest != digest
    folder(tmp_path, vla=TEXT["vla"].replace("decays = true", "decays = false"))
    assert compile_table(read_spec(path), 0.002).digest != digest


def test_too_many_rows_are_refused() -> None:
    """A record's mask has room for 62 rows; the 63rd is refused, not lost."""
    spec = load_spec("monolithic")
    backs = spec.recoveries
    for count in (62, 63):
        more = tuple(
            backs[0].model_copy(update={"id": f"X{i}"}) for i in range(count - len(compiled("monolithic").rows))
        )
        wide = spec.model_copy(update={"recoveries": (*more, *backs)})
        if count == 62:
            assert len(compile_table(wide, 0.002).rows) == 62
        else:
            with pytest.raises(ModeTableError, match="63 rows that can be reasons; 62 fit"):
                compile_table(wide, 0.002)


@pytest.mark.parametrize("strategy", ALL)
def test_strategies_share_the_core(strategy: str) -> None:
    """What a strategy does not replace is the core's row, and its own rows bear its prefix."""
    core, spec = load_spec("monolithic"), load_spec(strategy)
    own = [found for found in spec.rows() if not found.id.startswith("CORE-")]
    assert {found.id.split("-")[0] for found in own} <= {"MOD", "VLA", "DUAL"}
    shared = {found.id: found for found in core.rows()}
    assert all(shared[found.id] == found for found in spec.rows() if found.id in shared)
    replaced = {found.cause for found in spec.causes if found in own}
    assert {found.cause for found in core.causes if found.id not in spec.ids()} == replaced


@pytest.mark.parametrize("strategy", ALL)
def test_every_row_that_can_be_a_reason_has_its_bit(strategy: str) -> None:
    """One bit a row; a mask names its rows in order, causes first, in the order of the causes."""
    table, spec = compiled(strategy), load_spec(strategy)
    assert len(set(table.rows)) == len(table.rows) == len(spec.ids()) - len(spec.modes)
    assert table.ids((1 << len(table.rows)) - 1) == table.rows
    assert table.ids(0) == ()
    by_cause = {found.cause: found.id for found in spec.causes}
    assert table.ids(cause_mask(Cause)) == tuple(by_cause[cause] for cause in Cause)


@pytest.mark.parametrize("strategy", ALL)
def test_floors_hold_every_cause_once(strategy: str) -> None:
    """Every cause asks for exactly one mode."""
    table, spec = compiled(strategy), load_spec(strategy)
    for found in spec.causes:
        asked = [mode for mode in Mode if table.floors[mode] & cause_mask([found.cause])]
        assert asked == [found.floor]


def test_buckets_hold_the_delays() -> None:
    """Full is fill times the delay in ticks, rounded down; re-arm is the share of it, rounded down."""
    buckets = {bit: (full, rearm) for bit, full, rearm in compiled("dual").buckets.tolist()}
    assert buckets[cause_mask([Cause.SYSTEM2_FAILED])] == (4 * 125, 250)
    assert buckets[cause_mask([Cause.STATE_STALE])] == (12, 6)
    assert buckets[cause_mask([Cause.POLICY_LATE])] == (240, 120)
    assert list(buckets) == sorted(buckets)
    assert cause_mask([Cause.POLICY_LATE]) not in compiled("vla").buckets[:, 0]
    odd = load_spec("dual").bridge.model_copy(update={"fill": 3})
    table = compile_table(load_spec("dual").model_copy(update={"bridge": odd}), 0.002)
    assert [9, 4] in table.buckets[:, 1:].tolist()


def test_times_are_converted_exactly() -> None:
    """0.3 s are three times 0.1 s: limits round down and dwells up only where a tick does not divide the time."""
    spec = load_spec("monolithic")

    def escalation(seconds: float, period: float) -> int:
        timer = spec.escalations[0].model_copy(update={"moving_s": seconds})
        changed = spec.model_copy(update={"escalations": (timer, *spec.escalations[1:])})
        return int(compile_table(changed, period).escalations[Mode.HOLD, 1])

    def recovery(seconds: float, period: float) -> int:
        rows = tuple(back.model_copy(update={"dwell_s": seconds}) for back in spec.recoveries)
        return int(compile_table(spec.model_copy(update={"recoveries": rows}), period).recoveries[Mode.HOLD, 2])

    assert [escalation(0.3, 0.1), recovery(0.3, 0.1)] == [3, 3]
    assert [escalation(0.31, 0.1), recovery(0.31, 0.1)] == [3, 4]
    assert [escalation(0.007, 0.001), recovery(0.007, 0.001)] == [7, 7]
    assert escalation(0.1, 0.1) == 1


def test_recoveries_and_escalations_by_mode() -> None:
    """From HOLD up "clear" is about everything that can degrade or worse; below about the mode itself."""
    table = compiled("vla")
    assert [int(target) for target in table.recoveries[:, 0]] == [-1, 0, 1, 1, 3, 3, -1, 3]
    assert [int(target) for target in table.escalations[:, 0]] == [-1, -1, -1, 4, 5, -1, -1, -1]
    weak = cause_mask([Cause.TICK_OVERRUN, Cause.MONITOR_WARN])
    late, none = cause_mask([Cause.POLICY_LATE]), cause_mask([Cause.UNCALIBRATED])
    for mode in (Mode.HOLD, Mode.STOP, Mode.ESTOP):
        blocking = int(table.recoveries[mode, 3])
        assert (blocking & weak, blocking & late) == (0, late)
    blocking = int(table.recoveries[Mode.CAUTIOUS, 3])
    assert (blocking & weak, blocking & late, blocking & none) == (weak, late, 0)


def test_a_mode_without_a_row_has_no_numbers() -> None:
    """Where nothing leads on, the target is −1 and everything else 0; a row's guards are its bits and no others."""
    table = compiled("monolithic")
    for mode in (Mode.NOMINAL, Mode.DEGRADED, Mode.LOCKOUT):
        assert table.escalations[mode].tolist() == [-1, 0, 0]
        assert table.recoveries[mode].tolist() == [-1, 0, 0, 0, 0]
    assert table.recoveries[[Mode.BOOT, Mode.CAUTIOUS, Mode.HOLD], 1].tolist() == [
        READY, CLEAR, ACK | STANDSTILL | CLEAR | DRAINED,
    ]  # fmt: skip
    assert compiled("vla").recoveries[Mode.DEGRADED, 1] == PERSON


def test_numbers_in_the_order_of_the_engine() -> None:
    """Known causes, the e-stop's, delayed, debounced, bridge, lockout, waived, takeover, budget and jogging."""
    table, spec = compiled("dual"), load_spec("dual")
    numbers = table.numbers.tolist()
    assert numbers[:2] == [cause_mask(Cause), cause_mask([Cause.ESTOP])]
    assert numbers[2] == table.buckets[:, 0].sum()
    assert numbers[3:6] == [cause_mask([Cause.SYSTEM2_FAILED]), 4, 1]
    assert numbers[6:8] == [cause_mask([Cause.ESTOP, Cause.BACKUP_REFUSED]), 2]
    assert table.ids(numbers[8]) == ("CORE-L01",)
    assert numbers[9] == cause_mask(one.cause for one in spec.causes if one.about == "policy") != 0
    assert numbers[10] == Mode.CAUTIOUS
    assert table.ids(numbers[11]) == ("CORE-T01",)
    assert table.ids(numbers[14]) == ("DUAL-F01",)
    assert table.ids(numbers[15]) == ("CORE-J01",)
    assert numbers[15:] == [numbers[JOG_ROW]]
    assert compile_table(spec.model_copy(update={"jog": None}), 0.002).numbers[15:].tolist() == [0]


def test_jogging_is_slow_and_leads_away() -> None:
    """A person's envelope in HOLD: the shares of the file, and only away from what is near; none without the row."""
    spec = load_spec("vla")
    assert compiled("vla").jog == Envelope(0.1, 0.2, away=True)
    assert compile_table(spec.model_copy(update={"jog": None}), 0.002).jog is None


def test_dwells_of_capabilities_are_rounded_up() -> None:
    """Half a second at 7 ms is 72 ticks, its bound for the stay 428."""
    table = compile_table(load_spec("dual"), 0.007)
    assert (int(table.capabilities[0, 2]), int(table.configurations[1, 0])) == (72, 428)


def test_capabilities_and_configurations() -> None:
    """Who sheds what, what it takes back, the longest age, and by what is missing: stay, warnings and row."""
    table = compiled("modular")
    prediction, planner = table.capabilities.tolist()
    assert prediction[:3] == [cause_mask([Cause.PREDICTION_FAILED]), 1, 250]
    assert planner[:3] == [cause_mask([Cause.PLANNER_FAILED, Cause.MONITOR_DEGRADE]), 1, 250]
    assert prediction[4] == planner[4] == 30_001
    assert [table.ids(prediction[3]), table.ids(planner[3])] == [("MOD-K01",), ("MOD-K02",)]
    assert table.configurations[:, 0].tolist() == [0, 30_000, 5_000, 1_000]
    weak = cause_mask([Cause.MONITOR_WARN, Cause.PERCEPTION_WARN])
    assert table.configurations[:, 1].tolist() == [0, 0, 0, weak]
    assert [table.ids(int(bit)) for bit in table.configurations[:, 2]] == [(), ("MOD-D01",), ("MOD-D02",), ("MOD-D03",)]
    assert compiled("vla").capabilities[0, 1:3].tolist() == [0, 10]
    assert [name for name, _ in table.degraded] == ["", "no_prediction", "no_planner", "no_prediction_no_planner"]
    assert table.degraded[1][1] == (Envelope(0.5, 1.0),)
    assert len(compiled("vla").degraded[1][1]) == 100


def test_budget_costs_half_a_window_for_two() -> None:
    """``recoveries`` in any window: a recovery costs twice the window over them, rounded up."""
    spec = load_spec("vla")
    assert spec.flapping is not None
    for recoveries, cost in ((2, 15_000), (4, 7_500), (7, 4_286), (20, 1_500)):
        row = spec.flapping.model_copy(update={"recoveries": recoveries})
        table = compile_table(spec.model_copy(update={"flapping": row}), 0.002)
        assert table.numbers[COST : WINDOW + 1].tolist() == [cost, 15_000]
    assert compiled("monolithic").numbers[COST : FLAPPING_ROW + 1].tolist() == [0, 0, 0]


def test_tables_are_read_only_and_compare_by_value() -> None:
    """Two compilations are equal, another period or digest is not, and nothing can be written."""
    one, two = compile_table(load_spec("dual"), 0.002), compile_table(load_spec("dual"), 0.002)
    assert one == two
    assert hash(one) == hash(two)
    assert one != compile_table(load_spec("dual"), 0.001)
    assert one != compiled("vla")
    assert one != "dual"
    for array in one.arrays:
        assert not array.flags.writeable
    assert (one.ages, one.size) == (6 + len(one.buckets), 6 + len(one.buckets) + 2)
    assert one != replace(one, digest="0" * 64)
    changed = np.array(one.numbers)
    changed[4] += 1
    assert one != replace(one, numbers=changed)


def test_names_of_capabilities() -> None:
    """The runtime names capabilities; a table knows their bits and ignores what it does not have."""
    table = compiled("modular")
    assert table.names == ("prediction", "planner")
    assert [table.mask(()), table.mask(["prediction"]), table.mask(["planner"])] == [0, 1, 2]
    assert table.mask(["planner", "prediction", "planner", "wheels"]) == 3
    assert [compiled(name).mask(["fresh_chunks", "system2"]) for name in ALL] == [1, 0, 0, 1]
    assert {compiled(name).most_estops for name in ALL} == {2}


def test_masks_of_capabilities() -> None:
    """What is shed is a mask in the order of the rows; an unknown name is −1, a repeated one counts once."""
    spec = load_spec("modular")
    assert [spec.mask(()), spec.mask(["prediction"]), spec.mask(["planner"])] == [0, 1, 2]
    assert spec.mask(["planner", "prediction", "planner"]) == 3
    assert spec.mask(["planner", "wheels"]) == -1


@pytest.mark.parametrize("cause", [Cause.ESTOP, Cause.LEASE_LOST], ids=lambda cause: cause.value)
def test_a_table_without_a_cause_is_refused(cause: Cause) -> None:
    """The compiler names the cause that no row is about, for tables that no lint has seen too."""
    spec = load_spec("dual")
    less = spec.model_copy(update={"causes": tuple(row for row in spec.causes if row.cause is not cause)})
    with pytest.raises(ModeTableError, match=rf"dual\.toml: no \[\[causes\]\] row for '{cause.value}'; add one"):
        compile_table(less, 0.002)


def test_ticks_may_be_given_instead_of_seconds() -> None:
    """A count of ticks is taken as it is, at every period."""
    spec = load_spec("dual")

    def ticked(one: CauseSpec) -> CauseSpec:
        return one if one.debounce_s is None else one.model_copy(update={"debounce_s": None, "debounce_ticks": 7})

    changed: TableSpec = spec.model_copy(update={"causes": tuple(map(ticked, spec.causes))})
    for period in (0.001, 0.002, 0.005):
        assert 28 in compile_table(changed, period).buckets[:, 1]
