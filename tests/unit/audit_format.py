"""A tiny writer of journal format 1, made from its description alone: what the verifiers are tested against."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ormsgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CODES = {
    "run_open": 1,
    "episode_open": 2,
    "decision": 3,
    "human": 4,
    "fault_injected": 5,
    "fault_cleared": 6,
    "episode_close": 7,
    "run_close": 8,
    "gap": 9,
    "recovery": 10,
    "retention_cut": 11,
    "mode_change": 12,
    "fallback": 13,
    "near_miss": 14,
    "violation": 15,
    "fault_detected": 16,
    "health": 17,
    "software_change": 18,
    "config_intervention": 19,
    "effect": 20,
}
RING_DATA = 4096


def sha256(*parts: bytes) -> bytes:
    """Digest of the parts, joined."""
    return hashlib.sha256(b"".join(parts)).digest()


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """Merkle tree hash as RFC 6962 section 2.1 defines it, over leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01", naive_root(leaves[:split]), naive_root(leaves[split:]))


def frame(content: bytes) -> bytes:
    """Length, CRC, content."""
    return struct.pack("<II", len(content), zlib.crc32(content)) + content


def record(kind: str, seq: int, body: object, *, tick: int = -1, t: int = -(2**63), version: int = 1) -> bytes:
    """Content of a record frame."""
    packed = body if isinstance(body, bytes) else ormsgpack.packb(body)
    return struct.pack("<BBBQqq", 2, CODES[kind], version, seq, tick, t) + packed


class Signer:
    """A key pair with a name; the same on every call with the same arguments."""

    def __init__(self, name: str = "test-key", seed: bytes = bytes(range(32))) -> None:
        self.name = name
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        tagged = b"\x01" + self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = sha256(name.encode(), b"\n", tagged)[:4]
        self.vkey = f"{name}+{self.id.hex()}+{base64.b64encode(tagged).decode()}"

    def note(self, text: str) -> bytes:
        """C2SP signed note over ``text``, which ends with a newline."""
        blob = base64.b64encode(self.id + self._private.sign(text.encode())).decode()
        return f"{text}\n\u2014 {self.name} {blob}\n".encode()


OWN = Signer()
OTHER = Signer("other-key", bytes(range(1, 33)))


@dataclass
class RunWriter:
    """Builds the segments of a run in memory, frame by frame; every detail can be overridden to forge something.

    ``segments`` holds for each segment the list of its frames' contents.
    """

    signer: Signer = OWN
    run_id: str = "run-1"
    segments: list[list[bytes]] = field(default_factory=list[list[bytes]])
    chain: bytes = bytes(32)
    leaves: list[bytes] = field(default_factory=list[bytes])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    seq: int = 0
    utc: int = 1_700_000_000_000_000_000

    def frame(self, content: bytes) -> bytes:
        """Append a frame as it is; returns the new chain value."""
        self.segments[-1].append(content)
        self.chain = sha256(b"\x00", self.chain, content)
        return self.chain

    def segment(self, **changes: Any) -> None:
        """Begin a segment."""
        header: dict[str, Any] = {
            "chain": self.chain.hex(),
            "first": len(self.leaves),
            "format": "safeguard-journal/1",
            "kinds": {str(code): kind for kind, code in CODES.items()},
            "run": self.run_id,
            "schemas": "ab" * 32,
            "segment": len(self.segments),
        }
        self.segments.append([])
        text = json.dumps(header | changes, sort_keys=True, separators=(",", ":"))
        self.frame(b"\x01" + text.encode())

    def leaf(self, content: bytes, kind: str) -> None:
        """Append the content of a record frame and count it."""
        self.leaves.append(self.frame(content))
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def record(self, kind: str, body: object, **envelope: int) -> None:
        """Append the next record."""
        self.leaf(record(kind, self.seq, body, **envelope), kind)
        self.seq += 1

    def open(self, **changes: Any) -> None:
        """First segment and run_open."""
        if not self.segments:
            self.segment()
        key = {"key": self.signer.vkey, "key_purpose": "test", "previous": None}
        self.record("run_open", {"run_id": self.run_id, "note": "äöü", **key, **changes})

    def decisions(self, count: int, body: object | None = None) -> None:
        """``count`` decision records."""
        for at in range(count):
            content = {"seq": self.seq, "x": [0.5, -1.0, 3], "ok": True, "none": None} if body is None else body
            self.record("decision", content, tick=at, t=at * 1_000_000)

    def gap(self, lost: int, **changes: Any) -> None:
        """Lose ``lost`` records and say so."""
        first, self.seq = self.seq, self.seq + lost
        body = {"first": first, "last": self.seq - 1, "count": lost, "cause": "overload"}
        self.record("gap", body | changes)

    def note_text(self, **changes: object) -> str:
        """The text that a checkpoint signs here."""
        values: Mapping[str, object] = {
            "run": self.run_id,
            "size": len(self.leaves),
            "root": base64.b64encode(naive_root(self.leaves)).decode(),
            "chain": self.chain.hex(),
            "utc": self.utc,
        } | changes
        return "safeguard/{run}\n{size}\n{root}\nchain {chain}\nutc {utc}\n".format(**values)

    def checkpoint(self, signer: Signer | None = None, **changes: object) -> None:
        """Append a signed checkpoint."""
        self.frame(b"\x03" + (signer or self.signer).note(self.note_text(**changes)))
        self.utc += 1_000_000_000

    def close(self, **changes: Any) -> None:
        """run_close and the closing checkpoint."""
        self.record("run_close", {"counts": dict(self.counts), "reason": "finished"} | changes)
        self.checkpoint()

    def bytes(self) -> list[bytes]:
        """The raw segments."""
        return [b"".join(frame(content) for content in contents) for contents in self.segments]

    def save(self, run: Path, packed: Sequence[int] = ()) -> Path:
        """Write the run's folder, the segments in ``packed`` packed."""
        return save(run, self.bytes(), packed)


def pack(data: bytes, most: int = 3) -> bytes:
    """A raw segment, packed in blocks of at most ``most`` frames."""
    rows = list[bytes]()
    while data:
        length = min(8 + int(struct.unpack_from("<I", data)[0]), len(data)) if len(data) >= 8 else len(data)
        rows.append(data[:length])
        data = data[length:]
    found = b"SGPACK1\n"
    for at in range(0, len(rows), most):
        block = rows[at : at + most]
        groups = [[row for row in block if len(row) == length] for length in sorted({len(row) for row in block})]
        turned = b"".join(bytes(column) for group in groups for column in zip(*group, strict=True))
        parts = zlib.compress(struct.pack(f"<{len(block)}I", *map(len, block))), zlib.compress(turned)
        crc = zlib.crc32(b"".join(parts))
        found += struct.pack("<IIII", len(block), *map(len, parts), crc) + b"".join(parts)
    return found


def save(run: Path, segments: Sequence[bytes], packed: Sequence[int] = ()) -> Path:
    """Write a run's folder from its raw segments, replacing what stands there."""
    journal = run / "journal"
    journal.mkdir(parents=True, exist_ok=True)
    for old in journal.iterdir():
        old.unlink()
    for at, data in enumerate(segments):
        if at in packed:
            (journal / f"{at:06d}.sgz").write_bytes(pack(data))
        else:
            (journal / f"{at:06d}.sgj").write_bytes(data)
    return run


def small_run(signer: Signer = OWN, run_id: str = "run-1") -> RunWriter:
    """A closed run of three segments: 14 records, three checkpoints."""
    writer = RunWriter(signer, run_id)
    writer.open()
    writer.decisions(4)
    writer.checkpoint()
    writer.decisions(1)
    writer.segment()
    writer.decisions(3)
    writer.checkpoint()
    writer.record("human", {"action": "acknowledge"})
    writer.segment()
    writer.decisions(3)
    writer.close()
    return writer


def ring(contents: Sequence[bytes], capacity: int = 4096, start: int = 0, taken: int = 0) -> bytes:
    """A ring file: entries laid from position ``start``; the first ``taken`` of them consumed."""
    data, at, tail = bytearray(capacity), start, start
    for number, content in enumerate(contents):
        entry = frame(content)
        entry += bytes(-len(entry) % 8)
        if len(entry) > capacity - at % capacity:
            data[at % capacity : at % capacity + 4] = b"\xff\xff\xff\xff"
            at += capacity - at % capacity
        if number == taken:
            tail = at
        data[at % capacity : at % capacity + len(entry)] = entry
        at += len(entry)
    header = bytearray(RING_DATA)
    struct.pack_into("<8sQ", header, 0, b"SGRING1\n", capacity)
    struct.pack_into("<Q", header, 64, at)
    struct.pack_into("<Q", header, 128, at if taken >= len(contents) else tail)
    return bytes(header + data)
