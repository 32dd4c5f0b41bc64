# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.audit import verify_run
from safeguard.core.enums import Authority, Cause, Enforcement, FilterStatus, Mode
from safeguard.core.errors import ConfigError
from safeguard.core.types import Decision, Observation, RobotState, TerminalStop, TorqueCommand, Vector
from safeguard.policies import as_policy
from safeguard.replay import replay_run
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, ROWS, Lab, beyond, folded, near, outcome, panda, spec, watched
from tests.unit.audit_edit import resigned

Patch = pytest.MonkeyPatch
Guest = Callable[[Observation], Vector]
WATCH, OFF = Enforcement.MONITOR_ONLY, Enforcement.OFF


def sent(decisions: list[Decision]) -> list[bytes]:
    """Every command, bit for bit."""
    return [d.command.tau.tobytes() if isinstance(d.command, TorqueCommand) else b"stop" for d in decisions]


def broken(seen: Observation) -> Vector:
    """``near``, with a chunk of NaN now and then."""
    return np.full((ROWS, panda().n), np.nan) if seen.state.t // 50_000_000 % 6 == 4 else near(seen)


def test_the_flag_is_the_enforcement() -> None:
    """``monitor_only=True`` is ``MONITOR_ONLY``; with ``OFF`` it is a contradiction, and says so."""
    policy = as_policy(near, spec=spec(), name="guest")
    assert Shield(panda(), policy, config=CONFIG, monitor_only=True).enforcement is WATCH
    with pytest.raises(ConfigError, match="monitor_only=True contradicts enforcement=OFF"):
        Shield(panda(), policy, config=CONFIG, monitor_only=True, enforcement=OFF)


def test_the_proposal_goes_out_and_the_filters_answer_is_kept() -> None:
    """The command is the raw nominal's and says so, the decision holds what the filter made of it."""
    lab = Lab(near, enforcement=WATCH)
    lab.acknowledge()
    with watched(lab) as produced:
        lab.run(150)
    moved = [d for d in lab.decisions if d.authority is Authority.POLICY]
    assert {d.filter.status for d in moved} == {FilterStatus.CORRECTED, FilterStatus.ADMISSIBLE}
    assert {d.source for d in moved} == {"proposal"}
    assert {d.source for d in lab.decisions if d.authority is not Authority.POLICY} == {"backup"}
    assert sent(moved) == [made.torque for made in produced if made.by == "bypass"]
    assert any(one != d.filter.torque.tobytes() for one, d in zip(sent(moved), moved, strict=True))


@pytest.mark.parametrize("guest", [near, beyond, folded, broken], ids=lambda guest: guest.__name__)
def test_the_body_moves_as_without_a_shield(guest: Guest) -> None:
    """From the start on every command has the bits that it has without a shield, whatever the shield thinks."""
    labs = [Lab(guest, enforcement=enforcement).start(250) for enforcement in (WATCH, OFF)]
    watching, bare = (lab.decisions for lab in labs)
    assert sent(watching) == sent(bare)
    assert {d.source for d in watching[-250:]} == {"proposal"}
    assert any(d.filter.status is not FilterStatus.ADMISSIBLE for d in watching[-250:])


@pytest.mark.parametrize("guest", [beyond, folded], ids=lambda guest: guest.__name__)
def test_up_to_the_first_correction_it_decides_as_if_it_enforced(guest: Guest) -> None:
    """Until the bodies part, what would have been done is what is done with the shield on."""
    full, watching = (Lab(guest, enforcement=e).start(100).decisions for e in (Enforcement.FULL, WATCH))
    moving = [k for k, d in enumerate(full) if d.authority is Authority.POLICY]
    first = next(k for k in moving if full[k].filter.status is not FilterStatus.ADMISSIBLE)
    for one, other in zip(full[: first + 1], watching[: first + 1], strict=True):
        alike = replace(other, command=one.command, source=one.source, enforcement=one.enforcement)
        assert outcome(alike) == outcome(one)
    assert sent(full)[first] != sent(watching)[first]


def test_a_state_that_is_not_trusted_brakes_only_on_paper() -> None:
    """A late measurement: the shield would brake, the raw proposal goes on from that measurement."""
    lab, bare = (Lab(near, enforcement=e).start(20) for e in (WATCH, OFF))
    for one in (lab, bare):
        one.tick(Observation(RobotState(one.q, one.v, one.now - 50_000_000)))
    decision = lab.decisions[-1]
    assert Cause.STATE_STALE in decision.causes
    assert decision.filter.source == "backup"
    assert decision.source == "proposal"
    assert sent(lab.decisions) == sent(bare.decisions)


def test_a_refused_chunk_is_sent_and_not_what_the_filter_is_asked_about() -> None:
    """NaN goes out as it does without a shield; the filter goes on with the chunk that intake accepted."""
    lab = Lab(broken, enforcement=WATCH).start(130)
    nan = [d for d in lab.decisions if np.isnan(d.command.tau).any()]  # type: ignore[union-attr]
    assert nan
    assert Cause.PROPOSAL_INVALID in nan[0].causes
    assert np.isfinite(nan[0].filter.torque).all()
    assert nan[0].filter.status is not FilterStatus.BYPASSED


def test_the_stored_stop_starts_where_the_body_is() -> None:
    """After a command that was not the filter's own, the stop that would run starts at the measured state."""
    lab = Lab(beyond, enforcement=WATCH).start(10)
    for _ in range(10):
        state = lab.observe().state
        parted = lab.decisions[-1].filter.status is not FilterStatus.ADMISSIBLE
        decision = lab.tick()
        plan = lab.filter.plan
        assert plan is not None
        assert parted
        if decision.filter.source == "backup":
            np.testing.assert_array_equal(plan.q0, state.q)
            np.testing.assert_array_equal(plan.v0, state.v)


def test_where_no_stop_can_be_verified_it_says_so() -> None:
    """Once the raw motion cannot be stopped within the limits, the backup is reported as refused; no claim is left."""
    lab = Lab(beyond, enforcement=WATCH).start(300)
    verdicts = [v for d in lab.decisions for v in d.verdicts if v.cause is Cause.BACKUP_REFUSED]
    assert verdicts
    assert "no verified stop to start from" in verdicts[0].detail
    assert lab.decisions[-1].mode >= Mode.ESTOP
    assert not isinstance(lab.decisions[-1].command, TerminalStop)


def test_nothing_is_guaranteed(monkeypatch: Patch) -> None:
    """Also with a certified filter every decision is provisional."""
    lab = Lab(near, enforcement=WATCH)
    real = lab.platform.filter

    def certified(*args: Any) -> Any:
        return replace(real(*args), provisional=False)

    monkeypatch.setattr(lab.platform, "filter", certified)
    assert {d.filter.provisional for d in lab.start(20).decisions} == {True}


@pytest.mark.parametrize("guest", [near, beyond, broken], ids=lambda guest: guest.__name__)
def test_what_would_have_been_done_replays(guest: Guest, tmp_path: Path) -> None:
    """Commands that went out and decisions that did not come out again, bit for bit."""
    lab = Lab(guest, audit=tmp_path, enforcement=WATCH).start(150)
    lab.shield.close()
    assert verify_run(tmp_path).sound
    report = replay_run(tmp_path)
    assert report.identical
    assert report.decisions == len(lab.decisions)


@pytest.mark.parametrize("part", ["filter", "command"])
def test_replay_sees_an_edit_of_either(part: str, tmp_path: Path) -> None:
    """Both are recomputed: the answer that was kept and the command that was sent."""
    lab = Lab(near, audit=tmp_path, enforcement=WATCH).start(30)
    lab.shield.close()
    last = len(lab.decisions) - 5

    def change(seq: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["tick"] == last:
            numbers = record["body"]["decision"][part]["torque" if part == "filter" else "tau"]
            numbers[0] = float(np.nextafter(numbers[0], np.inf))

    resigned(tmp_path, change)
    found = replay_run(tmp_path).divergence
    assert found is not None
    assert (found.tick, found.stage) == (last, part)
