"""What is refused before it is decoded."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from typing import Any, cast

import numpy as np
import ormsgpack
import pytest

from safeguard.policies.groot_wire import is_map
from safeguard.policies.msgpack_arrays import WireError, looked_over, packed, unpacked

MOST = 100_000
KEYS = ormsgpack.OPT_NON_STR_KEYS


def lists(levels: int) -> bytes:
    """A number in so many lists."""
    return b"\x91" * levels + b"\x07"


def many(count: int, value: bytes) -> bytes:
    """A list of ``count`` values; with itself it is one more."""
    return b"\xdd" + struct.pack(">I", count) + value * count


@pytest.mark.parametrize("value", [b"\x90", b"\x80", b"\xc0", b"\xa0", b"\xc4\x00", b"\xcb" + bytes(8), b"\xdc\0\0"])
def test_a_message_of_too_many_values_is_refused(value: bytes) -> None:
    """100,000 values are decoded, one more is not, whatever they are."""
    looked_over(many(MOST - 1, value))
    with pytest.raises(WireError, match="more than 100000 values"):
        looked_over(many(MOST, value))


def test_many_values_are_counted_across_lists_and_maps() -> None:
    """No list or map of it is long; keys count, too."""
    looked_over(many(6, many(5000, b"\x81\xc0\xc0")))
    with pytest.raises(WireError, match="values"):
        looked_over(many(26, many(4000, b"\x90")))
    with pytest.raises(WireError, match="values"):
        looked_over(b"\xdf" + struct.pack(">I", MOST // 2) + b"\x00\x00" * (MOST // 2))


def test_what_a_message_claims_is_refused_without_its_values() -> None:
    """Four thousand million values in five bytes."""
    for first in (b"\xdd", b"\xdf"):
        with pytest.raises(WireError, match="values"):
            looked_over(first + b"\xff" * 4)


def test_nesting_has_an_end() -> None:
    """32 levels of lists, maps and keys are decoded, one more is not; an empty list is none."""
    for levels in (lists(32), b"\x91" * 32 + b"\x90", b"\x81\x00" * 32 + b"\x07", b"\x81" + lists(31) + b"\x07"):
        looked_over(levels)
    for levels in (lists(33), b"\x81\x00" * 33 + b"\x07", b"\x81" + lists(32) + b"\x07", lists(500)):
        with pytest.raises(WireError, match="nested deeper than 32"):
            looked_over(levels)
    looked_over(many(50, lists(31)))  # side by side is not within


def test_what_arrays_stay_maps_is_nested_no_deeper() -> None:
    """What a proxy passes on undecoded has the same end: it must be packed again."""
    with pytest.raises(WireError, match="nested"):
        unpacked(b"\x81\xa1a" + lists(500), arrays=False)


def thing(rng: random.Random, depth: int) -> Any:
    """Anything that can be sent, in every length that msgpack writes in another way."""
    sizes = (0, 1, 15, 16, 31, 32, 33, 255, 256, 65_535, 65_536)
    kind = rng.randrange(12 if depth else 8)
    match kind:
        case 0 | 1:
            return rng.choice((None, True, False, 0.5, float("nan")))
        case 2 | 3:
            return rng.choice((-1, 1)) * rng.choice((0, 1, 31, 32, 33, 127, 128, 255, 256, 1 << 15, 1 << 31, 1 << 40))
        case 4:
            return (1 << 64) - 1
        case 5:
            return "x" * rng.choice(sizes)
        case 6 | 7:
            return b"\xdd" * rng.choice(sizes)
        case 8 | 9:
            return [thing(rng, depth - 1) for _ in range(rng.choice((0, 1, 3, 15, 16, 17)))]
        case 10:
            return [0] * rng.choice((65_535, 65_536))
        case _:
            return {
                rng.choice((key, f"k{key}", f"k{key}".encode(), (key, 1))): thing(rng, depth - 1) for key in range(17)
            }


def count(value: Any) -> int:
    """Values in ``value``, itself included."""
    within: list[Any] = []
    if is_map(value):
        within = [*value, *value.values()]
    elif isinstance(value, list | tuple):
        within = [*cast("list[Any]", value)]
    return 1 + sum(map(count, within))


def test_the_look_agrees_with_the_decoder() -> None:
    """Messages of every form: refused if and only if they have too many values; what follows them changes nothing."""
    rng, kept = random.Random(7), [0, 0]
    for _ in range(150):
        message = thing(rng, 3)
        data = ormsgpack.packb(message, option=KEYS)
        few = count(message) <= MOST
        kept[few] += 1
        with contextlib.nullcontext() if few else pytest.raises(WireError, match="values"):
            looked_over(data + b"\xc1")
    assert min(kept) > 5


def test_what_was_let_in_can_be_sent_on() -> None:
    """Random bytes, and messages with random bytes changed: what is decoded packs, so an answer is never stuck."""
    rng, packable = random.Random(3), 0
    seed = packed({"actions": np.zeros((2, 2)), "more": [{"a": 1, b"k": [None, 2.5]}], "t": "x" * 40})
    for turn in range(20_000):
        data = bytearray(seed if turn % 2 else b"\x81" + rng.randbytes(12))
        for _ in range(turn % 4):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            message = unpacked(bytes(data), arrays=False)
        except WireError:
            continue
        packed(message)
        packable += 1
    assert packable > 2000


@pytest.mark.parametrize("data", [b"", b"\xdd\x00", b"\xc6\xff", b"\x92\x01", b"\xc4\xff\x00", b"\x82\xa1a\x01\xa1b"])
def test_a_message_that_is_cut_short_is_the_decoders_to_refuse(data: bytes) -> None:
    """The look ends where the bytes end."""
    looked_over(data)
    with pytest.raises(WireError, match="no msgpack"):
        unpacked(data)


def test_the_look_takes_no_time() -> None:
    """60 MiB of image are jumped over, not copied: below a millisecond, where copying takes ten."""
    data = packed({"image": np.zeros((60 << 20,), np.uint8), "prompt": "wave"})
    took: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        looked_over(data)
        took.append(time.perf_counter() - started)

    assert min(took) < 1e-3
