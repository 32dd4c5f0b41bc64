"""The exception tree: one root, drawn truthfully, carrying its evidence."""

from __future__ import annotations

import re

from safeguard.core import errors
from safeguard.core.errors import MissingExtraError, SafeguardError, UnknownNameError


def test_every_exception_is_in_the_tree_and_in_the_drawing() -> None:
    """All classes of the module descend from SafeguardError and stand in the module's docstring, under their base."""
    classes = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, Exception)]
    assert len(classes) > 8
    lines = (errors.__doc__ or "").splitlines()
    depth = {m.group(1): m.start(1) for line in lines if (m := re.search(r"(\w+Error)", line))}
    for cls in classes:
        assert issubclass(cls, SafeguardError)
        assert cls.__name__ in depth
        if cls is not SafeguardError:
            assert depth[cls.__name__] > depth[cls.__base__.__name__ if cls.__base__ else ""]


def test_an_unknown_name_carries_what_was_asked_and_what_exists() -> None:
    """Name and known names are attributes, and the message is complete without any."""
    error = UnknownNameError("joint", "x", iter(["a", "b"]), "arm.urdf")
    assert (error.name, error.known) == ("x", ("a", "b"))
    assert str(error) == "unknown joint 'x' in arm.urdf; known: a, b"
    assert str(UnknownNameError("mode", "x", [])) == "unknown mode 'x'; known: none"


def test_a_missing_extra_says_how_to_install_it() -> None:
    """The pip command is in the message."""
    error = MissingExtraError("report", "report")
    assert error.extra == "report"
    assert "pip install 'safeguard-runtime[report]'" in str(error)
