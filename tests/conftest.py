"""What every test gets. Fixtures of one topic live beside the tests of that topic."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Where these are set, pytest writes whole diffs. Planted violations fail on purpose, and the diff of two recorded runs
# takes minutes.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).resolve().parent.parent

# "ci" finds the same examples on every machine; "explore" looks for new ones:
# HYPOTHESIS_PROFILE=explore .venv/bin/pytest tests/properties
# No deadline: a slow machine is not a wrong answer.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT
