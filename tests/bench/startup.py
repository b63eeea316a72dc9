"""From ``pipeline run`` to the first commit, kernels compiled before or not (target P12).

    python -m tests.bench.startup [--rounds 5] [--cold 3] [--quick]

The whole start counts: the interpreter, imports, checks of the servers, kernels, joining the group,
the first batch out of a log that is there. Cold means an empty cache of compiled kernels
(``PIPELINE_CACHE``), once for each start; progress has to be shown then. Warm starts use what the
last cold one left.
"""

from __future__ import annotations

import argparse
import tempfile

from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench._worker import Worker
from tests.bench.end_to_end import about, servers
from tests.bench.peers.workload import Log
from tests.bench.report import limited, publish

TOPIC, PARTITIONS = "startup", 12
WARM_S, COLD_S = 3.0, 25.0
PROGRESS = "compiling kernels"


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", type=int, default=3, help="starts with an empty cache")
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    rounds, cold = (1, 1) if asked.quick else (asked.rounds, asked.cold)
    taken: dict[str, list[float]] = {"cold": [], "warm": []}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        config = Config.load(environ={}, flags={"broker.brokers": brokers})
        ensure_topic(config.broker, TOPIC, PARTITIONS)
        Log(TOPIC, 10_000).produce(brokers)

        def start(name: str, cache: str) -> None:
            app = f"startup-{name}-{len(taken[name])}"
            environment = {"PIPELINE_CACHE": cache}
            with Worker(
                brokers, redis_url, TOPIC, app, PARTITIONS, environment=environment
            ) as worker:
                seconds = worker.wait(1)
                if (PROGRESS in worker.said()) != (name == "cold"):
                    raise RuntimeError(f"a {name} start said: {worker.said()}")
            taken[name].append(seconds)
            print(f"{name}: {seconds:.2f} s")

        for _ in range(cold):
            with tempfile.TemporaryDirectory(prefix="bench-") as cache:
                start("cold", cache)
                for _ in range(-(-rounds // cold)):
                    start("warm", cache)
    found = [
        limited("P12", "start to first commit, warm cache", taken["warm"], WARM_S, "s"),
        limited("P12", "start to first commit, cold cache", taken["cold"], COLD_S, "s"),
    ]
    publish(found, described, quick=asked.quick)


if __name__ == "__main__":
    main()
