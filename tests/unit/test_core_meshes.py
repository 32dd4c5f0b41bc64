"""Enclosing polytopes: every vertex inside, few corners, close to the hull, and a cache that cannot harm."""

from __future__ import annotations

import multiprocessing
import struct
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from safeguard.core import meshes
from safeguard.core.errors import RobotError
from safeguard.core.types import Vector


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def cloud(seed: int, count: int, stretch: tuple[float, float, float] = (0.2, 0.08, 0.05)) -> Vector:
    """Points on a stretched sphere: all of them are corners of their hull."""
    points = np.random.default_rng(seed).normal(size=(count, 3))
    found: Vector = points / np.linalg.norm(points, axis=1)[:, None] * np.array(stretch)
    return found


def outside(points: Vector, corners: Vector) -> float:
    """How far the furthest point is outside of the hull of ``corners``, m."""
    faces = ConvexHull(corners).equations
    return float((points @ faces[:, :3].T + faces[:, 3]).max())


def write_stl(path: Path, points: Vector) -> None:
    """The hull of the points as a binary STL."""
    faces = points[ConvexHull(points).simplices]
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *face.ravel(), 0) for face in faces)
    path.write_bytes(bytes(80) + struct.pack("<I", len(faces)) + body)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(5, 600),
    stretch=st.tuples(*[st.floats(0.005, 0.5) for _ in range(3)]),
    shift=st.floats(-2.0, 2.0),
)
def test_every_vertex_is_inside(seed: int, count: int, stretch: tuple[float, float, float], shift: float) -> None:
    """For long, flat, tiny and far-away clouds alike, to 1e-6 m, with at most MAX_CORNERS corners."""
    points = cloud(seed, count, stretch) + shift
    corners = meshes.polytope(points, "cloud")
    assert outside(points, corners) <= 1e-6
    assert len(corners) <= meshes.MAX_CORNERS


def test_few_vertices_are_left_as_they_are() -> None:
    """The hull of up to MAX_CORNERS corners is exact: it is its own polytope."""
    points = cloud(1, 60)
    corners = meshes.polytope(np.vstack([points, 0.5 * points]), "cloud")
    assert {tuple(p) for p in corners} == {tuple(p) for p in points}
    assert meshes.sticks_out(corners, points) < 1e-6


def test_the_polytope_is_close_to_the_hull() -> None:
    """A ball of 2000 corners, the worst shape, grows by under a tenth of its radius; its bounding box, by far more."""
    points = cloud(2, 2000, (0.1, 0.1, 0.1))
    corners = meshes.polytope(points, "ball")
    assert meshes.sticks_out(corners, points) < 0.01
    box = np.array(np.meshgrid(*[[-0.1, 0.1]] * 3)).reshape(3, -1).T
    assert meshes.sticks_out(box, points) > 0.06


def test_a_polytope_that_leaves_a_vertex_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at build time sees a polytope that is 0.1 mm too small, and passes one that is 0.5 µm too small."""
    points = cloud(3, 300)
    honest = meshes.polytope(points, "cloud")
    middle = honest.mean(axis=0)
    span = float(np.linalg.norm(honest - middle, axis=1).max())
    for cut, refused in ((5e-7, False), (1e-4, True)):
        shrunk = middle + (1.0 - cut / span) * (honest - middle)
        monkeypatch.setattr(meshes, "_cut", MagicMock(return_value=shrunk))
        if refused:
            with pytest.raises(RobotError, match=r"'cloud': a vertex is .* outside"):
                meshes.polytope(points, "cloud")
        else:
            assert outside(points, meshes.polytope(points, "cloud")) <= 1e-6


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((3, 3)), "at least 4 finite"),
        (np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, np.nan]]), "at least 4 finite"),
        (np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]), "span no volume"),
    ],
    ids=["few", "nan", "flat"],
)
def test_what_encloses_nothing_is_refused(points: Vector, message: str) -> None:
    """The name of the mesh and what is wrong are in the message."""
    with pytest.raises(RobotError, match=f"'plate'.*{message}"):
        meshes.enclose_points(points, "plate")


def test_a_file_that_is_no_mesh_is_named(tmp_path: Path) -> None:
    """The collision geometry and the file are in the message."""
    (tmp_path / "x.stl").write_bytes(b"no mesh at all")
    with pytest.raises(RobotError, match=r"'link_0': .*x\.stl cannot be read"):
        meshes.enclose_file(tmp_path / "x.stl", np.ones(3), "link_0")


def test_scale_and_content_make_the_key(tmp_path: Path) -> None:
    """Another scale, also a mirrored one, or another vertex is another key; a copy of the file is the same."""
    write_stl(tmp_path / "a.stl", cloud(4, 200))
    write_stl(tmp_path / "b.stl", cloud(4, 200))
    write_stl(tmp_path / "c.stl", cloud(5, 200))
    one, mirrored = np.ones(3), np.array([1.0, -1.0, 1.0])
    keys = [
        meshes.enclose_file(tmp_path / name, scale, "x").key
        for name, scale in (("a.stl", one), ("b.stl", one), ("c.stl", one), ("a.stl", mirrored), ("a.stl", 2.0 * one))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    left = np.asarray(meshes.enclose_file(tmp_path / "a.stl", one, "x").shape.points())
    right = np.asarray(meshes.enclose_file(tmp_path / "a.stl", mirrored, "x").shape.points())
    assert outside(cloud(4, 200), left) <= 1e-6
    assert outside(cloud(4, 200) * mirrored, right) <= 1e-6


def only_file() -> Path:
    """The one file of the cache."""
    (found,) = meshes.cache_folder().iterdir()
    return found


def test_a_second_load_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-identical corners without building anything."""
    points = cloud(6, 300)
    first = np.array(meshes.enclose_points(points, "x").shape.points())

    def build(_points: Vector, _name: str) -> Vector:
        raise AssertionError("built again")

    monkeypatch.setattr(meshes, "polytope", build)
    np.testing.assert_array_equal(np.array(meshes.enclose_points(points, "x").shape.points()), first)
    with pytest.raises(AssertionError, match="built again"):
        meshes.enclose_points(points + 1e-9, "x")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "garbage"])
def test_a_damaged_cache_file_is_built_again(damage: str) -> None:
    """Cut, one bit flipped, empty, swapped with another mesh's, or garbage: the polytope covers, the file is mended."""
    points = cloud(7, 300)
    honest = np.array(meshes.enclose_points(points, "x").shape.points())
    file = only_file()
    good = file.read_bytes()
    other = meshes.enclose_points(cloud(8, 300) * 0.1, "y").key
    content = {
        "cut": good[:-24],
        "flipped": good[:200] + bytes([good[200] ^ 1]) + good[201:],
        "empty": b"",
        "other": (meshes.cache_folder() / f"{other}.polytope").read_bytes(),
        "garbage": bytes(range(256)),
    }[damage]
    file.write_bytes(content)
    np.testing.assert_array_equal(np.array(meshes.enclose_points(points, "x").shape.points()), honest)
    assert file.read_bytes() == good


def test_without_a_writable_cache_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be: nothing is kept, nothing fails."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    points = cloud(9, 200)
    assert outside(points, np.array(meshes.enclose_points(points, "x").shape.points())) <= 1e-6


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~/.cache/safeguard``, as the XDG base directory specification has it."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert meshes.cache_folder() == Path.home() / ".cache" / "safeguard" / "polytopes"


def _load(seed: int) -> bytes:
    return np.array(meshes.enclose_points(cloud(seed, 200), "x").shape.points()).tobytes()


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    """Four processes and two meshes: all get the same corners, and nothing half-written stays behind."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(_load, [11, 12] * 4, chunksize=1)
    assert len(set(found)) == 2
    assert sorted(p.suffix for p in meshes.cache_folder().iterdir()) == [".polytope", ".polytope"]
