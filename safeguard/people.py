"""What people ask of a shield in an episode: acknowledge, stop, jog. Each takes effect in the next tick."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from safeguard.controllers.proposal import numbers
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Mode
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, Vector, frozen_array

_NEVER, _FRESH = -1, -2
"""No time, and one that the next tick says."""


class People:
    """Keeps what was asked until a tick takes it.

    Args:
        config: of the shield.

    Attributes:
        stop_reason: why a stop was asked for, until a tick has seen it; "" if none was.
    """

    def __init__(self, config: ShieldConfig) -> None:
        self._start_ns, self._jog_ns = (round(s * NS_PER_S) for s in (config.start_ack_s, config.jog_s))
        self.stop_reason = ""
        self.begin()

    def begin(self) -> None:
        """Start an episode. A stop that was asked for stays."""
        self._waits, self._ack, self._start_until = True, False, _NEVER
        self._jog: Vector | None = None
        self._jog_until = _NEVER

    def acknowledge(self) -> None:
        """The hand that acknowledges is not the one that jogs."""
        self._ack, self._jog = True, None

    def stop(self, reason: str) -> None:
        """Whatever else was asked is void."""
        self._ack, self._waits, self._start_until, self._jog = False, False, _NEVER, None
        self.stop_reason = reason or "operator"

    def jog(self, velocity: Vector) -> None:
        """Joint velocities, rad/s; void ``jog_s`` after the next tick. Voids an acknowledgement that was not taken."""
        self._jog, self._jog_until = velocity, _FRESH
        self._ack, self._start_until = False, _NEVER

    def acknowledged(self, now: int, tick: int) -> bool:
        """Whether this tick delivers an acknowledgement edge.

        The one that starts an episode is offered again, every other tick, until it is taken (``taken``) or void.
        """
        given, self._ack = self._ack, False
        if given and self._waits:
            self._start_until = now + self._start_ns
        if self._start_until == _NEVER:
            return given
        if now > self._start_until:
            self._start_until = _NEVER
            return False
        return tick % 2 == 0

    def taken(self) -> None:
        """The acknowledgement that starts the episode was taken, or something worse than HOLD voids it for good."""
        self._waits, self._start_until = False, _NEVER

    def jogging(self, now: int, mode: Mode) -> Vector | None:
        """The velocities that somebody holds the button for, rad/s; None if nobody does.

        Outside HOLD a request is void at once: a button that is held while HOLD comes has to be asked for again.
        """
        if self._jog_until == _FRESH:
            self._jog_until = now + self._jog_ns
        if mode is not Mode.HOLD or now > self._jog_until:
            self._jog = None
        return self._jog


def joint_velocities(velocity: ArrayLike, joints: tuple[str, ...], most: Vector) -> Vector:
    """One real number of at most ``most`` (rad/s) for every joint, shape (n,), or a ``ConfigError``."""
    wanted = numbers(velocity)
    if wanted.shape != (len(joints),) or not np.isfinite(wanted).all():
        raise ConfigError(
            f"jog: velocity must be {len(joints)} finite numbers in rad/s, one each for {', '.join(joints)}; "
            f"got {velocity!r}"
        )
    fast = np.abs(wanted) / most
    if fast.max() > 1.0:
        j = int(fast.argmax())
        raise ConfigError(f"jog: {wanted[j]:g} rad/s for {joints[j]} is beyond its limit of {most[j]:g} rad/s")
    return frozen_array(wanted)
