"""The drift test over several processes: one martingale, one file, and never a fresh start that nobody asked for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.core.enums import Level
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Evidence, Observation, RobotState, Verdict
from safeguard.monitors import Bank, Drift
from safeguard.policies import as_policy
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, Lab, artefact, near, panda, spec

DIGEST = "c" * 64
MAXIMA = [i / 50 for i in range(50)]

PEAKS = st.floats(allow_nan=True) | st.integers(0, 3).map(float)
EPISODES = st.lists(st.tuples(PEAKS, st.floats(0.0, 1.0, exclude_min=True)), max_size=30)


def kept(path: Path, alpha: float = 0.01) -> Drift:
    """The test in the file, as the next process finds it."""
    return Drift.kept(path, DIGEST, MAXIMA, alpha)


def voided(path: Path) -> Drift:
    """One that has seen episodes far worse than the calibrated."""
    found = kept(path)
    for i in range(20):
        found.add(5.0 + i, 0.5)
    assert found.void
    return found


# -- one martingale ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(EPISODES, st.lists(st.integers(0, 30), max_size=4), st.sampled_from([1e-300, 0.01, 0.3]))
def test_split_over_processes_it_is_the_same_test(
    episodes: list[tuple[float, float]], cuts: list[int], alpha: float
) -> None:
    """Wherever the process ends and however often, p-values, evidence, alarm and state are those of a single one."""
    whole = Drift(DIGEST, MAXIMA, alpha)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drift.json"
        part = kept(path, alpha)
        for k, (peak, u) in enumerate(episodes):
            if k in cuts:
                part = kept(path, alpha)
            assert repr(part.add(peak, u)) == repr(whole.add(peak, u))
        assert kept(path, alpha).state() == part.state() == whole.state()


def test_two_real_processes_are_one(tmp_path: Path) -> None:
    """Ten episodes in one interpreter and ten in the next."""
    path, whole = tmp_path / "drift.json", Drift(DIGEST, MAXIMA)
    told = ""
    for first in (0, 10):
        code = (
            "from pathlib import Path\nfrom safeguard.monitors.drift import Drift\n"
            f"found = Drift.kept(Path({str(path)!r}), {DIGEST!r}, {MAXIMA!r})\n"
            f"for k in range({first}, {first + 10}): print(found.add(k / 13, (k + 1) / 21))"
        )
        told += subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert told.splitlines() == [str(whole.add(k / 13, (k + 1) / 21)) for k in range(20)]
    assert kept(path).state() == whole.state()


def evidence(effort_at: int) -> Evidence:
    """Of a tick; what the monitors make of it does not matter, as long as it is the same."""
    return Evidence(Observation(RobotState(np.zeros(7), np.full(7, 0.01 * effort_at), effort_at)), effort_at)


def lived(bank: Bank, episodes: Sequence[int]) -> list[tuple[Verdict, ...]]:
    """The last verdicts of so many episodes of ten ticks, the last of them ended."""
    found: list[tuple[Verdict, ...]] = []
    for episode in episodes:
        bank.begin()
        found += [bank.verdicts(evidence(episode * tick % 7)) for tick in range(10)]
    bank.end()
    bank.end()
    return found


def test_two_banks_with_one_file_are_one_bank(tmp_path: Path) -> None:
    """Verdicts, random numbers and state are those of a bank that never stopped; the last episode counts, once."""
    made, setting = artefact(300, size=1e-3), Lab().shield.bank.setting
    once, often = tmp_path / "once.json", tmp_path / "often.json"
    whole = lived(Bank(setting, made, drift=once), range(9))
    parts = [verdict for days in ((0, 1, 2, 3), (4,), (5, 6, 7, 8)) for verdict in lived(_bank(often), days)]
    assert repr(parts) == repr(whole)
    assert often.read_text() == once.read_text()
    assert Drift.load(often, made.digest).episodes == 9


def _bank(drift: Path | Drift | None) -> Bank:
    return Bank(Lab().shield.bank.setting, artefact(300, size=1e-3), drift=drift)


# -- what stays void --------------------------------------------------------------------------------------


def test_void_is_known_in_the_first_episode_after_a_restart(tmp_path: Path) -> None:
    """Every rung is UNCALIBRATED from the first tick, and the next process finds the same."""
    made, path = artefact(300, size=1e-3), tmp_path / "drift.json"
    found = Drift.kept(path, made.digest, made.rungs[0].maxima)
    while not found.void:
        found.add(1e6, 0.5)
    for _ in range(2):
        shield = _shield(path)
        shield.begin_episode("again")
        said = shield.bank.verdicts(evidence(1))[-3:]
        assert {v.level for v in said} == {Level.UNCALIBRATED}
        assert said[0].detail.startswith(f"drift: the last {found.episodes} episodes are not like the calibration's")
        shield.close()


def _shield(drift: Path | str, episodes: int = 300) -> Shield:
    policy = as_policy(near, spec=spec(), name="guest")
    return Shield(panda(), policy, config=CONFIG, calibration=artefact(episodes, size=1e-3), drift=drift)


def test_a_void_that_could_not_be_kept_is_kept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that comes back gets the alarm with the next episode."""
    path = tmp_path / "drift.json"
    found = kept(path)
    monkeypatch.setattr(Path, "replace", _broken)
    while not found.void:
        with pytest.raises(CalibrationError, match=r"drift\.json: state of the drift test cannot be kept: no room"):
            found.add(1e6, 0.5)
    monkeypatch.undo()
    assert not kept(path).void
    found.add(0.0, 0.5)
    assert kept(path).void


def _broken(*_: object) -> Path:
    raise OSError("no room")


# -- the file ---------------------------------------------------------------------------------------------


def test_the_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until everything is on the disk the old state is the one that counts, and nothing is left over afterwards."""
    path = tmp_path / "drift.json"
    kept(path).add(0.5, 0.5)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", _broken)
    with pytest.raises(CalibrationError, match="no room"):
        kept(path).add(0.7, 0.5)
    assert path.read_bytes() == before
    monkeypatch.undo()
    kept(path).add(0.7, 0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["drift.json"]
    assert kept(path).episodes == 2


@settings(deadline=None)
@given(st.data())
def test_a_truncated_file_is_refused(data: st.DataObject) -> None:
    """Cut anywhere before its closing brace, it is an error that names the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drift.json"
        kept(path).add(0.5, 0.5)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, whole.rindex(b"}")))])
        with pytest.raises(CalibrationError, match=r"drift\.json: state of the drift test: damaged"):
            kept(path)


@pytest.mark.parametrize("key", [*json.loads(Drift(DIGEST, MAXIMA).to_json()), "more"])
def test_an_edited_file_is_refused(tmp_path: Path, key: str) -> None:
    """Whatever is changed, left out or added, the error names the file; the file stays as it is."""
    path = tmp_path / "drift.json"
    voided(path)
    state = json.loads(path.read_text())
    kinder = {"void": False, "log_weights": [-9.0] * 6, "maxima": [0.0] * len(state["maxima"]), "episodes": 0}
    for edited in (state | {key: kinder.get(key, 7)}, {k: v for k, v in state.items() if k != key} | {"note": 1}):
        path.write_text(text := json.dumps(edited))
        with pytest.raises(CalibrationError, match=r"drift\.json: state of the drift test"):
            kept(path)
        assert path.read_text() == text


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text, a folder, another alpha, a folder that is not there."""
    path = tmp_path / "drift.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="damaged"):
        kept(path)
    with pytest.raises(CalibrationError, match="cannot be read"):
        kept(tmp_path)
    with pytest.raises(CalibrationError, match="cannot be kept"):
        kept(tmp_path / "nowhere" / "drift.json")
    path.unlink()
    kept(path)
    with pytest.raises(CalibrationError, match=r"drift test with alpha 0\.01, not 0\.02"):
        kept(path, 0.02)


def test_a_first_start_leaves_its_file_at_once(tmp_path: Path) -> None:
    """What cannot be written shows before the first episode, and not after it."""
    shield = _shield(str(tmp_path / "drift.json"))
    assert Drift.load(tmp_path / "drift.json", artefact(300, size=1e-3).digest).episodes == 0
    shield.close()


# -- in bank and shield -----------------------------------------------------------------------------------


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    """Also a test that is handed over, and one without a calibration: nothing is begun anew in silence."""
    _shield(tmp_path / "drift.json").close()
    with pytest.raises(CalibrationError, match=r"drift\.json: .* a new calibration starts a new test"):
        _shield(tmp_path / "drift.json", 299)
    with pytest.raises(CalibrationError, match=r"made for the calibration 'cccccccccccc', not '\w{12}': a new"):
        _bank(Drift(DIGEST, MAXIMA))
    with pytest.raises(CalibrationError, match="belongs to a calibration, and this shield has none"):
        Bank(Lab().shield.bank.setting, None, drift=tmp_path / "other.json")


def test_closing_a_shield_counts_its_last_episode(tmp_path: Path) -> None:
    """One episode a day is one more in the file a day."""
    digest, path = artefact(300, size=1e-3).digest, tmp_path / "drift.json"
    for day in range(3):
        with _shield(path) as shield:
            shield.begin_episode("daily")
            lab = Lab()
            shield.step(lab.observe(), now=lab.now)
        assert Drift.load(path, digest).episodes == day + 1
        assert math.isfinite(Drift.load(path, digest).log_evidence)


def test_what_cannot_be_kept_voids_the_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next episode says why on every rung; who closes gets the error."""
    bank = _bank(tmp_path / "drift.json")
    bank.verdicts(evidence(1))
    monkeypatch.setattr("os.fsync", _broken)
    bank.begin()
    said = bank.verdicts(evidence(1))[-3:]
    assert {v.level for v in said} == {Level.UNCALIBRATED}
    assert "state of the drift test cannot be kept: no room" in said[0].detail
    with pytest.raises(CalibrationError, match="cannot be kept"):
        bank.end()
