from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from safeguard.core.enums import Cause, Level, Mode
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Evidence, Observation, RobotState, Score, Verdict
from safeguard.monitors import Bank, Drift, Entry, Setting, registry
from safeguard.monitors import bank as module
from tests.laws.lab import Lab, artefact, beyond, near

RUNGS = ("joint.warn", "joint.degrade", "joint.stop")


class Played:
    """A monitor that plays back scores, and notices its planted fault."""

    def __init__(self, name: str, scores: Sequence[float] = ()) -> None:
        self.name, self.scores, self.next = name, scores, 0

    def reset(self) -> None:
        """From the start."""
        self.next = 0

    def score(self, evidence: Evidence) -> Score:
        """The next score; a fault is evidence from the year 2."""
        if evidence.now == 2:
            return Score(1e9)
        self.next += 1
        return Score(self.scores[(self.next - 1) % len(self.scores)] if self.scores else 0.0)


def setting() -> Setting:
    """That of the laboratory."""
    return Lab().shield.bank.setting


def evidence(now: int = 1) -> Evidence:
    """Nothing in particular."""
    return Evidence(Observation(RobotState(np.zeros(7), np.zeros(7), now)), now)


def trouble(_: Setting) -> Sequence[Evidence]:
    """What ``Played`` takes for a fault."""
    return [evidence(2)]


def blind(*_: object) -> Score:
    """A monitor that sees nothing."""
    return Score(0.0)


def playing(
    monkeypatch: pytest.MonkeyPatch, scores: dict[str, Sequence[float]], count: int | None = 300, **more: Any
) -> Bank:
    """A bank whose monitors play ``scores`` by name; the others are silent."""
    names = Lab().shield.bank.names
    made = None if count is None else artefact(count, size=1e-3, horizon=more.pop("horizon", 10**6))
    found = [replace(entry, trip=trouble) for entry in registry.REGISTRY if entry.name in names]

    def fresh(_: Setting) -> tuple[tuple[Entry, Played], ...]:
        return tuple((entry, Played(entry.name, scores.get(entry.name, ()))) for entry in found)

    monkeypatch.setattr(module, "monitors", fresh)
    return Bank(replace(setting(), **more.pop("setting", {})), made, **more)


def rungs(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    """The last three."""
    assert tuple(v.monitor for v in verdicts[-3:]) == RUNGS
    return {v.monitor.removeprefix("joint."): v for v in verdicts[-3:]}


def test_every_monitor_and_every_rung_has_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """One verdict of each monitor with what it scored, one of each rung, in the same order every tick."""
    bank = playing(monkeypatch, {"shield_effort": [1e-4, 2e-4]})
    for wanted in (1e-4, 2e-4):
        said = bank.verdicts(evidence())
        assert [v.monitor for v in said] == [*bank.names, *RUNGS]
        assert said[bank.names.index("shield_effort")].score == wanted
        assert {v.level for v in said} == {Level.OK}
        assert all(v.p_value == 1.0 for v in said[-3:])


def test_what_lasts_climbs_the_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Effort far beyond calibration alarms on all rungs in the third bad tick, and says who."""
    bank = playing(monkeypatch, {"shield_effort": [0.0, 9.0, 9.0, 9.0]})
    seen = [rungs(bank.verdicts(evidence())) for _ in range(4)]
    assert [s["stop"].level for s in seen] == [Level.OK, Level.OK, Level.OK, Level.STOP]
    last = seen[-1]
    assert (last["warn"].cause, last["degrade"].cause) == (Cause.MONITOR_WARN, Cause.MONITOR_DEGRADE)
    assert last["stop"].cause is Cause.MONITOR_STOP
    assert last["stop"].detail.startswith("shield_effort z = ")
    assert (last["warn"].detail, last["degrade"].detail) == ("", ""), "said once, by the gravest"
    assert last["warn"].p_value == pytest.approx(1 / 301)


def test_without_a_calibration_every_rung_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are there, and no rung calls them OK."""
    said = rungs(playing(monkeypatch, {"shield_effort": [9.0]}, None).verdicts(evidence()))
    assert {v.level for v in said.values()} == {Level.UNCALIBRATED}
    assert {v.cause for v in said.values()} == {Cause.UNCALIBRATED}


def test_too_few_episodes_for_one_rung_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 60 episodes warn and degrade work, and stop is uncalibrated with its reason."""
    said = rungs(playing(monkeypatch, {}, 60).verdicts(evidence()))
    assert [said[name].level for name in said] == [Level.OK, Level.OK, Level.UNCALIBRATED]
    assert "at least 199" in said["stop"].detail


def test_a_score_that_is_not_a_number_is_its_own_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN warns by its monitor's name and leaves the joint score to the others (law 5)."""
    bank = playing(monkeypatch, {"shield_effort": [math.nan]})
    said = bank.verdicts(evidence())
    own = said[bank.names.index("shield_effort")]
    assert (own.level, own.cause, own.detail) == (Level.WARN, Cause.MONITOR_WARN, "the score is not a number")
    assert {v.level for v in said[-3:]} == {Level.OK}


def test_past_the_horizon_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the horizon on every rung is uncalibrated, and a new episode starts over."""
    bank = playing(monkeypatch, {}, horizon=3)
    levels = [rungs(bank.verdicts(evidence()))["warn"].level for _ in range(5)]
    assert levels == [Level.OK] * 3 + [Level.UNCALIBRATED] * 2
    bank.begin()
    assert rungs(bank.verdicts(evidence()))["warn"].level is Level.OK


def test_past_the_horizon_a_new_block_may_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rule the p-value starts anew with every block as long as the horizon."""
    config = setting().config.model_copy(update={"past_horizon": "new_block"})
    bank = playing(monkeypatch, {"shield_effort": [9.0] * 4 + [0.0] * 100}, setting={"config": config}, horizon=6)
    said = [rungs(bank.verdicts(evidence()))["warn"] for _ in range(12)]
    assert said[5].p_value == pytest.approx(1 / 301)
    assert {v.p_value for v in said[6:]} == {1.0}
    assert {v.level for v in said[6:]} == {Level.OK}


def test_a_monitor_that_misses_its_planted_fault_is_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so in every tick, and is not OK."""
    monkeypatch.setattr(Played, "score", blind)
    for count in (300, None):
        bank = playing(monkeypatch, {}, count)
        assert set(bank.unproven) == set(bank.names)
        said = bank.verdicts(evidence())
        assert {v.level for v in said[:-3]} == {Level.UNPROVEN}
        assert "its planted fault scored 0" in said[0].detail


def test_every_real_monitor_notices_its_planted_fault() -> None:
    """With and without a calibration nothing of the product is unproven."""
    assert Lab().shield.bank.unproven == {}
    assert Lab(calibration=artefact(300)).shield.bank.unproven == {}


def test_a_calibration_for_other_monitors_is_refused() -> None:
    """The error names both sets."""
    made = artefact(9)
    fewer = made.model_copy(update={"members": made.members[:1]})
    with pytest.raises(CalibrationError, match=r"made for the monitors shield_effort; this shield has shield_effort, "):
        Lab(calibration=fewer)


# -- drift ------------------------------------------------------------------------------------------------


def played_episodes(bank: Bank, count: int) -> None:
    """So many episodes of ten ticks."""
    for _ in range(count):
        bank.begin()
        for _ in range(10):
            bank.verdicts(evidence())


def test_drift_voids_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes that are all worse than the calibration's void it, for good."""
    bank = playing(monkeypatch, {"shield_effort": [9.0]})
    played_episodes(bank, 10)
    assert bank.void.startswith("drift: the last ")
    said = rungs(bank.verdicts(evidence()))
    assert {v.level for v in said.values()} == {Level.UNCALIBRATED}
    assert said["warn"].detail == bank.void
    bank.begin()
    assert bank.void


def test_episodes_as_calibrated_void_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The no-op twin: episodes in the middle of the calibration's."""
    bank = playing(monkeypatch, {"shield_effort": [1.15e-3]})
    played_episodes(bank, 60)
    assert not bank.void


def test_an_episode_counts_up_to_its_first_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the first alarm is no longer nominal: it does not enter the drift test."""
    made = artefact(300, size=1e-3)
    counted: list[tuple[float, ...]] = []
    for after in ([9.0] * 5, [9.0, 1e6, 1e6, 1e6, 1e6]):
        drift = Drift(made.digest, made.rungs[0].maxima)
        bank = playing(monkeypatch, {"shield_effort": [1.2e-3, 9.0, 9.0, 9.0, *after]}, drift=drift)
        played_episodes(bank, 2)
        assert drift.episodes == 1, "the second is still open"
        counted.append(drift.state().maxima)
    assert counted[0] == counted[1]
    assert counted[0][-1] > made.rungs[0].maxima[-1]


def test_the_same_episodes_give_the_same_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two banks with the same past are bit for bit the same, the drift test's random numbers included (law 11)."""
    scores: dict[str, Sequence[float]] = {"shield_effort": [1.1e-3, 1.2e-3, 1.3e-3, 9.0, 9.0, 9.0, 0.0]}
    said: list[list[tuple[Verdict, ...]]] = []
    for _ in range(2):
        bank = playing(monkeypatch, scores)
        said.append([])
        for _ in range(30):
            bank.begin()
            said[-1] += [bank.verdicts(evidence()) for _ in range(10)]
    assert said[0] == said[1]


# -- in the shield ----------------------------------------------------------------------------------------


def test_a_shield_with_calibrated_monitors_warns_and_slows_down() -> None:
    """A policy that leaves its limits is corrected, warned about, and driven with care."""
    lab = Lab(beyond, calibration=artefact(60, size=0.2)).start(200)
    assert Cause.MONITOR_WARN in {cause for d in lab.decisions for cause in d.causes}
    assert lab.decisions[-1].mode >= Mode.CAUTIOUS


def test_a_shield_whose_policy_behaves_stays_nominal() -> None:
    """The no-op twin."""
    lab = Lab(near, calibration=artefact(300, size=2.0)).start(700)
    assert lab.decisions[-1].mode is Mode.NOMINAL
    assert {v.level for d in lab.decisions for v in d.verdicts if v.monitor in RUNGS} == {Level.OK}


def test_a_void_calibration_stays_void_in_the_next_shield() -> None:
    """Whoever takes over is told, and so is the journal."""
    lab = Lab(calibration=artefact(300))
    lab.shield.bank.void = "drift: told"
    following = Bank(lab.shield.bank.setting, artefact(300), void=lab.shield.bank.void)
    assert rungs(following.verdicts(evidence()))["warn"].detail == "drift: told"
