"""What proposes: adapters for any policy, the port between policy and shield, and trained policies.

Nothing here imports torch before a torch policy is used.
"""

from __future__ import annotations

from safeguard.core.protocols import Policy
from safeguard.policies.adapt import as_policy
from safeguard.policies.adapt_onnx import onnx_spec
from safeguard.policies.binding import Binding
from safeguard.policies.groot import groot_policy
from safeguard.policies.openpi import openpi_policy
from safeguard.policies.port import InlinePort, is_port, port_for
from safeguard.policies.push_policy import PushPolicy
from safeguard.policies.waiting import WaitingPort

__all__ = [
    "Binding",
    "InlinePort",
    "Policy",
    "PushPolicy",
    "WaitingPort",
    "as_policy",
    "groot_policy",
    "is_port",
    "onnx_spec",
    "openpi_policy",
    "port_for",
]
