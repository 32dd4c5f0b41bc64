"""What the actions of common simulators mean, read from their own configuration.

Nothing is imported from a simulator: objects and configurations are looked at by the names of their attributes and
keys. What cannot be read there is asked for, not guessed.
"""

from __future__ import annotations

from safeguard.policies.specs.driving import highway_env_spec, highway_env_tokens, metadrive_spec, metadrive_tokens
from safeguard.policies.specs.robosuite import robosuite_spec

__all__ = ["highway_env_spec", "highway_env_tokens", "metadrive_spec", "metadrive_tokens", "robosuite_spec"]
