"""Dead letters on a broker: read back, chosen, replayed once."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import BrokerConfig
from pipeline.errors import CorruptRowError
from pipeline.ingest.batch import Reason, Rejects, TopicPartition
from pipeline.ingest.deadletter import DeadLetter, dead_letters
from pipeline.ingest.scan import fetch, scan
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import describe, ensure_topic
from pipeline.testing.log import LoggedRecord, binary_batch

BODIES = [b'{"n": 1', b'{"n": "x"}', '{"n": "\N{SNOWMAN}"}'.encode(), b"", b"y" * 5000]
REASONS = [Reason.DECODE, Reason.SCHEMA, Reason.SCHEMA, Reason.EMPTY, Reason.DECODE]


@pytest.fixture
def app(kafka_brokers: str, topic: Callable[[str], str]) -> str:
    """An application whose five records from one partition are dead letters, one of a view only."""
    broker = BrokerConfig(brokers=kafka_brokers)
    name = topic("app")
    source = f"{name}-events"
    ensure_topic(broker, source, 1)
    ensure_topic(broker, f"{name}-dead-letter", 1)
    with Publisher(broker) as publisher:
        for i, body in enumerate(BODIES):
            publisher.publish(source, body, key=b"%d" % i)
        records = [LoggedRecord(i, b"%d" % i, body, 1_700_000_000_123) for i, body in
                   enumerate(BODIES)]  # fmt: skip
        batch = binary_batch(TopicPartition(source, 0), records)
        index, reasons = np.arange(5, dtype=np.int64), np.array(REASONS, dtype=np.uint8)
        topic_id = describe(broker, source).topic_id
        letters = dead_letters(batch, Rejects(index, reasons), topic_id=topic_id)
        failed = Rejects(index[:1], np.array([Reason.EXPRESSION], dtype=np.uint8))
        letters += dead_letters(batch, failed, view="spending", topic_id=topic_id)
        for key, value in [*letters, *letters[:2]]:  # two were sent again after a crash
            publisher.publish(f"{name}-dead-letter", value, key=key)
    return name


def run(app: str, brokers: str, *words: str) -> list[str]:
    """Words of a ``dlq`` command."""
    return ["dlq", words[0], app, *words[1:], "--brokers", brokers]


def test_count_list_and_show(
    app: str, kafka_brokers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run(app, kafka_brokers, "count", "--json")) == 0
    counted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(row["view"], row["reason"]): row["letters"] for row in counted}
    assert found == {
        (None, "decode"): 2, (None, "schema"): 2, (None, "empty"): 1, ("spending", "expression"): 1,
    }  # fmt: skip
    assert main(run(app, kafka_brokers, "list", "--reason", "schema", "--limit", "1")) == 0
    out = capsys.readouterr().out
    assert f"{app}-events/0/1 " in out
    assert "2023-11-14T22:13:20.123Z" in out
    assert f"{app}-events/0/2" not in out
    assert main(run(app, kafka_brokers, "show", f"{app}-events/0/2")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["value"], shown["key"], shown["size"]) == ('{"n": "\N{SNOWMAN}"}', "2", 12)
    assert main(run(app, kafka_brokers, "show", "nowhere/0/1")) == 2
    assert "no open dead letter 'nowhere/0/1'" in capsys.readouterr().err


def test_replay_sends_whole_records_once(
    app: str, kafka_brokers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run(app, kafka_brokers, "replay")) == 2
    assert "--reason R, or --all" in capsys.readouterr().err
    assert main(run(app, kafka_brokers, "replay", "--all")) == 1
    out = capsys.readouterr().out
    assert "5 of 6 records published again" in out
    assert "1 kept: refused by one view only" in out
    properties = BrokerConfig(brokers=kafka_brokers).client_properties()
    records = list(scan(properties, f"{app}-events"))
    assert [r.value for r in records] == BODIES * 2
    assert [r.key for r in records] == [b"%d" % i for i in range(5)] * 2
    assert main(run(app, kafka_brokers, "replay", "--reason", "decode,schema,empty")) == 0
    assert "0 of 0 records" in capsys.readouterr().out
    assert len(list(scan(properties, f"{app}-events"))) == 10


def test_chosen_records_are_read_by_offset(app: str, kafka_brokers: str) -> None:
    properties = BrokerConfig(brokers=kafka_brokers).client_properties()
    found = fetch(properties, f"{app}-events", {0: [0, 3, 4, 77]})
    assert [(r.offset, r.value) for r in found] == [(0, BODIES[0]), (3, b""), (4, BODIES[4])]


def test_an_application_that_never_ran(
    kafka_brokers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run("nobody", kafka_brokers, "count")) == 2
    assert "nobody-dead-letter" in capsys.readouterr().err


def test_a_message_that_is_no_letter() -> None:
    for value in (b"noise", b"[]", b'{"reason": "schema"}'):
        with pytest.raises(CorruptRowError, match="is not a dead letter"):
            DeadLetter.from_message(b"a/0/1", value)
