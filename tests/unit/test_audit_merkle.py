from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from safeguard.audit.journal.merkle import Tree

# Leaves and roots of the tests of Certificate Transparency (transparency-dev/merkle, testonly/constants.go); tree heads
# of 0, 1, 2, … 8 leaves.
LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def grown(leaves: list[bytes]) -> Tree:
    """A tree of these leaves."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def root(leaves: list[bytes]) -> bytes:
    """The tree hash as RFC 6962 defines it, of leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_the_root_is_that_of_rfc_6962(leaves: list[bytes]) -> None:
    """Grown leaf by leaf the tree has the recursive definition's root at every size."""
    tree = Tree()
    for count, leaf in enumerate(leaves):
        assert (tree.size, tree.root()) == (count, root(leaves[:count]))
        tree.append(leaf)
    assert (tree.size, tree.root()) == (len(leaves), root(leaves))


def test_known_roots() -> None:
    """The roots of 0 to 8 leaves that implementations of Certificate Transparency are tested with."""
    hashed = [hashlib.sha256(b"\0" + bytes.fromhex(leaf)).digest() for leaf in LEAVES]
    assert [grown(hashed[:count]).root().hex() for count in range(len(ROOTS))] == list(ROOTS)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40, unique=True), st.data())
def test_any_other_leaf_gives_another_root(leaves: list[bytes], data: st.DataObject) -> None:
    """Changed, swapped and missing leaves change the root."""
    good = grown(leaves).root()
    at = data.draw(st.integers(0, len(leaves) - 1))
    assert grown([*leaves[:at], bytes(31) + b"\7", *leaves[at + 1 :]]).root() != good or leaves[at] == bytes(31) + b"\7"
    assert grown(leaves[:at] + leaves[at + 1 :]).root() != good
    if at:
        assert grown([*leaves[: at - 1], leaves[at], leaves[at - 1], *leaves[at + 1 :]]).root() != good


def test_memory_is_logarithmic() -> None:
    """A tree of 100,000 leaves keeps one hash for each 1 in the binary digits of its size."""
    tree = Tree()
    for _ in range(100_000):
        tree.append(bytes(32))
    assert len(tree._peaks) == (100_000).bit_count()  # pyright: ignore[reportPrivateUsage]
