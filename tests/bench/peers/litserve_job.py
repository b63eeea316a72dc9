"""LitServe: base64 in JSON (its own way is JSON), one worker that batches up to 64 requests, or
what comes in 1 ms."""

from __future__ import annotations

import argparse
import base64
from typing import Any

import litserve
import numpy as np

from tests.bench.peers.device import FEATURES, score


class Score(litserve.LitAPI):  # type: ignore[misc]
    """One device."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict[str, str]) -> Any:
        data = base64.b64decode(request["rows"])
        return np.frombuffer(data, np.float32).reshape(-1, FEATURES)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[Any]:
        ends = np.cumsum([len(block) for block in inputs])
        return np.split(score(np.concatenate(inputs)), ends[:-1])

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> dict[str, str]:
        return {"scores": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(
        Score(max_batch_size=64, batch_timeout=0.001), accelerator="cpu", workers_per_device=1
    )
    server.run(port=parser.parse_args().port, generate_client_file=False, log_level="error")
