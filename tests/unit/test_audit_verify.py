from __future__ import annotations

import base64
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ormsgpack
import pytest

from safeguard.audit import PublicKey, keygen, verify_run
from safeguard.audit.journal import frames, packing
from safeguard.audit.journal.keys import Checkpoint, Signer
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import FOLDER, PACKED, PART, RAW, RING, blocks
from safeguard.core.errors import JournalError
from tests.unit import audit_edit
from tests.unit.audit_runs import append_tick, decision, observation, run_open, small_run, started


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """The key of the original, in a file."""
    return keygen(tmp_path_factory.mktemp("keys") / "key", "arm", "test")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublicKey]:
    """A closed journal with a record of every kind that a run without trouble has, and its key."""
    folder = tmp_path_factory.mktemp("run")
    public = keygen(folder / "key", "arm", "test").public
    return small_run(folder / "run", ticks=1, key=folder / "key"), public


@pytest.fixture(scope="module")
def original(signed: tuple[Path, PublicKey]) -> list[bytes]:
    """The contents of its frames: header, eight records, a checkpoint."""
    return audit_edit.contents(signed[0])


@pytest.fixture(scope="module")
def key(signed: tuple[Path, PublicKey]) -> PublicKey:
    """Its key."""
    return signed[1]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed journal of three records, small enough to try every byte."""
    run = tmp_path_factory.mktemp("short")
    with started(run, run_open(limits=None)) as journal:
        append_tick(journal, 1, observation(1), decision(1))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose journal a test fills."""
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def holders(contents: list[bytes]) -> list[tuple[int, int]]:
    """For each frame: where it ends, and how many records stand before it."""
    found, at, seq = list[tuple[int, int]](), 0, 0
    for content in contents:
        at += frames.PREFIX.size + len(content)
        found.append((at, seq))
        seq += content[0] == frames.RECORD
    return found


def test_with_the_key_a_good_run_is_complete(signed: tuple[Path, PublicKey]) -> None:
    """With the writer's key the verdict is complete; without it self-signed, which is sound but not OK."""
    run, key = signed
    report = verify_run(run, key)
    assert (report.verdict, report.ok, report.sound, report.problem) == ("complete", True, True, "")
    assert (report.unprotected, report.lost, report.key, report.purpose) == (0, 0, str(key), "test")
    alone = verify_run(run)
    assert (alone.verdict, alone.ok, alone.sound) == ("self-signed", False, True)
    assert str(key) in alone.problem


def test_another_key_is_altered_from_the_start(signed: tuple[Path, PublicKey]) -> None:
    """A journal that another key than the reviewer's has signed proves nothing."""
    run, _ = signed
    report = verify_run(run, Signer.ephemeral().public)
    assert (report.verdict, report.at_seq) == ("altered", 0)
    assert "another key" in report.problem


def test_every_changed_byte_is_found_and_named(run: Path, short: Path) -> None:
    """Whatever byte of a raw segment is changed, the verdict is bad and names the record that holds the byte."""
    data, ends = audit_edit.raw(short), holders(audit_edit.contents(short))
    with (audit_edit.put(run, data) / FOLDER / f"000000{RAW}").open("r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ (1 + at % 255)]), at)
            report = verify_run(run)
            assert report.verdict in ("altered", "truncated")
            assert report.at_seq == next(seq for end, seq in ends if at < end)
            assert report.problem
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert verify_run(run).sound


def test_every_changed_byte_of_a_compressed_segment_is_found(run: Path, short: Path) -> None:
    """Compression takes nothing away: no bit of the file may be changed, even where it would unpack to the same."""
    data = (short / FOLDER / f"000000{PACKED}").read_bytes()
    (run / FOLDER / f"000000{PACKED}").write_bytes(data)
    unseen = list[tuple[int, int]]()
    with (run / FOLDER / f"000000{PACKED}").open("r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ (1 << bit)]), at)
                if verify_run(run).verdict not in ("altered", "truncated"):
                    unseen.append((at, bit))
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert not unseen
    assert verify_run(run).sound


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\0", b"x", packing.MAGIC, bytes(12)])
def test_nothing_stands_behind_a_compressed_segment(run: Path, short: Path, tail: bytes) -> None:
    """Every byte of the file is part of a block: padding, garbage and empty blocks are found."""
    data = (short / FOLDER / f"000000{PACKED}").read_bytes()
    (run / FOLDER / f"000000{PACKED}").write_bytes(data + tail)
    assert verify_run(run).verdict in ("altered", "truncated")


def test_a_compressed_segment_that_was_cut_is_found(run: Path, short: Path) -> None:
    """A compressed segment cut at any byte is no whole journal."""
    data = (short / FOLDER / f"000000{PACKED}").read_bytes()
    for size in range(len(data)):
        (run / FOLDER / f"000000{PACKED}").write_bytes(data[:size])
        assert verify_run(run).verdict in ("altered", "truncated"), f"{size} bytes"


def test_a_changed_record_without_signature_is_found(run: Path, original: list[bytes], key: PublicKey) -> None:
    """Right lengths and checksums do not help: the next checkpoint does not fit, and what it covers is not proved."""

    def change(seq: int, record: dict[str, Any]) -> None:
        if record["kind"] == "episode_open":
            record["body"]["task"] = "push the clock to the mark"

    audit_edit.put_contents(run, original)
    audit_edit.put_contents(run, audit_edit.edited(run, change))
    for given in (key, None):
        report = verify_run(run, given)
        assert (report.verdict, report.at_seq) == ("altered", 0)
        assert "checkpoint" in report.problem


def test_every_cut_is_found(run: Path, short: Path) -> None:
    """A journal cut at any byte is truncated, or open where the cut falls between two frames."""
    data, ends = audit_edit.raw(short), dict(holders(audit_edit.contents(short)))
    whole = audit_edit.contents(short)
    audit_edit.put(run, data)
    for size in reversed(range(len(data))):
        os.truncate(run / FOLDER / f"000000{RAW}", size)
        report = verify_run(run)
        records = sum(content[0] == frames.RECORD for (end, content) in zip(ends, whole, strict=True) if end <= size)
        expected = "open" if size in ends and records else "truncated"  # the writer died, or somebody cut
        assert (report.verdict, report.records, report.at_seq) == (expected, records, records)


def delete(contents: list[bytes], rng: random.Random) -> int:
    """Remove a record. Returns where it shows first."""
    at = rng.randrange(1, len(contents) - 2)
    del contents[at]
    return at - 1


def duplicate(contents: list[bytes], rng: random.Random) -> int:
    """Repeat a record. Returns where it shows first."""
    at = rng.randrange(1, len(contents) - 1)
    contents.insert(at + 1, contents[at])
    return at


def swap(contents: list[bytes], rng: random.Random) -> int:
    """Exchange two records. Returns where it shows first."""
    a, b = sorted(rng.sample(range(1, len(contents) - 1), 2))
    contents[a], contents[b] = contents[b], contents[a]
    return a - 1


def insert(contents: list[bytes], rng: random.Random) -> int:
    """Add a frame of a type that does not exist. Returns where it shows first."""
    at = rng.randrange(1, len(contents) + 1)
    contents.insert(at, b"\x04{}")
    return min(at, len(contents) - 2) - 1


@pytest.mark.parametrize("edit", [delete, duplicate, swap, insert])
def test_every_rearrangement_is_found(
    run: Path, original: list[bytes], edit: Callable[[list[bytes], random.Random], int]
) -> None:
    """Frames that were removed, repeated, exchanged or added are found where it happened."""
    rng = random.Random(2)
    for _ in range(50):
        contents = list(original)
        at = edit(contents, rng)
        report = verify_run(audit_edit.put_contents(run, contents))
        assert (report.verdict, report.at_seq) == ("altered", at)


@pytest.mark.parametrize("at", ["a checkpoint", "a record", "a header", "a byte"])
def test_nothing_stands_behind_the_last_checkpoint(run: Path, original: list[bytes], at: str) -> None:
    """Whatever is appended to a closed run is found."""
    data = b"".join(map(frames.frame, original))
    tails = {"a checkpoint": -1, "a record": -2, "a header": 0}
    data += frames.frame(original[tails[at]]) if at in tails else b"\n"
    report = verify_run(audit_edit.put(run, data))
    assert not report.sound
    assert report.at_seq == len(original) - 2


def test_no_segment_follows_the_last_checkpoint(run: Path, original: list[bytes]) -> None:
    """A further file with a header that fits says nothing, and does not belong to a closed run."""
    chain = frames.GENESIS
    for content in original:
        chain = frames.link(chain, content)
    header = original[0].replace(b'"segment":0', b'"segment":1').replace(b'"first":0', b'"first":8')
    header = header.replace(frames.GENESIS.hex().encode(), chain.hex().encode())
    audit_edit.put_contents(run, original)
    (run / FOLDER / f"000001{RAW}").write_bytes(frames.frame(header))
    report = verify_run(run)
    assert (report.verdict, report.at_seq) == ("altered", 8)


def test_segments_are_in_order_and_all_there(tmp_path: Path) -> None:
    """A segment that is missing is truncated where it is missing, one that was renamed is altered."""
    run = small_run(tmp_path / "run", segment_mib=1e-9)
    files = audit_edit.segments(run)
    assert len(files) > 5
    assert verify_run(run).sound
    aside = tmp_path / "aside"
    files[3].rename(aside)
    report = verify_run(run)
    assert report.verdict == "truncated"
    assert "missing" in report.problem
    files[4].rename(files[3])
    aside.rename(files[4])
    report = verify_run(run)
    assert (report.verdict, report.at_seq) == ("altered", 3)


def test_a_raw_segment_beside_its_compression_must_be_the_same(run: Path, short: Path) -> None:
    """A crash between two steps may leave both, with the same bytes; with other bytes one of them was changed."""
    data = audit_edit.raw(short)
    audit_edit.put(run, data)
    (run / FOLDER / f"000000{PACKED}").write_bytes((short / FOLDER / f"000000{PACKED}").read_bytes())
    (run / FOLDER / f"000000{PART}").write_bytes(b"the beginning of something")
    assert verify_run(run).sound
    other = b"".join(packing.packed(audit_edit.contents(short)[:-1]))
    (run / FOLDER / f"000000{PACKED}").write_bytes(other)
    assert verify_run(run).verdict == "altered"


@pytest.mark.parametrize("name", ["000000.jsonl", "notes.txt", ".hidden", "folder", "0.sgj", "ring2"])
def test_unknown_entries_are_found(run: Path, original: list[bytes], name: str) -> None:
    """A journal folder holds the journal and nothing else."""
    audit_edit.put_contents(run, original)
    if name == "folder":
        (run / FOLDER / name).mkdir()
    else:
        (run / FOLDER / name).write_text("x")
    report = verify_run(run)
    assert report.verdict == "altered"
    assert "does not belong in a journal" in report.problem


@pytest.mark.parametrize("name", [f"000000{RAW}", RING])
def test_a_link_instead_of_the_journal_is_found(run: Path, short: Path, tmp_path: Path, name: str) -> None:
    """The journal is files in the folder, not links to some elsewhere."""
    if name == RING:
        audit_edit.put(run, audit_edit.raw(short))
    (tmp_path / "elsewhere").write_bytes(audit_edit.raw(short))
    (run / FOLDER / name).symlink_to(tmp_path / "elsewhere")
    assert verify_run(run).verdict == "altered"


def test_an_open_run_tells_its_unprotected_tail(run: Path, original: list[bytes]) -> None:
    """Without run_close the verdict is open, not sound, and says how many records no checkpoint covers."""
    report = verify_run(audit_edit.put_contents(run, original[:6]))
    assert (report.verdict, report.sound, report.records, report.unprotected) == ("open", False, 5, 5)
    assert "unprotected tail of 5 records" in report.problem


def test_a_run_close_without_its_checkpoint_is_open(run: Path, original: list[bytes], key: PublicKey) -> None:
    """Anybody can write an end; only the signature under it closes a run."""
    report = verify_run(audit_edit.put_contents(run, original[:-1]), key)
    assert (report.verdict, report.unprotected) == ("open", 8)


@pytest.mark.parametrize("present", [True, False])
def test_an_empty_journal_is_truncated(run: Path, present: bool) -> None:
    """No record, or no file in the folder, is truncated at record 0."""
    report = verify_run(audit_edit.put(run, b"") if present else run)
    assert (report.verdict, report.records, report.at_seq) == ("truncated", 0, 0)


def test_a_folder_without_journal_is_an_error(tmp_path: Path) -> None:
    """There is nothing to give a verdict on; the message says what to give instead."""
    with pytest.raises(JournalError, match="give the folder of a run"):
        verify_run(tmp_path / "nothing")


def test_head_and_root_stand_for_the_whole_run(run: Path, original: list[bytes]) -> None:
    """The last leaf and the root come with the report, and records are counted by kind."""
    report = verify_run(audit_edit.put_contents(run, original))
    tree, chain = Tree(), frames.GENESIS
    for content in original[:-1]:
        chain = frames.link(chain, content)
        if content[0] == frames.RECORD:
            tree.append(chain)
    assert (report.head, report.root) == (chain.hex(), tree.root().hex())
    assert report.counts == {
        "run_open": 1,
        "episode_open": 1,
        "human": 1,
        "fault_injected": 1,
        "decision": 1,
        "fault_cleared": 1,
        "episode_close": 1,
        "run_close": 1,
    }


# -- what only somebody who signs can write -----------------------------------------------------------------


def told(run: Path, edit: Callable[[list[bytes]], None]) -> Path:
    """Let ``edit`` change the frames, then number nothing but chain and sign all anew under the same key name."""
    contents = audit_edit.contents(run)
    edit(contents)
    audit_edit.put_contents(run, contents)
    return audit_edit.resigned(run, lambda _seq, _record: None)


def with_body(content: bytes, body: bytes) -> bytes:
    """A record with another body."""
    return content[: frames.HEAD.size] + body


WRONG: dict[str, tuple[Callable[[list[bytes]], None], int, str]] = {
    "an unknown kind": (lambda c: c.__setitem__(3, c[3][:1] + b"\x63" + c[3][2:]), 2, "kind 99 is unknown"),
    "a second run_open": (lambda c: c.__setitem__(2, c[1][:3] + c[2][3:11] + c[1][11:]), 1, "one run_open"),
    "a record after run_close": (lambda c: c.insert(9, c[7][:3] + (8).to_bytes(8, "little") + c[7][11:]), 8, "after"),
    "counts that are wrong": (
        lambda c: c.__setitem__(8, with_body(c[8], ormsgpack.packb({"counts": {"human": 2}, "reason": "done"}))),
        7,
        "counts",
    ),
    "a run_close without counts": (lambda c: c.__setitem__(8, with_body(c[8], b"\x80")), 7, "run_close"),
    "a gap that is none": (
        lambda c: c.__setitem__(
            3,
            c[3][:1]
            + b"\x09"
            + c[3][2 : frames.HEAD.size]
            + ormsgpack.packb({"first": 1, "last": 1, "count": 1, "cause": "x"}),
        ),
        2,
        "gap",
    ),
    "a gap that says nothing": (lambda c: c.__setitem__(3, c[3][:1] + b"\x09" + c[3][2:]), 2, "gap"),
    "a frame of no content": (lambda c: c.__setitem__(3, c[3][:5]), 2, "no body"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_signed_but_impossible_order_is_named(run: Path, original: list[bytes], case: str) -> None:
    """A record that may not stand where it does is found, whoever signed it."""
    edit, seq, says = WRONG[case]
    contents = list(original)
    edit(contents)
    report = verify_run(audit_edit.put_contents(run, contents))
    assert (report.verdict, report.at_seq) == ("altered", seq)
    assert says in report.problem


def test_checkpoints_say_what_is_there(run: Path, original: list[bytes], signer: Signer) -> None:
    """A checkpoint with another origin, size, root or chain does not prove the journal, even if signed."""
    audit_edit.put_contents(run, original)
    audit_edit.resigned(run, lambda _seq, _record: None, signer)
    assert verify_run(run, signer.public).ok
    contents = audit_edit.contents(run)
    note = signer.public.opened(contents[-1][1:])
    wrong = {
        "origin": Checkpoint("safeguard/another", note.size, note.root, note.chain, note.utc),
        "size": Checkpoint(note.origin, note.size - 1, note.root, note.chain, note.utc),
        "root": Checkpoint(note.origin, note.size, note.chain, note.chain, note.utc),
        "chain": Checkpoint(note.origin, note.size, note.root, note.root, note.utc),
    }
    for name, checkpoint in wrong.items():
        contents[-1] = bytes((frames.CHECKPOINT,)) + signer.note(checkpoint)
        report = verify_run(audit_edit.put_contents(run, contents), signer.public)
        assert (report.verdict, report.at_seq) == ("altered", 0), name


def test_a_wrong_root_names_the_first_record_after_the_last_good_one(tmp_path: Path) -> None:
    """What an earlier checkpoint has proved stays proved."""
    run = small_run(tmp_path, segment_mib=1e-9)  # a checkpoint after every record
    contents = [content for file in audit_edit.segments(run) for content in frames.frames(blocks(file))]
    broken = next(at for at, c in enumerate(contents) if c[0] == frames.CHECKPOINT and at > 12)
    proved = sum(c[0] == frames.RECORD for c in contents[:broken]) - 1
    file = audit_edit.segments(run)[proved]
    inside = list(frames.frames(blocks(file)))
    text = inside[-1].decode("latin-1").replace("\nutc ", "\nutc 1")
    inside[-1] = text.encode("latin-1")
    file.unlink()
    file.with_suffix(RAW).write_bytes(b"".join(map(frames.frame, inside)))
    report = verify_run(run)
    assert (report.verdict, report.at_seq) == ("altered", proved)
    assert "signature is wrong" in report.problem


# -- rings of open runs -----------------------------------------------------------------------------------


@pytest.fixture
def opened(run: Path, original: list[bytes]) -> tuple[Path, Ring]:
    """An open run of three records in its segment, and a ring for more."""
    audit_edit.put_contents(run, original[:4])
    return run, Ring.create(run / FOLDER / RING, 1 << 16)


def test_the_ring_goes_on_where_the_segments_end(opened: tuple[Path, Ring], original: list[bytes]) -> None:
    """Records that only the ring holds count; those that are in the segments already are passed over."""
    run, ring = opened
    for content in original[3:7]:
        assert ring.put(content)
    ring.release()
    report = verify_run(run)
    assert (report.verdict, report.records, report.unprotected) == ("open", 6, 6)


@pytest.mark.parametrize(
    ("content", "says"),
    [(-1, "does not belong there"), (6, "says that it is record 5"), (0, "does not belong there")],
)
def test_a_ring_with_something_else_is_found(
    opened: tuple[Path, Ring], original: list[bytes], content: int, says: str
) -> None:
    """A ring holds the records that follow, and nothing else."""
    run, ring = opened
    ring.put(original[content])
    ring.release()
    report = verify_run(run)
    assert (report.verdict, report.at_seq) == ("altered", 3)
    assert says in report.problem


@pytest.mark.parametrize("content", [b"\x02", b"\x02" + bytes(26), b"\x07"])
def test_a_ring_with_a_short_record_is_found(opened: tuple[Path, Ring], content: bytes) -> None:
    """What is too short for a record is a finding, not an exception."""
    run, ring = opened
    ring.put(content)
    ring.release()
    assert verify_run(run).verdict == "altered"


@pytest.mark.parametrize("data", [b"", b"ring", b"SGRING1\n" + bytes(4088), b"SGRING1\n" + bytes(5000), bytes(8192)])
def test_a_ring_that_is_none_is_found(run: Path, original: list[bytes], data: bytes) -> None:
    """A file of that name that cannot be a ring is a finding, not an exception."""
    audit_edit.put_contents(run, original[:4])
    (run / FOLDER / RING).write_bytes(data)
    report = verify_run(run)
    assert (report.verdict, report.at_seq) == ("altered", 3)


def test_a_ring_beside_a_closed_run_holds_nothing_new(run: Path, original: list[bytes]) -> None:
    """A death right after the last checkpoint may leave the ring; new records in it do not belong to a closed run."""
    audit_edit.put_contents(run, original)
    ring = Ring.create(run / FOLDER / RING, 1 << 16)
    ring.put(original[8])
    assert verify_run(run).sound
    ring.put(original[7][:3] + (8).to_bytes(8, "little") + original[7][11:])
    ring.release()
    assert verify_run(run).verdict == "altered"


def test_the_signature_must_be_written_as_we_write_it(run: Path, original: list[bytes]) -> None:
    """A second way to write the same bits in base64 is another file, and found."""
    note = original[-1].decode("latin-1")
    assert note.endswith("=\n")
    head, _, encoded = note.rstrip("\n").rpartition(" ")
    swapped = encoded.rstrip("=")
    padding = "=" * (len(encoded) - len(swapped))
    other = next(
        swapped[:-1] + letter + padding
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        if letter != swapped[-1] and base64.b64decode(swapped[:-1] + letter + padding) == base64.b64decode(encoded)
    )
    contents = [*original[:-1], f"{head} {other}\n".encode("latin-1")]
    assert verify_run(audit_edit.put_contents(run, contents)).verdict == "altered"
