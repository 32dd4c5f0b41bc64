"""Random streams by identity (law 11): an episode draws the same numbers whoever runs it, in any order."""

from __future__ import annotations

import hashlib

import numpy as np


def sequence(campaign: int, episode: int, component: str) -> np.random.SeedSequence:
    """The seed sequence of ``component`` in ``episode`` of ``campaign``; both at least 0."""
    digest = hashlib.sha256(component.encode()).digest()
    words = np.frombuffer(digest, dtype="<u4", count=4)
    return np.random.SeedSequence(campaign, spawn_key=(episode, *(int(word) for word in words)))


def stream(campaign: int, episode: int, component: str) -> np.random.Generator:
    """The random generator of ``component`` in ``episode`` of ``campaign``."""
    return np.random.default_rng(sequence(campaign, episode, component))


def seed(campaign: int, episode: int, component: str) -> int:
    """The same stream's identity as one number in [0, 2³²), for what takes a single seed."""
    return int(sequence(campaign, episode, component).generate_state(1)[0])
