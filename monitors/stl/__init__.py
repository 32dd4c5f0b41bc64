"""Requirements in past-time signal temporal logic: text, tree, signals, online robustness, verdict."""

from safeguard.monitors.stl.requirement import Requirement

__all__ = ["Requirement"]
