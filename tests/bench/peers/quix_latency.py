"""Ages of events when their rows are in Redis, with Quix Streams; for the benchmark of latency.

Says "ready" when the first row is written, and at the end, when nothing came for a while, the time
in ms at which each event was sent and its age.
"""

from __future__ import annotations

import json
import sys
import time

from quixstreams.sinks import SinkBatch

from tests.bench.peers.job import Clock, Rows, arguments
from tests.bench.peers.quix_job import RedisRows, start

COMMIT_S = 0.1
IDLE_S = 5.0


class AgedRows(RedisRows):
    """Notes how old each event is that a row was written for."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.sent: list[int] = []
        self.ages: list[int] = []

    def write(self, batch: SinkBatch) -> None:
        super().write(batch)
        now = time.time_ns() // 1_000_000
        if not self.sent:
            say("ready")
        for item in batch:
            self.sent.append(item.timestamp)
            self.ages.append(now - item.timestamp)


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    asked = arguments()
    clock = Clock()
    sink = AgedRows(Rows(asked.redis, clock))
    app = start(asked, clock, sink, commit_interval=COMMIT_S, consumer_poll_timeout=0.01)
    app.run(timeout=IDLE_S)
    say(json.dumps({"sent": sink.sent, "ages": sink.ages}))


if __name__ == "__main__":
    main()
