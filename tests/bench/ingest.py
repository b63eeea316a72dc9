"""CPU of an event that comes in: consume and gather, beside ``confluent_kafka`` (target P3).

    python -m tests.bench.ingest [--events 2000000] [--rounds 5] [--quick]

One log of workload (a), read from the beginning by both in turns, with the same properties of
librdkafka: the native lane, which gives columns, and ``Consumer.consume`` of as many messages at a
time, of each of which ``value()`` is taken. CPU is that of the process, librdkafka's threads
included, from the first record to the last; sizes of keys and values have to add up to the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from pipeline.app.build import lane_config, open_lane
from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench.end_to_end import about, clocked, servers
from tests.bench.peers.workload import Log
from tests.bench.report import compared, publish

TOPIC, PARTITIONS, AT_ONCE, GOAL = "ingest", 12, 20_000, 0.35


def lane(config: Config, group: str, events: int) -> tuple[float, int]:
    """CPU in us an event of the native lane; bytes of values."""
    reader = open_lane(group, config)
    reader.subscribe(
        [TOPIC],
        on_assign=lambda sources: dict.fromkeys(sources, 0),
        on_revoke=lambda *_: None,
    )
    total = 0

    def poll() -> tuple[int, int]:
        nonlocal total
        batches = reader.poll(AT_ONCE, 10)
        total += sum(int(batch.value_size.sum()) for batch in batches)
        read = sum(map(len, batches))
        return read, read

    took = clocked(poll, events)
    reader.close()
    return took.cpu_seconds / events * 1e6, total


def client(config: Config, group: str, events: int) -> tuple[float, int]:
    """The same of ``Consumer.consume`` and ``value()``."""
    consumer = Consumer(lane_config(group, config).settings())
    consumer.subscribe(
        [TOPIC],
        on_assign=lambda c, parts: c.incremental_assign(
            [TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in parts]
        ),
    )
    total = 0

    def poll() -> tuple[int, int]:
        nonlocal total
        values = [m.value() for m in consumer.consume(AT_ONCE, 0.01) if m.error() is None]
        total += sum(len(value or b"") for value in values)
        return len(values), len(values)

    took = clocked(poll, events)
    consumer.close()
    return took.cpu_seconds / events * 1e6, total


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    events, rounds = (200_000, 1) if asked.quick else (asked.events, asked.rounds)
    ways: dict[str, Callable[[Config, str, int], tuple[float, int]]] = {
        "lane": lane,
        "client": client,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        config = Config.load(environ={}, flags={"broker.brokers": brokers})
        ensure_topic(config.broker, TOPIC, PARTITIONS)
        size = Log(TOPIC, events).produce(brokers)
        for number in range(-1, rounds):  # the first for kernels, which compile
            for name, way in ways.items():
                cost, read = way(config, f"{name}-{number}", events)
                if read != size:
                    raise ValueError(f"{name}: {read} of {size} bytes")
                if number >= 0:
                    taken[name].append(cost)
                    print(f"{name:8}{cost:6.3f} us an event")
    what = "CPU of ingest, consume and gather"
    peer = "Consumer.consume + value()"
    publish(
        [compared("P3", what, taken["lane"], peer, taken["client"], "us", GOAL, at_most=True)],
        described, quick=asked.quick,
    )  # fmt: skip


if __name__ == "__main__":
    main()
