from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from safeguard.policies.groot_wire import as_array, packed, unpacked, with_arrays
from safeguard.policies.msgpack_arrays import WireError
from tests.unit.groot_support import IMAGE, from_bytes, npy, seen, to_bytes


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "|b1", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_numbers_arrives_as_numpy_wrote_it(dtype: str, order: Any) -> None:
    """Values, shape and dtype of what the stock format carries, in either memory order."""
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype=dtype, order=order)

    read = as_array(unpacked(to_bytes(array)))

    assert read.dtype == array.dtype
    assert np.array_equal(read, array)
    assert not read.flags.writeable


def test_what_safeguard_sends_stock_gr00t_reads() -> None:
    """Nested maps, images, float32 state, texts, numpy scalars and texts in arrays."""
    sent = {**seen(np.zeros(7)), "words": np.array(["pick"]), "n": np.float32(0.5), "k": np.int64(3), "none": None}

    read = from_bytes(packed(sent))

    assert np.array_equal(read["video"]["front"], IMAGE)
    assert read["state"]["single_arm"].dtype == np.float32
    assert read["words"].tolist() == ["pick"]
    assert (read["n"], read["k"], read["none"], read["language"]) == (0.5, 3, None, {"task": [["pick the block"]]})


def test_empty_arrays_and_scalars_in_arrays_are_arrays() -> None:
    """No axis, and an axis of length 0."""
    assert as_array(npy(np.float32(2.0))).shape == ()
    assert as_array(npy(np.zeros((0, 3)))).shape == (0, 3)


def _npy_with(
    header: bytes, body: bytes = b"", version: bytes = b"\x01\x00", length: int | None = None
) -> dict[str, Any]:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header) if length is None else length)
    return {"__ndarray_class__": True, "as_npy": b"\x93NUMPY" + version + size + header + body}


@pytest.mark.parametrize(
    "value",
    [
        npy(np.array([{"a": 1}], dtype=object)),
        npy(np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])),
        npy(np.zeros(3, np.complex128)),
        npy(np.zeros(3, "M8[s]")),
        npy(np.array(["text"])),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n", bytes(8)),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n", bytes(8)),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }\n", bytes(8)),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }\n", bytes(4)),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }\n", bytes(4)),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904), }\n"),
        _npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 0), }\n"),
        _npy_with(b"{'descr': '|V0', 'fortran_order': False, 'shape': (3,), }\n"),
        _npy_with(b"(" * 400),
        _npy_with(b"__import__('os').getpid()\n"),
        _npy_with(b" " * 600 + b"{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", bytes(4)),
        _npy_with(b"{}", version=b"\x02\x00", length=0xFFFFFFFF),
        _npy_with(b"{}", version=b"\x03\x00"),
        {"__ndarray_class__": True, "as_npy": b"\x80\x04\x95pickled"},
        {"__ndarray_class__": True, "as_npy": b"\x93NUMPY\x01\x00"},
        {"__ndarray_class__": True, "as_npy": "text"},
        {"__ndarray_class__": True},
        {"as_npy": b""},
        [0.0, 1.0],
        None,
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value: object) -> None:
    """Pickles, objects, records, sizes that the bytes do not have, headers that are long, wrong or code."""
    with pytest.raises(WireError):
        as_array(value)


def test_texts_in_arrays_are_read_where_observations_are() -> None:
    """N1.5 clients send the instruction as an array of texts; objects stay refused there too."""
    assert with_arrays(unpacked(to_bytes({"task": [np.array(["pick"])]})))["task"][0].tolist() == ["pick"]
    with pytest.raises(WireError, match="object"):
        with_arrays({"task": npy(np.array([None], dtype=object))})


def test_messages_nested_without_end_are_refused() -> None:
    """Before the recursion costs anything."""
    message: object = 0
    for _ in range(40):
        message = [message]
    with pytest.raises(WireError, match="nested"):
        with_arrays(message)
    with pytest.raises(WireError, match="nested"):
        unpacked(b"\x91" * 5000 + b"\x00")
    with pytest.raises(WireError, match="nested"):
        unpacked(b"\x91" * 500 + b"\x00")


def test_messages_of_very_many_values_are_refused() -> None:
    """A byte is enough for a value that takes fifty when decoded."""
    with pytest.raises(WireError, match="100000 values"):
        unpacked(b"\xdd" + struct.pack(">I", 1 << 18) + b"\x90" * (1 << 18))


@pytest.mark.parametrize("message", [object(), np.array([None]), {"a": {1, 2}}, np.zeros(2, "M8[s]")])
def test_what_is_no_data_is_not_sent(message: object) -> None:
    """Objects would need a pickle."""
    with pytest.raises(WireError, match="cannot be sent"):
        packed(message)
