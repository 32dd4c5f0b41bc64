"""msgpack ships no types; these are the two functions that the tests use."""

from collections.abc import Callable
from typing import Any

def packb(value: object, *, default: Callable[[Any], Any] | None = None) -> bytes: ...
def unpackb(data: bytes, *, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any: ...
