"""Checks the journal of one safeguard run: one file, Python >= 3.9, its standard library, nothing else.

Copy it and run it:  ``python verify_offline.py RUN [--key PUB_FILE_OR_VKEY] [--json] [--dump OUT]``

RUN/journal holds segments ``000000.sgj``, packed ones ``000001.sgz``, … and, while the run is open, ``ring``. A segment
is a sequence of frames: length, CRC-32, content (little-endian). The first byte of the content tells a segment header
(1), a record (2) or a checkpoint (3). Where the first segments were cut, ``cut.sgc`` stands for them. Checked is:

* form: lengths, CRCs, headers, packed blocks, a ring left behind by a kill, and that nothing else is in the folder;
* chain: c = SHA256(0x00 || c || content) over all frames, from 32 zero bytes; headers and checkpoints state it;
* tree: the RFC 6962 Merkle tree over the values of c after each record; every checkpoint states size and root;
* signatures: every checkpoint is a C2SP signed note, verified here with Ed25519 (RFC 8032);
* a cut: run_open is the first leaf, size and peaks there hash to a signed root, and the key signs what is missing;
* order: run_open first, run_close last with its counts, no sequence number missing but those a ``gap`` record counts.

Verdicts, worst first, and exit codes: altered 3, truncated 4, gap 5, open 6, self-signed 7, complete 0; no check: 2.
"altered at N": record N is the first that is not proved. "unprotected": the records after the last valid checkpoint.

What it cannot tell: whether the records were true when they were written; whether PUB is the signer's key (do not ask
the run); whether a whole run, or the end of an open one, was withheld or written anew by whoever holds the private key
(compare ``root`` with a copy that a third party keeps); whether the run named in ``previous`` is sound (verify it).
Bodies are opened only where these rules need them, and for --dump: the proved records, one JSON object a line.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import islice
from typing import Any, BinaryIO, Optional, Tuple  # noqa: UP035  (Python 3.9 evaluates the two aliases)

EXIT = {"complete": 0, "altered": 3, "truncated": 4, "gap": 5, "open": 6, "self-signed": 7}
HEADER, RECORD, CHECKPOINT, SIGNATURE = 1, 2, 3, 4
CUT = "cut.sgc"
PREFIX = struct.Struct("<II")  # length, CRC-32
ENVELOPE = struct.Struct("<BBBQqq")  # type, kind, version, seq, tick, t
CODE_SEQ = struct.Struct("<xBxQ")  # of these the two that matter here
LONGEST = 2**23  # bytes in a content
SMALL = 2**16  # bytes in a header, a checkpoint, a key file
BLOCK = 2**20  # bytes read at once
PACK, PACK_FRAMES, PACK_BYTES = struct.Struct("<IIII"), 2**12, 2**24 + 8  # a packed block
DEPTH, VALUES = 64, 2**18  # bounds on one body
RING_DATA, JUMP = 4096, 0xFFFFFFFF
KINDS = """run_open episode_open decision human fault_injected fault_cleared episode_close run_close gap recovery
retention_cut mode_change fallback near_miss violation fault_detected health software_change config_intervention
effect"""  # by code from 1, until a segment header says so itself
SPECIAL = frozenset(["run_open", "run_close", "gap"])  # the kinds whose bodies matter here
Finding = Tuple[str, Optional[str], Optional[int], Optional[str]]  # noqa: UP006, UP045  verdict, problem, seq, kind


class RunError(Exception):
    """The run is not what it should be."""

    def __init__(self, verdict: str, problem: str, kind: str | None = None) -> None:
        super().__init__(problem)
        self.verdict, self.kind = verdict, kind  # kind: of the record there


class ChainError(RunError):
    """A stated chain value, root or signature is wrong: nothing since the last good checkpoint is proved."""


# --- Ed25519, RFC 8032 section 5.1; verification handles public data only, so its timing reveals nothing --------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = Tuple[int, int, int, int]  # noqa: UP006  extended coordinates X, Y, Z, T: x = X/Z, y = Y/Z, xy = T/Z
NEUTRAL: Point = (0, 1, 1, 0)


def add(p: Point, q: Point) -> Point:
    """Sum of two points; complete, so equal and neutral ones need no case of their own."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def decompress(data: bytes) -> Point:
    """The point with this encoding; ValueError where there is none or it is not canonical."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if len(data) != 32 or y >= P or v * x * x % P != u or (sign and not x):
        raise ValueError("not the encoding of a point")
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P


@lru_cache(maxsize=4)  # of the base point and of the few keys that one process meets
def multiples(p: Point) -> list[list[Point]]:
    """Row i holds 0, 1, …, 15 times 16^i p: a scalar then costs one addition for each of its hexadecimal digits."""
    rows: list[list[Point]] = []
    for _ in range(64):
        row = [NEUTRAL]
        while len(row) < 16:
            row.append(add(row[-1], p))
        rows.append(row)
        p = add(row[-1], p)
    return rows


BASE = multiples(decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little")))


class Key:
    """A public key in the form of Go's note package: ``<name>+<8 hex of key id>+<base64(0x01 + key)>``."""

    def __init__(self, vkey: str) -> None:
        self.vkey, (self.name, tag, encoded) = vkey, (vkey + "++").split("+", 2)
        data = unbase64(encoded[:-2])
        self.id, self.public = hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4], data[1:]
        if not re.fullmatch(r"[^\s+]+", self.name) or tag != self.id.hex() or data[:1] != b"\x01":
            raise ValueError("not a public key <name>+<key id>+<base64>")
        x, y, z, t = decompress(self.public)
        self.negative = multiples((-x % P, y, z, -t % P))

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether R = S B - k A: strict (S below the order, R compared as bytes), without cofactor."""
        r, s = signature[:32], int.from_bytes(signature[32:], "little")
        if len(signature) != 64 or s >= ORDER:
            return False
        k = int.from_bytes(hashlib.sha512(r + self.public + message).digest(), "little") % ORDER
        total = NEUTRAL
        for base, negative in zip(BASE, self.negative):  # noqa: B905  (no strict= in Python 3.9)
            total = add(add(total, base[s & 15]), negative[k & 15])
            s, k = s >> 4, k >> 4
        inverse = pow(total[2], -1, P)
        x, y = total[0] * inverse % P, total[1] * inverse % P
        return (y | (x & 1) << 255).to_bytes(32, "little") == r


def unbase64(text: str) -> bytes:
    """Bytes of canonical base64; ValueError otherwise."""
    data = base64.b64decode(text.encode(), validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


# --- MessagePack: maps with string keys, arrays, UTF-8, integers, float64, booleans, nil; bytes in decisions ----------

CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = {0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
BINARY = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
LENGTHS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}  # strings, arrays, maps


def word(number: float) -> float | str:
    """A number, or its name where JSON has none for it."""
    return number if number - number == 0 else str(number).replace("inf", "Infinity").replace("nan", "NaN")


def unpack(data: bytes, binary: bool = False) -> Any:
    """The one value in these bytes, floats as ``word`` has them; ValueError if unsound."""
    at, budget = 0, VALUES

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        if at > len(data):
            raise ValueError("value ends early")
        return data[at - size : at]

    def value(depth: int) -> Any:
        nonlocal budget
        budget -= 1
        if not depth or budget < 0:
            raise ValueError("nested too deeply or too many values")
        code = take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        if code in CONSTANTS:
            return CONSTANTS[code]
        if code in NUMBERS:
            (number,) = struct.unpack(NUMBERS[code], take(struct.calcsize(NUMBERS[code])))
            return word(number)
        if code in BINARY and binary:
            return take(struct.unpack(BINARY[code], take(struct.calcsize(BINARY[code])))[0])
        if code >= 0xC0 and code not in LENGTHS:
            raise ValueError(f"type 0x{code:02x} has no place here")
        size = code & (31 if code >= 0xA0 else 15)
        if code in LENGTHS:
            (size,) = struct.unpack(LENGTHS[code], take(struct.calcsize(LENGTHS[code])))
        if 0xA0 <= code < 0xDC:
            return take(size).decode()
        if 0x90 <= code < 0xDE:
            return [value(depth - 1) for _ in range(size)]
        pairs = [(value(depth - 1), value(depth - 1)) for _ in range(size)]
        if not all(isinstance(key, str) for key, _ in pairs) or len(dict(pairs)) < size:
            raise ValueError("a key is no string, or repeated")
        return dict(pairs)

    result = value(DEPTH)
    if at != len(data):
        raise ValueError("bytes after the value")
    return result


# --- Decisions of version 4: values in a fixed order, arrays as bytes, times after that of the record -----------------

FIELDS = {
    "observation": "q v t sensors instruction external_wrench estop drive_status",
    "sensor": "value t",
    "proposal": "actions t_obs t_inferred source seq features samples parts",
    "parts": "failed agreeing substitutes",
    "decision": "verdicts causes reasons mode configuration authority filter source command enforcement",
    "verdict": "monitor level score threshold p_value cause detail",
    "filter": """status solver source torque acceleration slack active margins effort iterations stuck provisional
        refusal position velocity""",
    "torque": "tau t expires seq",
    "position": "q t expires seq",
    "velocity": "v t expires seq",
    "pd": "q v kp kd tau_ff t expires seq",
    "terminal_stop": "reason t seq",
}
TIMES = {"t", "expires", "t_obs", "t_inferred"}
ARRAYS = {"actions", "features", "samples", "value", "external_wrench", "q", "v", "kp", "kd", "tau", "tau_ff"}
ARRAYS |= {"torque", "acceleration", "position", "velocity"}
MARGINS, STAGES = "position velocity torque clearance nearest", "intake policy controller monitors modes filter record"


def array(value: Any) -> Any:
    """Numbers in nested lists; with their shape where these cannot tell it, or are deeper than three."""
    shape, data = ([len(value) // 8], value) if isinstance(value, bytes) else value
    numbers: list[Any] = [word(number) for (number,) in struct.iter_unpack("<d", data)]
    if min(shape, default=0) < 0 or math.prod(shape) != len(numbers):
        raise ValueError("numbers do not fill the shape of their array")
    if not numbers or len(shape) > 3:
        return {"shape": shape, "data": numbers}
    for size in shape[:0:-1]:
        numbers = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    return numbers if shape else numbers[0]


def named(what: str, values: list[Any], now: int) -> dict[str, Any]:
    """Values with their names, arrays as lists, times as they were."""
    names = FIELDS[what].split()
    if len(values) != len(names):
        raise ValueError(f"{what} has other fields")
    body = dict(zip(names, values))  # noqa: B905  (no strict= in Python 3.9)
    for name in names:
        if name in TIMES:
            body[name] = (body[name] + now + 2**63) % 2**64 - 2**63
        elif name in ARRAYS and body[name] is not None:
            body[name] = array(body[name])
    return body


def decision(body: Any, tick: int | None, t: int | None) -> dict[str, Any]:
    """The body of a decision with its names; ValueError and its like where it is none."""
    now = 0 if t is None else t
    seen, made = named("observation", body["observation"], now), body["decision"]
    seen["sensors"] = {name: named("sensor", part, now) for name, part in seen["sensors"].items()}
    arrived = None if body["proposal"] is None else named("proposal", body["proposal"], now)
    if arrived and arrived["parts"] is not None:
        arrived["parts"] = named("parts", arrived["parts"], now)
    made = named("decision", made, now)
    (kind, *command), result = made["command"], named("filter", made["filter"], now)
    result["margins"] = dict(zip(MARGINS.split(), result["margins"]))  # noqa: B905
    made["command"] = {"type": kind, **named(kind, command, now)}
    if kind == "torque" and made["command"]["tau"] is None:
        made["command"]["tau"] = result["torque"]
    made["filter"] = result
    made["verdicts"] = [v if isinstance(v, str) else named("verdict", v, now) for v in made["verdicts"]]
    stages = [stage for (stage,) in struct.iter_unpack("<q", body["timings"])]
    if len(body) != 5 or len(stages) not in (7, 8):
        raise ValueError("not the fields, or not the durations, of a decision")
    timings = {"total": sum(stages), **dict(zip((STAGES + " total").split(), stages))}  # noqa: B905
    state = {name: seen.pop(name) for name in ("q", "v", "t")}
    outcome = {"observation": {"state": state, **seen}, "proposal": arrived, "decision": made, "timings": timings}
    return {"episode": body["episode"], "tick": tick, "now": now, **outcome}


# --- Files ------------------------------------------------------------------------------------------------------------


def unpacked(file: BinaryIO) -> Iterator[bytes]:
    """The frames in a packed segment, a block at a time; memory stays bounded whatever it expands to.

    A block has its frames by length, ascending; those of one length are a matrix of bytes, stored column by column.
    """
    if file.read(8) != b"SGPACK1\n":
        raise RunError("altered", "no packed segment")
    while head := file.read(PACK.size):
        count, first, second, crc = PACK.unpack(head) if len(head) == PACK.size else (1, 0, 0, 0)
        if not 0 < count <= PACK_FRAMES or max(first, second) > 2 * PACK_BYTES:
            raise RunError("altered", f"packed block of {count} frames in {first} and {second} bytes")
        packed = file.read(first + second)
        if len(head) < PACK.size or len(packed) < first + second:
            raise RunError("truncated", "packed segment ends inside a block")
        if zlib.crc32(packed) != crc:
            raise RunError("altered", "CRC of a packed block is wrong")
        lengths = struct.unpack(f"<{count}I", inflate(packed[:first], 4 * count))
        if sum(lengths) > PACK_BYTES or 0 in lengths:
            raise RunError("altered", f"packed block of {sum(lengths)} bytes")
        data, at = inflate(packed[first:], sum(lengths)), 0
        rows: dict[int, Iterator[bytes]] = {}
        for length in sorted(set(lengths)):
            size = lengths.count(length) * length
            rows[length] = iter(by_rows(data[at : at + size], length))
            at += size
        yield b"".join(next(rows[length]) for length in lengths)


def by_rows(data: bytes, length: int) -> list[bytes]:
    """The rows, ``length`` bytes each, of a matrix that is given column by column."""
    count = len(data) // length if length else 0
    return [data[row::count] for row in range(count)]


def inflate(data: bytes, size: int) -> bytes:
    """The one deflated stream in ``data``, which must hold ``size`` bytes."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise RunError("altered", f"packed block is damaged: {error}") from None
    if len(found) != size or not stream.eof or stream.unused_data:
        raise RunError("altered", "packed block is not what it says")
    return found


def frames(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Contents of the frames in a segment, each with its length and CRC checked."""
    prefix, crc32 = PREFIX.unpack_from, zlib.crc32
    buffer, at = b"", 0
    for block in blocks:
        buffer = buffer[at:] + block
        at, end = 0, len(buffer)
        while end - at >= 8:
            length, crc = prefix(buffer, at)
            if not 0 < length <= LONGEST:
                raise RunError("altered", f"frame of {length} bytes")
            stop = at + 8 + length
            if stop > end:
                break
            content = buffer[at + 8 : stop]
            if crc32(content) != crc:
                raise RunError("altered", "CRC of a frame is wrong")
            yield content
            at = stop
    if at < len(buffer):
        raise RunError("truncated", "segment ends inside a frame")


def ring_frames(file: BinaryIO) -> Iterator[bytes]:
    """Contents of the whole frames that no writer took out of the ring; a power cut may leave others behind them."""
    sound, capacity, head, at = False, 0, 0, 0
    for _ in range(100):  # a writer at work moves both counters while one looks
        file.seek(0)
        magic, capacity, head, at = struct.unpack_from("<8sQ48xQ56xQ", file.read(RING_DATA).ljust(RING_DATA))
        sound = magic == b"SGRING1\n" and capacity and not (capacity | head | at) % 8 and at <= head <= at + capacity
        if sound:
            break
    if not sound or os.fstat(file.fileno()).st_size != RING_DATA + capacity:
        raise RunError("altered", "ring is none: wrong header or size")
    while at < head:
        room = capacity - at % capacity
        file.seek(RING_DATA + at % capacity)
        length, crc = PREFIX.unpack(file.read(8))
        if length == JUMP and room < capacity and room <= head - at:
            at += room
            continue
        at += 8 + length + -length % 8
        if not 0 < length <= LONGEST or 8 + length > room or at > head:
            return
        content = file.read(length)
        if zlib.crc32(content) != crc:
            return
        yield content


# --- The run ----------------------------------------------------------------------------------------------------------


class Run:
    """Takes the frames of a run in order and keeps what the next one is checked against: a few hundred bytes.

    ``stage``: "new" (no record yet), "running", "covered" (by a checkpoint), "closing" (run_close came), "closed".
    """

    def __init__(self, key: Key | None, dump: BinaryIO | None) -> None:
        self.given, self.key, self.dump = key, key, dump
        self.stage, self.name, self.names = "new", "", dict(enumerate(KINDS.split(), 1))
        self.chain = self.leaf = bytes(32)
        self.records = self.next = self.lost = self.gap_at = self.covered = self.cut = 0
        self.counts: dict[str, int] = {}
        self.peaks: list[bytes] = []  # roots of the full subtrees, largest first
        self.suspect: str | None = None  # kind of the first record after the last good checkpoint
        self.good: dict[str, Any] = {}
        self.remember()

    def remember(self) -> None:
        """Keep what a checkpoint proves, to come back to when the next one is wrong."""
        self.good = {name: vars(self)[name] for name in ("records", "next", "leaf", "lost")}
        self.good.update(peaks=self.peaks[:], counts=dict(self.counts))
        self.covered, self.written = self.records, self.dump.tell() if self.dump else 0

    def root(self) -> bytes:
        """Merkle root over all records so far."""
        root = self.peaks[-1] if self.peaks else hashlib.sha256().digest()
        for peak in self.peaks[-2::-1]:
            root = hashlib.sha256(b"\x01" + peak + root).digest()
        return root

    def segment(self, number: int, blocks: Iterator[bytes]) -> None:
        """Take the frames of a whole segment."""
        at_start = True
        for content in frames(blocks):
            kind = content[0]
            if at_start != (kind == HEADER) or kind not in (HEADER, RECORD, CHECKPOINT):
                raise RunError("altered", f"frame of type {kind} stands where it must not")
            if kind == RECORD:
                self.record(content)
                continue
            if len(content) > SMALL:
                raise RunError("altered", f"frame of type {kind} and {len(content)} bytes")
            if kind == HEADER:
                self.header(number, content)
            else:
                self.checkpoint(content)
            self.chain = hashlib.sha256(b"\x00" + self.chain + content).digest()
            at_start = False
        if at_start:
            raise RunError("truncated", f"segment {number} is empty")

    def header(self, number: int, content: bytes) -> None:
        """Check the first frame of a segment."""
        try:
            header = json.loads(content[1:].decode())
            kinds, first, run, digest = header["kinds"], header["first"], header["run"], header["schemas"]
            names = {int(code): name for code, name in kinds.items()}
            named = all(name.isascii() and name.isidentifier() for name in kinds.values())
            if not named or len(bytes.fromhex(digest)) != 32 or not isinstance(run, str) or type(first) is not int:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RunError("altered", "segment header is malformed") from None
        places = {"format": "safeguard-journal/1", "run": self.name or run, "segment": number}
        for what, right in places.items():
            if header.get(what) != right:
                raise RunError("altered", f"segment header states another {what} than {right!a}")
        if not run or first != self.records:
            raise RunError("altered", "segment header states no run, or a first record that was there already")
        if header.get("chain") != self.chain.hex():
            raise ChainError("altered", "segment header states another chain value")
        self.name, self.names = run, names

    def record(self, content: bytes) -> None:
        """Check a record and add it to chain and tree."""
        if len(content) <= ENVELOPE.size:
            raise RunError("altered", "record without a body")
        code, seq = CODE_SEQ.unpack_from(content)
        name = self.names.get(code)
        if name is None or name in SPECIAL or seq != self.next or self.stage != "running":
            name = self.special(name, seq, content)
        self.leaf = self.chain = leaf = hashlib.sha256(b"\x00" + self.chain + content).digest()
        self.next = seq + 1
        self.records = size = self.records + 1
        self.counts[name] = self.counts.get(name, 0) + 1
        peaks = self.peaks
        peaks.append(leaf)
        while not size & 1:
            right = peaks.pop()
            peaks[-1] = hashlib.sha256(b"\x01" + peaks[-1] + right).digest()
            size >>= 1
        if self.dump:
            self.dump.write(dump_line(name, content, leaf))

    def special(self, name: str | None, seq: int, content: bytes) -> str:
        """Check a record that is more, or less, than the next ordinary one; returns its kind."""
        if name is None:
            raise RunError("altered", "record of a kind that the segment header does not name")
        if self.stage in ("closing", "closed"):
            raise RunError("altered", "record after run_close", name)
        if (name == "run_open") != (self.stage == "new"):
            raise RunError("altered", "run_open must be the first record and no other", name)
        if (name == "gap") != (seq > self.next) or seq < self.next:
            raise RunError("altered", f"record {seq} stands where {self.next} belongs", name)
        if name in SPECIAL:
            try:
                self.body(name, unpack(content[ENVELOPE.size :]), seq)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise RunError("altered", f"{name} has a wrong body", name) from None
        self.suspect = name if self.stage in ("new", "covered") else self.suspect
        self.stage = "closing" if name == "run_close" else "running"
        return name

    def body(self, name: str, body: dict[str, Any], seq: int) -> None:
        """Check the body of a special kind; ValueError and its like where it is wrong."""
        if name == "gap":
            if [body["first"], body["last"], body["count"]] != [self.next, seq - 1, seq - self.next]:
                raise ValueError
            self.gap_at = self.gap_at if self.lost else self.next
            self.lost += seq - self.next
        elif name == "run_close":
            if {kind: count for kind, count in body["counts"].items() if count} != self.counts:
                raise ValueError
        else:
            own, run = Key(body["key"]), body["run_id"]
            if run != (self.name or run) or body["key_purpose"] not in ("field", "test", "ephemeral"):
                raise ValueError
            if self.given and self.given.vkey != own.vkey:
                raise RunError("altered", "signed by another key than the one given", name)
            self.name, self.key = run, own

    def checkpoint(self, content: bytes) -> None:
        """Check a checkpoint against the records so far, and its signature."""
        if self.key is None or self.stage in ("new", "closed"):
            raise RunError("altered", "checkpoint before run_open or after the closing one")
        root = base64.b64encode(self.root()).decode()
        text = f"safeguard/{self.name}\n{self.records}\n{root}\nchain {self.chain.hex()}\nutc ".encode()
        if not content.startswith(text, 1):
            raise ChainError("altered", "checkpoint states another run, size, root or chain value")
        utc = re.match(rb"(?:0|[1-9][0-9]{0,19})\n", content[1 + len(text) :])
        if not utc or not self.signs(text + utc[0], content[1:]):
            raise ChainError("altered", "checkpoint is not signed by this key")
        self.stage, self.suspect = "closed" if self.stage == "closing" else "covered", None
        self.remember()

    def signs(self, text: bytes, note: bytes) -> bool:
        """Whether the note is this text, signed with the key of the run."""
        rest = re.fullmatch(rb"\n\xe2\x80\x94 (\S+) (\S+)\n", note[len(text) :]) if note.startswith(text) else None
        if not rest or self.key is None or rest[1] != self.key.name.encode():
            return False
        try:
            signature = unbase64(rest[2].decode())
        except ValueError:
            return False
        return signature[:4] == self.key.id and self.key.verifies(text, signature[4:])

    def begin_late(self, contents: list[bytes]) -> list[str]:
        """Take the frames of a cut; returns the digests of the segments that are gone."""
        if [content[0] for content in contents] != [HEADER, RECORD, CHECKPOINT, RECORD, SIGNATURE]:
            raise RunError("altered", f"{CUT} does not hold the frames of a cut")
        header, opened, note, statement, signature = contents
        signed = bytes(32)
        for content in contents[:4]:
            signed = hashlib.sha256(b"\x00" + signed + content).digest()
        self.header(0, header)
        self.chain = hashlib.sha256(b"\x00" + self.chain + header).digest()
        self.record(opened)
        self.suspect = None
        if not self.signs(f"safeguard/{self.name}/retention_cut\nchain {signed.hex()}\n".encode(), signature[1:]):
            raise ChainError("altered", f"{CUT} is not signed by this key")
        try:
            digests = self.cut_body(statement)
            stated = re.search(rb"\nchain ([0-9a-f]{64})\n", note)
            self.chain = self.leaf = bytes.fromhex(stated[1].decode()) if stated else b""
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ChainError("altered", f"{CUT} does not say what was cut") from None
        self.next = self.records
        self.checkpoint(note)
        self.chain = hashlib.sha256(b"\x00" + self.chain + note).digest()
        self.cut = self.records - 1
        return digests

    def cut_body(self, statement: bytes) -> list[str]:
        """Go to where a retention_cut ends, if run_open is the first of the records that it stands for."""
        envelope, body = ENVELOPE.unpack_from(statement.ljust(ENVELOPE.size)), unpack(statement[ENVELOPE.size :])
        size, root, counts, following = body["size"], self.leaf, {"run_open": 1}, 1
        for cut in body["cuts"]:
            if cut["first"] != following or sum(cut["counts"].values()) != cut["last"] + 1 - following:
                raise ValueError
            for kind, count in cut["counts"].items():
                counts[kind] = counts.get(kind, 0) + count
            following = cut["last"] + 1
        for sibling in body["path"]:
            root = hashlib.sha256(b"\x01" + root + bytes.fromhex(sibling)).digest()
        peaks = [bytes.fromhex(peak) for peak in body["peaks"]]
        placed = envelope == (RECORD, 11, 1, size - 1, -1, -(2**63)) and size == following > 1 and body["digests"]
        fits = len(peaks) == bin(size).count("1") and len(body["path"]) == size.bit_length() - 1
        if not placed or not fits or peaks[0] != root:
            raise ValueError
        self.records, self.peaks, self.counts = size, peaks, counts
        return [str(digest) for digest in body["digests"]]

    def ring(self, contents: Iterator[bytes]) -> None:
        """Take what a kill left in the ring; the first of it may stand in the last segment already."""
        written = True
        for content in contents:
            if content[0] != RECORD or len(content) <= ENVELOPE.size:
                raise RunError("altered", "something else than a record in the ring")
            written = written and CODE_SEQ.unpack_from(content)[1] < self.next
            if not written:
                self.record(content)

    def broken(self, error: RunError) -> Finding:
        """Where the check had to end; takes back what is not proved."""
        verdict, problem, kind = error.verdict, str(error), error.kind
        if isinstance(error, ChainError):
            vars(self).update(self.good)
            kind = self.suspect
            if self.dump:
                self.dump.truncate(self.written)
        return verdict, problem, self.next, kind

    def ended(self) -> Finding:
        """What is left to say where everything was read and nothing is broken."""
        if not self.records:
            return "truncated", "the run holds no record", 0, None
        if self.lost:
            return "gap", f"{self.lost} records were lost, and counted", self.gap_at, "gap"
        if self.stage != "closed":
            return "open", f"not closed; unprotected tail of {self.records - self.covered} records", None, None
        if not self.given:
            return "self-signed", "no key given: whoever wrote the run may have made its key", None, None
        return "complete", None, None, None


def walk(run: Run, folder: str, files: set[str], left: list[bytes], odd: RunError | None) -> None:
    """Take all files of a journal in order, then what is ``left`` in a ring; RunError at the first that is wrong."""
    start, last = 0, max((int(name[:6]) for name in files - {"ring", CUT}), default=-1)
    if CUT in files:
        with open(os.path.join(folder, CUT), "rb") as file:
            digests = run.begin_late(list(islice(frames(iter(lambda: file.read(BLOCK), b"")), 6)))
        start = len(digests)
        for name in sorted(name for name in files - {"ring", CUT} if int(name[:6]) < start):  # a kill left them
            if not same(folder, name, digests[int(name[:6])]):
                raise RunError("altered", f"{name} is not the segment that was cut")
    for number in range(start, last + 1):
        raw, packed = f"{number:06d}.sgj", f"{number:06d}.sgz"
        if run.stage == "closed":
            raise RunError("altered", f"segment {number} after the closing checkpoint")
        if not files & {raw, packed} and not os.path.isfile(os.path.join(folder, packed)):  # packed since it was listed
            raise RunError("truncated", f"segment {number} is missing")
        if {raw, packed} <= files and digest_of(folder, raw) != digest_of(folder, packed):  # a kill leaves both
            raise RunError("altered", f"{raw} and {packed} differ")
        try:
            run.segment(number, segment_blocks(folder, raw if raw in files else packed))
        except RunError as error:  # a writer killed as it writes leaves a part of a frame; the ring has all of it
            kept = raw in files and "ring" in files and number == last and run.stage != "closed"
            if error.verdict != "truncated" or not kept:
                raise
    if odd is not None:
        raise odd
    run.ring(iter(left))


def segment_blocks(folder: str, name: str) -> Iterator[bytes]:
    """The frames of a segment in blocks; of its packed form where a writer at work has just removed the raw one."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            yield from unpacked(file) if name.endswith(".sgz") else iter(lambda: file.read(BLOCK), b"")
    except FileNotFoundError:  # as it is opened: no block has been given out
        if name.endswith(".sgz"):
            raise
        yield from segment_blocks(folder, name.replace(".sgj", ".sgz"))


def digest_of(folder: str, name: str) -> str:
    """SHA-256 of a segment's frames; RunError where they cannot be unpacked."""
    digest = hashlib.sha256()
    for block in segment_blocks(folder, name):
        digest.update(block)
    return digest.hexdigest()


def same(folder: str, name: str, digest: str) -> bool:
    """Whether a segment's frames have this digest."""
    try:
        return digest_of(folder, name) == digest
    except RunError:
        return False


def ring_left(journal: str) -> tuple[list[bytes], RunError | None]:
    """What the ring holds, if there is one, and what is wrong with it; read before everything else.

    A writer at work moves frames from there to the segments: what is looked at later has all that was taken out.
    """
    found: list[bytes] = []
    try:
        with open(os.path.join(journal, "ring"), "rb") as file:
            found.extend(ring_frames(file))
    except FileNotFoundError:
        pass
    except RunError as error:
        return found, error
    return found, None


def verify(folder: str, key: str | None = None, dump: BinaryIO | None = None) -> dict[str, Any]:
    """Report on the run in ``folder``, for a vkey if given; ValueError if that is none, OSError where nothing opens."""
    run, journal = Run(Key(key) if key is not None else None, dump), os.path.join(folder, "journal")
    left, odd = ring_left(journal)
    with os.scandir(journal) as entries:
        plain = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    files = {name for name in plain if plain[name] and re.fullmatch(r"[0-9]{6}\.(sgj|sgz)|ring|cut\.sgc", name)}
    unfinished = re.compile(r"([0-9]{6}\.sgz|cut\.sgc)\.part")  # by a kill
    parts = {name for name in plain if plain[name] and unfinished.fullmatch(name)}
    try:
        walk(run, journal, files, left, odd)
        finding = run.ended()
    except RunError as error:
        finding = run.broken(error)
    if (strange := plain.keys() - files - parts) and finding[0] != "altered":
        finding = "altered", f"{min(strange)!a} does not belong into a journal", run.next, None
    report: dict[str, Any] = dict(zip(("verdict", "problem", "at_seq", "at_kind"), finding))  # noqa: B905
    report |= {"records": run.records, "counts": run.counts, "head": run.leaf.hex(), "root": run.root().hex()}
    report |= {"key": run.key and run.key.vkey, "gaps": run.lost, "unprotected": run.records - run.covered}
    return report | {"cut": run.cut}


def dump_line(kind: str, content: bytes, leaf: bytes) -> bytes:
    """One record as a line of JSON, decisions with their names; a body that is outside the format becomes null."""
    _, _, version, seq, tick, t = ENVELOPE.unpack_from(content)
    tick, t = None if tick == -1 else tick, None if t == -(2**63) else t
    line = {"kind": kind, "v": version, "seq": seq, "tick": tick, "t": t, "body": None, "hash": leaf.hex()}
    bare = kind == "decision" and version == 4
    try:
        body = unpack(content[ENVELOPE.size :], binary=bare)
        line["body"] = decision(body, tick, t) if bare else body
        return json.dumps(line, allow_nan=False).encode() + b"\n"
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return json.dumps({**line, "body": None}).encode() + b"\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check the journal of a safeguard run.", epilog=f"Exit codes: {EXIT}")
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--key", help="public key of the signer, or a file that holds it")
    parser.add_argument("--json", action="store_true", help="report in one line of JSON")
    parser.add_argument("--dump", metavar="OUT", help="write the proved records to this new file, a line of JSON each")
    given = parser.parse_args(arguments)
    try:
        key = given.key
        if key is not None and os.path.exists(key):
            with open(key, "rb") as file:
                key = file.read(SMALL).decode().strip()
        with open(given.dump, "xb") if given.dump else nullcontext() as file:
            report = verify(given.run, key, file)
        lines = [f"{name:11}  {json.dumps(value)}" for name, value in report.items()]
        sys.stdout.write((json.dumps(report) if given.json else "\n".join(lines)) + "\n")
    except (OSError, ValueError, struct.error) as error:  # the last: a ring that shrinks while it is read
        sys.stderr.write(f"verify_offline: {str(error)!a}\n")
        return 2
    return EXIT[report["verdict"]]


if __name__ == "__main__":
    sys.exit(main())
