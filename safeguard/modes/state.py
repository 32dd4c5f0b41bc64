"""What the mode machine remembers, sees and says: the vector of integers in a frame, and inputs and outputs in words.

A state is a vector of integers: ``MODE`` … ``CREDIT``, then the level of every bucket, then for every capability the
ticks since it was shed (0: it is there) and the ticks for which it has been fit to come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.frozen import thaw
from safeguard.core.types import Envelope
from safeguard.modes.table import ACK, HEAD, PERSON, READY, STANDSTILL, ModeTable, cause_mask

Ints = NDArray[np.int64]

MODE, ACKED, CALM, MOVING, ESTOPS, CREDIT, BUCKETS = range(HEAD + 1)
"""Places in a state: the mode after the last tick; its acknowledgement input (1 at first, so that a button held at boot
is no edge); ticks in a row in which the guards of this mode's recovery (all but ``ack``) held; ticks in a row without
standstill, where the mode has an escalation; e-stops that count towards LOCKOUT; what automatic recoveries cost and
time has not paid back yet. The last is where the buckets begin."""


@dataclass(slots=True, init=False, unsafe_hash=True)
class ModeState:
    """Everything the machine remembers. Nothing changes it, though Python would let you: ``step`` makes one in a tick.

    Attributes:
        frozen: the vector that ``advance`` works on, then ``why``.
        rest: a table and inputs that leave this state as it is, and the outputs then: ``step`` looks here first.
    """

    frozen: bytes
    rest: tuple[ModeTable, ModeInputs, ModeOutputs] | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, numbers: Ints, why: int = 0) -> Self:
        """A state from the vector that ``advance`` works on."""
        made = cls()
        made.frozen, made.rest = np.array([*numbers, why], dtype=np.int64).tobytes(), None
        return made

    @classmethod
    def initial(cls, table: ModeTable, mode: Mode = Mode.BOOT, estops: int = 0) -> Self:
        """BOOT, or another mode to start in, with empty buckets and everything there."""
        numbers = np.zeros(table.size, dtype=np.int64)
        numbers[MODE], numbers[ACKED], numbers[ESTOPS] = mode, 1, estops
        return cls.of(numbers)

    @property
    def numbers(self) -> Ints:
        """The vector that ``advance`` works on, read-only."""
        return thaw(self.frozen)[:-1]

    @property
    def why(self) -> int:
        """Rows that brought the mode about. Reported, never decided on."""
        return memoryview(self.frozen).cast("q")[-1]

    @property
    def mode(self) -> Mode:
        """The mode after the last tick."""
        return Mode(memoryview(self.frozen).cast("q")[MODE])

    @property
    def estops(self) -> int:
        """E-stops so far that count towards LOCKOUT."""
        return memoryview(self.frozen).cast("q")[ESTOPS]

    def levels(self, table: ModeTable) -> tuple[int, ...]:
        """Level of every bucket, in the table's order."""
        return tuple(self.numbers[BUCKETS : BUCKETS + len(table.buckets)].tolist())


class ModeInputs(NamedTuple):
    """What the machine sees in one tick: causes, the three authorities, and what a strategy says of its parts.

    Power is the cause ``estop``, command is ``person`` and the cause ``lease_lost``, mode is ``ack``.

    Attributes:
        causes: mask of the active causes, see ``cause_mask``. Unknown bits count as an e-stop.
        ack: an acknowledgement arrived in this tick.
        standstill: the body is measured at rest.
        ready: the self-test has passed.
        person: a person holds the command.
        shadow: mask of the capabilities whose output agrees with their substitute's in shadow.
        available: mask of the capabilities whose substitute is there.
    """

    causes: int = 0
    ack: bool = False
    standstill: bool = False
    ready: bool = True
    person: bool = False
    shadow: int = 0
    available: int = 0

    @staticmethod
    def of(
        causes: Iterable[Cause],
        *,
        ack: bool = False,
        standstill: bool = False,
        ready: bool = True,
        person: bool = False,
        shadow: int = 0,
        available: int = 0,
    ) -> ModeInputs:
        """The same from named causes."""
        return mode_inputs(cause_mask(causes), ack, standstill, ready, person, shadow, available)

    @property
    def flags(self) -> int:
        """The inputs that are on or off, as ``advance`` takes them."""
        return (
            (ACK if self.ack else 0)
            | (STANDSTILL if self.standstill else 0)
            | (READY if self.ready else 0)
            | (PERSON if self.person else 0)
        )


mode_inputs: Final = lru_cache(maxsize=1024)(ModeInputs)
"""``ModeInputs``, the same object for the same: in a loop they come again and again, and finding one is quicker."""


@dataclass(frozen=True, slots=True)
class ModeOutputs:
    """What the machine says in one tick.

    Attributes:
        mode: the mode that holds from this tick on.
        authority: who moves the body in this tick.
        envelope: limits on proposed motion.
        reasons: ids of the rows that fired in this tick or hold the mode, causes first.
        bridging: the backup stands in for the policy although the mode would let the policy move.
        configuration: name of the degraded configuration, "" in every other mode.
    """

    mode: Mode
    authority: Authority
    envelope: Envelope
    reasons: tuple[str, ...]
    bridging: bool = False
    configuration: str = ""
