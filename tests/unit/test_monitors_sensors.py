from __future__ import annotations

from collections.abc import Mapping
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from safeguard.core.config import SensorConfig
from safeguard.core.enums import Cause, Level
from safeguard.core.errors import ConfigError
from safeguard.core.types import Observation, RobotState, Sensor, Verdict
from safeguard.monitors.sensors import Sensors

MS = 1_000_000
STATE = RobotState(np.zeros(1), np.zeros(1), 0)
CAMERA = {"camera": SensorConfig(max_age_s=0.2, frozen_s=0.5)}


def seen(parts: Mapping[str, tuple[ArrayLike, int]]) -> Observation:
    """An observation with these sensors: value, and stamp in ms."""
    return Observation(STATE, {name: Sensor(np.asarray(value, float), t * MS) for name, (value, t) in parts.items()})


def camera(value: ArrayLike, t: int) -> Observation:
    """An observation of one camera, stamped ``t`` ms."""
    return seen({"camera": (value, t)})


def tell(sensors: Sensors, observation: Observation, now: int, *, state_lost: bool = False) -> Verdict:
    """The verdict on the one configured sensor at ``now`` ms."""
    verdict, others = sensors.check(observation, now * MS, state_lost=state_lost)
    assert (verdict.monitor, others.monitor) == ("sensor.camera", "sensors")
    return verdict


def lost(verdict: Verdict, *words: str) -> bool:
    """PERCEPTION_LOST at the level of a stop, with these words."""
    return (verdict.cause, verdict.level) == (Cause.PERCEPTION_LOST, Level.STOP) and all(
        word in verdict.detail for word in ("camera", *words)
    )


def test_a_good_sensor_gets_one_constant_verdict() -> None:
    """There, in form, fresh and changing: the same object in every tick."""
    sensors = Sensors(CAMERA)
    verdicts = [tell(sensors, camera([k, 1.0], 100 * k), 100 * k + 50) for k in range(30)]
    assert verdicts[0].level is Level.OK
    assert len({id(verdict) for verdict in verdicts}) == 1


def test_a_missing_sensor_is_lost_from_the_first_tick() -> None:
    """Missing is alarm, at the start too; it is over when the sensor is there."""
    sensors = Sensors(CAMERA)
    assert lost(tell(sensors, seen({}), 0), "missing")
    assert tell(sensors, camera(1.0, 2), 2).cause is None
    assert lost(tell(sensors, seen({"other": (1.0, 4)}), 4), "missing")


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("size", [1, 12, 13, 1000])
def test_a_number_that_is_not_finite_is_lost(number: float, size: int) -> None:
    """How many of how many, in sensors of any size; finite numbers of any size are fine."""
    good, bad = np.full(size, 1e308), np.full(size, 1e308)
    bad[-1] = number
    assert lost(tell(Sensors(CAMERA), camera(bad, 0), 0), f"1 of {size} numbers")
    assert tell(Sensors(CAMERA), camera(good, 0), 0).cause is None


def test_the_first_value_fixes_the_shape_for_the_process() -> None:
    """Another shape is lost, in the next episode too; one of broken numbers fixes nothing."""
    sensors = Sensors(CAMERA)
    assert lost(tell(sensors, camera([[nan]], 0), 0), "not finite")
    assert tell(sensors, camera([1.0, 2.0], 1), 1).cause is None
    sensors.reset()
    assert lost(tell(sensors, camera([1.0], 0), 0), "shape (1,)", "(2,)")
    assert tell(sensors, camera([1.0, 3.0], 2), 2).cause is None


def test_an_old_value_is_lost_and_one_at_the_limit_is_not() -> None:
    """Age is now minus stamp, whatever the value does in between."""
    sensors = Sensors(CAMERA)
    assert tell(sensors, camera(1.0, 0), 200).cause is None
    old = tell(sensors, camera(2.0, 0), 201)
    assert lost(old, "0.201 s old, limit 0.2 s")
    assert old.score == pytest.approx(0.201)
    assert old.threshold == 0.2


def test_a_stamp_that_stands_still_is_age() -> None:
    """The same stamp again and again is fine until it is too old, and then old rather than frozen."""
    sensors = Sensors(CAMERA)
    causes = [tell(sensors, camera(1.0, 0), now) for now in range(0, 1000, 10)]
    assert [verdict.cause is None for verdict in causes] == [True] * 21 + [False] * 79
    assert lost(causes[-1], "old")


def test_stamps_from_the_future_are_lost_and_not_remembered() -> None:
    """1 ms ahead is allowed; a second ahead is not, and the right stamps after it are not "before" it."""
    sensors = Sensors(CAMERA)
    assert tell(sensors, camera(1.0, 1), 0).cause is None
    assert lost(tell(sensors, camera(2.0, 1010), 10), "1 s in the future, limit 0.001 s")
    assert tell(sensors, camera(3.0, 12), 12).cause is None


def test_stamps_that_go_back_are_lost_until_they_pass_the_newest() -> None:
    """A new episode may start with any stamp."""
    sensors = Sensors(CAMERA)
    tell(sensors, camera(1.0, 100), 100)
    assert lost(tell(sensors, camera(2.0, 90), 110), "before 100000000 ns")
    assert tell(sensors, camera(3.0, 100), 112).cause is None
    sensors.reset()
    assert tell(sensors, camera(2.0, 90), 90).cause is None


def test_a_frozen_value_is_lost_although_its_stamps_advance() -> None:
    """Bit-identical for longer than the limit, as its own stamps tell; one bit ends it."""
    sensors = Sensors(CAMERA)
    verdicts = [tell(sensors, camera([1.0, 2.0], now), now) for now in range(0, 600, 10)]
    assert [verdict.cause is None for verdict in verdicts] == [True] * 51 + [False] * 9
    assert lost(verdicts[51], "not changed by a bit for 0.51 s, limit 0.5 s")
    assert tell(sensors, camera([1.0, np.nextafter(2.0, 3.0)], 600), 600).cause is None


def test_what_may_stand_still_is_never_frozen() -> None:
    """The no-op twin: without a limit the same values are fine; and so are values that change by one bit."""
    still = Sensors({"camera": SensorConfig()})
    assert all(tell(still, camera([1.0], now), now).cause is None for now in range(0, 5000, 10))
    alive = Sensors(CAMERA)
    noisy = (camera([1.0 + (now % 20) * 1e-15], now) for now in range(0, 5000, 10))
    assert all(tell(alive, observation, 10 * k).cause is None for k, observation in enumerate(noisy))


def test_a_gap_does_not_thaw_a_frozen_sensor() -> None:
    """The value that was there before it went missing, and still is, has not changed in between."""
    sensors = Sensors(CAMERA)
    tell(sensors, camera(1.0, 0), 0)
    assert lost(tell(sensors, seen({}), 300), "missing")
    assert lost(tell(sensors, camera(1.0, 600), 600), "by a bit for 0.6 s")


def test_a_sensor_that_goes_with_the_state_is_its_consequence() -> None:
    """One alarm for one dead observation: the sensor says so, without a cause; it is judged again with the state."""
    for gone in (seen({}), camera(1.0, 0)):
        sensors = Sensors(CAMERA)
        tell(sensors, camera(1.0, 0), 0)
        dependent = tell(sensors, gone, 300, state_lost=True)
        assert (dependent.level, dependent.cause) == (Level.UNPROVEN, None)
        assert "intake" in dependent.detail
        assert lost(tell(sensors, gone, 302))


def test_a_sensor_that_failed_before_the_state_keeps_its_alarm() -> None:
    """So does one that is wrong in itself."""
    sensors = Sensors(CAMERA)
    assert lost(tell(sensors, seen({}), 0))
    assert lost(tell(sensors, seen({}), 2, state_lost=True))
    assert lost(tell(Sensors(CAMERA), camera(nan, 0), 0, state_lost=True), "not finite")


def test_sensors_that_nobody_configured_are_only_looked_at() -> None:
    """Numbers that are not finite and stamps from the future are a warning that names the sensor; the rest is fine."""
    sensors = Sensors({})
    broken: list[tuple[dict[str, tuple[ArrayLike, int]], str]] = [
        ({"lidar": ([1.0, nan], 0)}, "1 of 2"),
        ({"a": (1.0, 0), "lidar": (1.0, 9)}, "0.009 s"),
    ]
    for parts, word in broken:
        (verdict,) = sensors.check(seen(parts), 0)
        assert (verdict.cause, verdict.level) == (Cause.PERCEPTION_WARN, Level.WARN)
        assert "lidar" in verdict.detail
        assert word in verdict.detail
    fine: list[dict[str, tuple[ArrayLike, int]]] = [{}, {"lidar": ([1e300], 0)}, {"lidar": ([1.0] * 30, -5)}]
    assert all(sensors.check(seen(parts), 10**12)[0].level is Level.OK for parts in fine)


def test_each_sensor_has_its_own_verdict() -> None:
    """In the order of the configuration, with one for all others at the end."""
    sensors = Sensors({"b": SensorConfig(), "a": SensorConfig()})
    verdicts = sensors.check(seen({"a": (1.0, 0), "x": (nan, 0)}), 0)
    assert [verdict.monitor for verdict in verdicts] == ["sensor.b", "sensor.a", "sensors"]
    assert [verdict.cause for verdict in verdicts] == [Cause.PERCEPTION_LOST, None, Cause.PERCEPTION_WARN]


numbers = st.floats(allow_nan=True, allow_infinity=True)
values = st.one_of(
    numbers, st.lists(numbers, max_size=3), st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=2)
)
stamps = st.one_of(st.integers(0, 800), st.integers(-(1 << 63) // MS, (1 << 63) // MS - 1))
ticks = st.tuples(
    st.dictionaries(st.sampled_from(["camera", "lidar", "x"]), st.tuples(values, stamps)), stamps, st.booleans()
)


@given(st.lists(ticks, max_size=30))
def test_any_sequence_gets_a_verdict_for_each(calls: list[tuple[dict[str, tuple[ArrayLike, int]], int, bool]]) -> None:
    """Never an exception, always the same number of verdicts, and the same ones for the same calls."""
    limits = {"camera": SensorConfig(frozen_s=0.1), "lidar": SensorConfig()}
    one, two = Sensors(limits), Sensors(limits)
    for parts, now, state_lost in calls:
        verdicts = one.check(seen(parts), now * MS, state_lost=state_lost)
        assert repr(verdicts) == repr(two.check(seen(parts), now * MS, state_lost=state_lost))
        assert [verdict.monitor for verdict in verdicts] == ["sensor.camera", "sensor.lidar", "sensors"]
        missing = [verdict.cause is None for name, verdict in zip(limits, verdicts, strict=False) if name not in parts]
        assert state_lost or not any(missing)


@pytest.mark.parametrize("future", [-1.0, nan, inf])
def test_the_future_is_a_time(future: float) -> None:
    """Anything else is a configuration error."""
    with pytest.raises(ConfigError, match="future_s"):
        Sensors({}, future)
