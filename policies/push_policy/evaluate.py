"""How good the push policy is without a shield: success, and how far it stays from every limit.

``python -m safeguard.policies.push_policy.evaluate --seeds 50`` prints a table, ``--json FILE`` writes it.
Beside the policy, outside the layers: it uses a world and a controller.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pinocchio as pin
from rich.console import Console
from rich.progress import track
from rich.table import Table

from safeguard.controllers.tracking import ChunkTracking
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, Observation, Proposal, RobotState, TorqueCommand, Vector
from safeguard.policies.port import InlinePort
from safeguard.policies.push_policy.policy import PushPolicy
from safeguard.scenarios.push import ReachPush
from safeguard.scenarios.world import World

if TYPE_CHECKING:
    from safeguard.core.protocols import Policy

_CLEARANCE_EVERY = 10  # ticks
_SLOW_START_NS = NS_PER_S // 2
_SLOW_SHARE = 0.5  # of the speed limit, as a cautious mode grants it


@dataclass(frozen=True, slots=True)
class Pause:
    """The arm brakes at ``start`` s into the episode, stands, and resumes after ``length`` s."""

    start: float
    length: float

    def holds(self, now: int) -> bool:
        """The pause is on at ``now`` ns."""
        return self.start * NS_PER_S <= now < (self.start + self.length) * NS_PER_S


@dataclass(frozen=True, slots=True)
class Episode:
    """What one episode came to.

    Attributes:
        seed: of the world.
        success: at the end.
        error: distance from puck to goal at the end, m.
        seconds: when the task was first done, or None.
        speed, acceleration, torque: largest share of its limit that any joint used; the acceleration is
            the nominal one of the ticks that follow the policy.
        top_speed: largest joint speed, rad/s.
        clearance: smallest distance of a kept collision pair, m.
        stop_distance: smallest distance of a joint to its position limit, rad.
        failures: inferences that raised.
    """

    seed: int
    success: bool
    error: float
    seconds: float | None
    speed: float
    acceleration: float
    torque: float
    top_speed: float
    clearance: float
    stop_distance: float
    failures: int


class Follower:
    """Tracking and inverse dynamics, unfiltered: how proposals become torques here."""

    def __init__(self, robot: RobotModel, policy: Policy) -> None:
        self.robot, self._data = robot, robot.pin_model.createData()
        self._tracking = ChunkTracking(policy.spec, robot.joints)

    def acceleration(self, proposal: Proposal | None, state: RobotState, now: int) -> Vector:
        """Nominal acceleration, rad/s²; a brake without a proposal."""
        if proposal is None:
            return np.clip(-20.0 * state.v, -self.robot.limits.a_max, self.robot.limits.a_max)
        return self._tracking.nominal(proposal, state, now).value

    def torque(self, state: RobotState, a: Vector) -> Vector:
        """τ = M a + h, shape (n,), N·m."""
        model, data = self.robot.pin_model, self._data
        inertia = np.triu(pin.crba(model, data, state.q))
        inertia += np.triu(inertia, 1).T
        nonlinear = pin.nonLinearEffects(model, data, state.q, state.v)
        tau: Vector = inertia @ a + self.robot.bias(state.v, nonlinear)
        return tau


class _Extremes:
    """Largest and smallest figures seen so far in an episode."""

    def __init__(self, robot: RobotModel) -> None:
        self._robot, self._data = robot, robot.pin_model.createData()
        self._pairs = robot.collision.geometry.createData()
        self.speed = self.acceleration = self.torque = self.top_speed = 0.0
        self.clearance = self.stop_distance = float("inf")

    def see(self, state: RobotState, a: Vector, tau: Vector, tick: int) -> None:
        limits = self._robot.limits
        self.speed = max(self.speed, float((np.abs(state.v) / limits.v_max).max()))
        self.acceleration = max(self.acceleration, float((np.abs(a) / limits.a_max).max()))
        self.torque = max(self.torque, float((np.abs(tau) / limits.tau_max).max()))
        self.top_speed = max(self.top_speed, float(np.abs(state.v).max()))
        gap = np.minimum(state.q - limits.q_min, limits.q_max - state.q)
        self.stop_distance = min(self.stop_distance, float(gap.min()))
        if tick % _CLEARANCE_EVERY == 0:
            geometry: Any = self._robot.collision.geometry
            pin.computeDistances(self._robot.pin_model, self._data, geometry, self._pairs, state.q)
            nearest = min(result.min_distance for result in self._pairs.distanceResults)
            self.clearance = min(self.clearance, float(nearest))


def run_episode(
    world: World,
    port: InlinePort,
    follower: Follower,
    seed: int,
    *,
    seconds: float = 5.0,
    pause: Pause | None = None,
    slow_start: bool = True,
) -> Episode:
    """One unfiltered episode from ``world.reset(seed)``."""
    world.reset(seed)
    port.reset()
    seen, proposal, done = _Extremes(world.robot), None, None
    tick = 0
    while world.time_ns < seconds * NS_PER_S:
        observation, now = world.observe(), world.time_ns
        port.post(observation, now)
        proposal = port.poll(now) or proposal
        followed = None if pause is not None and pause.holds(now) else proposal
        a = follower.acceleration(followed, observation.state, now)
        if slow_start and now < _SLOW_START_NS:
            a = _slowed(a, observation, world)
        tau = follower.torque(observation.state, a)
        seen.see(observation.state, a if followed is not None else np.zeros_like(a), tau, tick)
        world.apply(TorqueCommand(tau, now, now + world.period_ns, tick))
        world.advance()
        tick += 1
        if done is None and world.succeeded:
            done = world.time_ns / NS_PER_S
    sensors = world.observe().sensors
    error = float(np.linalg.norm(sensors["puck"].value - sensors["goal"].value))
    return Episode(
        seed=seed,
        success=world.succeeded,
        error=error,
        seconds=done,
        speed=seen.speed,
        acceleration=seen.acceleration,
        torque=seen.torque,
        top_speed=seen.top_speed,
        clearance=seen.clearance,
        stop_distance=seen.stop_distance,
        failures=port.failures,
    )


def _slowed(a: Vector, observation: Observation, world: World) -> Vector:
    """The acceleration that keeps next tick's speed within the slow share."""
    dt, limit = world.period_ns / NS_PER_S, _SLOW_SHARE * world.robot.limits.v_max
    return np.clip(a, (-limit - observation.state.v) / dt, (limit - observation.state.v) / dt)


def evaluate(
    policy: Policy, seeds: Sequence[int], pause: Pause | None = None, label: str = "episodes"
) -> list[Episode]:
    """Episodes of ``policy`` for ``seeds``, with 20 ms latency and half speed in the first 0.5 s."""
    robot = RobotModel.load("panda")
    world, port, follower = World(robot, ReachPush()), InlinePort(policy), Follower(robot, policy)
    todo = track(seeds, label, console=Console(stderr=True), transient=True)
    return [run_episode(world, port, follower, seed, pause=pause) for seed in todo]


def summary(episodes: Sequence[Episode]) -> dict[str, float | None]:
    """Figures over ``episodes``: the worst of each, and the success rate."""
    times = [e.seconds for e in episodes if e.seconds is not None]
    return {
        "episodes": len(episodes),
        "successes": sum(e.success for e in episodes),
        "success_rate": sum(e.success for e in episodes) / len(episodes),
        "largest_error_m": max(e.error for e in episodes),
        "median_error_m": float(np.median([e.error for e in episodes])),
        "slowest_success_s": max(times, default=None),
        "top_speed_radps": max(e.top_speed for e in episodes),
        "speed_share": max(e.speed for e in episodes),
        "acceleration_share": max(e.acceleration for e in episodes),
        "torque_share": max(e.torque for e in episodes),
        "clearance_m": min(e.clearance for e in episodes),
        "stop_distance_rad": min(e.stop_distance for e in episodes),
        "policy_failures": sum(e.failures for e in episodes),
    }


def _table(columns: dict[str, dict[str, float | None]]) -> Table:
    table = Table("worst over the episodes", *columns)
    for key in next(iter(columns.values())):
        values = (column[key] for column in columns.values())
        table.add_row(key, *("none" if value is None else f"{value:.4g}" for value in values))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 0 when the success rate reaches ``--target``, else 3."""
    parser = argparse.ArgumentParser("python -m safeguard.policies.push_policy.evaluate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="number of episodes, seeds 0, 1, …")
    parser.add_argument("--first", type=int, default=0, help="first seed; training uses 1000000 and up")
    parser.add_argument("--target", type=float, default=0.9, help="success rate to reach in clean episodes")
    parser.add_argument("--json", type=Path, help="write figures and episodes here")
    parser.add_argument("--weights", type=Path, help="other weights than the packaged ones")
    options = parser.parse_args(arguments)
    policy = PushPolicy.load(weights=options.weights)
    seeds = range(options.first, options.first + options.seeds)
    runs = {
        "clean": evaluate(policy, seeds, None, "clean"),
        "1 s pause": evaluate(policy, seeds, Pause(1.5, 1.0), "1 s pause"),
    }
    figures = {name: summary(episodes) for name, episodes in runs.items()}
    Console().print(_table(figures))
    if options.json:
        episodes = {name: [asdict(e) for e in run] for name, run in runs.items()}
        options.json.write_text(json.dumps({"summary": figures, "episodes": episodes}, indent=1) + "\n")
    done = sum(e.success for e in runs["clean"])
    return 0 if done >= options.target * len(runs["clean"]) else 3


if __name__ == "__main__":
    sys.exit(main())
