from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import detection
from benchmarks.detection import CONTENDERS, Duel, Judged, draws, duels, either, judge, ladder, result, singles
from benchmarks.detection_cache import Sets, jobs, load, save
from benchmarks.detection_episodes import FAULTS, SHIFTS, Cell, Episode, cells
from benchmarks.detection_methods import Autoencoder, Centres, Distilled, Method, hold, methods
from benchmarks.detection_metrics import (
    MISS,
    Course,
    Result,
    against,
    auc,
    average_precision,
    clopper_pearson,
    compare,
    redrawn,
    roc,
    summary,
)
from benchmarks.detection_report import as_json, by_kind, fights, overview, rungs
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Reference
from safeguard.core.types import ActionSpec, Proposal
from safeguard.monitors.registry import Setting
from safeguard.scenarios.calibration import Trace, calibrated
from safeguard.scenarios.episode import Outcome

TICKS, EVERY = 60, 4
SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 10.0, 8)
_PEAKS = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@given(_PEAKS, _PEAKS)
def test_auc_is_the_share_of_pairs_in_the_right_order(positive: list[float], negative: list[float]) -> None:
    """The area is the counted share of pairs with the positive above the negative, a tie worth a half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))


@given(_PEAKS, _PEAKS)
def test_roc_encloses_the_area(positive: list[float], negative: list[float]) -> None:
    """The curve rises from corner to corner, and what lies under it by trapezes is the area."""
    fpr, tpr = roc(positive, negative)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff([fpr, tpr], axis=1) >= 0.0).all()
    assert float(np.trapezoid(tpr, fpr)) == pytest.approx(auc(positive, negative))


@given(_PEAKS, _PEAKS)
def test_average_precision_is_that_of_every_threshold(positive: list[float], negative: list[float]) -> None:
    """Each positive contributes the share of positives among the episodes that score at least as much as it."""
    at_least = [(sum(q >= p for q in positive), sum(q >= p for q in negative)) for p in positive]
    direct = sum(hits / (hits + false) for hits, false in at_least) / len(positive)
    assert average_precision(positive, negative) == pytest.approx(direct)


def test_infinite_peaks_are_ranked() -> None:
    """A score that is infinite lies above every finite one, and ties with itself."""
    assert auc([math.inf, 1.0], [0.0, math.inf]) == pytest.approx((1.0 + 0.5 + 1.0 + 0.0) / 4.0)


def test_clopper_pearson() -> None:
    """The interval is that of the tables: 0 of 10 gives at most 0.3085, 5 of 10 gives 0.1871 to 0.8129."""
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert clopper_pearson(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert clopper_pearson(10, 10)[1] == 1.0
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "hit", "false", "detection"),
    [(None, False, False, MISS), (20, True, False, 0.0), (60, True, False, 0.5), (19, False, True, MISS)],
)
def test_only_the_first_alarm_counts(first: int | None, hit: bool, false: bool, detection: float) -> None:
    """A miss takes the whole time, an alarm before the onset is false and no hit, one after it is as late as it is."""
    found = Result(1.0, first, onset=20, ticks=100)
    assert (found.hit, found.false, found.detection) == (hit, false, detection)


def test_any_alarm_of_a_nominal_episode_is_false() -> None:
    """Without an onset there is nothing to hit."""
    found = Result(1.0, 3, onset=None, ticks=100)
    assert (found.false, found.hit, found.actionable) == (True, False, False)


@pytest.mark.parametrize(("first", "stop", "actionable"), [(30, 10.0, True), (30, 10.5, False), (19, 0.0, False)])
def test_actionable_leaves_time_to_stop(first: int, stop: float, actionable: bool) -> None:
    """The alarm and the stop after it fit before the deadline; an alarm before the onset is none."""
    assert Result(1.0, first, 20, 100, deadline=40, stop_ticks=stop).actionable is actionable


def test_summary_counts_misses_in_the_mean() -> None:
    """T-det is over all positives: an alarm at once and a miss make 0.5."""
    positive = [Result(5.0, 20, 20, 100, 40, 1.0), Result(0.0, None, 20, 100, 40)]
    found = summary(positive, [Result(1.0, None, None, 100), Result(9.0, 4, None, 100)])
    assert (found.detection, found.tpr, found.fpr, found.balanced) == (0.5, 0.5, 0.5, 0.5)
    assert (found.actionable, found.deadlines, found.auc) == (1, 2, 0.25)


def test_bootstrap_has_the_sign_of_the_better() -> None:
    """A method that hits more and sooner is above 0 in accuracy and below 0 in time; swapped, the signs swap."""
    quick = [Result(1.0, 20, 20, 100)] * 30
    slow = [Result(1.0, 60 if k % 2 else None, 20, 100) for k in range(30)]
    calm = [Result(0.0, None, None, 100)] * 30
    better, worse = compare((quick, slow), (calm, calm)), compare((slow, quick), (calm, calm))
    assert better.balanced.low > 0.0 > better.detection.high
    assert better.balanced.value == -worse.balanced.value == pytest.approx(0.25)
    assert worse.balanced.high < 0.0 < worse.detection.low


def test_bootstrap_of_a_method_with_itself_is_nothing() -> None:
    """The pairing cancels what both have in common: the difference and its interval are exactly 0."""
    rng = np.random.default_rng(0)
    same = [Result(1.0, int(t) if t < 80 else None, 20, 100) for t in rng.integers(0, 100, 40)]
    found = compare((same, same), (same, same))
    assert (found.balanced.low, found.balanced.high, found.detection.low, found.detection.high) == (0.0,) * 4


@given(st.lists(st.integers(0, 6).map(float), min_size=12, max_size=12), st.integers(0, 6).map(float))
def test_course_knows_the_first_alarm_of_every_threshold(scores: list[float], threshold: float) -> None:
    """Its detection time is that of the first tick above the threshold, found by looking at every tick."""
    above = [tick for tick, score in enumerate(scores) if score > threshold]
    direct = Result(max(scores), above[0] if above else None, onset=4, ticks=12)
    found = Course.of(np.array(scores), 4).detection(np.array([threshold]))[0]
    assert math.isfinite(found) is direct.hit
    assert not direct.hit or found == direct.detection


def test_redrawn_calibrations_keep_the_declared_rate_and_the_better_method() -> None:
    """A useless score comes to a balanced accuracy of a half in the mean, and a perfect one to 1 less half of alpha."""
    rng = np.random.default_rng(0)
    nominal = [rng.random(200), rng.random(200)]
    useless = [Course.of(np.maximum.accumulate(rng.random(1)) * np.ones(10), 0) for _ in range(400)]
    perfect = [Course.of(np.full(10, 2.0), 0)] * 400
    (half, slow), (full, quick) = redrawn([useless, perfect], nominal, 109, 99)
    assert half.mean() == pytest.approx(0.5, abs=0.02)
    assert full.mean() == pytest.approx(0.95, abs=0.01)
    assert (quick == 0.0).all()
    found = against((full, quick), (half, slow))
    assert found.balanced.low > 0.0 > found.detection.high


def test_every_fault_and_shift_has_a_cell_and_no_number_occurs_twice(tmp_path: Path) -> None:
    """All kinds get the same number of episodes, and sets share no episode."""
    wanted = jobs({"calibration": 20, "nominal": 10}, 4, tmp_path)
    tuning = jobs({"nominal": 10}, 4, tmp_path, tuning=True)
    numbers = [number for found in (*wanted.values(), *tuning.values()) for _, number, _ in found]
    assert len(set(numbers)) == len(numbers)
    kinds = [cell.kind for cell, _, _ in wanted["positive"]]
    assert {kind: kinds.count(kind) for kind in {*FAULTS, *SHIFTS}} == dict.fromkeys((*FAULTS, *SHIFTS), 12)


def test_onset_and_severity_reach_the_scenario() -> None:
    """Every fault starts at 1.0 s with the severity of its cell, uncalibrated; a shift has no fault."""
    for cell in cells():
        scenario = cell.scenario
        assert scenario.calibration is None
        assert [(f.start_s, f.severity) for f in scenario.faults] == [(1.0, cell.severity)] * (cell.kind in FAULTS)


# -- without a simulation -------------------------------------------------------------------------------


def _episode(cell: Cell, number: int, *, loud: bool = False) -> Episode:
    """Scores of noise; a loud one is ten times as large in its second half, in features, chunks and filter."""
    rng = np.random.default_rng(number)
    size = np.where(loud & (np.arange(TICKS) >= TICKS // 2), 10.0, 1.0)
    setting = Setting(SPEC.joints, 0.1, SPEC, np.ones(2), np.ones(2), ShieldConfig().monitors)
    names = ("shield_effort", "model_residual", "overlap_error", "reversal_rate", "chunk_magnitude")
    followed = tuple(
        (tick, Proposal(size[tick] * rng.random((8, 2)), tick, tick, "p", tick, features=size[tick] * rng.random(6)))
        for tick in range(0, TICKS, EVERY)
    )
    trace = Trace(Outcome.CLEAN, {name: size * rng.random(TICKS) for name in names}, followed, setting)
    onset = None if cell.kind == "nominal" else TICKS // 2
    quiet = np.zeros(TICKS)
    return Episode(cell, number, trace, quiet > 0.0, quiet, onset, None, True, True, 0.1, 0.5)


def _sets() -> Sets:
    plain = Cell("nominal")
    return Sets(
        calibration=tuple(_episode(plain, k) for k in range(40)),
        nominal=tuple(_episode(plain, 100 + k) for k in range(10)),
        positive=tuple(_episode(Cell("nan", 3), 200 + k, loud=True) for k in range(5)),
    )


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    """Every method on episodes that need no simulation."""
    sets = _sets()
    return [judge(method, sets) for method in methods(sets.calibration)]


def test_joint_scores_are_those_of_an_artefact(judged: list[Judged]) -> None:
    """What a calibration learns, scales and calibrates of the same episodes gives the same members and maxima."""
    artefact = calibrated([episode.trace for episode in _sets().calibration], ShieldConfig().monitors)
    by_name = {one.method.name: one for one in judged}
    assert [m.name for m in artefact.members] == [o.method.name for o in judged if o.method.group == "monitor"]
    assert [m.name for m in artefact.members if m.witness == "novelty"][-1] == "overlap_cusum"
    assert artefact.rungs[0].maxima == by_name["g_warn"].maxima
    assert artefact.rungs[1].maxima == by_name["g_act"].maxima


def test_what_is_loud_is_found_at_once(judged: list[Judged]) -> None:
    """Joint scores, monitors and baselines rank what is ten times as large above the rest; controls know nothing."""
    by_name = {one.method.name: one.summary for one in judged}
    for name in ("g_warn", "g_act", "shield_effort", "embedding_mahalanobis", "rnd", "pca_kmeans", "autoencoder"):
        assert (by_name[name].auc, by_name[name].tpr + by_name[name].early) == (1.0, 1.0), name
    assert by_name["g_warn"].tpr == 1.0
    assert (by_name["always"].fpr, by_name["always"].early, by_name["always"].tpr) == (1.0, 1.0, 0.0)
    assert (by_name["never"].fpr, by_name["never"].tpr, by_name["never"].detection) == (0.0, 0.0, 1.0)
    assert (by_name["clock"].auc, by_name["clock"].tpr) == (0.5, 0.0)


def test_report_names_every_method(judged: list[Judged]) -> None:
    """Tables and JSON are made of what was judged, and every joint score meets every single method."""
    sets, drawn = _sets(), draws(judged)
    fought, steps = duels(judged, drawn), ladder(methods(sets.calibration), sets)
    data = json.loads(json.dumps(as_json(judged, drawn, steps, fought, sets)))
    assert [row["method"] for row in data["methods"]] == [one.method.name for one in judged]
    assert overview(judged, drawn).row_count == by_kind(judged).row_count == len(judged)
    rivals = [one.method.name for one in singles(judged)]
    assert {"overlap_cusum", "embedding_knn", "stac_single"} < set(rivals)
    assert [(duel.joint, duel.against) for duel in fought] == [(joint, one) for joint in CONTENDERS for one in rivals]
    assert (fights(fought).row_count, rungs(steps).row_count) == (len(fought), len(steps))


def test_a_duel_says_where_the_joint_score_is_better(judged: list[Judged]) -> None:
    """Later alarms lose time alone, more false ones accuracy alone, none at all both; one miss of five is nothing."""
    by_name = {one.method.name: one for one in judged}
    joint, never = by_name["g_warn"], by_name["never"]
    late = replace(joint, positive=tuple(replace(r, first=r.ticks - 1) for r in joint.positive))
    loud = replace(joint, negative=by_name["always"].negative)
    close = replace(joint, positive=(never.positive[0], *joint.positive[1:]))

    def better(other: Judged) -> str:
        found = compare((joint.positive, other.positive), (joint.negative, other.negative))
        return Duel("joint", "other", found, found, found).better

    assert [better(other) for other in (late, loud, never, close)] == ["time", "accuracy", "both", "–"]


def test_rungs_are_those_of_the_shield(judged: list[Judged]) -> None:
    """Warn is g_warn at 0.10, stop has no threshold with so few episodes, and any rung counts an episode once."""
    sets = _sets()
    steps = {step.name: step for step in ladder(methods(sets.calibration), sets)}
    warn, stop, union = steps["warn: g_warn"], steps["stop: g_act"], steps["any rung"]
    assert warn.judged.summary == next(one for one in judged if one.method.name == "g_warn").summary
    assert (stop.alpha, stop.judged.threshold) == (0.005, math.inf)
    assert union.alpha == pytest.approx(0.12)
    false = [sum(r.false for r in step.judged.negative) for step in (warn, steps["degrade: g_act"], union)]
    assert max(false[:2]) <= false[2] <= sum(false[:2])


def test_false_alarms_an_hour(judged: list[Judged]) -> None:
    """Ten nominal episodes of 6 s are a minute: what always alarms does so 600 times an hour."""
    by_name = {one.method.name: one for one in judged}
    assert by_name["always"].hourly == pytest.approx(600.0)
    assert by_name["never"].hourly == 0.0


def test_checks_are_only_ever_sooner(judged: list[Judged]) -> None:
    """Beside a check that never speaks a method stays what it is; beside one that always does, it alarms at once."""
    by_name = {one.method.name: one for one in judged}
    score = by_name["g_warn"]
    assert either(score, by_name["never"]).summary == score.summary
    assert {r.first for r in either(score, by_name["always"]).positive} == {0}


def test_command_prints_and_writes_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables, the JSON and three pictures come out of recorded episodes."""

    def collected(*_: object, **__: object) -> Sets:
        return _sets()

    monkeypatch.setattr(detection, "collect", collected)
    target = tmp_path / "d.json"
    monkeypatch.setattr("sys.argv", ["detection.py", "--json", str(target), "--plots", str(tmp_path / "plots")])
    assert detection.main() == 0
    assert json.loads(target.read_text())["episodes"] == {"calibration": 40, "nominal": 10, "positive": 5}
    assert "bal. acc." in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "plots").iterdir()}
    assert made == {"detection_roc.png", "detection_time.png", "detection_calibration.png"}


def test_threshold_is_the_order_statistic_and_equal_is_no_alarm() -> None:
    """Of 32 episodes the 30th largest score is the threshold at 0.10, and a score that equals it does not alarm."""
    plain = [_episode(Cell("nominal"), k) for k in range(40)]
    flat = Method("number", "control", lambda e: np.full(e.ticks, float(e.number)))
    rest = [float(k) for k in range(40) if k % 10 not in (0, 5)]
    found = judge(flat, Sets(tuple(plain), tuple(plain), ()))
    assert found.threshold == rest[29]
    assert result(plain[int(rest[29])], flat.score(plain[int(rest[29])]), found.threshold).first is None
    assert sum(r.false for r in found.negative) == sum(k > rest[29] for k in range(40))


def test_cache_gives_back_what_was_saved(tmp_path: Path) -> None:
    """An episode read from its file scores the same."""
    kept = _episode(Cell("nan", 3), 7, loud=True)
    save(kept, tmp_path / "e.npz")
    found = load(tmp_path / "e.npz", SPEC)
    assert (found.cell, found.number, found.onset, found.hazard) == (kept.cell, kept.number, kept.onset, kept.hazard)
    assert list(found.trace.scores) == list(kept.trace.scores)
    for name, scores in kept.trace.scores.items():
        np.testing.assert_array_equal(found.trace.scores[name], scores)
    for (tick, one), (there, other) in zip(kept.trace.followed, found.trace.followed, strict=True):
        assert tick == there
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.features, other.features)


def test_held_values_say_nothing_of_the_future() -> None:
    """A proposal's value stands from the tick on in which it is followed."""
    episode = _episode(Cell("nominal"), 1)
    held = hold(episode, np.arange(len(episode.trace.followed), dtype=np.float64))
    assert held[: 2 * EVERY].tolist() == [0.0] * EVERY + [1.0] * EVERY


def test_networks_and_centres_know_what_they_learned() -> None:
    """Points like the learned ones score less than points far away."""
    x = np.random.default_rng(0).normal(size=(300, 6))
    for method in (Distilled(x), Centres(x), Autoencoder(x)):
        assert method(x).mean() < 0.3 * method(x + 6.0).mean()
