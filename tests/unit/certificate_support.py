"""Certificates that tests share: coarse ones, which take a second."""

from __future__ import annotations

from functools import cache

from safeguard.controllers.certify import certify
from safeguard.core.certificate import Certificate, Uncertainty
from tests.unit.controllers_support import panda

EPSILON, BETA = 0.08, 1e-3


@cache
def certificate() -> Certificate:
    """Of the Panda with up to 0.2 kg within 2 cm of the tool, at 2 ms and one tick of delay."""
    declared = Uncertainty.of(panda(), payload_kg=(0.0, 0.2), payload_com_m=0.02)
    return certify(panda(), 0.002, declared, delay_ticks=1, epsilon=EPSILON, beta=BETA)
