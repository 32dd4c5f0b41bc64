"""Keys and signed checkpoints: Ed25519 (RFC 8032) over notes as in C2SP signed-note and tlog-checkpoint.

A key is one line of text, as in Go's note package: the public one ``name+id+base64``, the private one with
``PRIVATE+KEY+`` before it. Whoever has the private key can make a journal say anything: keep it from whoever is
judged by the journal, and the public key where a reviewer trusts it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from safeguard.core.errors import JournalError

Purpose: TypeAlias = Literal["field", "test", "ephemeral"]
"""What a key signs: runs of a machine at work, tests and simulations, or one run only, after which it is forgotten."""

_ED25519: Final = b"\x01"
_PRIVATE: Final = "PRIVATE+KEY+"
_NAME: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_SIGNATURE: Final = "\u2014 "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a signed note says of a journal: after ``size`` records the tree had ``root`` and the chain ``chain``.

    Attributes:
        origin: ``safeguard/`` and the run's id.
        utc: wall clock of the writer, ns; for people only.
    """

    origin: str
    size: int
    root: bytes
    chain: bytes
    utc: int

    def text(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\nchain {self.chain.hex()}\nutc {self.utc}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint in a note's text; raises ValueError unless it reads as one would be written."""
        origin, size, root, chain, utc = text.removesuffix("\n").split("\n")
        found = cls(
            origin,
            int(size),
            base64.b64decode(root, validate=True),
            bytes.fromhex(chain.removeprefix("chain ")),
            int(utc.removeprefix("utc ")),
        )
        if found.text() != text or len(found.root) != 32 or len(found.chain) != 32:
            raise ValueError("not in the form that is written")
        return found

    @classmethod
    def unproved(cls, note: bytes) -> Checkpoint:
        """What a signed note says, whoever signed it; raises ValueError where it is no checkpoint."""
        return cls.parse(note.decode().partition("\n\n")[0] + "\n")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that checks signatures.

    Attributes:
        name: of the key.
        raw: the key, 32 bytes.
    """

    name: str
    raw: bytes

    @property
    def id(self) -> bytes:
        """The first four bytes of SHA-256(name, newline, algorithm, key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.raw).decode()}"

    @classmethod
    def parse(cls, line: str) -> PublicKey:
        """The key in one line of text; raises JournalError."""
        name, raw = _parsed(line, "public")
        return cls(name, raw)

    def opened(self, note: bytes) -> Checkpoint:
        """What a signed note says; raises ValueError where it is no checkpoint or not signed with this key."""
        return Checkpoint.parse(self.signed_text(note))

    def signed_text(self, note: bytes) -> str:
        """The text of a signed note; raises ValueError where it is none or not signed with this key."""
        text, empty, signed = note.decode().partition("\n\n")
        text += "\n"
        expected = f"{_SIGNATURE}{self.name} "
        if not empty or not signed.startswith(expected) or not signed.endswith("\n") or "\n" in signed[:-1]:
            raise ValueError(f"it is not signed with the key {self.name}")
        signature = base64.b64decode(signed[len(expected) : -1], validate=True)
        if signature[:4] != self.id:
            raise ValueError(f"it is signed with another key than {self.name}+{self.id.hex()}")
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature[4:], text.encode())
        except InvalidSignature:
            raise ValueError("the signature is wrong") from None
        if base64.b64encode(signature).decode() != signed[len(expected) : -1]:
            raise ValueError("the signature is not in the form that is written")
        return text


class Signer:
    """A private key, which stays in this object.

    Args:
        name: of the key.
        seed: 32 secret bytes.
        purpose: written into every run.

    Attributes:
        public: what checks its signatures.
    """

    def __init__(self, name: str, seed: bytes, purpose: Purpose) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self.purpose: Purpose = purpose
        self.public = PublicKey(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def ephemeral(cls) -> Signer:
        """A fresh key that nobody keeps: it finds accidents and shows in the run that nobody vouches for it."""
        return cls("ephemeral", os.urandom(32), "ephemeral")

    def note(self, checkpoint: Checkpoint) -> bytes:
        """The checkpoint as a signed note."""
        return self.signed(checkpoint.text())

    def signed(self, text: str) -> bytes:
        """The text, which ends with a newline, as a signed note."""
        signature = self.public.id + self._key.sign(text.encode())
        return f"{text}\n{_SIGNATURE}{self.public.name} {base64.b64encode(signature).decode()}\n".encode()

    def line(self) -> str:
        """The private key as text; a secret."""
        return f"{_PRIVATE}{self.public.name}+{self.public.id.hex()}+{base64.b64encode(_ED25519 + self.seed).decode()}"

    @classmethod
    def parse(cls, line: str, purpose: Purpose) -> Signer:
        """The private key in one line of text; raises JournalError."""
        if not line.startswith(_PRIVATE):
            raise JournalError(f"not a private key: it does not start with {_PRIVATE}")
        name, seed = _parsed(line.removeprefix(_PRIVATE), "private", whole=False)
        made = cls(name, seed, purpose)
        if line.strip() != made.line():
            raise JournalError(f"the private key {name} is damaged: its id does not belong to it")
        return made


def _parsed(line: str, what: str, *, whole: bool = True) -> tuple[str, bytes]:
    """(name, 32 bytes) of a key; ``whole`` keys have the id of these very bytes."""
    name, _, rest = line.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not _NAME.fullmatch(name) or len(raw) != 33 or raw[:1] != _ED25519:
        raise JournalError(f"not a {what} key: expected one line name+id+base64 of an Ed25519 key")  # it may be secret
    if whole and PublicKey(name, raw[1:]).id.hex() != key_id:
        raise JournalError(f"the {what} key {name} is damaged: its id is {key_id}, its bytes say otherwise")
    return name, raw[1:]


def keygen(path: Path, name: str, purpose: Purpose) -> Signer:
    """Make a key pair: ``path`` (private, readable by its owner only) and ``path`` with ``.pub`` after it.

    The purpose is the second line of the private file. Raises JournalError where a file is there already.
    """
    if not _NAME.fullmatch(name):
        raise JournalError(f"key name {name!r}: 1 to 64 letters, digits and . _ / -")
    made = Signer(name, os.urandom(32), purpose)
    public = path.with_name(path.name + ".pub")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _exclusive(path, f"{made.line()}\n{purpose}\n", 0o600)
        try:
            _exclusive(public, f"{made.public}\n", 0o644)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        if isinstance(error, FileExistsError) and error.filename != str(path.parent):
            raise JournalError(f"{error.filename} is there already; a key is never written over") from error
        raise JournalError(f"cannot write {error.filename}: {error.strerror}") from error
    return made


def _exclusive(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)


def read_signer(path: Path) -> Signer:
    """The private key in a file of :func:`keygen`; raises JournalError."""
    line, _, purpose = _text(path).partition("\n")
    match purpose.strip():
        case "field" | "test" as known:
            return Signer.parse(line, known)
        case other:
            raise JournalError(f"{path}: second line {other!r}, expected what the key is for: field or test")


def read_public(given: str | Path) -> PublicKey:
    """The public key in a file, or in the text itself where it reads as one; raises JournalError."""
    text = str(given)
    return PublicKey.parse(text if text.count("+") >= 2 and not Path(text).exists() else _text(Path(text)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise JournalError(f"cannot read the key {path}: {error}") from error
