"""Evidence: records, the journal that holds them, its verification, and the report for people.

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeguard.audit.identity import run_open_body
    from safeguard.audit.journal.journal import Journal, open_run
    from safeguard.audit.journal.keys import PublicKey, Signer, keygen, read_public
    from safeguard.audit.journal.scan import JournalDamageError
    from safeguard.audit.journal.settings import AuditConfig
    from safeguard.audit.reader import read_run
    from safeguard.audit.records.registry import Record
    from safeguard.audit.report.page import write_report
    from safeguard.audit.verify import VerifyReport, verify_run

_HOMES = {
    "AuditConfig": "journal.settings",
    "Journal": "journal.journal",
    "JournalDamageError": "journal.scan",
    "PublicKey": "journal.keys",
    "Record": "records.registry",
    "Signer": "journal.keys",
    "VerifyReport": "verify",
    "keygen": "journal.keys",
    "open_run": "journal.journal",
    "read_public": "journal.keys",
    "read_run": "reader",
    "run_open_body": "identity",
    "verify_run": "verify",
    "write_report": "report.page",
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
