from __future__ import annotations

import re
from pathlib import Path

import pytest

from safeguard.core.errors import ModeTableError
from safeguard.modes import compile_table, load_spec, load_table
from safeguard.modes.read import read_spec
from tests.unit.modes_support import DEGRADING, TEXT, folder


def refused(tmp_path: Path, strategy: str, **texts: str) -> str:
    """The message for a strategy in a folder in which some files have another text."""
    with pytest.raises(ModeTableError) as caught:
        compile_table(read_spec(folder(tmp_path, **texts) / f"{strategy}.toml"), 0.002)
    return str(caught.value)


def edited(file: str, old: str, new: str) -> dict[str, str]:
    """One passage of one file replaced, once."""
    assert old in TEXT[file]
    return {file: TEXT[file].replace(old, new, 1)}


def row(name: str, file: str = "core") -> str:
    """The text of one table row."""
    return next(f"[[{part}" for part in TEXT[file].split("[[") if f'"{name}"' in part)


def line(file: str, row: str) -> str:
    """``file:line`` of a row's id."""
    number = TEXT[file].splitlines().index(f'id = "{row}"') + 1
    return f"{file}.toml:{number}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('floor = "hold"', 'floor = "hodl"', "row CORE-C06: causes.5.floor: .* unknown mode 'hodl'"),
        ('mode = "stop"', 'mode = "halt"', "row CORE-M05: modes.4.mode: .* unknown mode 'halt'"),
        ('to = "stop"', 'to = "STOP"', "row CORE-E01: escalations.0.to: .* unknown mode 'STOP'"),
        ('to = "stop"', "to = 4", "row CORE-E01: escalations.0.to: .* unknown mode 4"),
        ('cause = "estop"', 'cause = "estopp"', "row CORE-C01: causes.0.cause"),
        ('id = "CORE-C02"', 'id = "CORE-C01"', "row CORE-C01: this id is used twice"),
        (row("CORE-C05"), "", "no .* row for 'state_jump'; add one"),
        ('cause = "state_jump"', 'cause = "state_invalid"', "row CORE-C05: a second row for cause"),
        ("bridge_s = 0.12", 'bridge_s = "0.12 s"', "row CORE-C08: causes.7.bridge_s"),
        ("bridge_s = 0.12", "bridge = 0.12", "row CORE-C08: causes.7.bridge: Extra inputs"),
        ("bridge_s = 0.12", "bridge_s = 0.001", "row CORE-C08: .* shorter than one tick"),
        ("bridge_s = 0.12", "bridge_s = 0.0", "row CORE-C08: causes.7.bridge_s: .* greater than 0"),
        ("bridge_s = 0.12", "bridge_s = inf", "row CORE-C08: causes.7.bridge_s: .* finite"),
        ("bridge_ticks = 3", "bridge_ticks = 2.5", "row CORE-C03: causes.2.bridge_ticks"),
        ("bridge_s = 0.12", "bridge_s = 0.12\nbridge_ticks = 3", "row CORE-C08: .* exclude each other"),
        ("bridge_s = 0.12", "debounce_s = 0.12", "row CORE-C08: only what is shed may be debounced"),
        ('about = "policy"', 'about = "me"', "row CORE-C08: causes.7.about"),
        ('floor = "hold"', 'floor = "boot"', "row CORE-C06: floor 'boot' is not a severity"),
        ('clear = "auto"', 'clear = "ack"', "row CORE-C07: .* write clear = 'auto'"),
        ('clear = "ack"', 'clear = "auto"', "row CORE-C01: .* write clear = 'ack'"),
        ('floor = "nominal"', 'floor = "nominal"\nbridge_ticks = 3', "row CORE-C16: .* never fire"),
        ('floor = "nominal"', 'floor = "nominal"\nlockout = true', "row CORE-C16: .* never fire"),
        ('floor = "cautious"\nclear', 'floor = "degraded"\nclear', "row CORE-C07: 'degraded' is no mode of strategy"),
        (row("CORE-M05"), "", "no .*modes.* row for 'stop'"),
        (
            'id = "CORE-M02"',
            'id = "CORE-M22"\nmode = "cautious"\nauthority = "policy"\n\n[[modes]]\nid = "CORE-M02"',
            "row CORE-M02: .* two rows",
        ),
        (row("CORE-M02"), row("CORE-M02").replace('"cautious"', '"degraded"'), "row CORE-M02: there is no .*config"),
        ("velocity_share = 0.5", "velocity_share = 1.5", "row CORE-M02: modes.2.velocity_share"),
        ("velocity_share = 0.5", "velocity_share = 0.0", "row CORE-M02: modes.2.velocity_share"),
        ("moving_s = 1.5", "", "row CORE-E01: needs exactly one of"),
        ("moving_s = 1.5", "moving = 1.5", "row CORE-E01: escalations.0.moving: Extra inputs"),
        ("moving_s = 1.5", "moving_s = 0.0001", "row CORE-E01: .* shorter than one tick"),
        ('to = "stop"', 'to = "cautious"', "row CORE-E01: can never fire"),
        ('to = "nominal"', 'to = "stop"', "row CORE-R02: can never fire"),
        ('to = "nominal"', 'to = "hold"', "row CORE-R02: can never fire: 'to' is not below 'from'"),
        ('from = "estop"', 'from = "lockout"', "row CORE-R05: .*absorbing"),
        ('from = "estop"', 'from = "stop"', "row CORE-R05: can never fire: an earlier row"),
        ('to = "cautious"', 'to = "degraded"', "row CORE-R03: 'degraded' is no mode"),
        ('guards = ["ready"]', 'guards = ["redy"]', "row CORE-R01: recoveries.0.guards"),
        ('guards = ["clear"]', 'guards = ["clear", "shadow"]', "row CORE-R02: guard 'shadow' belongs to a capability"),
        (
            'guards = ["clear"]',
            'guards = ["clear", "ready"]',
            "row CORE-R02: guard 'ready' .* one of: 'clear'$",
        ),
        (
            'guards = ["clear"]',
            'guards = ["clear", "drained"]',
            "row CORE-R02: guard 'drained' says nothing",
        ),
        ('guards = ["ready"]', 'guards = ["ready", "ack"]', "row CORE-R01: guard 'ack' says nothing in 'boot'"),
        (
            '"drained"]',
            '"drained", "person"]',
            "row CORE-R03: guard 'person' .*'ack', 'standstill'",
        ),
        ('"drained"]', '"drained", "ack"]', "row CORE-R03: guard 'ack' is there twice; remove one"),
        (
            'floor = "cautious"\nclear',
            'floor = "cautious"\nsheds = ["legs"]\nclear',
            "row CORE-C07: floor 'degraded' and sheds .* together\n"
            "core.toml:.* row CORE-C07: sheds 'legs' must name a capability of this table: there are none",
        ),
        ('to = "hold"', 'to = "stop"', "row CORE-R01: boot is left only to 'hold'"),
        ("dwell_s = 0.5", "dwell_s = 0.5\ndwell_ticks = 3", "row CORE-R02: .* exclude each other"),
        ("dwell_s = 0.5", "dwell = 0.5", "row CORE-R02: recoveries.1.dwell: Extra inputs"),
        ("beyond = 2", "beyond = -1", "lockout.beyond"),
        ("fill = 4", "fill = 0", "bridge.fill"),
        ("rearm_share = 0.5", "rearm_share = 1.5", "bridge.rearm_share"),
        (
            'id = "CORE-T01"\nfloor = "cautious"',
            'id = "CORE-T01"\nfloor = "calm"',
            "takeover.floor: .* unknown mode 'calm'",
        ),
        (
            "velocity_share = 0.1\n",
            "velocity_share = 0.51\n",
            "row CORE-J01: velocity_share = 0.51 is more than the 0.5 of 'cautious' .CORE-M02.; lower it",
        ),
        ("velocity_share = 0.1\n", "velocity_share = 0.0\n", "row CORE-J01: jog.velocity_share: .* greater than 0"),
        ("velocity_share = 0.1\n", "velocity_share = 1.1\n", "row CORE-J01: jog.velocity_share: .* less than or equal"),
        ("acceleration_share = 0.2\n", "", "row CORE-J01: jog.acceleration_share: Field required"),
        ("acceleration_share = 0.2\n", "away = true\n", "row CORE-J01: jog.away: Extra inputs"),
        ('id = "CORE-J01"\n', "", r"core.toml:\d+: jog.id: Field required"),
        ('id = "CORE-J01"', 'id = "CORE-C01"', "row CORE-C01: this id is used twice"),
        ('authority = "backup"', 'authority = "operator"', "row CORE-M04: authority 'operator' belongs to no mode"),
        ("schema = 2", "schema = 1", "core.toml:5: schema must be 2"),
        ("schema = 2", "", "core.toml:1: schema must be 2"),
        ("schema = 2", "schema = ", "core.toml: not TOML: .*line 5"),
        ("schema = 2", 'schema = 2\nstrategy = "core"', "core.toml:6: strategy does not belong in a core; remove it"),
    ],
)
def test_wrong_cores_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    """Every slip in the core is refused with the row and what to do."""
    message = refused(tmp_path, "monolithic", **edited("core", old, new))
    assert re.search(words, message), message


@pytest.mark.parametrize(
    ("strategy", "old", "new", "words"),
    [
        ("vla", 'sheds = ["fresh_chunks"]\nvel', 'sheds = ["chunks"]\nvel', "row VLA-D01: sheds .*must name"),
        (
            "vla",
            'sheds = ["fresh_chunks"]\nclear',
            'sheds = ["fresh_chunks", "chunks"]\nclear',
            "vla.toml:[0-9]+ row VLA-C11: sheds 'chunks' must name a capability of this table: 'fresh_chunks'",
        ),
        (
            "vla",
            'floor = "degraded"\nsheds = ["fresh_chunks"]',
            'floor = "cautious"\nsheds = ["chunks"]',
            "vla.toml:[0-9]+ row VLA-C11: sheds 'chunks' must name a capability",
        ),
        ("vla", 'sheds = ["fresh_chunks"]\nvel', "sheds = []\nvel", "row VLA-D01: sheds = .. is the whole strategy"),
        ("modular", '["prediction", "planner"]', '["planner", "planner"]', "row MOD-D03: sheds 'planner' twice"),
        ("vla", "stay_s = 0.2", "", "row VLA-D01: needs exactly one of stay_s and stay_ticks: .* bounded"),
        ("vla", "stay_s = 0.2", "stay = 0.2", "row VLA-D01: configurations.0.stay: Extra inputs"),
        ("vla", "stay_s = 0.2", "stay_s = 0.2\nstay_ticks = 9", "row VLA-D01: needs exactly one of"),
        ("vla", "stay_s = 0.2", "stay_s = 0.0001", "row VLA-D01: .* shorter than one tick"),
        ("vla", "dwell_s = 0.02", "", "row VLA-K01: needs exactly one of dwell_s and dwell_ticks"),
        ("vla", 'name = "fresh_chunks"', 'name = "fresh"', "row VLA-K01: no cause sheds 'fresh'; remove the row"),
        ("vla", "window_s = 30.0", "", "row VLA-F01: needs exactly one of window_s and window_ticks"),
        ("vla", "window_s = 30.0", "window = 30.0", "flapping.window: Extra inputs"),
        ("vla", "recoveries = 30", "recoveries = 1", "flapping.recoveries: .* greater than or equal to 2"),
        ("vla", row("VLA-M03", "vla"), "", "row VLA-D01: a configuration needs a .*modes.* row for 'degraded'"),
        ("vla", row("VLA-C11", "vla").split("# At")[0], "", "row VLA-K01: no cause sheds 'fresh_chunks'"),
        ("vla", 'about = "policy"', 'about = "body"', "row VLA-C11: only causes about the policy can be shed"),
        ("vla", 'floor = "degraded"', 'floor = "hold"', "row VLA-C11: floor 'degraded' and sheds .* belong together"),
        ("vla", 'sheds = ["fresh_chunks"]\nclear', "clear", "row VLA-C11: floor 'degraded' and sheds .* together"),
        ("vla", '"monitor_warn", ', '"monitor_wan", ', "row VLA-D01: configurations.0.intolerable"),
        ("vla", 'guards = ["person"]', 'guards = ["clear"]', "row VLA-R06: 'degraded' is left by getting back"),
        ("vla", 'to = "cautious"', 'to = "hold"', "row VLA-R06: can never fire: 'to' is not below 'from'"),
        ("vla", 'id = "VLA-R06"', 'id = "CORE-R05"', "row CORE-R05: this id is used twice"),
        ("dual", 'guards = ["shadow"]', 'guards = ["ack"]', "row DUAL-K01: guard 'ack' does not apply to a capability"),
        ("dual", "debounce_s = 0.25", "debounce_s = 0.25\nbridge_ticks = 3", "row DUAL-C26: .* exclude each other"),
        ("dual", 'strategy = "dual"', "", 'dual.toml:1: needs strategy = "…" and core'),
        ("dual", 'core = "core.toml"', 'core = "kernel.toml"', "kernel.toml: cannot be read"),
        (
            "dual",
            'core = "core.toml"',
            'core = "core.toml"\n[lockout]\nid = "X"\nbeyond = 1',
            "belongs to core.toml; move",
        ),
        ("dual", 'from = "degraded"\nto = "cautious"', 'from = "cautious"\nto = "nominal"', "DUAL-R06: can never fire"),
        (
            "modular",
            row("MOD-D02", "modular") + row("MOD-D03", "modular"),
            "",
            "row MOD-K02: can never be shed: no configuration is without 'planner'; add one or remove the row",
        ),
        ("dual", '"perception_warn"', '"estop"', "row DUAL-D01: intolerable 'estop' says nothing: .* 'estop' anyway"),
        ("modular", 'name = "planner"', 'name = "prediction"', "row MOD-K02: capability 'prediction' has two rows"),
        ("modular", 'sheds = ["planner"]\nvel', 'sheds = ["prediction"]\nvel', "row MOD-D02: sheds what another"),
        (
            "modular",
            row("MOD-D02", "modular"),
            "",
            "row MOD-D03: sheds 'planner', which has no configuration of its own",
        ),
        (
            "modular",
            "stay_s = 10.0",
            'stay_s = 10.0\nintolerable = ["filter_slack"]',
            "row MOD-D03: tolerates what MOD-D02, which sheds less, does not",
        ),
    ],
)
def test_wrong_strategies_are_refused(tmp_path: Path, strategy: str, old: str, new: str, words: str) -> None:
    """Every slip in what a strategy adds is refused with the row and what to do."""
    message = refused(tmp_path, strategy, **edited(strategy, old, new))
    assert re.search(words, message), message


@pytest.mark.parametrize("strategy", DEGRADING)
def test_degraded_rows_without_a_configuration_are_refused(tmp_path: Path, strategy: str) -> None:
    """Without a configuration the degraded mode, its capabilities, the budget and its recovery can never fire."""
    parts = re.split(r"(?m)^(?=\[)", TEXT[strategy])
    text = "".join(part for part in parts if not part.startswith(("[[configurations]]", "[[causes]]")))
    message = refused(tmp_path, strategy, **{strategy: text})
    prefix = load_spec(strategy).configurations[0].id.split("-")[0]
    for part in ("M03", "K01", "F01"):
        assert f"row {prefix}-{part}: there is no [[configurations]] row" in message
    assert f"row {prefix}-R06: can never fire: nothing enters 'degraded'" in message


@pytest.mark.parametrize("strategy", DEGRADING)
def test_degrading_without_a_budget_is_refused(tmp_path: Path, strategy: str) -> None:
    """A strategy that sheds something bounds how often."""
    text = re.sub(r"\[flapping\]\nid = .*\nrecoveries = .*\nwindow_s = .*\n", "", TEXT[strategy])
    assert "needs [flapping]" in refused(tmp_path, strategy, **{strategy: text})


def test_lockout_without_a_cause_is_refused(tmp_path: Path) -> None:
    """A lockout that no cause counts towards can never fire."""
    text = TEXT["core"].replace("lockout = true", "lockout = false")
    assert "row CORE-L01: can never fire" in refused(tmp_path, "monolithic", core=text)


def test_row_that_nothing_enters_is_refused(tmp_path: Path) -> None:
    """A recovery from a mode that no cause and no timer brings about can never fire."""
    text = TEXT["core"].replace('floor = "stop"', 'floor = "hold"').replace(row("CORE-E01"), "")
    assert "row CORE-R04: can never fire: nothing enters 'stop'" in refused(tmp_path, "monolithic", core=text)


def test_cyclic_recoveries_are_refused(tmp_path: Path) -> None:
    """Recoveries only lead down, so the row that closes a circle is refused at its line."""
    circle = TEXT["core"].replace('from = "cautious"\nto = "nominal"', 'from = "cautious"\nto = "hold"')
    message = refused(tmp_path, "monolithic", core=circle)
    assert f"{line('core', 'CORE-R02')} row CORE-R02: can never fire: 'to' is not below 'from'" in message


def test_messages_point_at_the_line_of_the_right_file(tmp_path: Path) -> None:
    """A refused row is named with file and line of its id, whichever of the two files it is in."""
    core = edited("core", 'floor = "hold"', 'floor = "boot"')
    own = edited("vla", "stay_s = 0.2", "")
    message = refused(tmp_path, "vla", **core, **own)
    assert f"{line('core', 'CORE-C06')} row CORE-C06" in message
    assert f"{line('vla', 'VLA-D01')} row VLA-D01" in message


def test_unknown_strategy_lists_the_known_ones() -> None:
    """A strategy without a table is refused with the names that exist."""
    with pytest.raises(
        ModeTableError, match=r"no mode table for strategy 'modul'; there are: dual, modular, mono.*vla"
    ):
        load_table("modul")
