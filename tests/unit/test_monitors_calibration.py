from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from safeguard.core.config import MonitorsConfig, RungsConfig
from safeguard.core.enums import Cause, Level
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Vector
from safeguard.monitors import Calibration, Origin, calibrate
from safeguard.monitors.calibration import Learned, peak, role
from safeguard.monitors.joint import Witness
from safeguard.monitors.rung import Alarm, conformal

ORIGIN = Origin(policy="p" * 64, robot="r" * 64, tools=(("numpy", "2"),), seeds=(1, 2))
MEMBERS: tuple[tuple[str, Witness, float], ...] = (("tremor", "action", 1e-3), ("novelty", "novelty", 1e-3))


def episodes(count: int, seed: int = 3, ticks: int = 30) -> list[dict[str, Vector]]:
    """Scores of two monitors in episodes without anything in common."""
    rng = np.random.default_rng(seed)
    return [{name: rng.exponential(size=ticks) for name, _, _ in MEMBERS} for _ in range(count)]


def made(count: int = 75, **more: Any) -> Calibration:
    """A calibration with an array."""
    return calibrate(episodes(count), MEMBERS, learned={"whitening": np.eye(3)}, origin=ORIGIN, **more)


# -- how it is made ---------------------------------------------------------------------------------------


def test_the_roles_share_no_episode() -> None:
    """One episode in ten scales the scores, one is learned from, the others make the thresholds."""
    traces = episodes(75)
    found = calibrate(traces, MEMBERS)
    scale = [trace for index, trace in enumerate(traces) if role(index) == "scale"]
    rest = [trace for index, trace in enumerate(traces) if role(index) == "calibrate"]
    assert (len(scale), found.n) == (7, 60)
    assert found.members[0].maxima == tuple(sorted(float(trace["tremor"].max()) for trace in scale))
    assert found.rungs[0].maxima == tuple(sorted(peak(trace, found.members, found.debounce)[1] for trace in rest))
    for index in range(20):
        worse = [{k: 10.0 * v for k, v in t.items()} if i == index else t for i, t in enumerate(traces)]
        again = calibrate(worse, MEMBERS)
        assert (again.members != found.members) is (role(index) == "scale")
        assert (again.rungs != found.rungs) is (role(index) != "learn")


def test_each_rung_is_an_order_statistic_of_its_joint_score() -> None:
    """Warn judges g_warn; degrade and stop judge g_act; each at its own rate, from the same episodes."""
    found = made(300)
    warn, degrade, stop = found.rungs
    assert (warn.score, degrade.score, stop.score) == ("g_warn", "g_act", "g_act")
    assert (warn.n, warn.k, degrade.k, stop.k) == (240, 217, 237, 240)
    assert warn.threshold == warn.maxima[216]
    assert degrade.threshold == degrade.maxima[236]
    assert stop.threshold == degrade.maxima[239]
    assert found.calibrated


def test_each_rung_has_its_own_least_number_of_episodes() -> None:
    """With 60 episodes the stop rung, which needs 199, has no threshold and says why; the others have one."""
    warn, degrade, stop = made(75).rungs
    assert (warn.calibrated, degrade.calibrated, stop.calibrated) == (True, True, False)
    assert stop.shortage == "60 episodes, at least 199 are needed for alpha 0.005"
    assert not made(75).calibrated


def test_the_sure_threshold_is_stricter() -> None:
    """What keeps the rate with confidence, and not only on average, lies above the threshold, or there is none."""
    warn, degrade, stop = made(300).rungs
    assert warn.threshold is not None
    assert warn.sure_threshold is not None
    assert warn.sure_threshold > warn.threshold
    assert stop.sure_threshold is None, "598 episodes would be needed"
    assert degrade.sure_threshold is not None
    assert degrade.sure_threshold > degrade.maxima[236]


def test_the_rates_are_the_configured_ones() -> None:
    """Declared rates come from the configuration."""
    config = MonitorsConfig(rungs=RungsConfig(warn=0.3, degrade=0.2, stop=0.1))
    assert [rung.alpha for rung in made(75, config=config).rungs] == [0.3, 0.2, 0.1]


def test_episodes_may_have_different_lengths() -> None:
    """The horizon is that of the longest calibration episode."""
    traces = [
        {name: scores[: 10 + index] for name, scores in trace.items()} for index, trace in enumerate(episodes(20))
    ]
    assert calibrate(traces, MEMBERS).horizon_ticks == 29


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"novelty": None}, "episode 7 has no scores of novelty"),
        ({"novelty": np.zeros(29)}, "episode 7: every monitor has one score a tick"),
        ({"tremor": np.full(30, math.nan)}, "episode 7, tick 0: tremor scored nan"),
        ({"tremor": np.append(np.zeros(29), math.inf)}, "episode 7, tick 29: tremor scored inf"),
        ({"tremor": np.zeros(0), "novelty": np.zeros(0)}, "episode 7: every monitor"),
    ],
    ids=["missing", "shorter", "NaN", "infinite", "empty"],
)
def test_odd_scores_are_refused(change: dict[str, Vector | None], words: str) -> None:
    """What has no number in some tick is no nominal episode: an error that says which, never a silent threshold."""
    traces = episodes(20)
    traces[7] = {name: scores for name, scores in {**traces[7], **change}.items() if scores is not None}
    with pytest.raises(CalibrationError, match=re.escape(words)):
        calibrate(traces, MEMBERS)


def test_one_episode_is_no_calibration() -> None:
    """Five have none that scales the scores; six are a calibration, if not a good one."""
    with pytest.raises(CalibrationError, match="5 episodes leave none to scale the scores"):
        calibrate(episodes(5), MEMBERS)
    assert calibrate(episodes(6), MEMBERS).n == 4


def test_constant_scores_are_ties() -> None:
    """Monitors that never moved have a threshold that equals every maximum; what moves is above it."""
    traces = [{"tremor": np.zeros(10), "novelty": np.zeros(10)} for _ in range(75)]
    found = calibrate(traces, MEMBERS)
    assert found.rungs[0].ties == 59
    assert found.rungs[0].threshold == 0.0
    assert not Alarm(found.rungs[0]).alarms(0.0)
    assert found.order is None


@given(st.permutations([i for i in range(15) if role(i) == "calibrate"]))
def test_the_order_of_the_calibration_episodes_does_not_matter(order: list[int]) -> None:
    """Thresholds do not depend on which of the calibration episodes came first."""
    traces = episodes(15)
    rest = iter(order)
    mixed = [traces[next(rest)] if role(index) == "calibrate" else trace for index, trace in enumerate(traces)]
    assert calibrate(mixed, MEMBERS).rungs == calibrate(traces, MEMBERS).rungs


# -- the file ---------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """JSON and npz together are the artefact, arrays bit for bit."""
    found, file = made(), tmp_path / "c.json"
    found.save(file)
    again = Calibration.load(file, {"policy": "p" * 64, "robot": "r" * 64})
    assert again == found
    assert again.arrays["whitening"].tobytes() == np.eye(3).tobytes()
    assert "data" not in json.loads(file.read_text())["learned"]["whitening"]


def test_arrays_keep_their_bits() -> None:
    """Numbers that float32 holds are kept in it, others in float64; both come back as they were."""
    for array in (np.array([1.5, -2.0]), np.array([[0.1, np.pi], [1e300, 5e-324]])):
        kept = Learned.of(array)
        assert kept.array().tobytes() == array.tobytes()
        assert kept.array().shape == array.shape
    assert Learned.of(np.array([1.5])).dtype == "float32"
    assert Learned.of(np.array([0.1])).dtype == "float64"


@pytest.mark.parametrize("name", ["policy", "robot"])
def test_a_foreign_artefact_is_refused(tmp_path: Path, name: str) -> None:
    """Made for another policy or robot: the error says which."""
    made().save(tmp_path / "c.json")
    with pytest.raises(CalibrationError, match=f"made for {name} '{name[0] * 12}', not 'other'; calibrate again"):
        Calibration.load(tmp_path / "c.json", {name: "other"})


def test_nothing_else_can_be_compared(tmp_path: Path) -> None:
    """An expectation that the artefact cannot meet is an error, not ignored."""
    with pytest.raises(CalibrationError, match="nothing called 'weather' to compare; known: policy"):
        made().check({"weather": "fine"})


def edited(text: str) -> str:
    """A lower rate is claimed."""
    return text.replace('"alpha": 0.1', '"alpha": 0.09', 1)


EDITS: dict[str, Callable[[str], str]] = {
    "rate": edited,
    "threshold": lambda text: re.sub(r'"threshold": [0-9.]+', '"threshold": 99.0', text, count=1),
    "horizon": lambda text: text.replace('"horizon_ticks": 30', '"horizon_ticks": 31'),
    "policy": lambda text: text.replace("pppp", "qqqq", 1),
    "truncated": lambda text: text[: len(text) // 2],
    "version": lambda text: text.replace('"version": 2', '"version": 1'),
    "unknown key": lambda text: text.replace('"version": 2', '"version": 2, "lax": true'),
    "NaN": lambda text: re.sub(r'"threshold": [0-9.]+', '"threshold": NaN', text, count=1),
    "empty": lambda _: "",
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_refused(tmp_path: Path, edit: str) -> None:
    """Whatever is changed in the file, it is refused by name with the way out."""
    file = tmp_path / "c.json"
    made().save(file)
    text = file.read_text()
    assert EDITS[edit](text) != text
    file.write_text(EDITS[edit](text))
    with pytest.raises(CalibrationError, match=r"c\.json: .*run the calibration again"):
        Calibration.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Also when it is the arrays' file."""
    with pytest.raises(CalibrationError, match=r"none\.json: cannot be read"):
        Calibration.load(tmp_path / "none.json")
    made().save(tmp_path / "c.json")
    (tmp_path / "c.npz").unlink()
    with pytest.raises(CalibrationError, match=r"c\.npz: cannot be read"):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize("damage", ["swapped", "cut", "no zip", "other name"])
def test_damaged_arrays_are_refused(tmp_path: Path, damage: str) -> None:
    """Arrays that are not the calibrated ones are refused, however they got there."""
    file, arrays = tmp_path / "c.json", tmp_path / "c.npz"
    made().save(file)
    match damage:
        case "swapped":
            np.savez(arrays, whitening=2.0 * np.eye(3))
        case "cut":
            arrays.write_bytes(arrays.read_bytes()[:-40])
        case "no zip":
            arrays.write_bytes(b"nothing")
        case _:
            np.savez(arrays, other=np.eye(3))
    with pytest.raises(CalibrationError, match=r"c\.npz: .*run the calibration again"):
        Calibration.load(file)


@pytest.mark.parametrize("part", ["n", "k", "threshold", "ties", "maxima"])
def test_a_rung_checks_itself(part: str) -> None:
    """No rung can be made whose parts contradict each other."""
    good = conformal("warn", "g_warn", [float(i) for i in range(20)], 0.1).model_dump()
    bad = {"n": 21, "k": 18, "threshold": 3.0, "ties": 1, "maxima": tuple(reversed(good["maxima"]))}
    with pytest.raises(ValidationError, match="its own data say"):
        type(made().rungs[0]).model_validate({**good, part: bad[part]})


# -- at work ----------------------------------------------------------------------------------------------


def alarm(n: int = 19, alpha: float = 0.05) -> Alarm:
    """Episodes with maxima 1 … n."""
    return Alarm(conformal("degrade", "g_act", [float(i + 1) for i in range(n)], alpha))


def test_an_alarm_is_strictly_above_the_threshold() -> None:
    """A score that equals the threshold is no alarm; the theorem needs that."""
    judge = alarm()
    assert judge.judge(19.0).level is Level.OK
    above = judge.judge(np.nextafter(19.0, 20.0), "tremor")
    assert (above.level, above.cause, above.detail) == (Level.DEGRADE, Cause.MONITOR_DEGRADE, "tremor")
    assert judge.judge(3.0).level is Level.OK, "it ends when the score falls"


def test_the_p_value_never_rises() -> None:
    """It is that of the largest score so far, whatever comes after."""
    judge = alarm()
    found = [judge.judge(score).p_value for score in (0.0, 10.0, 2.0, 19.0, 1.0, 50.0)]
    assert found == [1.0, 0.55, 0.55, 0.1, 0.1, 0.05]
    judge.reset()
    assert judge.judge(0.0).p_value == 1.0


def test_without_a_threshold_nothing_is_ok() -> None:
    """Too few episodes: uncalibrated in every tick, whatever the score."""
    judge = alarm(18)
    for score in (0.0, 1e9):
        verdict = judge.judge(score)
        assert (verdict.level, verdict.cause) == (Level.UNCALIBRATED, Cause.UNCALIBRATED)
        assert verdict.detail == "18 episodes, at least 19 are needed for alpha 0.05"
