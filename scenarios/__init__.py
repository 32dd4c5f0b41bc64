"""Worlds, the fault library, scenarios as data, the referee and the runner."""
