# pyright: reportPrivateUsage=false
"""Both verifiers at a run whose writer is at work: files are packed and removed while they read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safeguard.audit import verify_offline, verify_run
from safeguard.audit.journal.scan import Scan
from safeguard.audit.journal.segments import FOLDER, RAW, pack
from tests.unit.test_audit_segments import SIGNER, kept, written
from tests.unit.test_audit_writer import human, process

Patch = pytest.MonkeyPatch


def raw_run(run: Path, patch: Patch) -> Path:
    """A closed run none of whose segments is packed yet."""
    with patch.context() as inner:
        inner.setattr("safeguard.audit.journal.segments.pack", kept)
        return written(run)


def packed_now(run: Path, number: int | None = None) -> None:
    """What the writer does beside everything else."""
    for file in sorted((run / FOLDER).glob(f"*{RAW}")):
        if number is None or file.stem == f"{number:06d}":
            pack(file)


def between(patch: Patch, then: Callable[[], None]) -> None:
    """Do something between the look at the folder and the look at its files, in both verifiers."""
    files, walk = Scan._files, verify_offline.walk

    def listed(scan: Scan) -> Any:
        found = files(scan)
        then()
        return found

    def walked(*given: Any) -> None:
        then()
        walk(*given)

    patch.setattr(Scan, "_files", listed)
    patch.setattr(verify_offline, "walk", walked)


@pytest.mark.parametrize("verifier", [0, 1])
def test_a_segment_may_be_packed_after_it_was_listed(tmp_path: Path, monkeypatch: Patch, verifier: int) -> None:
    """A raw segment that is gone is read in its packed form."""
    run = raw_run(tmp_path, monkeypatch)
    between(monkeypatch, lambda: packed_now(run))
    verdict = verify_run(run, SIGNER.public).verdict if verifier == 0 else offline(run)
    assert verdict == "complete"
    assert not list((run / FOLDER).glob(f"*{RAW}"))


def offline(run: Path) -> str:
    """The verdict of the verifier that needs nothing of ours."""
    return str(verify_offline.verify(str(run), str(SIGNER.public))["verdict"])


@pytest.mark.parametrize("verifier", [0, 1])
def test_the_raw_one_of_two_may_go(tmp_path: Path, monkeypatch: Patch, verifier: int) -> None:
    """Where both forms were listed and the raw one is gone before it is compared, the packed one stands alone."""

    def refuse(_self: Path, missing_ok: bool = False) -> None:
        raise OSError(5, "Input/output error")

    run = raw_run(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        packed_now(run)
    between(monkeypatch, lambda: packed_now(run))
    verdict = verify_run(run, SIGNER.public).verdict if verifier == 0 else offline(run)
    assert verdict == "complete"


def test_a_missing_segment_is_still_missed(tmp_path: Path, monkeypatch: Patch) -> None:
    """A segment that is gone in both forms was not packed."""
    run = raw_run(tmp_path, monkeypatch)
    (run / FOLDER / f"000001{RAW}").unlink()
    assert (verify_run(run, SIGNER.public).verdict, offline(run)) == ("truncated", "truncated")


def test_a_run_at_work_is_open_whenever_one_looks(tmp_path: Path) -> None:
    """However often one looks while a writer fills and packs segments, both verifiers say open; closed, they agree."""
    journal = process(tmp_path, segment_mib=0.002, checkpoint_s=0.005)
    seen = set[str]()
    for _ in range(40):
        for _ in range(25):
            assert human(journal, 300) >= 0
        seen.add(verify_run(tmp_path).verdict)
        for _ in range(25):
            assert human(journal, 300) >= 0
        seen.add(str(verify_offline.verify(str(tmp_path))["verdict"]))
    assert seen == {"open"}
    journal.close()
    assert verify_run(tmp_path).verdict == "self-signed"
    assert verify_offline.verify(str(tmp_path))["verdict"] == "self-signed"
