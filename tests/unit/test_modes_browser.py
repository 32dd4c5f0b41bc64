"""The simulator's page, clicked through in a headless Chromium and compared with what Python decides."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes import ModeInputs, ModeOutputs, ModeState, ModeTable, cause_mask, step
from safeguard.modes.simulate import RecordedRun, RecordedTicks, merged, page
from safeguard.modes.state import CALM, CREDIT
from safeguard.modes.table import compile_table, load_spec
from tests.unit.browser import Page, browser

PERIOD = 0.05  # long ticks, so that a few clicks fill a bucket
WHO = {"policy": "the policy", "backup": "the verified backup", "none": "nobody", "operator": "the operator"}


def recorded(strategy: str = "modular") -> RecordedRun:
    """A run as the shield would have had it: start, a failed planner, its return, an emergency stop, a new episode."""
    parts = ("prediction", "planner")
    common = RecordedTicks(mode="BOOT", standstill=True, shadow=parts, available=parts)
    scene: list[RecordedTicks] = [
        common.model_copy(update={"count": 6}),
        common.model_copy(update={"ack": True}),
        common.model_copy(update={"standstill": False, "count": 30}),
        common.model_copy(update={"standstill": False, "causes": (Cause.PLANNER_FAILED,), "count": 40}),
        common.model_copy(update={"standstill": False, "count": 30}),
        common.model_copy(update={"causes": (Cause.ESTOP,), "count": 5}),
        common.model_copy(update={"count": 5, "start": "BOOT"}),
    ]
    return RecordedRun(
        name="a day",
        strategy=strategy,
        period_s=PERIOD,
        ticks=tuple(played(compile_table(load_spec(strategy), PERIOD), scene)),
    )


def played(table: ModeTable, scene: list[RecordedTicks]) -> Iterator[RecordedTicks]:
    """Single ticks with the mode that Python's engine gives."""
    state = ModeState.initial(table)
    for ticks in scene:
        if ticks.start is not None:
            state = ModeState.initial(table, Mode[ticks.start], state.estops)
        inputs = ModeInputs.of(
            ticks.causes, ack=ticks.ack, standstill=ticks.standstill, ready=ticks.ready, shadow=3, available=3
        )
        for place in range(ticks.count):
            state, outputs = step(table, state, inputs)
            start = ticks.start if place == 0 else None
            yield ticks.model_copy(update={"mode": outputs.mode.name, "count": 1, "start": start})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, with a recorded run in it."""
    made = tmp_path_factory.mktemp("page") / "modes.html"
    run = recorded()
    made.write_text(page(period=PERIOD, runs=[run.model_copy(update={"ticks": merged(run.ticks)})]), "utf-8")
    return made


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """One browser for all tests here; each opens the page anew."""
    with browser() as found:
        found.look(1340, 900)
        yield found


@dataclass
class Twin:
    """The page and Python's engine, given the same inputs; every tick is compared."""

    tab: Page
    strategy: str
    path: Path
    causes: set[Cause] = field(default_factory=set[Cause])
    inputs: ModeInputs = field(default_factory=lambda: ModeInputs(standstill=True))

    def __post_init__(self) -> None:
        self.table = compile_table(load_spec(self.strategy), PERIOD)
        everything = (1 << len(self.table.capabilities)) - 1
        self.inputs = self.inputs._replace(shadow=everything, available=everything)
        self.state, self.ticks = ModeState.initial(self.table), 0
        self.tab.open(self.path)
        self.tab.click("#run")
        self.tab.click(f"#strategies label:has([value={self.strategy}])")
        self.tab.click("#reset")
        self.tab.click("#body label:has([value=rest])")

    def cause(self, cause: Cause) -> None:
        """Click a cause on or off."""
        self.causes ^= {cause}
        self.tab.click(f"[data-cause={cause.value}]")

    def tick(self, count: int = 1, *, ack: bool = False) -> ModeOutputs:
        """Single ticks, the first of them with a click on the acknowledgement."""
        if ack:
            self.tab.click("#ack")
        outputs: ModeOutputs | None = None
        for place in range(count):
            now = self.inputs._replace(causes=cause_mask(self.causes), ack=ack and place == 0)
            self.state, outputs = step(self.table, self.state, now)
            self.ticks += 1
            self.tab.click("#step")
            self.compare(outputs)
        assert outputs is not None
        return outputs

    def compare(self, outputs: ModeOutputs) -> None:
        """Mode, authority, envelope, configuration, reasons, clock and every bucket, as they can be read."""
        assert self.tab.text("#mode") == outputs.mode.name
        assert self.tab.text("#authority").startswith(WHO[outputs.authority.value])
        moves = outputs.authority.value in ("policy", "operator")
        away = ", away from what is near" if outputs.envelope.away else ""
        share = f"{round(100 * outputs.envelope.velocity)} % of the speed limits{away}"
        stopping = {"backup": "as the stop needs", "none": "not at all"}
        assert self.tab.text("#envelope") == (share if moves else stopping[outputs.authority.value])
        assert (self.tab.text("#configuration") != "nothing") == bool(outputs.configuration)
        assert tuple(self.rows("#reasons li[data-row]")) == outputs.reasons
        assert self.tab.text("#clock") == f"{self.ticks * PERIOD:.3f} s · tick {self.ticks}"
        assert self.tab.text("#chain .here") == outputs.mode.name
        full = self.table.buckets[:, 1].tolist()
        levels = [f"{level} of {top}" for level, top in zip(self.state.levels(self.table), full, strict=True)]
        assert self.texts("#timers .meter:has([style*='--mark']) small") == levels

    def rows(self, selector: str) -> list[str]:
        """Row ids of elements."""
        found = self.tab.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.dataset.row)")
        return [str(row) for row in found]

    def texts(self, selector: str) -> list[str]:
        """Texts of elements."""
        found = self.tab.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)")
        return [str(text) for text in found]

    def timer(self, row: str) -> str:
        """What the timer of a row says."""
        return self.tab.text(f"#timers [data-row='{row}'] small")


def test_causes_and_acknowledgements_do_what_python_says(tab: Page, path: Path) -> None:
    """BOOT to NOMINAL by clicks, then a late policy until its bucket is full, an emergency stop, and the way back."""
    twin = Twin(tab, "monolithic", path)
    assert twin.tick(5).mode is Mode.HOLD
    assert twin.tick(ack=True).mode is Mode.CAUTIOUS
    assert twin.tick(10).mode is Mode.NOMINAL

    twin.cause(Cause.POLICY_LATE)
    assert twin.tick().bridging
    assert "stands in" in tab.text("#authority")
    assert twin.timer("CORE-C11") == "4 of 8"
    assert twin.tick().mode is Mode.HOLD
    twin.cause(Cause.POLICY_LATE)
    twin.cause(Cause.ESTOP)
    assert twin.tick().mode is Mode.ESTOP
    assert twin.tick(2, ack=True).mode is Mode.ESTOP
    twin.cause(Cause.ESTOP)
    twin.tick(5)
    assert twin.tick(ack=True).mode is Mode.HOLD
    assert tab.errors == []


def test_a_part_is_left_out_and_comes_back(tab: Page, path: Path) -> None:
    """In `modular` the planner is shed after its debounce, its stay is counted, and it returns after its dwell."""
    twin = Twin(tab, "modular", path)
    twin.tick(5)
    twin.tick(ack=True)
    twin.cause(Cause.PLANNER_FAILED)
    assert twin.tick(3).configuration == "no_planner"
    assert tab.text("#configuration") == "planner"
    assert twin.timer("MOD-D02") == f"{twin.state.numbers[twin.table.ages + 1] * PERIOD:.2f} of 10.0 s"
    twin.cause(Cause.PLANNER_FAILED)
    assert twin.tick(9).mode is Mode.DEGRADED
    assert twin.timer("MOD-K02") == "0.45 of 0.50 s"
    assert twin.tick().mode is Mode.CAUTIOUS
    assert twin.state.numbers[CREDIT] > 0

    tab.click("[data-what=available][data-part='0']")
    twin.inputs = twin.inputs._replace(available=2)
    twin.cause(Cause.PREDICTION_FAILED)
    assert twin.tick(3).mode is Mode.HOLD
    assert tab.errors == []


def test_a_person_takes_command(tab: Page, path: Path) -> None:
    """With a person in command, causes about the policy are struck out and do not count."""
    twin = Twin(tab, "dual", path)
    twin.tick(5)
    twin.tick(ack=True)
    tab.click("#person")
    twin.inputs = twin.inputs._replace(person=True)
    twin.cause(Cause.MONITOR_STOP)
    outputs = twin.tick(12)

    assert outputs.mode is Mode.CAUTIOUS
    assert "CORE-T01" in outputs.reasons
    assert "CORE-C21" not in outputs.reasons
    assert tab.evaluate("document.querySelector('[data-cause=monitor_stop]').className") == "waived"


def test_a_person_jogs_in_hold(tab: Page, path: Path) -> None:
    """In HOLD a person moves the body, until something asks for HOLD again; at rest an acknowledgement ends it."""
    twin = Twin(tab, "vla", path)
    assert twin.tick(5).mode is Mode.HOLD
    tab.click("#person")
    twin.inputs = twin.inputs._replace(person=True)
    outputs = twin.tick(2)
    assert (outputs.mode, outputs.authority, outputs.reasons) == (
        Mode.HOLD,
        Authority.OPERATOR,
        ("CORE-R01", "CORE-J01"),
    )
    assert "a person may jog the body" in tab.text("#says")
    assert tab.text("#reasons [data-row=CORE-J01]").endswith("away from what is near, at 10 % of its speed")
    twin.cause(Cause.POLICY_LATE)
    assert twin.tick().authority is Authority.OPERATOR
    twin.cause(Cause.CLOCK_BACKWARDS)
    assert twin.tick().authority is Authority.BACKUP
    assert "jog" not in tab.text("#says")
    twin.causes.clear()
    tab.click("[data-cause=policy_late]")
    tab.click("[data-cause=clock_backwards]")
    assert twin.tick(5).authority is Authority.OPERATOR
    assert twin.tick(ack=True).mode is Mode.CAUTIOUS
    assert tab.errors == []


def test_the_pretended_body_moves_slowly_while_it_is_jogged(tab: Page, path: Path) -> None:
    """By itself it speeds up to the tenth that a person may ask for, and does not escalate; let go, it rests."""
    Twin(tab, "vla", path)
    tab.click("#body label:has([value=auto])")
    tab.evaluate("Array.from({length: 5}, single).length")
    tab.click("#person")
    tab.evaluate("Array.from({length: 100}, single).length")
    assert (tab.text("#mode"), tab.text("#speed small")) == ("HOLD", "10 %")
    tab.click("#person")
    tab.evaluate("Array.from({length: 5}, single).length")
    assert (tab.text("#mode"), tab.text("#speed small")) == ("HOLD", "at rest")


def test_a_held_button_is_one_acknowledgement(tab: Page, path: Path) -> None:
    """A button that is held from before the dwell is over never counts; letting go and pressing again does."""
    Twin(tab, "vla", path)
    tab.press("#ack")
    tab.evaluate("Array.from({length: 20}, single).length")
    assert tab.text("#mode") == "HOLD"
    tab.release("#ack")
    tab.click("#step")
    tab.click("#ack")
    assert "waits" in tab.evaluate("document.querySelector('#ack').className")
    tab.click("#step")
    assert tab.text("#mode") == "CAUTIOUS"


def test_a_click_can_last_one_tick(tab: Page, path: Path) -> None:
    """A cause that is switched on for one tick fills its bucket once and is gone in the next."""
    twin = Twin(tab, "monolithic", path)
    twin.tick(2)
    tab.click("#press label:has([value='1'])")
    twin.cause(Cause.POLICY_LATE)
    twin.tick()
    twin.causes.clear()
    twin.tick()
    assert twin.timer("CORE-C11") == "3 of 8"


def test_ways_back_are_spelt_out(tab: Page, path: Path) -> None:
    """The guards of the way out of HOLD are ticked off as they hold; then the button is lit."""
    twin = Twin(tab, "monolithic", path)
    twin.cause(Cause.LEASE_LOST)
    twin.tick(3)
    assert tab.text("#backto") == "Way back to CAUTIOUS"
    assert twin.texts("#back .met") == ["the body is at rest", "every bucket is low enough"]
    twin.cause(Cause.LEASE_LOST)
    twin.tick(4)
    assert twin.state.numbers[CALM] == 4
    assert len(twin.texts("#back .met")) == 4
    assert "waits" in tab.evaluate("document.querySelector('#ack').className")


def test_keys_run_and_step(tab: Page, path: Path) -> None:
    """Space runs and pauses, the right arrow makes one tick, A acknowledges, R starts anew; time runs by itself."""
    tab.open(path)
    tab.wait("session.tick > 8")
    tab.key(" ", "Space", 32)
    assert tab.text("#run") == "Run"
    before = tab.evaluate("session.tick")
    tab.key("ArrowRight", "ArrowRight", 39)
    assert tab.evaluate("session.tick") == before + 1
    tab.key("a", "KeyA", 65)
    tab.key("ArrowRight", "ArrowRight", 39)
    assert tab.text("#mode") == "CAUTIOUS"
    tab.key("r", "KeyR", 82)
    assert (tab.text("#mode"), tab.evaluate("session.tick")) == ("BOOT", 0)
    tab.key(" ", "Space", 32)
    tab.wait("session.tick > 3")
    assert tab.errors == []


def test_every_story_says_what_happens(tab: Page, path: Path) -> None:
    """Each story of each strategy runs to its end, has a sentence, and something happens in it."""
    tab.open(path)
    for strategy in ("monolithic", "modular", "vla", "dual"):
        tab.click(f"#strategies label:has([value={strategy}])")
        stories = tab.evaluate("document.querySelectorAll('#stories button').length")
        assert stories >= 5
        for place in range(1, stories + 1):
            tab.click(f"#stories button:nth-of-type({place})")
            tab.evaluate("Array.from({length: 200}, single).length")
            assert tab.text("#tale")
            assert tab.evaluate("session.story.done === session.story.steps.length && session.log.length > 0")
    assert tab.errors == []


def test_a_recorded_run_is_played_beside_what_the_table_says(tab: Page, path: Path) -> None:
    """An embedded run agrees in every tick; scrubbing shows the recorded and the recomputed mode of a tick."""
    run = recorded()
    Twin(tab, "modular", path)
    tab.click("#runs button")

    assert tab.text("#agreement") == f"The table decides as recorded in all {len(run.ticks)} ticks."
    assert tab.evaluate("document.querySelector('[data-cause=estop]').disabled")
    for tick in (0, 6, 30, 60, 80, 110, 112, len(run.ticks) - 1):
        tab.evaluate(
            f"(s => {{ s.value = {tick}; s.dispatchEvent(new Event('input')); }})(document.querySelector('#scrub'))"
        )
        assert tab.text("#mode") == run.ticks[tick].mode
        assert f"recorded {run.ticks[tick].mode}, recomputed {run.ticks[tick].mode}" in tab.text("#recorded")
        pressed = tab.evaluate(
            "[...document.querySelectorAll('#causes [aria-pressed=true]')].map(e => e.dataset.cause)"
        )
        assert pressed == [cause.value for cause in run.ticks[tick].causes]
    assert {ticks.mode for ticks in run.ticks} >= {"HOLD", "CAUTIOUS", "NOMINAL", "DEGRADED", "ESTOP"}
    tab.click("#byhand")
    assert not tab.evaluate("document.querySelector('[data-cause=estop]').disabled")
    assert tab.errors == []


def test_a_run_from_a_file_that_disagrees_says_where(tab: Page, path: Path, tmp_path: Path) -> None:
    """A file with one altered mode is played too, and the first tick that differs is named."""
    run = recorded().model_dump(mode="json", exclude_defaults=True)
    run["ticks"][20]["mode"] = "STOP"
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    tab.open(path)
    tab.choose("#file", file)
    tab.wait("session.recording !== null")

    assert tab.text("#agreement") == f"The table decides otherwise in 1 of {len(run['ticks'])} ticks, first in tick 20."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "other"}, "strategy other is not on this page"),
        ({"period_s": 0.002}, "its tick is 0.002 s, this page's is 0.05 s"),
        ({"ticks": []}, "there are no ticks in it"),
        ({"ticks": [{"mode": "FAST"}]}, "entry 0: FAST is no mode"),
        ({"ticks": [{"mode": "HOLD", "causes": ["bad_luck"]}]}, "entry 0: bad_luck is no cause"),
        ({"ticks": [{"mode": "HOLD", "available": ["luck"]}]}, "entry 0: luck is no part"),
    ],
)
def test_a_file_that_cannot_be_played_is_refused(
    tab: Page, path: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    """The page says what is wrong with the file, and goes on as it was."""
    run = {**recorded().model_dump(mode="json", exclude_defaults=True), **change}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    tab.open(path)
    tab.choose("#file", file)
    tab.wait("document.querySelector('#problem').textContent !== ''")

    assert said in tab.text("#problem")
    assert tab.evaluate("session.recording === null")


def test_a_slip_in_the_pages_engine_is_noticed(tab: Page, path: Path, tmp_path: Path) -> None:
    """Negative control: a page whose buckets fill too slowly does not pass the comparison."""
    slow, right = tmp_path / "slow.html", "level + numbers[FILL]"
    text = path.read_text("utf-8")
    assert text.count(right) == 1
    slow.write_text(text.replace(right, "level + 1"), "utf-8")
    twin = Twin(tab, "monolithic", slow)
    twin.cause(Cause.POLICY_LATE)

    with pytest.raises(AssertionError):
        twin.tick(3)


@pytest.mark.parametrize("width", [340, 390, 768, 1340])
def test_page_fits_its_window(tab: Page, path: Path, width: int) -> None:
    """Nothing sticks out sideways, from a small phone to a desk; light and dark have their own ground."""
    tab.open(path)
    grounds: list[str] = []
    for dark in (False, True):
        tab.look(width, 800, dark=dark)
        for strategy in ("monolithic", "modular"):
            tab.click(f"#strategies label:has([value={strategy}])")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        grounds.append(str(tab.evaluate("getComputedStyle(document.body).backgroundColor")))
    tab.look(1340, 900)

    assert len(set(grounds)) == 2


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read(tab: Page, path: Path, *, dark: bool) -> None:
    """Text has a contrast of at least 4.5 : 1 against its ground, in every mode (WCAG 2.2, 1.4.3)."""
    tab.open(path)
    tab.look(1340, 900, dark=dark)
    style = "[document.body, 'color', 'backgroundColor']"
    pairs = [tab.evaluate(f"(([e, ...names]) => names.map(n => getComputedStyle(e)[n]))({style})")]
    for mode in Mode:
        tab.evaluate(f"restart(session.table, {int(mode)}), running = false, draw()")
        big = "(e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor])(document.querySelector('#big'))"
        tab.wait("document.getAnimations().length === 0")
        pairs.append(tab.evaluate(big))
    tab.look(1340, 900)

    assert [pair for pair in pairs if contrast(*pair) < 4.5] == []


def contrast(one: str, other: str) -> float:
    """Contrast of two CSS colours."""
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(…)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
