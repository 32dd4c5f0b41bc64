from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from safeguard.core.errors import CalibrationError
from safeguard.core.types import Score, Vector
from safeguard.monitors import proof
from safeguard.monitors.embedding import CosineKnn, Mahalanobis, learn


def cloud(rows: int, d: int, seed: int = 0) -> Vector:
    """Correlated features of very different sizes, off the origin."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.geomspace(1.0, 0.1, d)
    return (rng.normal(size=(rows, d)) @ mixing + 2.0) * np.geomspace(0.01, 100.0, d)


def scored(monitor: Mahalanobis | CosineKnn, features: Vector | None) -> Score:
    """Of a proposal with these features."""
    chunk = proof.proposal(0, 0, np.zeros((1, 1)), features)
    return monitor.score(proof.standing(1, 0, chunk=chunk))


def standardised(fit: dict[str, Vector], features: Vector) -> Vector:
    """As the monitors see them."""
    return (features - fit["embedding.mean"]) * fit["embedding.scale"]


@pytest.mark.parametrize(("rows", "d"), [(20, 3), (40, 12), (200, 64), (30, 50)])
def test_mahalanobis_is_that_of_scikit_learn(rows: int, d: int) -> None:
    """Up to 64 features it is the Ledoit-Wolf distance of standardised features, also with fewer rows than features."""
    features, probes = cloud(rows, d), cloud(20, d, seed=1) * 1.5
    fit = learn(features)
    oracle = LedoitWolf(assume_centered=True).fit(standardised(fit, features))
    expected = np.sqrt(oracle.mahalanobis(standardised(fit, probes)) / d)
    assert [scored(Mahalanobis(fit), probe).value for probe in probes] == pytest.approx(expected, rel=1e-3)


def test_what_the_leading_64_leave_out_still_counts() -> None:
    """Of 100 features the trailing directions have one eigenvalue, the mean of theirs; novelty there is seen."""
    features = cloud(400, 100)
    fit, oracle = learn(features), LedoitWolf(assume_centered=True)
    x = standardised(fit, features)
    values, vectors = np.linalg.eigh(oracle.fit(x).covariance_)
    values[:36] = values[:36].mean()
    probe = standardised(fit, cloud(1, 100, seed=1))[0] + 20.0 * vectors[:, 0]
    expected = math.sqrt(float(((probe @ vectors) ** 2 / values).sum()) / 100.0)
    found = scored(Mahalanobis(fit), probe / fit["embedding.scale"] + fit["embedding.mean"]).value

    assert found == pytest.approx(expected, rel=1e-3)
    assert found > 2.0 * max(scored(Mahalanobis(fit), each).value for each in features)


def test_the_fit_data_score_about_one() -> None:
    """The root mean square over the fit episodes is 1, but for what shrinkage takes away."""
    features = cloud(2000, 30)
    monitor = Mahalanobis(learn(features))
    found = [scored(monitor, each).value for each in features]
    assert math.sqrt(float(np.square(found).mean())) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("rows", "d"), [(40, 5), (256, 20), (100, 90)])
def test_knn_is_that_of_scikit_learn(rows: int, d: int) -> None:
    """Mean cosine distance to the five nearest fit rows, in the leading directions and from the origin."""
    features, probes = cloud(rows, d), cloud(20, d, seed=1)
    fit = learn(features)
    points, asked = ((each * fit["embedding.scale"]) @ fit["embedding.basis"] for each in (features, probes))
    distances, _ = NearestNeighbors(n_neighbors=5, metric="cosine").fit(points).kneighbors(asked)
    assert [scored(CosineKnn(fit), probe).value for probe in probes] == pytest.approx(distances.mean(axis=1), abs=1e-6)


def test_the_index_of_many_rows_covers_them() -> None:
    """256 of 3,000 rows, spread out: every other row has one near it, nearer than every eleventh row would have."""
    rng = np.random.default_rng(3)
    features = np.vstack((rng.normal(size=(2950, 6)) * 0.05 + 1.0, rng.normal(size=(50, 6))))
    fit = learn(features)
    points = (features * fit["embedding.scale"]) @ fit["embedding.basis"]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    covered = (points @ fit["embedding.index"].T).max(axis=1).min()
    strided = (points @ points[:: len(points) // 256].T).max(axis=1).min()

    assert fit["embedding.index"].shape[0] == 256
    assert covered > 0.98
    assert covered > strided


def test_what_is_learned_is_small_and_exact_in_single_precision() -> None:
    """Of 2,000 rows of 128 features under 150 kB as float32, and stored so they lose nothing."""
    fit = learn(cloud(2000, 128))
    assert sum(array.astype(np.float32).nbytes for array in fit.values()) < 150_000
    assert all(np.array_equal(array, array.astype(np.float32)) for array in fit.values())
    assert all(name.startswith("embedding.") for name in fit)


def test_learning_is_deterministic() -> None:
    """The same features give the same bytes."""
    once, again = learn(cloud(300, 80)), learn(cloud(300, 80))
    assert [(name, array.tobytes()) for name, array in once.items()] == [
        (name, array.tobytes()) for name, array in again.items()
    ]


def test_features_that_never_vary_count_for_nothing_and_are_named() -> None:
    """A constant column is dropped, noted, and ignored afterwards, whatever it then is."""
    features = np.insert(cloud(100, 5), 2, 7.0, axis=1)
    fit = learn(features)
    other = features[0].copy()
    other[2] = -1e6
    assert fit["embedding.dropped"].tolist() == [2.0]
    for kind in (Mahalanobis, CosineKnn):
        assert scored(kind(fit), other).value == scored(kind(fit), features[0]).value


@given(st.integers(0, 10_000))
def test_far_away_is_further(seed: int) -> None:
    """Twice as far from the mean is twice the distance; the opposite direction is the most novel one."""
    fit = learn(cloud(60, 8))
    step = np.random.default_rng(seed).normal(size=8) / fit["embedding.scale"]
    mean, near = fit["embedding.mean"], Mahalanobis(fit)
    assert scored(near, mean + 2.0 * step).value == pytest.approx(2.0 * scored(near, mean + step).value, rel=1e-6)
    assert 0.0 <= scored(CosineKnn(fit), mean + step).value <= 2.0


BAD: dict[str, tuple[Vector, str]] = {
    "one row short": (cloud(19, 4), "features of 19 proposals, at least 20"),
    "a vector": (np.zeros(40), r"features have shape \(40,\)"),
    "no features": (np.zeros((40, 0)), r"features have shape \(40, 0\)"),
    "NaN": (np.where(np.arange(40)[:, None] == 7, np.nan, cloud(40, 3)), r"features\[7, 0\] is nan"),
    "infinite": (np.where(np.arange(40)[:, None] == 7, np.inf, cloud(40, 3)), r"features\[7, 0\] is inf"),
    "constant": (np.full((40, 3), 0.1), "none of 3 varies"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_learned_from_is_refused(kind: str) -> None:
    """The error names what is wrong, and nothing is fitted."""
    features, words = BAD[kind]
    with pytest.raises(CalibrationError, match=words):
        learn(features)


@pytest.mark.parametrize("kind", [Mahalanobis, CosineKnn])
def test_arrays_that_are_damaged_are_refused(kind: type[Mahalanobis | CosineKnn]) -> None:
    """Missing, of another shape, or not finite."""
    fit = learn(cloud(40, 6))
    for name in ("mean", "scale", "basis", "whiten", "rest", "index"):
        key = f"embedding.{name}"
        with pytest.raises(CalibrationError, match=key):
            kind({other: array for other, array in fit.items() if other != key})
        with pytest.raises(CalibrationError, match="embedding"):
            kind({**fit, key: fit[key][:-1]} if name != "index" else {**fit, key: fit[key][:, :-1]})
        with pytest.raises(CalibrationError, match=key):
            kind({**fit, key: np.full_like(fit[key], np.nan)})


@pytest.mark.parametrize("kind", [Mahalanobis, CosineKnn])
@pytest.mark.parametrize("features", [None, np.zeros(5), np.zeros((6, 1)), np.full(6, np.nan), np.full(6, 1e308)])
def test_broken_features_are_an_alarm(kind: type[Mahalanobis | CosineKnn], features: Vector | None) -> None:
    """Missing, of another size, or not finite: NaN, and words for it."""
    score = scored(kind(learn(cloud(40, 6))), features)
    assert math.isnan(score.value)
    assert score.detail
