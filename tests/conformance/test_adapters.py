"""Every kind of policy that can be wrapped, with every fault, through a shield: refused at start, or alarm and backup.

The healthy twin of each kind moves the arm; whatever the guest does, no torque is outside the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import Decision, Observation, RobotState, TerminalStop, TorqueCommand
from safeguard.policies import Binding
from tests.conformance import adapter_kinds as kinds
from tests.conformance.adapter_kinds import KINDS, ONSET, RADIANS, SPEC, Guest, N, Numbers, wrapped
from tests.laws.lab import Lab, panda

END = ONSET + 420_000_000  # ns: a policy period, the deadline, and what the mode table bridges
HOME = panda().home
DEGREES = Numbers(gain=float(np.rad2deg(0.1)), bias=np.rad2deg(HOME))
THOUSANDTHS = Numbers(gain=100.0, bias=1000.0 * HOME)
ALARMS = {Cause.PROPOSAL_INVALID, Cause.PROPOSAL_ORDER, Cause.PROPOSAL_REPEATED, Cause.POLICY_LATE}

NUMBERS: Mapping[str, Guest] = {
    "NaN": Guest(bad=Numbers(bias=np.where(np.arange(N) == 3, np.nan, 0.0))),
    "infinite": Guest(bad=Numbers(bias=np.full(N, np.inf))),
    "not normalised": Guest(bad=Numbers(gain=0.1, bias=np.array(HOME))),
    "degrees for radians": Guest(RADIANS, Numbers(0.1, HOME), DEGREES),
    "thousandths for ones": Guest(RADIANS, Numbers(0.1, HOME), THOUSANDTHS),
}
"""Wrong numbers of the right shape: every kind can give them."""
DOES: Mapping[str, tuple[Guest, Cause]] = {
    "short": (Guest(spoil=kinds.short), Cause.PROPOSAL_INVALID),
    "long": (Guest(spoil=kinds.long), Cause.PROPOSAL_INVALID),
    "None": (Guest(spoil=kinds.nothing), Cause.PROPOSAL_INVALID),
    "masked": (Guest(spoil=kinds.masked), Cause.PROPOSAL_INVALID),
    "raises": (Guest(spoil=kinds.raises), Cause.POLICY_LATE),
    "exits": (Guest(spoil=kinds.exits), Cause.POLICY_LATE),
}
"""What else a guest can do, and the cause in the record."""

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
every_kind = pytest.mark.parametrize("kind", KINDS)


def played(policy: Policy, until: int = END) -> tuple[Lab, list[Decision]]:
    """The arm under the policy; no command of it is outside the limits."""
    lab = Lab(policy).start()
    while lab.now < until:
        lab.tick()
    for decision in lab.decisions:
        match decision.command:
            case TorqueCommand(tau=tau):
                assert np.isfinite(tau).all()
                assert (np.abs(tau) <= panda().limits.tau_max).all()
            case command:
                assert isinstance(command, TerminalStop)
    return lab, lab.decisions


def moves(policy: Policy) -> None:
    """The arm moves under the policy's authority, and nobody complains."""
    lab, decisions = played(policy, ONSET)
    assert decisions[-1].authority is Authority.POLICY
    assert not any(ALARMS & set(decision.causes) for decision in decisions)
    assert np.abs(lab.q - HOME).max() > 0.01


def stops(policy: Policy, cause: Cause) -> None:
    """It moves the arm first; after the onset the cause is there and the backup has the arm, at rest in the end."""
    lab, decisions = played(policy)
    before = [decision for k, decision in enumerate(decisions) if k * 2_000_000 < ONSET]
    assert before[-1].authority is Authority.POLICY
    assert not any(ALARMS & set(decision.causes) for decision in before)
    assert any(cause in decision.causes for decision in decisions[len(before) :])
    assert decisions[-1].mode >= Mode.HOLD
    assert decisions[-1].authority is Authority.BACKUP
    lab.run(100)
    assert np.abs(lab.v).max() < 0.01


@every_kind
def test_a_healthy_guest_moves_the_arm(kind: str, tmp_path: Path) -> None:
    """The twin without a fault: each kind works through a shield."""
    moves(wrapped(kind, Guest(), tmp_path))


@pytest.mark.parametrize("fault", NUMBERS)
@every_kind
def test_wrong_numbers_are_alarm_and_backup(kind: str, fault: str, tmp_path: Path) -> None:
    """Not finite, not normalised, of another unit or scale: refused as they come in, and the backup stops the arm."""
    stops(wrapped(kind, NUMBERS[fault], tmp_path), Cause.PROPOSAL_INVALID)


@pytest.mark.parametrize("fault", DOES)
@pytest.mark.parametrize("kind", kinds.WRITTEN)
def test_whatever_a_guest_does_is_alarm_and_backup(kind: str, fault: str, tmp_path: Path) -> None:
    """Short, long, nothing, no numbers, an exception, an exit: the cause is in the record and the arm stops."""
    guest, cause = DOES[fault]
    stops(wrapped(kind, guest, tmp_path), cause)


def test_compiled_code_that_changes_its_shape_is_alarm_and_backup(tmp_path: Path) -> None:
    """TorchScript says nothing of its shape beforehand."""
    stops(wrapped("script", Guest(spoil=kinds.short), tmp_path), Cause.PROPOSAL_INVALID)


@pytest.mark.parametrize("kind", kinds.COMPILED)
def test_compiled_code_that_fails_is_alarm_and_backup(kind: str, tmp_path: Path) -> None:
    """An input that the code cannot take is an exception of its runtime: no proposal, and the arm stops."""

    def shorter(observation: Observation) -> Any:
        given = kinds.single(observation) if kind == "onnx" else kinds.batch(observation)
        return given[..., 4:] if observation.state.t >= ONSET else given

    stops(wrapped(kind, Guest(), tmp_path, encode=shorter), Cause.POLICY_LATE)


@every_kind
def test_an_encoder_that_writes_to_what_it_is_shown_is_alarm_and_backup(kind: str, tmp_path: Path) -> None:
    """What a guest is shown is read-only; writing to it raises, and the arm stops."""
    right: Any = KINDS[kind](Guest(), tmp_path)[1].get("encode", unchanged)

    def writes(observation: Observation) -> Any:
        if observation.state.t >= ONSET:
            observation.state.q[0] = 1.0
        return right(observation)

    stops(wrapped(kind, Guest(), tmp_path, encode=writes), Cause.POLICY_LATE)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [(kind, spoil) for kind in kinds.WRITTEN for spoil in (kinds.read_only, kinds.reused)] + [("script", kinds.reused)],
)
def test_arrays_that_are_shared_are_copied(kind: str, spoil: Any, tmp_path: Path) -> None:
    """Read-only arrays, and one array used again for every answer, give what fresh ones give."""
    policy, fresh = (wrapped(kind, guest, tmp_path) for guest in (Guest(spoil=spoil, always=True), Guest()))
    given, expected = followed(policy), followed(fresh)
    assert given == expected
    assert len(set(given)) == len(given)
    moves(wrapped(kind, Guest(spoil=spoil, always=True), tmp_path))


@pytest.mark.parametrize("form", ["mapping", "columns in another order"])
@every_kind
def test_names_bind_columns(kind: str, form: str, tmp_path: Path) -> None:
    """Columns in another order, declared, or as a mapping: the same joints get the same numbers."""
    order = [4, 2, 6, 0, 5, 1, 3]
    names = [SPEC.joints[k] for k in order]
    shuffled = SPEC.changed(joints=names, offset=HOME[order])

    def as_mapping(out: Any) -> object:
        rows = columns(out)
        return {SPEC.joints[k]: rows[:, k] for k in order}

    def as_columns(out: Any) -> object:
        return columns(out)[:, order]

    change: dict[str, Any] = {"decode": as_mapping} if form == "mapping" else {"decode": as_columns, "spec": shuffled}
    plain = wrapped(kind, Guest(), tmp_path)
    assert followed(wrapped(kind, Guest(), tmp_path, **change)) == followed(plain)


@every_kind
def test_a_name_that_the_body_does_not_have_is_refused_at_start(kind: str, tmp_path: Path) -> None:
    """One joint called something else: no shield."""
    names = ("elbow", *SPEC.joints[1:])
    with pytest.raises(SpecError, match="unknown elbow"):
        Lab(wrapped(kind, Guest(), tmp_path, SPEC.changed(joints=names)))


@pytest.mark.parametrize("change", ["short", "long"])
@pytest.mark.parametrize("kind", kinds.DECLARING)
def test_columns_that_a_kind_declares_are_compared_at_start(kind: str, change: str, tmp_path: Path) -> None:
    """Too few or too many for the spec, where the kind says so itself: refused before anything runs."""
    joints = SPEC.joints[:-1] if change == "long" else (*SPEC.joints, "more")
    with pytest.raises(SpecError, match="spec"):
        wrapped(kind, Guest(), tmp_path, RADIANS.changed(joints=joints))


def test_an_agents_action_space_is_its_range(tmp_path: Path) -> None:
    """An agent whose spec has no range gets that of its action space: numbers beyond it are not normalised."""
    bare = SPEC.changed(low=None, high=None)
    policy = wrapped("agent", Guest(bare, bad=Numbers(bias=np.full(N, 2e6))), tmp_path)
    assert (policy.spec.column("low"), policy.spec.column("high")) == ((-1e6,) * N, (1e6,) * N)
    stops(policy, Cause.PROPOSAL_INVALID)


def followed(policy: Policy) -> list[bytes]:
    """What the shield is to follow, in the body's columns, of six answers in a row, all computed before any is read."""
    binding = Binding(policy.spec, SPEC.joints)
    answers = [policy.infer(at(50_000_000 * k)) for k in range(6)]
    bound = [binding.bound(answer).actions for answer in answers]
    assert all(rows.shape == binding.spec.shape for rows in bound)
    return [rows.tobytes() for rows in bound]


def unchanged(observation: Observation) -> Observation:
    """For callables, which need no encoder."""
    return observation


def columns(out: Any) -> Any:
    """What a guest gave, as rows of columns."""
    if isinstance(out, Mapping):
        out = cast("Mapping[str, Any]", out)["actions"]
    return np.asarray(out).reshape(-1, N)


def at(t: int) -> Observation:
    """The arm at home at ``t`` ns."""
    return Observation(RobotState(HOME, np.zeros(N), t))
