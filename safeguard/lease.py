"""Who holds the command: several sources propose, one is followed, and a person says which.

    policy ───▶ port ─▶ binding ─┐
    teleop ───▶ port ─▶ binding ─┼─▶ the holder's proposal ─▶ intake, controller, checks
    script ───▶ port ─▶ binding ─┘

Every source is shown every observation, so that the one that gets the command has something to say at once. What it
said last arrives in the tick that gives it the command and is judged there like everything that arrives: the others'
proposals leave no trace. A hold lasts as long as the holder goes on proposing (law 6): after ``policy.deadline_s``
without a usable proposal the body stops, whoever holds, and the command does not go back by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Final, cast

from safeguard.controllers import controller_for
from safeguard.core.config import ShieldConfig
from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Controller, Platform, Policy, PolicyPort
from safeguard.core.types import ActionSpec, Observation, Proposal, RobotState, Vector
from safeguard.incoming import as_proposal
from safeguard.monitors import Checks, Setting
from safeguard.policies import Binding, as_policy, is_port, port_for

POLICY: Final = "policy"
"""The source that every episode begins with."""


class Source:
    """One that may hold the command.

    Args:
        name: by which it is given the command.
        port: what proposes.
        platform: whose joints its columns are bound to.
        period: control period, s.
        config: of the shield.

    Attributes:
        spec: its actions as joint motion of the body.
        setting: what monitors of its proposals are made for.
        current: the accepted proposal that is being followed while this source holds, or None.
        raw: the newest of the right shape, accepted or not.

    Raises:
        SpecError: its actions do not fit the body.
    """

    def __init__(self, name: str, port: PolicyPort, platform: Platform, period: float, config: ShieldConfig) -> None:
        self.name, self.port = name, port
        self._binding = Binding(port.spec, platform.joints)
        self.spec: ActionSpec = self._binding.spec
        self.controller = _controller(platform, self.spec, config.policy.tracking_omega_radps)
        self.setting = Setting(
            platform.joints,
            period,
            self.spec,
            platform.v_max,
            platform.a_max,
            config.monitors,
            delay_ticks=config.filter.delay_ticks,
        )
        self.checks = Checks(self.setting, config)
        remembered = ceil(config.intake.proposal_max_age_s / period) + 2  # as many as intake
        self._anchors: deque[tuple[int, Vector]] = deque(maxlen=remembered)
        self._kept: Proposal | None = None
        self.current: Proposal | None = None
        self.raw: Proposal | None = None
        self._afresh = False  # the port is to be reset before it is asked again

    def listen(self, observation: Observation, state: RobotState | None, now: int) -> None:
        """Show it the observation, unless the state cannot be trusted, and keep what it says.

        A port that fails is a guest that proposes nothing usable (law 12); one whose reset failed is asked to again.
        """
        if state is not None and self._binding.needs_anchor:
            self._anchors.append((observation.state.t, state.q))
        answer = self._guarded(lambda: self._said(observation, state, now))
        said = as_proposal(answer, now)
        if said is None:
            return
        if self.name != POLICY and said.source != self.name and not said.source.startswith(f"{self.name}: "):
            said = replace(said, source=self.name if said.seq >= 0 else f"{self.name}: {said.source}")
        self._kept = self._binding.bound(said, self._anchor(said.t_obs) if self._binding.needs_anchor else None)

    def _said(self, observation: Observation, state: RobotState | None, now: int) -> Proposal | None:
        if self._afresh:
            self.port.reset()
            self._afresh = False
        if state is not None:
            self.port.post(observation, now)
        return self.port.poll(now)

    def _guarded(self, call: Callable[[], Proposal | None]) -> Proposal | BaseException | None:
        """What a guest says, or what it raises instead; a person's interrupt goes on."""
        try:
            return call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a guest may raise anything, SystemExit too
            return error

    def taken(self) -> Proposal | None:
        """What it said and nobody was told yet, or None."""
        kept, self._kept = self._kept, None
        return kept

    def _anchor(self, t: int) -> Vector | None:
        for stamp, q in reversed(self._anchors):
            if stamp == t:
                return q
        return None

    def reset(self) -> None:
        """Forget the episode."""
        self._anchors.clear()
        self._kept = self.current = self.raw = None
        self.controller.reset()
        self.checks.reset()
        self._afresh = True
        self._guarded(self._restarted)

    def _restarted(self) -> None:
        self.port.reset()
        self._afresh = False


class Lease:
    """The sources of a shield and which of them holds the command.

    Args:
        policy: the source that every episode begins with.
        others: further ones, by name.
        platform, period, config: of the shield.

    Attributes:
        holder: the source whose proposals are followed.

    Raises:
        ConfigError: a name that is empty or the policy's, one object under two names, or a policy that is too slow for
            ``policy.deadline_s``.
        SpecError: actions that do not fit the body.
    """

    def __init__(
        self,
        policy: Policy | PolicyPort,
        others: Mapping[str, Policy | PolicyPort],
        platform: Platform,
        period: float,
        config: ShieldConfig,
    ) -> None:
        given = {POLICY: policy, **others}
        if POLICY in others or "" in others:
            raise ConfigError(f"sources: {POLICY!r} and the empty name cannot name a source beside the policy")
        if len({id(one) for one in given.values()}) < len(given):
            raise ConfigError(f"sources: one object under two names of {', '.join(given)}; each needs one of its own")
        ports = {name: one if is_port(one) else port_for(as_policy(one)) for name, one in given.items()}
        if (own := getattr(ports[POLICY], "name", None)) in others:
            raise ConfigError(f"sources: {own!r} is what the policy calls itself; records could not tell them apart")
        self._made = [ports[name] for name, one in given.items() if ports[name] is not one]
        for port in self._made:
            _on_time(port.spec, config)
        self._sources = {name: Source(name, port, platform, period, config) for name, port in ports.items()}
        self.holder = self._sources[POLICY]

    @property
    def specs(self) -> dict[str, ActionSpec]:
        """What the proposals of the sources beside the policy mean, as joint motion of the body."""
        return {name: source.spec for name, source in self._sources.items() if name != POLICY}

    @property
    def given(self) -> dict[str, ActionSpec]:
        """What the sources' own numbers mean, where that is something else."""
        return {n: s.port.spec for n, s in self._sources.items() if s.port.spec != s.spec}

    def named(self, name: str) -> Source:
        """The source of that name; raises ConfigError."""
        if name not in self._sources:
            raise ConfigError(f"give: no source is called {name!r}, there are {', '.join(self._sources)}")
        return self._sources[name]

    def give(self, name: str) -> bool:
        """Let ``name`` hold the command from the next tick on; False if it does already. Raises ConfigError."""
        source = self.named(name)
        if source is self.holder:
            return False
        self.holder = source
        source.checks.reset()
        source.raw = None  # what it said long ago is not carried out, where nothing is enforced either
        return True

    def ask(self, observation: Observation, state: RobotState | None, now: int) -> Proposal | None:
        """What the holder has to say at ``now`` ns; the others are heard and wait."""
        holder = self.holder
        for source in (holder, *(one for one in self._sources.values() if one is not holder)):
            source.listen(observation, state, now)
        return holder.taken()

    def reset(self) -> None:
        """A new episode: every source forgets, and the policy holds."""
        self.holder = self._sources[POLICY]
        for source in self._sources.values():
            source.reset()

    def close(self) -> None:
        """Let go of the ports that were made for policies; those that were brought are their owner's."""
        for port in self._made:
            close = getattr(port, "close", None)
            if callable(close):
                close()


def _on_time(spec: ActionSpec, config: ShieldConfig) -> None:
    """Whether a policy that is asked once a row can be punctual; raises ConfigError."""
    row, deadline, punctual = 1.0 / spec.rate_hz, config.policy.deadline_s, config.monitors.punctual
    due = 0.5 * deadline if punctual.period_s is None else punctual.period_s
    if row >= (1.0 + punctual.grace) * due or row >= deadline:
        raise ConfigError(
            f"a policy of {spec.rate_hz:g} actions a second is asked every {row:g} s, and one is due every {due:g} s"
            f" (half of policy.deadline_s): set PolicyConfig(deadline_s={2.5 * row:g}) or bring a port"
        )


def _controller(platform: Platform, spec: ActionSpec, omega: float) -> Controller:
    """The platform's own, if it takes something else than joint motion of one tick; raises SpecError."""
    own = getattr(platform, "controller_for", None)
    return cast("Controller", own(spec)) if callable(own) else controller_for(spec, platform.joints, omega)
