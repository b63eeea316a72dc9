"""Keys of every type, and look-ups, through a broker's partitions and Redis."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

import pipeline as pp
from pipeline.app.build import build_plane
from pipeline.config import Config
from pipeline.embedded import EmbeddedServers
from pipeline.produce.topics import ensure_topic
from tests.unit.test_app_keys import CONTRACT, rows

pytestmark = pytest.mark.embedded
KEYS = [("device",), ("token",), ("src", "account", "token")]
PARTITIONS = 5


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_what_is_produced_is_read_by_its_entity(
    embedded_servers: EmbeddedServers, key: tuple[str, ...]
) -> None:
    topic = f"keys-{'-'.join(key)}"
    flags = {"broker.brokers": embedded_servers.brokers, "store.url": embedded_servers.redis_url}
    config = Config.load(flags=flags)
    ensure_topic(embedded_servers.brokers, topic, PARTITIONS)
    stream = pp.EventStream(topic, contract=CONTRACT, key=key, time="at")
    counts = pp.FeatureView(f"n_{len(key)}_{key[0]}", stream, key, {"n": pp.count().over("1h")})
    seen = pp.FeatureView(
        f"seen_{len(key)}_{key[0]}", stream, key, {"ns": pp.last("n", n=99)},
        lookups={"n": counts["n"]},
    )  # fmt: skip
    sent = [{**row, "at": at} for at, row in enumerate(rows())]
    with pp.EventProducer(stream, brokers=embedded_servers.brokers) as producer:
        producer.send(sent)
    plane = build_plane(f"app-{topic}", [counts, seen], [], config)
    plane.start()
    done, until = 0, time.monotonic() + 60
    while done < len(sent) and time.monotonic() < until:
        step = plane.step()
        assert not step.rejected
        done += sum(len(batch.events) for batch in step.batches)
    plane.close()
    assert done == len(sent)

    def entity(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in key)

    expected = Counter(map(entity, sent))
    keys = {name: [e[i] for e in expected] for i, name in enumerate(key)}
    with pp.FeatureClient(embedded_servers.redis_url) as client:
        table = client.prepare([counts.name, seen.name]).read(keys, at="event")
    assert table["n"].to_pylist() == list(expected.values())
    assert table["ns"].to_pylist() == [list(range(n, 0, -1)) for n in expected.values()]
    assert len(set(table[f"{seen.name}__partition"].to_pylist())) > 1
