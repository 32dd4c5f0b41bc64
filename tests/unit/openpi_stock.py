"""The stock ends of openpi, for ``scripts/openpi``: runs in a process that has its packages and not ours.

openpi_stock.py serve PORT                        the stock server, with a policy that turns the wrist
openpi_stock.py infer PORT TIMES [PROMPT]         the stock client: what it got, as JSON
openpi_stock.py broker PORT TIMES                 the same behind the stock ``ActionChunkBroker``
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

import numpy as np

HOME = [0.0, -0.7853, 0.0, -2.3562, 0.0, 1.5708, 0.7853]
TURN = 0.01


class Turning:
    """Eight rows that turn the wrist from where the arm is."""

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """The rows, or an error for the prompt "fail"."""
        if obs["prompt"] == "fail":
            raise ValueError("no such skill")
        if obs["observation/image"].shape != (224, 224, 3):
            raise ValueError("no image")
        rows = np.tile(obs["observation/joint_position"], (8, 1)).astype(np.float32)
        rows[:, 6] += TURN * np.arange(1, 9, dtype=np.float32)
        return {"actions": rows}

    def reset(self) -> None:
        """Nothing to forget."""


def serve(port: int) -> None:
    """Until the process ends."""
    server: Any = import_module("openpi_server.websocket_policy_server")
    server.WebsocketPolicyServer(Turning(), host="127.0.0.1", port=port, metadata={"action_horizon": 8}).serve_forever()


def observation(q: np.ndarray[Any, Any], prompt: str) -> dict[str, Any]:
    """As openpi's examples build it."""
    image = np.full((224, 224, 3), 7, dtype=np.uint8)
    return {"observation/image": image, "observation/joint_position": q, "prompt": prompt}


def infer(port: int, times: int, prompt: str = "turn") -> dict[str, Any]:
    """Ask, play all rows, ask again."""
    client_module: Any = import_module("openpi_client.websocket_client_policy")
    client: Any = client_module.WebsocketClientPolicy("127.0.0.1", port)
    q, answers = np.array(HOME, dtype=np.float32), list[dict[str, Any]]()
    for _ in range(times):
        answer = client.infer(observation(q, prompt))
        actions = answer["actions"]
        direct = Turning().infer(observation(q, "turn"))["actions"]
        q = np.array(actions[-1])
        answers.append(
            {
                "shape": actions.shape,
                "dtype": str(actions.dtype),
                "finite": bool(np.isfinite(actions).all()),
                "direct": bool(np.array_equal(actions, direct)),
                "moved": float(np.abs(np.diff(actions, axis=0)).max()),
                "keys": sorted(answer),
                "timing": sorted(answer.get("server_timing", {})),
                "safeguard": answer.get("safeguard"),
            }
        )
    return {"metadata": client.get_server_metadata(), "answers": answers, "numpy": np.__version__}


def broker(port: int, times: int) -> dict[str, Any]:
    """One row after the other, as openpi's runtime asks for them."""
    client_module: Any = import_module("openpi_client.websocket_client_policy")
    broker_module: Any = import_module("openpi_client.action_chunk_broker")
    policy: Any = broker_module.ActionChunkBroker(client_module.WebsocketClientPolicy("127.0.0.1", port), 8)
    q, wrist, modes = np.array(HOME, dtype=np.float32), list[float](), list[str]()
    for _ in range(times):
        answer = policy.infer(observation(q, "turn"))
        q = np.array(answer["actions"])
        wrist.append(float(q[6]))
        modes.append(answer["safeguard"]["mode"] if "safeguard" in answer else "")
    return {"wrist": wrist, "modes": modes, "shape": q.shape}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(int(port))
        case ["infer", port, times, *prompt]:
            sys.stdout.write(json.dumps(infer(int(port), int(times), *prompt)))
        case ["broker", port, times]:
            sys.stdout.write(json.dumps(broker(int(port), int(times))))
        case other:
            sys.exit(f"what is {other}?")
