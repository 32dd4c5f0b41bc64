from __future__ import annotations

import builtins
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.controllers import certify as module
from safeguard.controllers.certify import certify, quick_certificate, quick_design
from safeguard.controllers.scenario_program import violation_bound
from safeguard.controllers.tube import tube
from safeguard.core.certificate import Certificate, CertificateError, NotCertifiableError, Uncertainty
from safeguard.core.errors import ConfigError, MissingExtraError
from safeguard.core.robot import RobotModel
from tests.unit.certificate_support import BETA, EPSILON, certificate
from tests.unit.controllers_support import ARM_URDF, panda, replaced, tiny_arm

Patch = pytest.MonkeyPatch


@pytest.fixture
def arm(tmp_path: Path) -> RobotModel:
    """Two joints: everything takes a tenth of the time."""
    return tiny_arm(tmp_path)


def coarse(robot: RobotModel, **options: Any) -> Certificate:
    """A certificate from few samples."""
    return certify(robot, epsilon=EPSILON, beta=BETA, **options)


# -- certify --------------------------------------------------------------------------------------------


def test_a_certificate_says_what_it_rests_on() -> None:
    """Distribution, sample counts, seed, bound, program text and tool versions are in the file."""
    made, s = certificate(), certificate().statement
    assert (made.kind, made.robot, made.robot_digest) == ("certified", "panda", panda().digest)
    assert s.bound <= s.epsilon == EPSILON
    assert s.scenario_bound is not None
    assert s.bound < s.scenario_bound < 1.0
    assert s.validation_samples == s.design_samples > s.violations
    assert "cp.Minimize(goal)" in s.program
    assert "aligned 0.2" in s.distribution
    assert dict(s.tools).keys() == {"cvxpy", "clarabel", "numpy", "pin"}


def test_every_joint_keeps_authority_and_speed() -> None:
    """Authority minus disturbance is positive, nothing is beyond the datasheet, margins leave some of the envelope."""
    limits = panda().limits
    made = certificate()
    assert all(joint.remaining_nm > 0.0 for joint in made.joints)
    assert (made.speed <= limits.v_max).all()
    assert (made.deceleration < limits.a_max).all()
    assert (made.velocity_margin < 0.5 * made.speed).all()
    assert (made.position_margin < 0.05).all()
    assert (made.position_margin <= made.path_margin).all()


def test_the_same_arguments_give_the_same_certificate(arm: RobotModel) -> None:
    """Digest and all; another seed gives another."""
    assert coarse(arm).digest == coarse(arm).digest
    assert coarse(arm).digest != coarse(arm, seed=1).digest


def test_more_uncertainty_costs(arm: RobotModel) -> None:
    """Larger mass errors take more reserve and leave less deceleration; more delay takes more margin."""
    little, much = (coarse(arm, uncertainty=Uncertainty.of(arm, mass_error_share=share)) for share in (0.02, 0.2))
    assert (much.torque_reserve > 1.5 * little.torque_reserve).all()
    late = coarse(arm, uncertainty=Uncertainty.of(arm, mass_error_share=0.02), delay_ticks=3)
    assert (late.position_margin > little.position_margin).all()
    assert (late.velocity_margin > little.velocity_margin).all()


def test_a_heavy_load_shrinks_or_is_refused(arm: RobotModel) -> None:
    """With 1.5 kg less deceleration is left; with 10 kg nothing, and the error names the joint and what would help."""
    light = coarse(arm)
    loaded = coarse(arm, uncertainty=Uncertainty.of(arm, payload_kg=(1.5, 1.5)))
    assert (loaded.speed * loaded.deceleration).sum() < (light.speed * light.deceleration).sum()
    with pytest.raises(NotCertifiableError, match=r"'shoulder' of 'tiny' has no authority left.*carry less") as refused:
        coarse(arm, uncertainty=Uncertainty.of(arm, payload_kg=(10.0, 10.0)))
    assert refused.value.joint == "shoulder"


def quick(robot: RobotModel) -> Certificate:
    """The quick one, not kept."""
    return quick_design(robot, 0.002, Uncertainty.of(robot))


@pytest.mark.parametrize("make", [coarse, quick])
def test_gravity_beyond_the_torque_is_refused(make: Callable[[RobotModel], Certificate], tmp_path: Path) -> None:
    """An arm whose elbow cannot hold itself: no envelope helps, and the elbow is named."""
    weak = replaced(ARM_URDF, 'velocity="3.0" effort="30"', 'velocity="3.0" effort="1.2"')
    robot = tiny_arm(tmp_path, weak)
    with pytest.raises(NotCertifiableError, match=r"'elbow' of 'tiny' has no authority left.*whatever the uncertainty"):
        make(robot)


def test_a_disturbance_beyond_the_torque_is_refused(arm: RobotModel) -> None:
    """What would help is a smaller uncertainty, not a lighter load alone."""
    with pytest.raises(NotCertifiableError, match=r"disturbance.*a smaller mass_error_share"):
        coarse(arm, uncertainty=Uncertainty.of(arm, external_torque_nm=[0.0, 24.0]))


def test_margins_beyond_the_range_are_refused(tmp_path: Path) -> None:
    """A joint with 5 mrad of range has none left after its margins; joint and margins are named."""
    narrow = replaced(ARM_URDF, 'lower="-3.0" upper="3.0"', 'lower="0.0" upper="0.005"')
    with pytest.raises(NotCertifiableError, match=r"takes margins of .*less delay") as refused:
        coarse(tiny_arm(tmp_path, narrow))
    assert refused.value.joint == "elbow"


def test_progress_is_told(arm: RobotModel) -> None:
    """Steps only grow and end with the validation."""
    told: list[tuple[str, int, int]] = []

    def tell(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    coarse(arm, progress=tell)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0][0] == "speed 100%"
    assert told[-1][0] == "validation"
    assert all(done < total for _, done, total in told)


def test_without_cvxpy_the_extra_is_named(arm: RobotModel, monkeypatch: Patch) -> None:
    """A missing cvxpy is told with the extra that brings it; the quick certificate does without."""
    real = builtins.__import__

    def no_cvxpy(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "cvxpy":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setitem(sys.modules, "cvxpy", None)
    monkeypatch.setattr(builtins, "__import__", no_cvxpy)
    with pytest.raises(MissingExtraError, match=r"safeguard-runtime\[certify\]"):
        coarse(arm)
    assert quick_design(arm, 0.002, Uncertainty.of(arm)).provisional


@pytest.mark.parametrize(("key", "value"), [("epsilon", 0.0), ("epsilon", 1.0), ("beta", -0.1)])
def test_probabilities_must_be_probabilities(key: str, value: float, arm: RobotModel) -> None:
    """The error names the argument and its value."""
    with pytest.raises(CertificateError, match=f"{key} = {value}"):
        certify(arm, **{key: value})  # type: ignore[arg-type]


def test_uncertainty_of_another_robot_is_refused(arm: RobotModel) -> None:
    """Seven frictions do not fit two joints."""
    with pytest.raises(CertificateError, match="must have 2 values, one a joint of 'tiny'"):
        certify(arm, uncertainty=Uncertainty.of(panda()))


def test_a_loop_that_does_not_settle_is_refused() -> None:
    """ω dt far beyond what sampling allows."""
    with pytest.raises(ConfigError, match="does not settle: lower omega"):
        tube(1500.0, 0.002, 0)


def test_a_failed_validation_makes_the_design_retreat(arm: RobotModel, monkeypatch: Patch) -> None:
    """0.9 of the deceleration is tried on new samples; β is divided among the tries; after three it is refused."""
    bounds = [1.0]
    betas: list[float] = []
    real = violation_bound

    def bound(violations: int, samples: int, beta: float) -> float:
        betas.append(beta)
        return bounds.pop() if bounds else real(violations, samples, beta)

    untouched = coarse(arm)
    monkeypatch.setattr(module, "violation_bound", bound)
    retreated = coarse(arm)
    np.testing.assert_allclose(retreated.deceleration, 0.9 * untouched.deceleration)
    assert betas == [BETA / 3.0] * 2
    bounds[:] = [1.0] * 3
    with pytest.raises(NotCertifiableError, match="fresh stops broke the numbers"):
        coarse(arm)
    assert len(betas) == 5


# -- the quick one --------------------------------------------------------------------------------------


def test_the_quick_one_is_provisional_and_kept(arm: RobotModel, tmp_path: Path, monkeypatch: Patch) -> None:
    """The second call reads the file and computes nothing."""
    folder = tmp_path / "cache"
    first = quick_certificate(arm, folder=folder)
    assert (first.kind, first.provisional) == ("provisional", True)
    assert first.statement.scenario_bound is None
    assert [path.suffix for path in folder.iterdir()] == [".json"]
    monkeypatch.setattr(module, "quick_design", forbidden)
    assert quick_certificate(arm, folder=folder) == first


def forbidden(*_: Any, **__: Any) -> Certificate:
    """Stands for a computation that must not happen."""
    raise AssertionError("computed again")


def test_other_parameters_are_other_files(arm: RobotModel, tmp_path: Path) -> None:
    """Period, delay, uncertainty and robot each have a file of their own."""
    u = Uncertainty.of(arm, mass_error_share=0.05)
    made = [
        quick_certificate(arm, folder=tmp_path / "c"),
        quick_certificate(arm, 0.001, folder=tmp_path / "c"),
        quick_certificate(arm, delay_ticks=1, folder=tmp_path / "c"),
        quick_certificate(arm, 0.002, u, folder=tmp_path / "c"),
        quick_certificate(arm.with_payload(0.2, [0, 0, 0]), folder=tmp_path / "c"),
    ]
    assert len({one.digest for one in made}) == len(list((tmp_path / "c").iterdir())) == len(made)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", None])
def test_a_damaged_entry_is_made_again(content: bytes | None, arm: RobotModel, tmp_path: Path) -> None:
    """Empty, wrong, not text, or a certificate of something else: the file is replaced."""
    folder = tmp_path / "cache"
    first = quick_certificate(arm, folder=folder)
    (entry,) = folder.iterdir()
    if content is None:
        quick_design(arm, 0.001, Uncertainty.of(arm)).save(entry)
    else:
        entry.write_bytes(content)
    assert quick_certificate(arm, folder=folder) == first
    assert Certificate.load(entry) == first


def test_a_folder_that_cannot_be_written_is_done_without(arm: RobotModel, tmp_path: Path) -> None:
    """The certificate is the same."""
    file = tmp_path / "not a folder"
    file.write_text("")
    assert quick_certificate(arm, folder=file) == quick_design(arm, 0.002, Uncertainty.of(arm))


def test_it_is_kept_where_xdg_says(arm: RobotModel, tmp_path: Path, monkeypatch: Patch) -> None:
    """$XDG_CACHE_HOME/safeguard/certificates, or ~/.cache/safeguard/certificates."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    quick_certificate(arm)
    assert len(list((tmp_path / "xdg" / "safeguard" / "certificates").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    quick_certificate(arm)
    assert len(list((tmp_path / "home" / ".cache" / "safeguard" / "certificates").iterdir())) == 1


def _make(folder: str) -> str:
    return quick_certificate(tiny_arm(Path(folder)), folder=Path(folder) / "cache").digest


def test_processes_at_once_agree(tmp_path: Path) -> None:
    """Four processes make the same entry at the same time; one whole file is left."""
    tiny_arm(tmp_path)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(_make, [str(tmp_path)] * 4)
    assert len(set(digests)) == 1
    (entry,) = (tmp_path / "cache").iterdir()
    assert Certificate.load(entry).digest == digests[0]


def test_the_quick_one_holds_on_fresh_stops_as_well() -> None:
    """It carries the same kind of statement, with a wider epsilon, and asks for no more than the limits."""
    made = quick_design(panda(), 0.002, Uncertainty.of(panda()))
    assert made.statement.bound <= made.statement.epsilon == 0.02
    assert (made.deceleration <= panda().limits.a_max).all()
    assert (np.array([joint.remaining_nm for joint in made.joints]) > 0.0).all()
