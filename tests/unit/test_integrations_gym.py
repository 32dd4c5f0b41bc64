from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from safeguard.audit import verify_run
from safeguard.core.config import IntakeConfig, ShieldConfig
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Mode, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import ActionSpec, Decision, Observation, Vector
from safeguard.integrations.gym import ShieldedEnv
from safeguard.integrations.gym.agent import Executed
from safeguard.integrations.gym.env import suited
from safeguard.replay import replay_run
from safeguard.scenarios.panda_reach import PandaReach
from safeguard.scenarios.push import READY
from tests.unit.audit_edit import records
from tests.unit.gym_support import CONFIG, FULL, STILL, Slab, act, shielded, slab, unshielded

OUTSIDE = np.array([3.2, 0.0, 0.0, -1.5, 0.0, 1.5, 0.0])  # joint 1 is 0.3 rad beyond its limit
FOLDED = np.array([0.0, 0.0, 0.0, -3.0, 0.0, 0.0, 0.0])  # the hand is inside the arm


@pytest.fixture(scope="module")
def reach() -> Iterator[ShieldedEnv]:
    """One shielded Panda for tests that begin with a reset of their own."""
    env = shielded()
    yield env
    env.close()


def inner(env: ShieldedEnv) -> PandaReach:
    """The environment inside."""
    found = env.unwrapped
    assert isinstance(found, PandaReach)
    return found


# -- an action ----------------------------------------------------------------------------------------


def test_what_is_admissible_is_executed_bit_for_bit(reach: ShieldedEnv) -> None:
    """Standing still needs no correction: shielded and raw are the same bits and the intervention is 0."""
    reach.reset(seed=0)
    said = act(reach, STILL, 12)

    assert said["shielded"].tobytes() == said["raw"].tobytes() == STILL.tobytes()
    assert (said["intervention"], said["intervened"], said["corrected_ticks"], said["mode"]) == (
        0.0,
        False,
        0,
        "NOMINAL",
    )


def test_the_first_action_of_an_episode_is_executed(reach: ShieldedEnv) -> None:
    """The shield's start is over before the first action: no tick of it is the backup's, and the arm moves."""
    reach.reset(seed=0)
    before = inner(reach).state().q
    said = act(reach, FULL)

    assert said["backup_ticks"] == 0
    assert np.abs(inner(reach).state().q - before).max() > 1e-4


def test_shielded_is_what_the_arm_did(reach: ShieldedEnv) -> None:
    """A step at full speed is corrected, and what is reported is the mean speed that MuJoCo measures, as a share."""
    env, measured = inner(reach), list[Vector]()
    reach.reset(seed=1)
    advance = env.world.advance

    def advanced() -> None:
        advance()
        measured.append(env.state().v)

    env.world.advance = advanced  # type: ignore[method-assign]
    try:
        said = act(reach, FULL)
    finally:
        env.world.advance = advance  # type: ignore[method-assign]

    assert said["intervened"]
    assert 0.1 < said["intervention"] <= 1.0
    assert said["shielded"] == pytest.approx(np.mean(measured, axis=0) / env.robot.limits.v_max, abs=2e-3)
    assert said["intervention"] == pytest.approx(np.abs(said["shielded"] - FULL).max() / 2.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "action", "why"),
    [
        ("nan", [np.nan, 0, 0, 0, 0, 0, 0], "expected a finite number"),
        ("infinite", np.full(7, np.inf), "expected a finite number"),
        ("short", np.zeros(6), "shape"),
        ("long", np.zeros(8), "shape"),
        ("chunk", np.zeros((2, 7)), "shape"),
        ("scalar", 0.5, "shape"),
        ("text", "forward", "shape"),
        ("texts", ["0.1"] * 7, "shape"),
        ("nothing", None, "shape"),
        ("object", object(), "shape"),
        ("ragged", [[0.0], [0.0, 1.0]], "shape"),
        ("wrong scale", np.full(7, 57.3), "above the declared 1"),
        ("huge", np.full(7, 1e300), "above the declared 1"),
        ("complex", np.full(7, 1j), "shape"),
    ],
)
def test_what_is_no_action_is_answered_by_the_backup(reach: ShieldedEnv, name: str, action: Any, why: str) -> None:
    """No exception comes out of a step; the backup brakes a moving arm, and ``info`` says so and why."""
    reach.reset(seed=2)
    act(reach, 0.5 * FULL, 6)
    moving = np.abs(inner(reach).state().v).max()
    said = act(reach, action, 10)

    assert why in said["refusal"], name
    assert (said["intervened"], said["intervention"], said["backup_ticks"]) == (True, 1.0, said["ticks"])
    assert Cause.PROPOSAL_INVALID.value in said["causes"]
    assert np.abs(inner(reach).state().v).max() < 0.05 * moving
    assert inner(reach).violations == {}


def test_a_scripted_operator_lets_it_go_on(reach: ShieldedEnv) -> None:
    """After garbage held the arm, good actions move it again within a second, without a reset."""
    reach.reset(seed=3)
    act(reach, -0.3 * FULL, 3)
    held = act(reach, np.full(7, np.nan), 8)
    said = act(reach, 0.3 * FULL, 20)

    assert held["mode"] == "HOLD"
    assert said["backup_ticks"] == 0
    assert np.abs(inner(reach).state().v).max() > 0.1


def test_a_saturated_agent_is_not_taken_for_a_frozen_one(reach: ShieldedEnv) -> None:
    """Twenty equal positions while the arm moves are no cause; with a tolerance that somebody chose they are."""
    spec = ActionSpec(inner(reach).robot.joints, "rad", Reference.ABSOLUTE, 20.0, low=-4.0, high=4.0)
    repeated: list[bool] = []
    for config in (CONFIG, CONFIG.model_copy(update={"intake": IntakeConfig(repeat_tolerance=0.01)})):
        env = shielded(spec=spec, config=config)
        env.reset(seed=4)
        target = inner(env).state().q + 0.3
        repeated.append(any(Cause.PROPOSAL_REPEATED.value in act(env, target)["causes"] for _ in range(20)))
        env.close()

    assert repeated == [False, True]


@pytest.mark.parametrize("reference", ["absolute", "delta", "velocity", "torque", "pd_target"])
def test_executed_is_the_inverse_of_what_controls(reach: ShieldedEnv, reference: str) -> None:
    """From what an admissible tick did, the action that led to it is found again, for every reference."""
    robot = inner(reach).robot
    units = {"velocity": "rad/s", "torque": "N.m"}
    kp, kd = (400.0, 40.0) if reference == "pd_target" else (None, None)
    spec = ActionSpec(robot.joints[::-1], units.get(reference, "rad"), Reference(reference), 20.0, kp=kp, kd=kd)
    seen: list[tuple[Decision, Vector, Vector]] = []
    env = shielded(spec=spec.changed(low=-50.0, high=50.0))
    decide = env.shield.step

    def watched(observation: Any, now: int | None = None) -> Decision:
        seen.append((decide(observation, now), observation.state.q, observation.state.v))
        return seen[-1][0]

    env.shield.step = watched  # type: ignore[method-assign]
    env.reset(seed=5)
    q = inner(env).state().q
    gravity = inner(env).world.data.qfrc_bias[[inner(env).world.model.joint(name).dofadr[0] for name in robot.joints]]
    still = {"absolute": q, "delta": STILL, "velocity": STILL, "torque": gravity, "pd_target": q + gravity / 400.0}
    asked = still[reference][::-1] + np.linspace(-1e-4, 1e-4, 7)
    seen.clear()
    act(env, asked)

    executed = Executed(spec, robot.joints, 0.002, env.shield.config.policy.tracking_omega_radps)
    admissible = [one for one in seen if one[0].filter.status is FilterStatus.ADMISSIBLE]
    assert admissible
    for decision, at, v in admissible:
        own = executed.binding.unbound(executed.row(decision, at, v)[None], q, asked[None])[0]
        assert own == pytest.approx(asked, abs=1e-6)
    env.close()


def test_the_penalty_is_taken_off_the_reward() -> None:
    """Two equal environments, one with a penalty: the rewards differ by what it says of the intervention."""

    def triple(share: float) -> float:
        return 3.0 * share

    rewards: list[tuple[float, float]] = []
    for env in (shielded(), shielded(penalty=triple)):
        env.reset(seed=6)
        _, reward, _, _, info = env.step(FULL)
        rewards.append((reward, info["safeguard"]["intervention"]))
        env.close()

    assert rewards[0][1] == rewards[1][1] > 0.0
    assert rewards[1][0] == pytest.approx(rewards[0][0] - 3.0 * rewards[0][1])


# -- the environment ----------------------------------------------------------------------------------


def test_rewards_of_the_periods_add_up_and_an_end_ends_the_step() -> None:
    """Five periods make one action; the environment that ends at its seventh period ends in the second action."""
    env = slab([READY], ends_after=7)
    env.reset()
    first, second = env.step(STILL), env.step(STILL)

    assert first[1:4] == (5.0, False, False)
    assert second[1:4] == (2.0, True, False)
    assert (first[4]["steps"], second[4]["steps"], second[4]["safeguard"]["ticks"]) == (5, 7, 2)


def test_an_environment_may_use_its_arrays_again() -> None:
    """A state that is the same object every time, changed in place, is as fresh as its stamp."""
    env = slab([READY])
    env.reset()
    said = act(env, STILL, 10)

    assert said["causes"] == (Cause.UNCALIBRATED.value,)


def test_a_state_that_cannot_be_read_is_a_stop() -> None:
    """``state=`` that raises or returns nonsense in an episode is answered by a stop, and the next episode goes on."""
    broken = {"now": False}

    def state(env: Slab) -> Any:
        if broken["now"]:
            raise OSError("no camera")
        return env.q, env.v

    env = slab([READY], state=state)
    env.reset()
    act(env, STILL, 3)
    broken["now"] = True
    said = act(env, STILL, 3)
    broken["now"] = False
    assert (said["mode"], Cause.STATE_INVALID.value in said["causes"], said["intervention"]) == ("STOP", True, 1.0)

    env.reset()
    assert act(env, STILL, 3)["mode"] in ("CAUTIOUS", "NOMINAL")


@pytest.mark.parametrize(("where", "says"), [(OUTSIDE, "panda_joint1"), (FOLDED, "panda_")])
def test_a_start_without_a_verified_stop_is_refused(where: Vector, says: str) -> None:
    """An environment that never starts inside the limits, or starts folded into itself, is an error that says where."""
    env = slab([where], redraws=3)
    with pytest.raises(ConfigError, match=rf"4 times in a row: .*{says}"):
        env.reset()


def test_a_rare_bad_start_is_drawn_again() -> None:
    """The third reset is inside the limits: the episode begins there, and ``info`` counts."""
    env = slab([OUTSIDE, FOLDED, READY])
    _, info = env.reset(seed=1)

    assert (info["safeguard"]["redrawn"], info["resets"]) == (2, 3)
    assert act(env, STILL)["backup_ticks"] == 0


def test_nobody_acknowledges_where_nobody_is_named() -> None:
    """Without a scripted operator the arm waits for a person, who uses the shield's own interface."""
    env = slab([READY], operator=None)
    env.reset()
    assert act(env, STILL, 40)["mode"] == "HOLD"

    env.shield.acknowledge(operator="you", reason="cell is clear")
    assert act(env, STILL, 2)["backup_ticks"] == 0


def test_a_locked_out_shield_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After too many emergency stops no episode begins."""
    env = slab([READY])
    for _ in range(3):
        env.reset()
        press(env, monkeypatch)
        act(env, STILL)
        monkeypatch.undo()
        assert slab_of(env).got[-1].tolist() == [99.0] * 7  # the answer to a terminal stop
    with pytest.raises(ConfigError, match="locked out"):
        env.reset()


def press(env: ShieldedEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the emergency stop is pressed."""
    decide = env.shield.step

    def pressed(observation: Observation, now: int | None = None) -> Decision:
        return decide(replace(observation, estop=True), now)

    monkeypatch.setattr(env.shield, "step", pressed)


def slab_of(env: ShieldedEnv) -> Slab:
    """The environment inside."""
    found = env.unwrapped
    assert isinstance(found, Slab)
    return found


def test_a_step_before_a_reset_is_a_mistake(reach: ShieldedEnv) -> None:
    """As in every Gymnasium environment."""
    with pytest.raises(ResetNeeded):
        slab([READY]).step(STILL)


def test_gymnasium_and_stable_baselines_find_nothing_to_say() -> None:
    """Both checkers run clean; warnings are errors here."""
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    env = shielded()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")  # a wrapper always is
        check_env(env, skip_render_check=True)
    sb3.check_env(env)
    env.close()


def test_the_record_names_the_script_and_replays(tmp_path: Path) -> None:
    """Episodes, actions and simulated acknowledgements are in the journal, which verifies and replays bit for bit."""
    env = shielded(audit=tmp_path / "run", task="reach")
    for seed in (7, 8):
        env.reset(seed=seed)
        act(env, 0.5 * FULL, 3)
        act(env, np.full(7, np.nan), 2)
    env.close()
    bodies = [record["body"] for record in records(tmp_path / "run")]
    opened = [body for body in bodies if body.get("task") == "reach"]
    people = [body for body in bodies if body.get("action") == "acknowledge"]

    assert [body["seed"] for body in opened] == [7, 8]
    assert {(body["operator"], body["simulated"]) for body in people} == {("scripted operator", True)}
    assert verify_run(tmp_path / "run").sound
    assert replay_run(tmp_path / "run").identical


# -- wiring -------------------------------------------------------------------------------------------


def test_the_agents_space_is_the_specs_range() -> None:
    """``low`` and ``high`` of the spec, float32; without them the environment's own range, if it has one."""
    env = shielded()
    assert env.action_space == spaces.Box(-1.0, 1.0, (7,), np.float32)
    env.close()

    own = slab([READY], ends_after=1)
    spec = own.spec_of_actions.changed(low=None, high=None)
    bare = ShieldedEnv(own.env, _panda(own), spec, state=_state, command=_zeros, period=0.002, config=CONFIG)
    assert bare.action_space == own.env.action_space


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"chunk": 4}, SpecError, "one action a step"),
        ({"rate_hz": 70.0}, ConfigError, "whole number of control periods"),
        ({"rate_hz": 1000.0}, ConfigError, "whole number of control periods"),
        ({"joints": ("a", "b", "c", "d", "e", "f", "g")}, SpecError, "panda_joint1"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    """At once, and saying which value."""
    own = slab([READY])
    with pytest.raises(error, match=says):
        ShieldedEnv(
            own.env,
            _panda(own),
            own.spec_of_actions.changed(**changes),
            state=_state,
            command=_zeros,
            period=0.002,
            config=CONFIG,
        )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"state": None}, "state= and command="),
        ({"command": None}, "state= and command="),
        ({"period": None}, "period="),
        ({"period": 0.0}, "period="),
    ],
)
def test_wiring_that_is_missing_is_named(given: dict[str, Any], says: str) -> None:
    """What has to be given, and what it is for."""
    with pytest.raises(ConfigError, match=says):
        slab([READY], **given)


def test_an_unbounded_range_is_refused() -> None:
    """An agent whose numbers have no range cannot be told how much of its action was executed."""
    own = slab([READY])
    own.env.action_space = spaces.Box(-np.inf, np.inf, (7,), np.float64)
    spec = own.spec_of_actions.changed(low=None, high=None)
    with pytest.raises(ConfigError, match="low= and high="):
        ShieldedEnv(own.env, _panda(own), spec, state=_state, command=_zeros, period=0.002, config=CONFIG)


def short_by_one(env: Slab) -> Any:
    """A state of six joints."""
    return env.q[:6], env.v


def nothing(env: Slab) -> Any:
    """No state."""


def failing(env: Slab) -> Any:
    """An attribute that is not there."""
    return getattr(env, "nothing")  # noqa: B009


@pytest.mark.parametrize("returns", [short_by_one, nothing, failing])
def test_a_state_that_is_none_is_refused_at_the_first_reset(returns: Any) -> None:
    """Wrong lengths and functions that fail are wiring."""
    with pytest.raises(ConfigError, match="state="):
        slab([READY], state=returns).reset()


def test_what_a_config_sets_is_left_alone() -> None:
    """Only what is open is suited to an agent that acts once a step."""
    mine = ShieldConfig.model_validate({"intake": {"repeat_tolerance": 0.5}, "policy": {"deadline_s": 0.3}})
    got = suited(mine, 0.5)
    assert (got.intake.repeat_tolerance, got.policy.deadline_s) == (0.5, 0.3)
    assert suited(ShieldConfig(), 0.5).policy.deadline_s == 1.0


def _panda(env: ShieldedEnv) -> Any:
    platform: Any = env.shield.platform
    return platform.robot


def _state(env: Any) -> Any:
    return env.q, env.v


def _zeros(command: Any) -> Vector:
    return np.zeros(7)


# -- safety -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_random_actions_break_nothing_through_the_shield() -> None:
    """Six episodes of random actions: MuJoCo sees no limit passed and no links touch; without the shield it does."""
    judged: dict[Enforcement, dict[str, int]] = {}
    for env in (shielded(), unshielded()):
        env.action_space.seed(0)
        for episode in range(6):
            env.reset(seed=episode)
            act_random(env)
        judged[env.shield.enforcement] = inner(env).violations
        env.close()

    assert judged[Enforcement.FULL] == {}
    assert set(judged[Enforcement.OFF]) >= {"self_collision", "speed", "torque"}
    assert inner(env).worst.keys() == judged[Enforcement.OFF].keys()
    assert inner(env).worst["torque"] > 10.0


def act_random(env: ShieldedEnv) -> None:
    """One episode."""
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        done = terminated or truncated


def test_the_mode_of_a_step_is_its_worst() -> None:
    """A hold that begins within a step is in the step's mode."""
    env = slab([READY])
    env.reset()
    act(env, STILL, 2)
    env.shield.stop(operator="somebody", reason="test")
    assert act(env, STILL)["mode"] == Mode.STOP.name
