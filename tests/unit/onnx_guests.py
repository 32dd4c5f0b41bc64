"""Small ONNX models as test guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Shape = Sequence[int | str | None]


def saved(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    kinds: Mapping[str, int] | None = None,
) -> Path:
    """A model of float tensors, unless ``kinds`` says otherwise, in a file."""

    def infos(named: Mapping[str, Shape]) -> list[Any]:
        kind = kinds or {}
        return [helper.make_tensor_value_info(n, kind.get(n, TensorProto.FLOAT), list(s)) for n, s in named.items()]

    weights: list[Any] = [
        helper.make_tensor(name, TensorProto.FLOAT, np.shape(value), np.ravel(value).astype(np.float32).tolist())
        for name, value in (constants or {}).items()
    ]
    graph: Any = helper.make_graph(list(nodes), "guest", infos(inputs), infos(outputs), weights)
    made: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(made, str(path))
    return path


def adding(path: Path, amount: Any, *, columns: int = 2, **more: Any) -> Path:
    """Actions = obs + amount, shape (1, columns)."""
    shape = (1, columns)
    nodes = [helper.make_node("Add", ["obs", "amount"], ["actions"])]
    return saved(path, nodes, {"obs": shape}, {"actions": shape}, {"amount": amount}, **more)


def counting(path: Path, names: tuple[str, str] = ("h_in", "h_out"), batch: int | str = 1) -> Path:
    """A state that grows by one with every call and is added to the observation."""
    before, after = names
    nodes = [
        helper.make_node("Add", [before, "one"], [after]),
        helper.make_node("Add", ["obs", after], ["actions"]),
    ]
    inputs: dict[str, Shape] = {"obs": (1, 2), before: (batch, 2)}
    return saved(path, nodes, inputs, {"actions": (batch, 2), after: (batch, 2)}, {"one": [[1.0, 1.0]]})
