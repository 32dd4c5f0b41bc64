from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.audit.journal.keys import Checkpoint, PublicKey, Signer, keygen, read_public, read_signer
from safeguard.core.errors import JournalError

SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
"""The key of Go's checksum database, as Go's own tools have it built in."""

# From the tests of Go's golang.org/x/mod/sumdb/note.
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="

SIGNER = Signer("arm", bytes(range(32)), "test")
CHECKPOINTS = st.builds(
    Checkpoint,
    st.text("abcdef0123456789-./ ", min_size=1, max_size=20).map(lambda name: f"safeguard/{name}"),
    st.integers(0, 2**63),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**62),
)


# -- keys as text -----------------------------------------------------------------------------------------


def test_keys_are_those_of_go() -> None:
    """A verifier key of Go parses, has the id that it carries, and is written as it was."""
    key = PublicKey.parse(SUMDB)
    assert (key.name, key.id.hex(), str(key)) == ("sum.golang.org", "033de0ae", SUMDB)


def test_signatures_are_those_of_go() -> None:
    """The private key of Go's tests has Go's public key, and signs Go's text with Go's signature."""
    peter = Signer.parse(PETER_PRIVATE, "test")
    assert (str(peter.public), peter.line()) == (PETER_PUBLIC, PETER_PRIVATE)
    signature = peter.public.id + peter._key.sign(PETER_TEXT.encode())  # pyright: ignore[reportPrivateUsage]
    assert base64.b64encode(signature).decode() == PETER_SIGNATURE


@given(name=st.from_regex(r"\A[A-Za-z0-9._/-]{1,64}\Z"), seed=st.binary(min_size=32, max_size=32))
def test_lines_come_back(name: str, seed: bytes) -> None:
    """Both keys are one line that parses into the same key."""
    signer = Signer(name, seed, "field")
    again = Signer.parse(signer.line(), "field")
    assert (again.seed, again.public, again.purpose) == (seed, signer.public, "field")
    assert PublicKey.parse(f"{signer.public}\n") == signer.public


BROKEN = {
    "empty": ("", "not a public key"),
    "no name": ("+033de0ae+" + SUMDB.rsplit("+", 1)[1], "not a public key"),
    "a name with a space": (SUMDB.replace("sum.", "sum "), "not a public key"),
    "another key's id": (SUMDB.replace("033de0ae", "033de0af"), "its id is 033de0af"),
    "another name": (SUMDB.replace("golang", "gopher"), "sum.gopher.org is damaged"),
    "a changed letter": (SUMDB.replace("Ac4z", "Ac4y"), "its bytes say otherwise"),
    "one letter less": (SUMDB[:-1], "not a public key"),
    "another algorithm": (SUMDB.replace("+Ac4z", "+As4z"), "Ed25519"),
    "a private key": (SIGNER.line(), "public key"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_public_key_is_named(case: str) -> None:
    """A key that was not copied whole is refused, with what is wrong."""
    line, says = BROKEN[case]
    with pytest.raises(JournalError, match=re.escape(says)):
        PublicKey.parse(line)


def test_a_refusal_does_not_tell_a_secret() -> None:
    """Who gives the private key where the public one belongs does not find its secret in a log."""
    secret = SIGNER.line().rsplit("+", 1)[1]
    for line in (SIGNER.line(), SIGNER.line().removeprefix("PRIVATE+KEY+")):
        with pytest.raises(JournalError) as raised:
            PublicKey.parse(line)
        assert secret[:8] not in str(raised.value)


BROKEN_PRIVATE = {
    "a public key": (str(SIGNER.public), "does not start with PRIVATE+KEY+"),
    "another id": (SIGNER.line().replace(SIGNER.public.id.hex(), "00000000"), "damaged"),
    "another name": (SIGNER.line().replace("+arm+", "+leg+"), "damaged"),
    "cut": (SIGNER.line()[:-2], "not a private key"),
}


@pytest.mark.parametrize("case", BROKEN_PRIVATE)
def test_a_broken_private_key_is_named(case: str) -> None:
    """A private key whose id does not belong to it would sign what nobody can check."""
    line, says = BROKEN_PRIVATE[case]
    with pytest.raises(JournalError, match=re.escape(says)) as raised:
        Signer.parse(line, "test")
    assert SIGNER.line().rsplit("+", 1)[1][:8] not in str(raised.value)


# -- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["field", "test"])
def test_keygen_makes_two_files(tmp_path: Path, purpose: str) -> None:
    """The private one only its owner may read, whatever the umask; both read back."""
    before = os.umask(0)
    try:
        made = keygen(tmp_path / "keys" / "arm.key", "arm-7", purpose)  # type: ignore[arg-type]
    finally:
        os.umask(before)
    private, public = tmp_path / "keys" / "arm.key", tmp_path / "keys" / "arm.key.pub"
    assert [stat.S_IMODE(file.stat().st_mode) for file in (private, public)] == [0o600, 0o644]
    read = read_signer(private)
    assert (read.seed, read.purpose, read.public) == (made.seed, purpose, made.public)
    assert read_public(public) == made.public == read_public(str(made.public))
    assert made.line() not in public.read_text()


def test_two_keys_are_two(tmp_path: Path) -> None:
    """Seeds are random, also those of keys that live for a run only."""
    assert keygen(tmp_path / "a", "a", "test").seed != keygen(tmp_path / "b", "a", "test").seed
    first, second = Signer.ephemeral(), Signer.ephemeral()
    assert first.public != second.public
    assert first.purpose == "ephemeral"


@pytest.mark.parametrize("there", ["arm.key", "arm.key.pub"])
def test_a_key_is_never_written_over(tmp_path: Path, there: str) -> None:
    """Where either file exists none is touched: runs that it signed could not be checked any more."""
    (tmp_path / there).write_text("here before")
    with pytest.raises(JournalError, match=rf"{there} is there already"):
        keygen(tmp_path / "arm.key", "arm", "test")
    assert (tmp_path / there).read_text() == "here before"
    assert [file.name for file in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "x" * 65, "ä"])
def test_a_name_that_no_note_can_carry_is_refused(tmp_path: Path, name: str) -> None:
    """Names are letters, digits and some signs, for they stand in lines of text."""
    with pytest.raises(JournalError, match="key name"):
        keygen(tmp_path / "key", name, "test")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The message names the place and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"cannot write .*file"):
        keygen(tmp_path / "file" / "key", "arm", "test")


def test_what_is_no_key_file_is_an_error(tmp_path: Path) -> None:
    """Missing, binary and unpurposed files are refused by name."""
    file = tmp_path / "key"
    for read in (read_signer, read_public):
        with pytest.raises(JournalError, match=r"cannot read the key .*key"):
            read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(JournalError, match="cannot read the key"):
        read_signer(file)
    file.write_text(SIGNER.line() + "\nfun\n")
    with pytest.raises(JournalError, match="second line 'fun', expected what the key is for: field or test"):
        read_signer(file)


# -- notes ------------------------------------------------------------------------------------------------


def test_bytes_of_a_note() -> None:
    """The text of a C2SP checkpoint with two lines of our own, an empty line, and the signature line."""
    note = SIGNER.note(Checkpoint("safeguard/run", 7, bytes(32), b"\1" * 32, 5))
    *lines, empty, signed, end = note.decode().split("\n")
    assert lines == ["safeguard/run", "7", base64.b64encode(bytes(32)).decode(), "chain " + "01" * 32, "utc 5"]
    assert (empty, end) == ("", "")
    dash, name, signature = signed.split(" ")
    assert (dash, name) == ("\u2014", "arm")
    assert base64.b64decode(signature)[:4] == SIGNER.public.id
    assert len(base64.b64decode(signature)) == 68


@given(checkpoint=CHECKPOINTS)
def test_notes_come_back(checkpoint: Checkpoint) -> None:
    """What was signed is what is read."""
    assert SIGNER.public.opened(SIGNER.note(checkpoint)) == checkpoint


@given(checkpoint=CHECKPOINTS, at=st.integers(0), change=st.integers(1, 255))
def test_any_changed_byte_of_a_note_is_refused(checkpoint: Checkpoint, at: int, change: int) -> None:
    """Text, names, separators and signature: nothing can be written in another way."""
    note = bytearray(SIGNER.note(checkpoint))
    note[at % len(note)] ^= change
    with pytest.raises(ValueError, match=r"."):
        SIGNER.public.opened(bytes(note))


NOTE = SIGNER.note(Checkpoint("safeguard/run", 7, bytes(32), bytes(32), 5))


def test_every_single_changed_byte_is_refused() -> None:
    """The same for every byte of one note, in three ways."""
    for at in range(len(NOTE)):
        for change in (1, 0x20, 0x80):
            with pytest.raises(ValueError, match=r"."):
                SIGNER.public.opened(NOTE[:at] + bytes((NOTE[at] ^ change,)) + NOTE[at + 1 :])


@pytest.mark.parametrize("size", range(0, len(NOTE), 7))
def test_a_cut_note_is_refused(size: int) -> None:
    """No part of a note is a note."""
    with pytest.raises(ValueError, match=r"."):
        SIGNER.public.opened(NOTE[:size])


OTHERS = {
    "the same name": (Signer("arm", bytes(32), "test"), "another key"),
    "another name": (Signer("leg", bytes(range(32)), "test"), "not signed with the key leg"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_key_opens_no_note(case: str) -> None:
    """Neither a name alone nor a secret alone is the key."""
    other, says = OTHERS[case]
    with pytest.raises(ValueError, match=says):
        other.public.opened(NOTE)


def test_a_claimed_id_is_not_enough() -> None:
    """A signature of somebody else under the right name and id is wrong."""
    text = NOTE.decode().partition("\n\n")[0] + "\n"
    forged = SIGNER.public.id + Signer.ephemeral()._key.sign(text.encode())  # pyright: ignore[reportPrivateUsage]
    note = f"{text}\n\u2014 arm {base64.b64encode(forged).decode()}\n".encode()
    with pytest.raises(ValueError, match="the signature is wrong"):
        SIGNER.public.opened(note)


TEXTS = [
    "safeguard/run\n7\n",
    "safeguard/run\n07\n{root}\nchain {chain}\nutc 5\n",
    "safeguard/run\n+7\n{root}\nchain {chain}\nutc 5\n",
    "safeguard/run\n7\n{root}\nchain {chain}\nutc 5 \n",
    "safeguard/run\n7\n{root}\n{chain}\nutc 5\n",
    "safeguard/run\n7\n{root}\nchain {chain}00\nutc 5\n",
    "safeguard/run\n7\nAAAA\nchain {chain}\nutc 5\n",
    "safeguard/run\n7\n{root}\nchain {chain}\nutc 5\nmore\n",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_not_written_like_that_is_no_checkpoint(text: str) -> None:
    """A checkpoint has one form: a signature under anything else proves nothing about a journal."""
    given_ = text.format(root=base64.b64encode(bytes(32)).decode(), chain="00" * 32)
    with pytest.raises(ValueError, match=r"."):
        Checkpoint.parse(given_)
