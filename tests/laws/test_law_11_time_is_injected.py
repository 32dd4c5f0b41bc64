# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from safeguard.controllers import ArmPlatform
from safeguard.monitors import Intake, PolicyDeadline, ShieldEffort
from safeguard.policies import InlinePort
from tests.laws.lab import Guest, Lab, beyond, folded, outcome

Patch = pytest.MonkeyPatch
CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")
ENVIRONMENT = {"OMP_NUM_THREADS": "64", "SAFEGUARD_PERIOD": "1", "HOME": "/nowhere", "TZ": "Asia/Tokyo"}


def episode(guest: Guest) -> list[bytes]:
    """Every decision of an episode with a stop in it, less its timings."""
    lab = Lab(guest)
    lab.acknowledge()
    lab.run(250)
    lab.shield.stop(operator="lab", reason="test")
    lab.run(50)
    return [outcome(decision) for decision in lab.decisions]


def shaken(guest: Guest, seed: int) -> list[bytes]:
    """The same while every clock jumps, the global random streams start elsewhere and the environment differs."""
    jumps = count(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name in CLOCKS:
            whole = name.endswith("_ns")

            def jumping(whole: bool = whole) -> float:
                at = (next(jumps) * 7919 % 1000 - 500) * 10**9
                return at if whole else at * 1e-9

            patch.setattr(time, name, jumping)
        for name, value in ENVIRONMENT.items():
            patch.setitem(os.environ, name, f"{value}{seed}")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the global stream is what must not matter
        return episode(guest)


def check_law_11(guest: Guest) -> None:
    """Decisions depend on injected time and on the observations alone."""
    plain = episode(guest)
    assert len(plain) > 250
    for seed in (1, 2):
        other = shaken(guest, seed)
        wrong = [tick for tick, pair in enumerate(zip(plain, other, strict=True)) if pair[0] != pair[1]]
        assert not wrong, f"{len(wrong)} decisions differ, the first at tick {wrong[0]}"


@pytest.mark.parametrize("guest", [beyond, folded], ids=lambda guest: guest.__name__)
def test_law_11(guest: Guest) -> None:
    """No clock, random stream or environment variable reaches a decision."""
    check_law_11(guest)


# -- planted ------------------------------------------------------------------------------------------


def intake_reads_clock(patch: Patch) -> None:
    """The age of a state is measured with the wall clock."""
    real, start = Intake._age, time.monotonic_ns()

    def age(self: Intake, t: int, now: int) -> Any:
        return real(self, t, now + time.monotonic_ns() - start)

    patch.setattr(Intake, "_age", age)


def deadline_reads_clock(patch: Patch) -> None:
    """The deadline is measured with the wall clock."""
    real, start = PolicyDeadline.check, time.time()

    def check(self: PolicyDeadline, current: Any, now: int) -> Any:
        return real(self, current, now + int(time.time() - start) * 10**9)

    patch.setattr(PolicyDeadline, "check", check)


def port_reads_clock(patch: Patch) -> None:
    """The port asks the clock whether to start an inference."""
    real, start = InlinePort.post, time.perf_counter()

    def post(self: InlinePort, observation: Any, now: int) -> None:
        if abs(time.perf_counter() - start) < 60.0:
            real(self, observation, now)

    patch.setattr(InlinePort, "post", post)


def filter_is_random(patch: Patch) -> None:
    """The filter's state carries noise of numpy's global stream."""
    real = ArmPlatform.filter

    def filtered(self: ArmPlatform, state: Any, *rest: Any) -> Any:
        shifted = state.q + 1e-15 * np.random.standard_normal()  # noqa: NPY002  planted
        return real(self, type(state)(shifted, state.v, state.t), *rest)

    patch.setattr(ArmPlatform, "filter", filtered)


def filter_is_random_too(patch: Patch) -> None:
    """The backup's state carries noise of Python's global stream."""
    real = ArmPlatform.backup

    def backup(self: ArmPlatform, state: Any) -> Any:
        shifted = None if state is None else type(state)(state.q, state.v + 1e-15 * random.random(), state.t)
        return real(self, shifted)

    patch.setattr(ArmPlatform, "backup", backup)


def monitor_reads_environment(patch: Patch) -> None:
    """A score depends on an environment variable."""
    real = ShieldEffort.score

    def score(self: ShieldEffort, evidence: Any) -> Any:
        made = real(self, evidence)
        return type(made)(made.value + len(os.environ.get("HOME", "")))

    patch.setattr(ShieldEffort, "score", score)


@pytest.mark.parametrize(
    "plant",
    [
        intake_reads_clock,
        deadline_reads_clock,
        port_reads_clock,
        filter_is_random,
        filter_is_random_too,
        monitor_reads_environment,
    ],
    ids=lambda plant: plant.__name__,
)
def test_law_11_planted(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """A part that reads a clock, a global random stream or the environment is seen."""
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="decisions differ"):
        check_law_11(beyond)
