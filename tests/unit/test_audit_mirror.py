from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Event

from safeguard.audit import AuditConfig, open_run, verify_run
from safeguard.audit.journal.mirror import Narrator
from safeguard.core.enums import RecordKind
from tests.unit.audit_runs import append_tick, decision, observation, run_open


class Reader:
    """A logger that nobody reads until it is let."""

    def __init__(self) -> None:
        self.asked, self.let = Event(), Event()
        self.heard: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        """Wait, then remember."""
        self.asked.set()
        assert self.let.wait(60.0)
        self.heard.append((event, fields))

    error = info


def tell(narrator: Narrator, number: int) -> None:
    """One line."""
    narrator.tell(RecordKind.HUMAN, {"number": number}, None)


def test_nobody_waits_for_a_reader() -> None:
    """Lines wait up to a limit; those behind are dropped, and counted where the next one stands, in order."""
    reader = Reader()
    narrator = Narrator(reader, limit=5)
    tell(narrator, 0)
    assert reader.asked.wait(60.0)
    for number in range(1, 20):
        tell(narrator, number)
    reader.let.set()
    while len(reader.heard) < 6:
        assert reader.let.wait(0.01)
    tell(narrator, 20)
    narrator.close(60.0)
    assert [fields.get("number") for _, fields in reader.heard] == [0, 1, 2, 3, 4, 5, None, 20]
    event, fields = reader.heard[6]
    assert (event, fields["lines"]) == ("mirror_dropped", 14)
    assert "14 lines dropped" in str(fields["reason"])


def test_what_is_dropped_last_is_told_at_the_end() -> None:
    """No line needs to come behind those that were dropped; everything that waits is written before the end."""
    reader = Reader()
    narrator = Narrator(reader, limit=2)
    tell(narrator, 0)
    assert reader.asked.wait(60.0)
    for number in range(1, 6):
        tell(narrator, number)
    reader.let.set()
    narrator.close(60.0)
    assert [fields.get("number", fields.get("lines")) for _, fields in reader.heard] == [0, 1, 2, 3]
    assert reader.heard[-1][0] == "mirror_dropped"


def test_the_end_is_bounded() -> None:
    """A reader that never comes back does not keep a run from its end."""
    narrator = Narrator(Reader())
    tell(narrator, 0)
    narrator.close(0.05)


def test_a_run_whose_terminal_does_not_read_goes_on(tmp_path: Path) -> None:
    """With a mirror that hangs every record is placed, and the run closes."""
    reader = Reader()
    journal = open_run(AuditConfig.of(tmp_path / "hung", real_time=False), run_open(), mirror=reader)
    for tick in range(20):
        append_tick(journal, tick, observation(tick), decision(tick))
    assert reader.heard == []
    journal.close()
    assert verify_run(tmp_path / "hung").sound
    reader.let.set()


FULL = """
import sys
from pathlib import Path
from tests.unit.audit_runs import run_open
from safeguard.audit import AuditConfig, open_run
from safeguard.core.enums import RecordKind
config = AuditConfig(run=Path(sys.argv[1]), writer="inline", durability="os", mirror=sys.argv[2])
with open_run(config, run_open()) as journal:
    for number in range(5000):
        human = {"operator": "o", "reason": "r" * 500, "action": "stop", "simulated": True}
        assert journal.append(RecordKind.HUMAN, human) >= 0
print("done")
"""


def test_a_pipe_that_nobody_reads_costs_nothing(tmp_path: Path, root: Path) -> None:
    """A process whose standard error is a full pipe records everything, and ends as it should."""
    for style in ("json", "console"):
        reading, writing = os.pipe()
        try:
            done = subprocess.run(
                [sys.executable, "-c", FULL, str(tmp_path / style), style],
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=writing,
                check=False,
                timeout=120.0,
            )
        finally:
            os.close(reading)
            os.close(writing)
        assert (done.returncode, done.stdout) == (0, b"done\n")
        report = verify_run(tmp_path / style)
        assert (report.verdict, report.records) == ("self-signed", 5002)
