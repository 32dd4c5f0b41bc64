"""pyarrow.parquet ships no types: every name is Any, and callers type what they take from it."""

from typing import Any

def __getattr__(name: str) -> Any: ...
