"""What is wrong with a file, a line for each mistake, out of what pydantic found."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError


def mistakes(error: ValidationError, schema: type[BaseModel], where: str, whole: str) -> list[str]:
    """Place, key, value and fix of every mistake in what should have been a ``schema``.

    ``whole`` is what the key is called where a mistake is about all of it.
    """
    lines: list[str] = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or whole
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; known beside it: {', '.join(_known(schema, item['loc'][:-1]))}"
        value = repr(item["input"]) if item["loc"] and item["type"] != "missing" else ""
        shown = f" = {value[:80]}" if value else ""
        lines.append(f"{where}: {key}{shown}: {message}")
    return lines


def _known(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys that the schema has at ``path``."""
    model = schema
    for step in path:
        kind = model.model_fields[str(step)].annotation if str(step) in model.model_fields else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            break
        model = kind
    return sorted(model.model_fields)
