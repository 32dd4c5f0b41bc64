from __future__ import annotations

import ast
import base64
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.audit import verify_offline
from safeguard.audit.records.registry import BY_CODE
from safeguard.audit.verify_offline import Key, Run, main, unpack, verify
from safeguard.core.enums import RecordKind
from tests.unit.audit_format import (
    OTHER,
    OWN,
    RunWriter,
    Signer,
    frame,
    naive_root,
    pack,
    record,
    ring,
    save,
    sha256,
    small_run,
)

SOURCE = Path(verify_offline.__file__)

# RFC 8032 section 7.1: public key, message, signature (TEST 1, 2, 3 and SHA(abc))
RFC8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
        "454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
]


def raw_key(public: bytes) -> Key:
    """A verifier's key from 32 bytes."""
    return Key(vkey(public))


def vkey(public: bytes, name: str = "k") -> str:
    """The text form of a public key."""
    tagged = b"\x01" + public
    tag = sha256(name.encode(), b"\n", tagged)[:4].hex()
    return f"{name}+{tag}+{base64.b64encode(tagged).decode()}"


# --- Ed25519 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("public", "message", "signature"), RFC8032)
def test_rfc_8032_vectors_verify(public: str, message: str, signature: str) -> None:
    """The test vectors of RFC 8032 verify; with one bit of the message or signature changed they do not."""
    key, text, signed = raw_key(bytes.fromhex(public)), bytes.fromhex(message), bytes.fromhex(signature)
    assert key.verifies(text, signed)
    assert not key.verifies(text + b"\x00", signed)
    for at in range(64):
        assert not key.verifies(text, signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :])


@settings(max_examples=40, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=80), flip=st.integers(-1, 511))
def test_ed25519_agrees_with_openssl(seed: bytes, message: bytes, flip: int) -> None:
    """Signatures, whole or with a bit flipped, are judged as OpenSSL judges them."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = bytearray(private.sign(message))
    if flip >= 0:
        signature[flip // 8] ^= 1 << flip % 8
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes(signature), message)
        valid = True
    except InvalidSignature:
        valid = False
    assert raw_key(public).verifies(message, bytes(signature)) is valid is (flip < 0)


def test_only_the_smallest_scalar_counts() -> None:
    """A signature with S + L, which the equation alone would accept, is refused; so is one of a wrong length."""
    public, message, signature = (bytes.fromhex(part) for part in RFC8032[1])
    scalar = int.from_bytes(signature[32:], "little") + verify_offline.ORDER
    key = raw_key(public)
    assert not key.verifies(message, signature[:32] + scalar.to_bytes(32, "little"))
    assert not key.verifies(message, signature[:63])
    assert not key.verifies(message, signature + b"\x00")


@pytest.mark.parametrize(
    "encoding",
    [
        (2**255 - 19).to_bytes(32, "little"),  # y = p, which is 0
        (2**255 - 18).to_bytes(32, "little"),  # y = p + 1, which is 1
        (2**255 + 1).to_bytes(32, "little"),  # x = 0 with the sign of a negative x
        (2).to_bytes(32, "little"),  # y = 2: no x
        bytes(31),
        bytes(33),
        b"",
    ],
)
def test_points_have_one_encoding(encoding: bytes) -> None:
    """A public key that is no canonical point is refused."""
    with pytest.raises(ValueError, match=r"encoding|public key"):
        raw_key(encoding)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", "a+b+c", "a+00000000+AAAA", OWN.vkey[:-1], OWN.vkey + "\n", " " + OWN.vkey, "x" + OWN.vkey,
     OWN.vkey.replace("+", "-"), "PRIVATE+KEY+" + OWN.vkey, OWN.vkey.upper(), "é" + OWN.vkey, "\udc80+00000000+AAAA"],
)  # fmt: skip
def test_malformed_keys_are_refused(text: str) -> None:
    """A vkey in any other form is an error, not a key."""
    with pytest.raises(ValueError, match=r"."):
        Key(text)


# --- MessagePack ------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=60,
)  # fmt: skip


@settings(deadline=None)
@given(value=PLAIN)
def test_messagepack_round_trip(value: object) -> None:
    """What ormsgpack packs is read back equal, with its types."""
    back = unpack(ormsgpack.packb(value))
    assert back == value
    assert repr(back) == repr(value)


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_messagepack_decoder_never_fails_otherwise(data: bytes) -> None:
    """Any bytes give a value or ValueError, and a value is what ormsgpack reads."""
    try:
        value = unpack(data)
    except ValueError:
        return
    assert json.dumps(value, allow_nan=False) is not None
    if not any(word in repr(value) for word in ("NaN", "Infinity")):
        assert value == ormsgpack.unpackb(data)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 65535, 65536])
def test_messagepack_lengths(length: int) -> None:
    """Every width of a length field is read."""
    for value in ("x" * length, list(range(length)), {str(at): at for at in range(length)}):
        assert unpack(ormsgpack.packb(value)) == value


def test_non_finite_floats_become_words() -> None:
    """NaN and infinities are given as strings, which JSON has."""
    assert unpack(ormsgpack.packb([1.5])) == [1.5]
    assert unpack(
        b"\x93" + b"".join(struct.pack(">Bd", 0xCB, x) for x in (float("nan"), float("inf"), float("-inf")))
    ) == ["NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",  # never used
        b"\xc4\x01a",  # bin
        b"\xd4\x01\x00",  # ext
        b"\xca\x00\x00\x00\x00",  # float32
        b"\x00\x00",  # two values
        b"\x81\x01\x02",  # a key that is no string
        b"\x81\x90\x02",  # nor hashable
        b"\x82\xa1a\x01\xa1a\x02",  # the same key twice
        b"\xa1\xff",  # no UTF-8
        b"\xdb\xff\xff\xff\xff",  # a string of 4 GiB
        b"\xdd\xff\xff\xff\xff",  # an array of as many
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100 + b"\x00",
        b"\xdd\x00\x10\x00\x00" + b"\x90" * 2**20,  # a million lists
    ],
)
def test_messagepack_outside_the_subset_is_refused(data: bytes) -> None:
    """Other types, repeated keys, rests, depth and absurd lengths are ValueErrors."""
    with pytest.raises(ValueError, match=r"."):
        unpack(data)


# --- Merkle tree ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(leaves=st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_peaks_give_the_root_of_rfc_6962(leaves: list[bytes]) -> None:
    """The stack of peaks folds to the recursive definition after every record."""
    writer = RunWriter()
    writer.open()
    run = Run(None, None)
    assert run.root() == naive_root([]) == sha256()
    run.record(writer.segments[0][1])
    expected = [run.leaf]
    for seq, leaf in enumerate(leaves, 1):
        run.record(record("decision", seq, leaf.hex()))
        expected.append(run.leaf)
        assert run.root() == naive_root(expected)


# --- Verdicts ---------------------------------------------------------------------------------------


def check(run: Path, key: str | None = OWN.vkey) -> dict[str, Any]:
    """The report, with its form and the exit code checked."""
    report = verify(str(run), key)
    assert list(report) == (
        [
            "verdict",
            "problem",
            "at_seq",
            "at_kind",
            "records",
            "counts",
            "head",
            "root",
            "key",
            "gaps",
            "unprotected",
            "cut",
        ]
    )
    assert report["records"] == sum(report["counts"].values())
    assert (report["problem"] is None) == (report["verdict"] == "complete")
    return report


@pytest.mark.parametrize("packed", [(), (0,), (0, 1), (0, 1, 2)])
def test_closed_run_is_complete(tmp_path: Path, packed: tuple[int, ...]) -> None:
    """A closed run, raw or packed, is complete; head, root and counts are those of its records."""
    writer = small_run()
    assert check(writer.save(tmp_path, packed)) == {
        "verdict": "complete",
        "problem": None,
        "at_seq": None,
        "at_kind": None,
        "records": 14,
        "counts": writer.counts,
        "head": writer.leaves[-1].hex(),
        "root": naive_root(writer.leaves).hex(),
        "key": OWN.vkey,
        "gaps": 0,
        "unprotected": 0,
        "cut": 0,
    }


def test_without_a_key_a_run_is_self_signed(tmp_path: Path) -> None:
    """Signatures are checked against the key in run_open, and that is said."""
    report = check(small_run().save(tmp_path), None)
    assert (report["verdict"], report["records"], report["key"]) == ("self-signed", 14, OWN.vkey)


def test_another_key_alters_everything(tmp_path: Path) -> None:
    """A run signed by another key than the one given: altered at 0, whatever else it is."""
    report = check(small_run().save(tmp_path), OTHER.vkey)
    assert (report["verdict"], report["at_seq"], report["at_kind"], report["records"]) == ("altered", 0, "run_open", 0)
    assert report["key"] == OTHER.vkey


def test_unclosed_run_is_open_with_its_tail(tmp_path: Path) -> None:
    """Without run_close: open, with the number of records after the last checkpoint; with or without a key."""
    writer = RunWriter()
    writer.open()
    for count, tail in ((3, 4), (2, 6)):
        writer.decisions(count)
        assert check(writer.save(tmp_path))["unprotected"] == tail
    writer.checkpoint()
    assert check(writer.save(tmp_path))["unprotected"] == 0
    writer.decisions(2)
    writer.segment()
    for key in (OWN.vkey, None):
        report = check(writer.save(tmp_path), key)
        assert (report["verdict"], report["unprotected"], report["records"]) == ("open", 2, 8)


def test_run_close_without_its_checkpoint_is_open(tmp_path: Path) -> None:
    """A kill between run_close and the closing checkpoint leaves an open run."""
    writer = small_run()
    writer.segments[-1].pop()
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["unprotected"]) == ("open", 5)


def test_gaps_are_counted(tmp_path: Path) -> None:
    """Gap records with sound bodies make the verdict gap, at the first lost record, and sum up."""
    writer = RunWriter()
    writer.open()
    writer.decisions(2)
    writer.gap(5)
    writer.decisions(1)
    writer.gap(1)
    assert check(writer.save(tmp_path))["verdict"] == "gap"
    writer.checkpoint()
    writer.close()
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["at_kind"], report["gaps"]) == ("gap", 3, "gap", 6)
    assert (report["records"], report["unprotected"]) == (7, 0)


@pytest.mark.parametrize("first", [1, 2, 4, 5])
def test_a_segment_may_begin_with_a_gap(tmp_path: Path, first: int) -> None:
    """``first`` counts the records before it, not the numbers that were given."""
    writer = RunWriter()
    writer.open()
    writer.segment(first=first)
    writer.gap(3)
    writer.close()
    assert check(writer.save(tmp_path))["verdict"] == ("gap" if first == 1 else "altered")


@pytest.mark.parametrize("change", [{"first": 2}, {"last": 6}, {"count": 4}, {"count": 6}, {"count": None}])
def test_gap_must_count_what_is_lost(tmp_path: Path, change: dict[str, Any]) -> None:
    """A gap record that counts something else is altered, even when signed."""
    writer = RunWriter()
    writer.open()
    writer.decisions(2)
    writer.gap(5, **change)
    writer.close()
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["at_kind"], report["gaps"]) == ("altered", 3, "gap", 0)


def test_nothing_recorded_is_truncated(tmp_path: Path) -> None:
    """An empty journal, an empty segment and a header alone hold no record."""
    for segments in ([], [b""], [small_run().bytes()[0][: 8 + len(small_run().segments[0][0])]]):
        report = check(save(tmp_path, segments))
        assert (report["verdict"], report["at_seq"], report["records"]) == ("truncated", 0, 0)
        assert report["root"] == naive_root([]).hex()


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_segment_is_truncated(tmp_path: Path, missing: int) -> None:
    """A hole among the segments is truncated at the first record after it."""
    writer = small_run()
    (writer.save(tmp_path) / "journal" / f"{missing:06d}.sgj").unlink()
    report = check(tmp_path)
    assert (report["verdict"], report["at_seq"]) == ("truncated", [0, 6][missing])


def test_last_segment_missing_is_open(tmp_path: Path) -> None:
    """Without its last segment a run is not closed."""
    report = check(save(tmp_path, small_run().bytes()[:2]))
    assert (report["verdict"], report["unprotected"]) == ("open", 1)


# --- Signed by the writer, but against the rules ----------------------------------------------------


def forged(build: Callable[[RunWriter], None]) -> RunWriter:
    """Five records under a checkpoint, then what ``build`` adds."""
    writer = RunWriter()
    writer.open()
    writer.decisions(4)
    writer.checkpoint()
    build(writer)
    return writer


def out_of_order(writer: RunWriter) -> None:
    """A hole without a gap record."""
    writer.seq += 1
    writer.close()


def repeated(writer: RunWriter) -> None:
    """A number used twice."""
    writer.seq -= 1
    writer.close()


def second_open(writer: RunWriter) -> None:
    """run_open again."""
    writer.open()
    writer.close()


def record_after_close(writer: RunWriter) -> None:
    """A record between run_close and its checkpoint."""
    writer.record("run_close", {"counts": dict(writer.counts), "reason": "x"})
    writer.decisions(1)
    writer.checkpoint()


def unknown_kind(writer: RunWriter) -> None:
    """A code that no header names."""
    writer.leaf(struct.pack("<BBBQqq", 2, 99, 1, writer.seq, 0, 0) + b"\xc0", "odd")


def wrong_counts(writer: RunWriter) -> None:
    """run_close that forgets a kind."""
    writer.close(counts={"decision": 4})


def counts_of_text(writer: RunWriter) -> None:
    """run_close whose counts are no map."""
    writer.close(counts="many")


def empty_body(writer: RunWriter) -> None:
    """A record of nothing but its envelope."""
    writer.leaf(record("decision", writer.seq, b""), "decision")


def unreadable_close(writer: RunWriter) -> None:
    """run_close that is no MessagePack."""
    writer.record("run_close", b"\xc1")
    writer.checkpoint()


def header_inside(writer: RunWriter) -> None:
    """A second segment header."""
    writer.frame(writer.segments[0][0])


def type_four(writer: RunWriter) -> None:
    """A type that does not exist."""
    writer.frame(b"\x04")


def type_zero(writer: RunWriter) -> None:
    """Another one."""
    writer.frame(b"\x00")


@pytest.mark.parametrize(
    "build",
    [
        out_of_order,
        repeated,
        second_open,
        unknown_kind,
        wrong_counts,
        counts_of_text,
        empty_body,
        unreadable_close,
        header_inside,
        type_four,
        type_zero,
    ],
)
def test_broken_rules_are_altered_there(tmp_path: Path, build: Callable[[RunWriter], None]) -> None:
    """Order, counts and form are checked although chain and signatures hold; N is the record that breaks them."""
    report = check(forged(build).save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["records"], report["unprotected"]) == ("altered", 5, 5, 0)


def test_nothing_follows_run_close_but_its_checkpoint(tmp_path: Path) -> None:
    """A record between run_close and checkpoint, a second checkpoint, and a segment after it are altered."""
    report = check(forged(record_after_close).save(tmp_path))
    assert (report["verdict"], report["at_seq"]) == ("altered", 6)
    again, longer = small_run(), small_run()
    again.checkpoint()
    longer.segment()
    for writer in (again, longer):
        report = check(writer.save(tmp_path))
        assert (report["verdict"], report["at_seq"], report["records"]) == ("altered", 14, 14)
    save(tmp_path, [*small_run().bytes(), b""])
    assert check(tmp_path)["verdict"] == "altered"


@pytest.mark.parametrize(
    "change",
    [
        {"run": "run-2"},
        {"size": 7},
        {"size": "08"},
        {"root": "AAAA"},
        {"chain": "00" * 32},
        {"utc": "-1"},
        {"utc": "01"},
        {"utc": "1\nmore"},
        {"utc": ""},
    ],
)
def test_checkpoint_must_state_what_stands_before_it(tmp_path: Path, change: dict[str, Any]) -> None:
    """A checkpoint with another text, even signed, proves nothing since the one before."""
    writer = forged(lambda writer: writer.record("human", {"action": "stop"}))
    writer.decisions(2)
    writer.checkpoint(**change)
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["at_kind"]) == ("altered", 5, "human")
    assert (report["records"], report["unprotected"]) == (5, 0)
    assert report["root"] == naive_root(writer.leaves[:5]).hex()
    assert report["head"] == writer.leaves[4].hex()


def spoiled_notes() -> list[bytes]:
    """Notes for forged(): each spoiled in another place."""
    writer = forged(lambda writer: writer.decisions(3))
    note = OWN.note(writer.note_text())
    stranger = Signer(OWN.name, bytes(range(2, 34)))
    return [
        note[:-1],
        note + b"\n",
        note + note,
        note.replace(b"\xe2\x80\x94 ", b"- "),
        note.replace(b"\n\n", b"\n"),
        note.replace(OWN.name.encode(), b"someone"),
        note[:-4] + b"!!=\n",
        note[:-3] + b"\n",
        b"\xff" + note,
        b"",
        note + b"x" * 2**17,
        OTHER.note(writer.note_text()),
        stranger.note(writer.note_text()),
    ]


@pytest.mark.parametrize("at", range(13))
def test_checkpoint_note_has_one_form(tmp_path: Path, at: int) -> None:
    """Any other form, signer or signature of a checkpoint is altered, although chain and CRC fit."""
    writer = forged(lambda writer: writer.decisions(3))
    writer.frame(b"\x03" + spoiled_notes()[at])
    assert len(spoiled_notes()) == 13
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"]) == ("altered", 8 if at == 10 else 5)  # 10: too long to be looked at


def test_checkpoint_before_run_open_is_altered(tmp_path: Path) -> None:
    """There is nothing yet that a checkpoint could state."""
    writer = RunWriter()
    writer.segment()
    writer.checkpoint()
    writer.open()
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"]) == ("altered", 0)


@pytest.mark.parametrize(
    "change", [{"run_id": "run-2"}, {"key": "x"}, {"key": None}, {"key": OTHER.vkey}, {"key_purpose": "secret"}]
)
def test_run_open_must_name_run_and_key(tmp_path: Path, change: dict[str, Any]) -> None:
    """A run_open of another run, or without a sound key, is altered at 0."""
    writer = RunWriter()
    writer.open(**change)
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["at_kind"]) == ("altered", 0, "run_open")


@pytest.mark.parametrize(
    "change",
    [
        {"run": "run-2"},
        {"run": ""},
        {"run": 3},
        {"segment": 0},
        {"segment": "1"},
        {"first": 2},
        {"first": 7.0},
        {"format": "safeguard-journal/2"},
        {"schemas": "ab"},
        {"schemas": 3},
        {"kinds": {"x": "y"}},
        {"kinds": []},
        {"kinds": {"1": 3}},
        {"kinds": {"1": "a b"}},
        {"first": 9},
    ],
)
def test_segment_header_must_continue_the_run(tmp_path: Path, change: dict[str, Any]) -> None:
    """A header with other facts is altered at the first record to come."""
    writer = forged(lambda writer: writer.decisions(1))
    writer.segment(**change)
    writer.close()
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["records"]) == ("altered", 6, 6)


def test_header_with_another_chain_proves_nothing_since_the_checkpoint(tmp_path: Path) -> None:
    """A chain value that does not fit says that something since the last good checkpoint was changed."""
    writer = forged(lambda writer: writer.decisions(2))
    writer.segment(chain="00" * 32)
    report = check(writer.save(tmp_path))
    assert (report["verdict"], report["at_seq"], report["at_kind"], report["records"]) == ("altered", 5, "decision", 5)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 5000, b"\xff", b"[]", b"{}", b"1" * 50000, b"{" + b" " * 2**17 + b"}"]
)
def test_header_that_is_no_header(tmp_path: Path, text: bytes) -> None:
    """Any JSON, or none, in a header is judged without an error."""
    report = check(save(tmp_path, [frame(b"\x01" + text)]))
    assert (report["verdict"], report["at_seq"]) == ("altered", 0)


def test_segment_without_header(tmp_path: Path) -> None:
    """A segment that begins with a record is altered."""
    report = check(save(tmp_path, [frame(small_run().segments[0][1])]))
    assert (report["verdict"], report["at_seq"]) == ("altered", 0)


# --- Tampering without the key ----------------------------------------------------------------------


def tampered(run: Path, segments: list[bytes], packed: tuple[int, ...] = ()) -> str:
    """Verdict on these bytes, which is never complete nor self-signed."""
    save(run, segments, packed)
    verdict = str(check(run)["verdict"])
    assert verdict in ("altered", "truncated", "gap", "open")
    assert check(run, None)["verdict"] in ("altered", "truncated", "gap", "open")
    return verdict


def tiny_run() -> RunWriter:
    """The smallest run that has two segments, a checkpoint in the middle and a close."""
    writer = RunWriter()
    writer.open()
    writer.checkpoint()
    writer.segment()
    writer.decisions(1, body=1)
    writer.close()
    return writer


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_no_byte_can_be_flipped(tmp_path: Path, mask: int) -> None:
    """Flipping any byte of a closed run is found, with and without the key."""
    segments = tiny_run().bytes()
    assert check(save(tmp_path, segments))["verdict"] == "complete"
    for at, data in enumerate(segments):
        path = tmp_path / "journal" / f"{at:06d}.sgj"
        for byte in range(len(data)):
            path.write_bytes(data[:byte] + bytes([data[byte] ^ mask]) + data[byte + 1 :])
            for key in (OWN.vkey, None) if mask == 1 else (OWN.vkey,):
                assert verify(str(tmp_path), key)["verdict"] in ("altered", "truncated")
        path.write_bytes(data)


def test_no_byte_of_a_packed_segment_can_be_flipped(tmp_path: Path) -> None:
    """The same for the packed form."""
    segments = tiny_run().bytes()
    save(tmp_path, segments, (0, 1))
    path = tmp_path / "journal" / "000001.sgz"
    data = path.read_bytes()
    for byte in range(len(data)):
        path.write_bytes(data[:byte] + bytes([data[byte] ^ 0x10]) + data[byte + 1 :])
        assert check(tmp_path)["verdict"] in ("altered", "truncated")
    for end in range(len(data)):
        path.write_bytes(data[:end])
        assert check(tmp_path)["verdict"] in ("truncated", "open", "altered")  # open: between two blocks
    for rest in (b"\x00", bytes(4), data):
        path.write_bytes(data + rest)
        assert check(tmp_path)["verdict"] in ("truncated", "altered")


def test_every_tail_cut_is_found(tmp_path: Path) -> None:
    """Cut at any byte, a run is truncated inside a frame and open between frames."""
    writer = small_run()
    *before, last = writer.bytes()
    ends = {0}
    for content in writer.segments[-1]:
        ends.add(max(ends) + 8 + len(content))
    for end in range(len(last)):
        verdict = tampered(tmp_path, [*before, last[:end]])
        assert verdict == ("open" if end in ends and end else "truncated")


@pytest.mark.parametrize("rechain", [False, True])
@pytest.mark.parametrize("edit", ["swap", "delete", "duplicate", "edit"])
def test_frames_cannot_be_moved_or_removed(tmp_path: Path, edit: str, rechain: bool) -> None:
    """Frames swapped, deleted, repeated or edited are found, also when headers and checkpoint texts are recomputed."""
    original = small_run()
    for segment in range(3):
        for at in range(1, len(original.segments[segment]) - (edit == "swap")):
            contents = [list(contents) for contents in original.segments]
            here = contents[segment]
            if edit == "swap":
                here[at], here[at + 1] = here[at + 1], here[at]
            elif edit == "delete":
                del here[at]
            elif edit == "duplicate":
                here.insert(at, here[at])
            else:
                here[at] = here[at][:-1] + bytes([here[at][-1] ^ 1])
            if rechain:
                contents = rechained(contents)
            verdict = tampered(tmp_path, [b"".join(map(frame, contents)) for contents in contents])
            closing = segment == 2 and at == len(original.segments[2]) - 1
            assert verdict == ("open" if closing and edit == "delete" else "altered"), (segment, at)


def rechained(segments: list[list[bytes]], signer: Signer | None = None) -> list[list[bytes]]:
    """Headers and checkpoints rewritten so that they fit; signed anew, or the old signatures kept."""
    writer = RunWriter(OWN)
    for contents in segments:
        writer.segments.append([])
        for content in contents:
            if content[0] == 1:
                header = json.loads(content[1:]) | {"chain": writer.chain.hex()}
                content = b"\x01" + json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
            elif content[0] == 3:
                signature = content[content.index(b"\n\n") + 1 :]
                text = writer.note_text(utc=content.split(b"utc ")[1].split(b"\n")[0].decode())
                content = b"\x03" + (signer.note(text) if signer else text.encode() + signature)
            chain = writer.frame(content)
            if content[0] == 2:
                writer.leaves.append(chain)
    return writer.segments


def test_rechaining_helper_is_faithful() -> None:
    """Negative control: rewriting an untouched run gives it back."""
    assert rechained(small_run().segments) == small_run().segments


def test_signing_anew_needs_the_same_key(tmp_path: Path) -> None:
    """A changed run, rewritten and signed by another key, is altered; by its own key it is a statement."""
    segments = small_run().segments
    segments[1][2] = record("decision", 7, {"forged": True})
    for signer, verdict in ((OTHER, "altered"), (OWN, "complete")):
        save(tmp_path, [b"".join(map(frame, contents)) for contents in rechained(segments, signer)])
        assert check(tmp_path)["verdict"] == verdict
    save(tmp_path, small_run(OTHER).bytes())
    assert check(tmp_path)["verdict"] == "altered"
    assert check(tmp_path, None)["verdict"] == "self-signed"


def test_segments_of_other_runs_and_places(tmp_path: Path) -> None:
    """A segment of another run of the same key, two swapped and one repeated are altered."""
    own, other = small_run().bytes(), small_run(run_id="run-2").bytes()
    assert tampered(tmp_path, [own[0], other[1], own[2]]) == "altered"
    assert tampered(tmp_path, [other[0], *own[1:]]) == "altered"
    assert tampered(tmp_path, [own[1], own[0], own[2]]) == "altered"
    assert tampered(tmp_path, [own[0], own[0], *own[1:]]) == "altered"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage_is_never_complete(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any replacement of a stretch of bytes by other bytes is found, raw or packed, and gives a report."""
    segments = small_run().bytes()
    at = data.draw(st.integers(0, 2))
    start = data.draw(st.integers(0, len(segments[at])))
    stop = data.draw(st.integers(start, min(len(segments[at]), start + 300)))
    new = data.draw(st.binary(max_size=40))
    changed = segments[at][:start] + new + segments[at][stop:]
    if changed == segments[at]:
        return
    packed = data.draw(st.sampled_from([(), (0, 1, 2)]))
    tampered(tmp_path_factory.mktemp("run"), [*segments[:at], changed, *segments[at + 1 :]], packed)


# --- Both forms, ring, strange files ----------------------------------------------------------------


def test_a_segment_in_both_forms_must_be_the_same(tmp_path: Path) -> None:
    """After a kill between packing and removing both forms stand there: fine while they are equal."""
    segments = small_run().bytes()
    save(tmp_path, segments, (0,))
    raw = tmp_path / "journal" / "000000.sgj"
    raw.write_bytes(segments[0])
    assert check(tmp_path)["verdict"] == "complete"
    for wrong in (segments[0] + b"\x00", segments[0][:-1], segments[0][:-1] + b"\x00", b""):
        raw.write_bytes(wrong)
        report = check(tmp_path)
        assert (report["verdict"], report["at_seq"]) == ("altered", 0)
    raw.write_bytes(segments[0])
    packed = tmp_path / "journal" / "000000.sgz"
    packed.write_bytes(packed.read_bytes()[:-1])
    assert check(tmp_path)["verdict"] == "truncated"


def leftovers(tmp_path: Path, entries: list[bytes], **layout: int) -> dict[str, Any]:
    """Report on five records under a checkpoint and one more, with these contents in the ring."""
    forged(lambda writer: writer.decisions(1)).save(tmp_path)
    (tmp_path / "journal" / "ring").write_bytes(ring(entries, **layout))
    return check(tmp_path)


def entry(seq: int, kind: str = "decision", body: object = "x" * 50) -> bytes:
    """Content of a record for the ring."""
    return record(kind, seq, body)


def test_ring_continues_the_run(tmp_path: Path) -> None:
    """Records left in the ring are counted, in the tree and unprotected; those written already are skipped."""
    contents = [entry(seq) for seq in range(4, 9)]
    for first, taken in ((4, 0), (4, 2), (6, 0), (4, 5), (6, 3)):
        report = leftovers(tmp_path, contents[first - 4 :], taken=taken)
        records = 6 if first - 4 + taken == 5 else 9
        assert (report["verdict"], report["records"], report["unprotected"]) == ("open", records, records - 5)


def test_ring_wraps_anywhere(tmp_path: Path) -> None:
    """Wherever the entries lie in the ring, they are read."""
    contents = [entry(seq, body="y" * (seq * 13)) for seq in range(6, 12)]
    for start in range(0, 1536, 8):
        report = leftovers(tmp_path, contents, capacity=1536, start=start + 8 * 1536)
        assert (report["verdict"], report["records"]) == ("open", 12), start


def test_ring_alone_can_hold_a_run(tmp_path: Path) -> None:
    """A run whose writer died before its first segment is open while run_open is in the ring."""
    writer = small_run()
    save(tmp_path, [])
    (tmp_path / "journal" / "ring").write_bytes(ring(writer.segments[0][1:5]))
    report = check(tmp_path)
    assert (report["verdict"], report["records"]) == ("open", 4)
    (tmp_path / "journal" / "ring").write_bytes(ring([]))
    assert check(tmp_path)["verdict"] == "truncated"


def test_kinds_are_those_of_the_registry() -> None:
    """Codes and names that hold before a segment header says so are all that safeguard writes, in order."""
    assert dict(enumerate(verify_offline.KINDS.split(), 1)) == {code: kind.value for code, kind in BY_CODE.items()}


def test_ring_alone_may_hold_every_kind(tmp_path: Path) -> None:
    """Where no segment was written yet, no header names the kinds: records of all of them are known all the same."""
    writer = RunWriter()
    writer.open()
    special = {"run_open", "run_close", "gap", "retention_cut"}
    for kind in RecordKind:
        if kind.value not in special:
            writer.record(kind.value, {"x": 1})
    save(tmp_path, [])
    (tmp_path / "journal" / "ring").write_bytes(ring(writer.segments[0][1:]))
    found = check(tmp_path)
    assert (found["verdict"], found["records"]) == ("open", len(RecordKind) - len(special) + 1)


def test_ring_of_a_closed_run(tmp_path: Path) -> None:
    """A kill before the ring's removal leaves it empty or with written records: fine. New records in it are altered."""
    writer = small_run()
    written = [content for content in writer.segments[-1] if content[0] == 2]
    for contents, verdict in (([], "complete"), (written, "complete"), ([*written, entry(14)], "altered")):
        writer.save(tmp_path)
        (tmp_path / "journal" / "ring").write_bytes(ring(contents))
        assert check(tmp_path)["verdict"] == verdict


@pytest.mark.parametrize(
    "contents",
    [
        [entry(7)],
        [entry(6), entry(6)],
        [entry(6), entry(5)],
        [b"\x03note"],
        [small_run().segments[0][0]],
        [b"\x02"],
        [entry(0, "run_open")[:27]],
        [entry(6, "run_open")],
    ],
)
def test_ring_records_obey_the_rules(tmp_path: Path, contents: list[bytes]) -> None:
    """Holes, repetitions and other frames in the ring are altered."""
    assert leftovers(tmp_path, contents)["verdict"] == "altered"


@pytest.mark.parametrize(
    ("at", "value", "verdict"),
    [
        (0, 1, "altered"),
        *[(8, value, "altered") for value in (0, 2**63, 4095, 2**64 - 8)],
        *[(64, value, "altered") for value in (2**62, 12)],
        *[(128, value, "altered") for value in (2**40, 4)],
        *[(4096, value, "open") for value in (0, 2**31, 2**32 - 1, 2**64 - 1)],
        *[(64, value, "open") for value in (8, 96)],
    ],
)
def test_damaged_ring(tmp_path: Path, at: int, value: int, verdict: str) -> None:
    """A ring with impossible numbers is altered; what is no whole frame ends it, as after a power cut."""
    data = bytearray(ring([entry(6), entry(7)]))
    struct.pack_into("<Q", data, at, value)
    forged(lambda writer: writer.decisions(1)).save(tmp_path)
    (tmp_path / "journal" / "ring").write_bytes(data)
    report = check(tmp_path)
    assert (report["verdict"], report["records"]) == (verdict, 7 if (at, value) == (64, 96) else 6)


@pytest.mark.parametrize("byte", range(8, 80, 7))
def test_frame_damaged_in_the_ring_ends_it(tmp_path: Path, byte: int) -> None:
    """A flipped byte in the second of three entries leaves the first."""
    data = bytearray(ring([entry(6), entry(7), entry(8)]))
    data[4096 + 96 + byte] ^= 1
    forged(lambda writer: writer.decisions(1)).save(tmp_path)
    (tmp_path / "journal" / "ring").write_bytes(data)
    report = check(tmp_path)
    assert (report["verdict"], report["records"], report["unprotected"]) == ("open", 7, 2)


@pytest.mark.parametrize("size", [0, 100, 4095, 4096, 5000])
def test_short_ring_is_altered(tmp_path: Path, size: int) -> None:
    """A ring never has another size than its header says."""
    forged(lambda writer: writer.decisions(1)).save(tmp_path)
    (tmp_path / "journal" / "ring").write_bytes(ring([entry(6)])[:size])
    assert check(tmp_path)["verdict"] == "altered"


@pytest.mark.parametrize(
    "name", ["notes.txt", "000003.sgj.tmp", "0000003.sgj", "00000a.sgj", "000000.SGJ", "\udcff", "\n"]
)
def test_nothing_else_belongs_there(tmp_path: Path, name: str) -> None:
    """A strange name in the journal is altered after the last record, and named without control characters."""
    (small_run().save(tmp_path) / "journal" / name).write_bytes(b"")
    report = check(tmp_path)
    assert (report["verdict"], report["at_seq"], report["records"]) == ("altered", 14, 14)
    assert report["problem"].isprintable()
    assert report["problem"].isascii()


def test_links_folders_and_pipes_are_no_segments(tmp_path: Path) -> None:
    """What is not a plain file is strange, whatever it is called; it is never opened."""
    journal = small_run().save(tmp_path / "run") / "journal"
    data = (journal / "000002.sgj").read_bytes()
    (tmp_path / "elsewhere").write_bytes(data)
    makers: list[Callable[[Path], None]] = [
        lambda path: path.symlink_to(tmp_path / "elsewhere"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
    ]
    for make in makers:
        path = journal / "000002.sgj"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        make(path)
        assert check(tmp_path / "run")["verdict"] == "altered"


# --- Hostile sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "verdict"),
    [
        (struct.pack("<II", 0, 0), "altered"),
        (struct.pack("<II", 2**23 + 1, 0), "altered"),
        (struct.pack("<II", 2**32 - 1, 0) + bytes(100), "altered"),
        (struct.pack("<II", 2**23, 0), "truncated"),
        (bytes(7), "truncated"),
        (bytes(8), "altered"),
    ],
)
def test_length_fields_are_bounded(tmp_path: Path, tail: bytes, verdict: str) -> None:
    """A length outside 1..2**23 is altered; one within it that the file does not hold is truncated."""
    writer = forged(lambda writer: writer.decisions(1))
    report = check(save(tmp_path, [writer.bytes()[0] + tail]))
    assert (report["verdict"], report["at_seq"]) == (verdict, 6)


def test_largest_record_is_read(tmp_path: Path) -> None:
    """A frame of exactly 2**23 bytes is fine, one byte more is not."""
    for more, verdict in ((0, "complete"), (1, "altered")):
        writer = RunWriter()
        writer.open()
        length = 2**23 - 27 - 5 + more
        writer.record("human", b"\xdb" + struct.pack(">I", length) + b"z" * length)
        writer.close()
        assert check(writer.save(tmp_path, (0,)))["verdict"] == verdict


PEAK = """
import sys
sys.path.insert(0, sys.argv[1])
import verify_offline
code = verify_offline.main(sys.argv[2:])
sys.stderr.write(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


@pytest.mark.parametrize("bomb", ["zeros", "frame", "lengths", "counts"])
def test_bombs_stay_small(tmp_path: Path, bomb: str) -> None:
    """However far a packed segment expands, the check stays under 120 MiB."""
    head = small_run().bytes()[0]
    journal = save(tmp_path, []) / "journal"
    zeros = zlib.compress(bytes(300 * 2**20))
    lengths = {"zeros": [2**20] * 300, "frame": [8 + 2**23] * 2, "lengths": [2**32 - 1], "counts": [9]}[bomb]
    count = 2**32 - 1 if bomb == "counts" else len(lengths)
    first = zlib.compress(struct.pack(f"<{len(lengths)}I", *lengths))
    block = struct.pack("<IIII", count, len(first), len(zeros), zlib.crc32(first + zeros)) + first + zeros
    (journal / "000000.sgz").write_bytes(pack(head) + block)
    command = [sys.executable, "-I", "-c", PEAK, str(SOURCE.parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert int(done.stderr) < 120 * 1024


# --- Command ----------------------------------------------------------------------------------------


def command(*arguments: str, code: int) -> str:
    """Output of the verifier as a reviewer runs it, alone and isolated; its one error line where it fails."""
    done = subprocess.run([sys.executable, "-I", str(SOURCE), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code == 2:
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr
    assert done.stderr == ""
    return done.stdout


def test_command_and_exit_codes(tmp_path: Path) -> None:
    """Each verdict has its exit code; the key may be given as text or file; the report is JSON on request."""
    run = small_run().save(tmp_path / "run")
    (tmp_path / "key.pub").write_text(OWN.vkey + "\n")
    assert "complete" in command(str(run), "--key", OWN.vkey, code=0)
    assert json.loads(command(str(run), "--key", str(tmp_path / "key.pub"), "--json", code=0))["verdict"] == "complete"
    command(str(run), code=7)
    command(str(run), "--key", OTHER.vkey, code=3)
    last = run / "journal" / "000002.sgj"
    last.write_bytes(last.read_bytes()[:-1])
    command(str(run), code=4)
    last.unlink()
    command(str(run), code=6)
    writer = RunWriter()
    writer.open()
    writer.gap(3)
    command(str(writer.save(run)), code=5)


def test_unusable_arguments_are_one_line(tmp_path: Path) -> None:
    """Missing folders, wrong keys and unwritable outputs exit with 2 and say which."""
    run = str(small_run().save(tmp_path / "run"))
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "file").write_bytes(b"")
    for arguments in (
        [str(tmp_path / "nowhere")],
        [str(tmp_path)],
        [str(tmp_path / "file")],
        [run, "--key", "nonsense"],
        [run, "--key", ""],
        [run, "--key", str(tmp_path)],
        [run, "--key", str(tmp_path / "binary")],
        [run, "--key", str(tmp_path / "file")],
        [run, "--dump", str(tmp_path / "file")],
        [run, "--dump", str(tmp_path / "nowhere" / "out")],
    ):
        assert len(command(*arguments, code=2).splitlines()) == 1, arguments
    assert (tmp_path / "file").read_bytes() == b""


def test_null_bytes_in_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even a path that no system call takes is an error line."""
    assert main([str(tmp_path / "a\0b")]) == 2
    assert main([str(tmp_path), "--key", "a\0b"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_dump_gives_the_proved_records(tmp_path: Path) -> None:
    """--dump writes one JSON object a record, with its leaf hash, absent times null and infinities as words."""
    writer = RunWriter()
    writer.open()
    writer.record("decision", {"x": [float("nan"), 1.5], "s": "ü"} | {"y": None}, tick=3, t=-5, version=2)
    writer.record("human", b"\xc1")
    writer.record("human", struct.pack(">Bd", 0xCB, float("inf")))
    writer.close()
    out = tmp_path / "out.jsonl"
    command(str(writer.save(tmp_path / "run", (0,))), "--key", OWN.vkey, "--dump", str(out), code=0)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["hash"] for line in lines] == [leaf.hex() for leaf in writer.leaves]
    assert [line["seq"] for line in lines] == list(range(5))
    body = {"x": [None, 1.5], "s": "ü", "y": None}  # ormsgpack itself writes NaN as nil
    shown = {"kind": "decision", "v": 2, "seq": 1, "tick": 3, "t": -5, "body": body, "hash": lines[1]["hash"]}
    assert lines[1] in (shown, shown | {"body": body | {"x": ["NaN", 1.5]}})
    assert (lines[0]["tick"], lines[0]["t"]) == (None, None)
    assert [line["body"] for line in lines[2:4]] == [None, "Infinity"]


def test_dump_takes_back_what_a_checkpoint_refutes() -> None:
    """Records after the last good checkpoint leave the dump again when the next checkpoint is wrong."""
    writer = forged(lambda writer: writer.decisions(3))
    writer.checkpoint(size=99)
    out = io.BytesIO()
    run = Run(Key(OWN.vkey), out)
    with pytest.raises(verify_offline.ChainError) as caught:
        run.segment(0, iter(writer.bytes()))
    assert len(out.getvalue().splitlines()) == 8
    assert run.broken(caught.value)[:1] == ("altered",)
    assert len(out.getvalue().splitlines()) == run.records == 5


def test_file_stands_alone() -> None:
    """The verifier imports the standard library only and is Python 3.9."""
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 9))
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    assert {module.split(".")[0] for module in modules} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("block", [1, 3, 7, 64, 4096])
def test_blocks_may_end_anywhere(block: int) -> None:
    """Where a block of a file ends does not matter."""
    writer = small_run()
    run = Run(None, None)
    for number, data in enumerate(writer.bytes()):
        run.segment(number, iter([data[at : at + block] for at in range(0, len(data), block)]))
    assert (run.stage, run.records, run.root()) == ("closed", 14, naive_root(writer.leaves))
