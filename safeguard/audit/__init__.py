"""Evidence: records, the journal that holds them, its verification, and the report for people.

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeguard.audit.identity import run_open_body
    from safeguard.audit.journal import Journal, open_run
    from safeguard.audit.keys import PublicKey, Signer, keygen, read_public
    from safeguard.audit.reader import read_run
    from safeguard.audit.records import Record
    from safeguard.audit.report import write_report
    from safeguard.audit.scan import JournalDamageError
    from safeguard.audit.settings import AuditConfig
    from safeguard.audit.verify import VerifyReport, verify_run

_HOMES = {
    "AuditConfig": "settings",
    "Journal": "journal",
    "JournalDamageError": "scan",
    "PublicKey": "keys",
    "Record": "records",
    "Signer": "keys",
    "VerifyReport": "verify",
    "keygen": "keys",
    "open_run": "journal",
    "read_public": "keys",
    "read_run": "reader",
    "run_open_body": "identity",
    "verify_run": "verify",
    "write_report": "report",
}

__all__ = [
    "AuditConfig",
    "Journal",
    "JournalDamageError",
    "PublicKey",
    "Record",
    "Signer",
    "VerifyReport",
    "keygen",
    "open_run",
    "read_public",
    "read_run",
    "run_open_body",
    "verify_run",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
