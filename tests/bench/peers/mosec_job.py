"""mosec: bytes in and out, one worker that batches up to 64 requests, or what comes in 1 ms."""

from __future__ import annotations

from typing import Any

import numpy as np
from mosec import Server, Worker

from tests.bench.peers.device import FEATURES, score


class Score(Worker):  # type: ignore[misc]
    """One device."""

    def deserialize(self, data: bytes) -> Any:
        return np.frombuffer(data, np.float32).reshape(-1, FEATURES)

    def forward(self, data: list[Any]) -> list[Any]:
        ends = np.cumsum([len(block) for block in data])
        return np.split(score(np.concatenate(data)), ends[:-1])

    def serialize(self, data: Any) -> bytes:
        made: bytes = data.tobytes()
        return made


if __name__ == "__main__":
    server = Server()
    server.append_worker(Score, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
