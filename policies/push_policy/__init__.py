"""A small learned policy for reach and push, with its training, its evaluation and its weights."""

from __future__ import annotations

from safeguard.policies.push_policy.policy import PushPolicy

__all__ = ["PushPolicy"]
