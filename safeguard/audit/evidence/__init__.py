"""A dossier over runs: an argument whose leaves are checked, and which rules ask for which of the records."""

from safeguard.audit.evidence.dossier import Dossier, assemble
from safeguard.audit.evidence.facts import RunFacts, gather
from safeguard.audit.evidence.model import Finding, Outside, Status
from safeguard.audit.evidence.page import write_dossier

__all__ = ["Dossier", "Finding", "Outside", "RunFacts", "Status", "assemble", "gather", "write_dossier"]
