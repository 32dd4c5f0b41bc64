"""The count of emergency stops that survives a restart: what keeps a LOCKOUT one.

A process that is killed and started again must not have forgotten that its body was stopped twice already. The count
is one small file, replaced as a whole and flushed to the disk; only maintenance sets it back, with a name and a reason
that stay in the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeguard.core.errors import ConfigError


class Maintenance(BaseModel):
    """One time that the count was set back: by whom, why, and from what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    estops: int = Field(ge=0)


class Lockout(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["safeguard-lockout-1"] = "safeguard-lockout-1"
    estops: int = Field(default=0, ge=0)
    maintenance: tuple[Maintenance, ...] = ()


class LockoutFile:
    """The count of emergency stops in one file; a missing file is a count of zero.

    Args:
        path: the file; its folder exists.

    Raises:
        ConfigError: there is something else in the file. It is never taken for zero.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._content = self._read()

    @property
    def estops(self) -> int:
        """Emergency stops that count."""
        return self._content.estops

    @property
    def maintenance(self) -> tuple[Maintenance, ...]:
        """Every time that the count was set back."""
        return self._content.maintenance

    def count(self, estops: int) -> None:
        """Keep ``estops``; raises OSError where that fails."""
        self._write(self._content.model_copy(update={"estops": estops}))

    def clear(self, *, operator: str, reason: str) -> None:
        """Set the count back to zero after maintenance. Raises ConfigError without a name and a reason."""
        try:
            done = Maintenance(operator=operator, reason=reason, estops=self.estops)
        except ValidationError as error:
            raise ConfigError("a lockout is cleared by somebody and for a reason: both must be given") from error
        self._write(Lockout(estops=0, maintenance=(*self.maintenance, done)))

    def _read(self) -> Lockout:
        try:
            return Lockout.model_validate_json(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return Lockout()
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.path}: not a count of emergency stops: {error}; find out what happened to it, then put back a "
                "copy, or delete it if the body has been looked after"
            ) from error

    def _write(self, content: Lockout) -> None:
        """Replace the file as a whole, on the disk before this returns."""
        aside = self.path.with_name(self.path.name + ".new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump(content.model_dump(mode="json"), file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._content = content


def saved(lockout: LockoutFile, estops: int) -> str:
    """Keep the count of emergency stops; why that failed, or ""."""
    try:
        lockout.count(estops)
    except OSError as error:
        return f"the count of emergency stops could not be kept in {lockout.path}: {error}"
    return ""
