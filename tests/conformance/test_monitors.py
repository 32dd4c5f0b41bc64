"""Every scored monitor of the registry: deterministic, bounded, never silent about what it cannot see, and proven."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from types import FunctionType, ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.core.config import MonitorsConfig
from safeguard.core.enums import Reference
from safeguard.core.protocols import Monitor
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    ActionSpec,
    Evidence,
    Observation,
    Proposal,
    RobotState,
    TerminalStop,
    TorqueCommand,
    Vector,
    Verdict,
)
from safeguard.monitors import cusum, embedding
from safeguard.monitors.action import OverlapError
from safeguard.monitors.motion import JointMotion
from safeguard.monitors.registry import REGISTRY, Entry, Setting, monitors
from safeguard.monitors.residual import ModelResidual
from safeguard.scenarios.runner import run_episode
from safeguard.scenarios.scenario import Scenario
from safeguard.shield import Shield
from tests.unit.monitors_support import decision

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec(ROBOT.joints, "rad", Reference.ABSOLUTE, 20.0, 8)
PERIOD = 0.002
START_S = 1.0
LONG = 10_000  # ticks

SPIKES: Mapping[str, object] = {"kind": "policy.torque_spikes", "start_s": START_S}
ELSEWHERE: Mapping[str, object] = {
    "kind": "policy.drive_to_limits",
    "start_s": START_S,
    "joints": {"panda_joint2": "upper", "panda_joint6": "lower"},
}
WEAK: Mapping[str, object] = {"kind": "plant.torque_loss", "start_s": START_S}
TRIPS_ON: dict[str, Mapping[str, object]] = {
    "shield_effort": SPIKES,
    "model_residual": WEAK,
    "overlap_error": SPIKES,
    "reversal_rate": SPIKES,
    "chunk_magnitude": SPIKES,
    "embedding_mahalanobis": ELSEWHERE,
    "embedding_knn": ELSEWHERE,
    "overlap_cusum": SPIKES,
}
"""The fault of the library that a monitor is there for, at severity 3."""

Stream = list[Evidence]
by_entry = pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)


class Recordings:
    """Evidence of short episodes, each recorded when it is first asked for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], Stream] = {}

    def __call__(self, episode: int, *faults: Mapping[str, object]) -> Stream:
        """What the monitors of the shield saw, tick by tick."""
        key = episode, repr(faults)
        if key not in self._kept:
            scenario = Scenario.model_validate({"name": "conformance", "duration_s": 2.5, "faults": faults})
            self._kept[key] = stream = Stream()

            class Recording(Shield):
                def _watch(self, evidence: Evidence, state: RobotState | None) -> tuple[Verdict, ...]:
                    stream.append(evidence)
                    return super()._watch(evidence, state)

            run_episode(scenario, episode=episode, make_shield=Recording)
            assert len(stream) == scenario.ticks
        return self._kept[key]

    def clean(self) -> list[Stream]:
        """Six clean episodes to learn from."""
        return [self(episode) for episode in range(1000, 1006)]

    def features(self) -> Vector:
        """Of every proposal of the clean episodes."""
        arrived = [evidence.proposal for stream in self.clean() for evidence in stream]
        return np.vstack([each.features for each in arrived if each is not None and each.features is not None])

    def errors(self, monitor: Monitor) -> Vector:
        """What the overlap monitor scores of every proposal of the clean episodes."""
        found = list[float]()
        for stream in self.clean():
            monitor.reset()
            pairs = zip(scores(monitor, stream), stream, strict=True)
            found += [score for score, evidence in pairs if evidence.proposal is not None]
        return np.array(found)


@pytest.fixture(scope="session")
def recorded() -> Recordings:
    """Recordings of this test session."""
    return Recordings()


@pytest.fixture(scope="session")
def setting(recorded: Recordings) -> Setting:
    """The Panda with its learned policy, and what was learned of clean episodes."""
    limits = ROBOT.limits
    overlap = OverlapError(JointMotion.of(SPEC, ROBOT.joints, limits.v_max))
    fit = {**embedding.learn(recorded.features()), **cusum.learn(recorded.errors(overlap))}
    return Setting(ROBOT.joints, PERIOD, SPEC, limits.v_max, limits.a_max, MonitorsConfig(), fit)


def scores(monitor: Monitor, stream: Sequence[Evidence]) -> list[float]:
    """Of a whole stream."""
    return [monitor.score(evidence).value for evidence in stream]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a figure for whoever watches."""

    def say(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text} ")

    return say


def footprint(root: object) -> int:
    """Bytes of everything that an object holds, classes and functions aside."""
    seen, todo, size = set[int](), [root], 0
    while todo:
        item = todo.pop()
        if id(item) not in seen and not isinstance(item, type | FunctionType | ModuleType):
            seen.add(id(item))
            size += sys.getsizeof(item)
            todo += gc.get_referents(item)
    return size


def test_every_monitor_is_covered_here(setting: Setting) -> None:
    """A monitor that is added to the registry needs a fault that it trips on, and applies to this setting."""
    assert set(TRIPS_ON) == {entry.name for entry in REGISTRY} == {entry.name for entry, _ in monitors(setting)}
    assert len({entry.name for entry in REGISTRY}) == len(REGISTRY)


@by_entry
def test_it_bears_its_name(entry: Entry, setting: Setting) -> None:
    """The name in the registry is the one in records."""
    assert entry.make(setting).name == entry.name


@by_entry
def test_it_is_deterministic_and_a_reset_is_a_fresh_start(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """Two instances say the same of the same evidence, and one says it again after a reset."""
    stream = recorded(9, TRIPS_ON[entry.name])
    monitor = entry.make(setting)
    first = scores(monitor, stream)
    monitor.reset()

    assert len(set(first)) > 3
    assert first == scores(entry.make(setting), stream)
    assert first == scores(monitor, stream)


@by_entry
def test_before_evidence_it_says_nothing(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """The first tick of an episode scores 0."""
    assert scores(entry.make(setting), recorded(9)[:1]) == [0.0]


@by_entry
def test_clean_evidence_scores_finite_and_not_negative(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """Nothing about a clean episode is an alarm by itself."""
    assert all(math.isfinite(score) and score >= 0.0 for score in scores(entry.make(setting), recorded(9)))


def test_the_model_is_exact_until_the_hand_touches_the_puck(setting: Setting, recorded: Recordings) -> None:
    """From the start through free motion the prediction misses by less than half a percent of the limits."""
    free = recorded(9)[: round(0.8 / PERIOD)]  # it does in tick 448, which misses by 11 %
    assert max(np.abs(evidence.observation.state.v).max() for evidence in free) > 0.1
    assert max(scores(ModelResidual(setting.joints, setting.a_max, tau_s=0.0), free)) < 0.005


@by_entry
def test_its_memory_is_bounded(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """What it keeps after ten thousand ticks is no more than after the first five hundred."""
    stream, monitor = recorded(9, TRIPS_ON[entry.name]), entry.make(setting)
    scores(monitor, stream)
    before = footprint(monitor)
    for _ in range(LONG // len(stream)):
        scores(monitor, stream)

    assert footprint(monitor) <= before + 1024  # a ring may come to lie across two blocks


@by_entry
def test_the_noop_twin_scores_as_the_clean_episode(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """Faults of severity 0 change no score at all."""
    twins = [{**fault, "severity": 0} for fault in (SPIKES, ELSEWHERE, WEAK)]

    assert scores(entry.make(setting), recorded(9, *twins)) == scores(entry.make(setting), recorded(9))


@by_entry
def test_it_trips_on_its_fault(
    entry: Entry, setting: Setting, recorded: Recordings, tell: Callable[[str], None]
) -> None:
    """A fault of severity 3 raises it to at least twice what the clean episode reached, and not before the onset."""
    clean = scores(entry.make(setting), recorded(9))
    faulty = scores(entry.make(setting), recorded(9, TRIPS_ON[entry.name]))
    onset = round(START_S / PERIOD)
    tell(f"{entry.name}: clean {max(clean):.4g}, {TRIPS_ON[entry.name]['kind']} {max(faulty):.4g}")

    assert faulty[:onset] == clean[:onset]
    assert max(faulty) > 2.0 * max(max(clean), entry.resolution)


@by_entry
def test_the_evidence_of_its_self_test_trips_it(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """Made from the setting alone, it drives a fresh monitor to ten times what is usual and five times the most."""
    clean = [score for score in scores(entry.make(setting), recorded(9)) if score > 0.0]
    usual, most = (median(clean), max(clean)) if clean else (0.0, 0.0)
    tripped = scores(entry.make(setting), entry.trip(setting))[-1]

    assert tripped >= 10.0 * max(usual, entry.resolution)
    assert tripped >= 5.0 * most


Breaking = Callable[[Evidence], Evidence]


def without_features(evidence: Evidence) -> Evidence:
    """The policy stops exposing them."""
    assert evidence.current is not None
    return replace(evidence, current=replace(evidence.current, features=None))


def with_actions(actions: Vector) -> Breaking:
    """The followed chunk is this one."""

    def broken(evidence: Evidence) -> Evidence:
        assert evidence.current is not None
        return replace(evidence, current=replace(evidence.current, actions=actions))

    return broken


def with_features(features: Vector) -> Breaking:
    """The followed chunk has these features."""

    def broken(evidence: Evidence) -> Evidence:
        assert evidence.current is not None
        return replace(evidence, current=replace(evidence.current, features=features))

    return broken


def with_state(v: Vector) -> Breaking:
    """The measured speeds are these."""

    def broken(evidence: Evidence) -> Evidence:
        state = evidence.observation.state
        return replace(evidence, observation=Observation(RobotState(state.q, v, state.t)))

    return broken


def with_effort(effort: float) -> Breaking:
    """The filter's effort of the tick before is this."""

    def broken(evidence: Evidence) -> Evidence:
        assert evidence.previous is not None
        return replace(
            evidence, previous=replace(evidence.previous, filter=replace(evidence.previous.filter, effort=effort))
        )

    return broken


def standing_still(evidence: Evidence) -> Evidence:
    """The stamp of the tick before comes again."""
    state = evidence.observation.state
    again = RobotState(state.q, state.v, state.t - round(PERIOD * 1e9))
    return replace(evidence, observation=Observation(again))


NAN7, NANS = np.full(7, np.nan), np.full((8, 7), np.nan)
MOTION: list[Breaking] = [with_actions(NANS), with_actions(np.zeros((2, 7))), with_actions(np.full((8, 7), np.inf))]
FEATURES: list[Breaking] = [without_features, with_features(np.zeros(3)), with_features(np.full(128, np.nan))]
BROKEN: dict[str, list[Breaking]] = {
    "shield_effort": [with_effort(math.nan), with_effort(math.inf)],
    "model_residual": [with_state(NAN7), with_state(np.zeros(3)), with_state(np.full(7, np.inf)), standing_still],
    "overlap_error": MOTION,
    "reversal_rate": MOTION,
    "chunk_magnitude": MOTION,
    "embedding_mahalanobis": FEATURES,
    "embedding_knn": [*FEATURES, with_features(np.zeros(128))],
    "overlap_cusum": MOTION,
}
"""What each monitor must not see past."""


@by_entry
def test_broken_input_is_an_alarm(entry: Entry, setting: Setting, recorded: Recordings) -> None:
    """It scores NaN, says why, and comes back to numbers once the input does."""
    stream = recorded(9)[400:600]
    for breaking in BROKEN[entry.name]:
        monitor = entry.make(setting)
        scores(monitor, stream[:99])
        score = monitor.score(breaking(stream[99]))
        assert math.isnan(score.value), breaking
        assert score.detail
        assert all(math.isfinite(value) for value in scores(monitor, stream[100:])[-2:])


arrays = st.lists(st.integers(0, 9), max_size=3).flatmap(
    lambda shape: st.sampled_from([0.0, -1.0, 1e300, -1e308, math.inf, math.nan]).map(
        lambda value: np.full(shape, value)
    )
)
stamps = st.integers(-(2**63), 2**63) | st.integers(1_000_000_000, 1_010_000_000)


@st.composite
def hostile(draw: st.DrawFn) -> Evidence:
    """Arrays of any shape and value, stamps that go anywhere, decisions about another robot."""
    state = RobotState(draw(arrays), draw(arrays | st.just(np.zeros(7))), draw(stamps))
    chunk = Proposal(draw(arrays), draw(stamps), draw(stamps), "guest", draw(stamps), draw(st.none() | arrays))
    previous = draw(st.none() | (st.floats(0.0) | st.just(math.nan)).map(decision))
    if previous is not None and draw(st.booleans()):
        previous = replace(previous, command=TerminalStop("", 0, 0))
    elif previous is not None:
        previous = replace(previous, command=TorqueCommand(previous.filter.torque, 0, draw(stamps), 0))
    if previous is not None:
        previous = replace(previous, filter=replace(previous.filter, acceleration=draw(arrays)))
    return Evidence(Observation(state), draw(stamps), current=draw(st.none() | st.just(chunk)), previous=previous)


@by_entry
@settings(max_examples=60)
@given(data=st.data())
def test_nothing_makes_it_raise(entry: Entry, setting: Setting, recorded: Recordings, data: st.DataObject) -> None:
    """After odd evidence of any kind it has a score that is NaN or a number of at most 1e12, and works on."""
    monitor = entry.make(setting)
    scores(monitor, recorded(9)[500:502])
    for evidence in data.draw(st.lists(hostile(), min_size=1, max_size=3)):
        score = monitor.score(evidence).value
        assert math.isnan(score) or 0.0 <= score <= 1e12
    after = scores(monitor, recorded(9)[502:900])
    assert math.isfinite(after[-1])


@by_entry
def test_its_cost_is_known(entry: Entry, setting: Setting, recorded: Recordings, tell: Callable[[str], None]) -> None:
    """The median of its ticks as a share of its budget is printed; a noisy machine fails nobody."""
    monitor, stream, spent = entry.make(setting), recorded(9), list[float]()
    for evidence in stream:
        begin = time.perf_counter_ns()
        monitor.score(evidence)
        spent.append((time.perf_counter_ns() - begin) / 1e3)
    new = [cost for cost, evidence in zip(spent, stream, strict=True) if evidence.proposal is not None]
    usual = median(spent)
    tell(
        f"{entry.name}: {usual:.2f} us, {usual / entry.budget_us:.0%} of its budget; {median(new):.1f} us with a chunk"
    )

    assert len(spent) == len(stream)
    assert entry.budget_us > 0.0
