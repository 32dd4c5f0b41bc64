"""Exceptions for wrong wiring, wrong configuration and wrong files.

Nothing in the control loop raises these: a bad policy, sensor or solver becomes a verdict.

    SafeguardError
    ├── ConfigError        a configuration key, value or combination that cannot work
    ├── RobotError         a robot description that is wrong or incomplete
    │   ├── UnknownNameError   a name that does not exist; lists the names that do
    │   └── LimitError         a limit that is missing or contradicts another
    ├── SpecError          an action specification that is missing or does not fit the robot
    ├── ModeTableError     a mode table that cannot be compiled
    ├── CalibrationError   a calibration artefact that is damaged or belongs to something else
    ├── CertificateError   a certificate that is damaged or belongs to something else (safeguard.core.certificate)
    │   └── NotCertifiableError  no speed envelope leaves authority after the disturbance; names the joint
    ├── JournalError       a run folder that cannot be written or read
    │   ├── JournalDamageError  a journal whose bytes are not what was written (safeguard.audit.journal.scan)
    │   └── CutShortError       a damaged journal, read up to the damage (safeguard.audit.timeline)
    └── MissingExtraError  an optional dependency that the called feature needs
"""

from __future__ import annotations

from collections.abc import Iterable


class SafeguardError(Exception):
    """Root of everything safeguard raises on purpose."""


class ConfigError(SafeguardError):
    """A configuration key, value or combination that cannot work."""


class RobotError(SafeguardError):
    """A robot description that is wrong or incomplete."""


class UnknownNameError(RobotError):
    """A name that does not exist.

    Attributes:
        name: what was asked for.
        known: what exists.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        self.name = name
        self.known = tuple(known)
        place = f" in {where}" if where else ""
        super().__init__(f"unknown {kind} {name!r}{place}; known: {', '.join(self.known) or 'none'}")


class LimitError(RobotError):
    """A limit that is missing or contradicts another."""


class SpecError(SafeguardError):
    """An action specification that is missing or does not fit the robot."""


class ModeTableError(SafeguardError):
    """A mode table that cannot be compiled."""


class CalibrationError(SafeguardError):
    """A calibration artefact that is damaged or belongs to something else."""


class JournalError(SafeguardError):
    """A run folder that cannot be written or read."""


class MissingExtraError(SafeguardError):
    """An optional dependency that the called feature needs is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{feature} needs an optional dependency: pip install 'safeguard-runtime[{extra}]'")
