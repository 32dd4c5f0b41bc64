"""The strategies at work in a shield: what is shed, what goes on, and what survives a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ConfigError, ModeTableError
from safeguard.core.types import Observation, Parts, Proposal, RobotState, TerminalStop
from safeguard.lockout import LockoutFile
from safeguard.policies import as_policy
from safeguard.replay import replay_run
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, PERIOD, ROWS, Lab, near, panda, spec

MS = 1_000_000


class Speaker:
    """A port with a chunk every 50 ms, until it is told to say something else, or nothing."""

    def __init__(self, rows: int = ROWS) -> None:
        self.spec, self.name = replace(spec(), chunk=rows), "speaker"
        self.silent = False
        self.parts: Parts | None = None
        self.broken = False
        self._next, self._seq = 0, 0
        self._ready: Proposal | None = None

    def post(self, observation: Observation, now: int) -> None:
        """Make a chunk of what is seen."""
        due = now >= self._next and not self.silent
        self._ready = None
        if due:
            actions = near(observation)[: self.spec.chunk] * (np.nan if self.broken else 1.0)
            self._ready = Proposal(actions, now, now, self.name, self._seq, parts=self.parts)
            self._seq, self._next = self._seq + 1, now + 50 * MS

    def poll(self, now: int) -> Proposal | None:
        """The chunk of this tick."""
        ready, self._ready = self._ready, None
        return ready

    def reset(self) -> None:
        """From the start."""
        self._next, self._seq, self._ready = 0, 0, None


def lab_of(strategy: str, port: Speaker, **options: object) -> Lab:
    """A lab whose shield has another strategy."""
    lab = Lab(port)
    lab.shield = Shield(panda(), port, strategy=strategy, period=PERIOD, config=CONFIG, **options)  # type: ignore[arg-type]
    lab.shield.begin_episode("strategies")
    return lab


def nominal(strategy: str, rows: int = ROWS, **options: object) -> tuple[Lab, Speaker]:
    """A lab in NOMINAL, a little after a chunk."""
    port = Speaker(rows)
    lab = lab_of(strategy, port, **options)
    lab.start(moving=round(0.6 / PERIOD))
    assert lab.decisions[-1].mode is Mode.NOMINAL
    return lab, port


def test_a_vla_that_is_late_plays_its_tail_slower_and_slower_and_then_holds() -> None:
    """200 ms after the last good observation comes DEGRADED, at most 200 ms later HOLD; the policy moves till then."""
    lab, port = nominal("vla")
    port.silent = True
    seen = lab.run(round(0.7 / PERIOD))
    tail = [d for d in seen if d.mode is Mode.DEGRADED]
    assert {d.configuration for d in tail} == {"tail"}
    assert 0.15 <= len(tail) * PERIOD <= 0.2
    assert all(d.authority is Authority.POLICY for d in tail)
    assert seen[-1].mode is Mode.HOLD
    first = next(k for k, d in enumerate(seen) if d.mode is Mode.DEGRADED)
    assert all(d.mode is Mode.NOMINAL for d in seen[:first])
    assert seen[first].reasons == ("VLA-C11",)


def test_a_tail_ends_with_the_chunk_whatever_time_is_left() -> None:
    """A chunk that reaches 0.25 s has 0.05 s of tail."""
    lab, port = nominal("vla", rows=5)  # five rows of 50 ms
    port.silent = True
    seen = lab.run(round(0.5 / PERIOD))
    tail = [d for d in seen if d.mode is Mode.DEGRADED]
    assert 0.0 < len(tail) * PERIOD <= 0.05
    assert seen[-1].mode is Mode.HOLD


def test_a_vla_that_speaks_again_comes_back_by_itself() -> None:
    """A chunk in time ends the tail: CAUTIOUS, then NOMINAL, without anybody's acknowledgement."""
    lab, port = nominal("vla")
    port.silent = True
    while lab.tick().mode is not Mode.DEGRADED:
        pass
    port.silent = False
    seen = [d.mode for d in lab.run(round(0.8 / PERIOD))]
    assert Mode.HOLD not in seen
    assert seen[-1] is Mode.NOMINAL
    assert Mode.CAUTIOUS in seen


def test_wrong_output_has_no_tail() -> None:
    """NaN chunks of a vla are bridged by the backup, never played on, until the last good chunk is late too."""
    lab, port = nominal("vla")
    port.broken = True
    seen = lab.run(round(0.15 / PERIOD))
    assert all(d.mode in (Mode.NOMINAL, Mode.CAUTIOUS) for d in seen)
    assert any(d.authority is Authority.BACKUP for d in seen)


def test_the_monolithic_strategy_holds_where_the_vla_goes_on() -> None:
    """The same silence without a tail: bridged by the backup, then HOLD; DEGRADED does not occur."""
    lab, port = nominal("monolithic")
    port.silent = True
    seen = lab.run(round(0.7 / PERIOD))
    assert Mode.DEGRADED not in {d.mode for d in seen}
    assert seen[-1].mode is Mode.HOLD
    late = [d for d in seen if Cause.POLICY_LATE in d.causes]
    assert all(d.authority is Authority.BACKUP for d in late)


def test_a_part_that_the_strategy_reports_is_shed_and_comes_back_in_agreement() -> None:
    """System 2 of a dual policy fails, with a goal in store: System 1 goes on; agreement for its dwell ends that."""
    lab, port = nominal("dual")
    port.parts = Parts(failed=(Cause.SYSTEM2_FAILED,), substitutes=("system2",))
    seen = lab.run(round(0.5 / PERIOD))
    assert seen[-1].mode is Mode.DEGRADED
    assert seen[-1].configuration == "system1_only"
    assert seen[-1].authority is Authority.POLICY
    port.parts = Parts(substitutes=("system2",))
    assert lab.run(round(0.8 / PERIOD))[-1].mode is Mode.DEGRADED
    port.parts = Parts(substitutes=("system2",), agreeing=("system2",))
    seen = lab.run(round(1.3 / PERIOD))
    assert [m for m in (Mode.CAUTIOUS, Mode.NOMINAL) if m in {d.mode for d in seen}] == [Mode.CAUTIOUS, Mode.NOMINAL]
    assert Mode.HOLD not in {d.mode for d in seen}


def test_without_a_goal_in_store_there_is_no_system_1_alone() -> None:
    """The same failure without a substitute is HOLD."""
    lab, port = nominal("dual")
    port.parts = Parts(failed=(Cause.SYSTEM2_FAILED,))
    seen = lab.run(round(0.5 / PERIOD))
    assert Mode.DEGRADED not in {d.mode for d in seen}
    assert seen[-1].mode is Mode.HOLD


def test_a_degraded_run_replays_and_names_its_configuration(tmp_path: Path) -> None:
    """Parts and configuration are in the record, and every decision comes out again."""
    lab, port = nominal("dual", audit=tmp_path / "run")
    port.parts = Parts(failed=(Cause.SYSTEM2_FAILED,), substitutes=("system2",), agreeing=("system2",))
    lab.run(round(0.4 / PERIOD))
    lab.shield.close()
    assert lab.decisions[-1].configuration == "system1_only"
    report = replay_run(tmp_path / "run")
    assert report.identical
    assert report.decisions == len(lab.decisions)


@pytest.mark.parametrize(
    "parts",
    [
        "no parts",
        Parts(failed=("planner_failed",)),  # type: ignore[arg-type]
        Parts(agreeing=(1,)),  # type: ignore[arg-type]
        Parts(substitutes=["system2"]),  # type: ignore[arg-type]
        Parts(substitutes=("x",) * 1000),
    ],
)
def test_parts_that_are_none_make_the_proposal_unusable(parts: object) -> None:
    """Whatever a guest puts there that is not what it should be is an invalid proposal, not an exception."""
    lab, port = nominal("dual")
    port.parts = parts  # type: ignore[assignment]
    seen = lab.run(round(0.06 / PERIOD))
    assert any(Cause.PROPOSAL_INVALID in d.causes for d in seen)
    assert all(d.mode is not Mode.DEGRADED for d in seen)


def test_an_unknown_strategy_is_refused_with_those_that_exist() -> None:
    """A typing error in the strategy is a configuration error that names the choices."""
    with pytest.raises(ModeTableError, match=r"'vlla'.*dual, modular, monolithic, vla"):
        Shield(panda(), as_policy(near, spec=spec()), strategy="vlla", config=CONFIG)


# -- the count of emergency stops ---------------------------------------------------------------------


def press(lab: Lab) -> Mode:
    """The emergency stop, and the mode that it brings about."""
    state = RobotState(lab.q, np.zeros(7), lab.now)
    return lab.tick(Observation(state, estop=True)).mode


def test_a_lockout_survives_a_restart_and_only_maintenance_ends_it(tmp_path: Path) -> None:
    """Two processes with one emergency stop each, a third that locks out, a fourth that starts locked out."""
    file = tmp_path / "arm.lockout"
    modes = []
    for _ in range(3):
        lab = lab_of("monolithic", Speaker(), lockout=file)
        lab.run(3)
        modes.append(press(lab))
    assert modes == [Mode.ESTOP, Mode.ESTOP, Mode.LOCKOUT]
    lab = lab_of("monolithic", Speaker(), lockout=file)
    lab.acknowledge()
    seen = lab.run(300)
    assert {d.mode for d in seen} == {Mode.LOCKOUT}
    assert all(isinstance(d.command, TerminalStop) for d in seen)
    LockoutFile(file).clear(operator="A", reason="new cable")
    assert lab_of("monolithic", Speaker(), lockout=file).start().decisions[-1].authority is Authority.POLICY
    kept = json.loads(file.read_text("utf-8"))
    assert kept["maintenance"] == [{"operator": "A", "reason": "new cable", "estops": 3}]


def test_without_a_file_the_count_is_the_process_s() -> None:
    """The negative control: three processes without it never lock out."""
    for _ in range(4):
        lab = lab_of("monolithic", Speaker())
        lab.run(3)
        assert press(lab) is Mode.ESTOP


@pytest.mark.parametrize("content", ["", "{}x", '{"estops": -1}', '{"format": "other", "estops": 0}', "[1]"])
def test_a_file_that_is_something_else_is_never_taken_for_zero(content: str, tmp_path: Path) -> None:
    """Damage is an error that names the file and the way out."""
    file = tmp_path / "arm.lockout"
    file.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=r"arm\.lockout.*not a count of emergency stops"):
        LockoutFile(file)


@pytest.mark.parametrize(("operator", "reason"), [("", "why"), ("who", "")])
def test_maintenance_has_a_name_and_a_reason(operator: str, reason: str, tmp_path: Path) -> None:
    """Nobody clears a lockout without saying who and why."""
    kept = LockoutFile(tmp_path / "arm.lockout")
    kept.count(3)
    with pytest.raises(ConfigError, match="both must be given"):
        kept.clear(operator=operator, reason=reason)
    assert LockoutFile(tmp_path / "arm.lockout").estops == 3


def test_a_count_that_cannot_be_kept_is_a_cause(tmp_path: Path) -> None:
    """The folder is gone when the stop is pressed: the stop happens, and the next tick says what was not kept."""
    folder = tmp_path / "state"
    folder.mkdir()
    lab = lab_of("monolithic", Speaker(), lockout=folder / "arm.lockout")
    lab.run(3)
    folder.rmdir()
    assert press(lab) is Mode.ESTOP
    assert Cause.AUDIT_FAILED in lab.tick().causes
