from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import confluent_kafka
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline.config import BrokerConfig
from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.embedded import EmbeddedBroker
from pipeline.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DefinitionError,
    MissingExtraError,
    PipelineError,
    UnknownNameError,
)
from pipeline.kernels.hash import partition_of
from pipeline.produce.producer import EventProducer
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import TopicInfo, describe, describe_cluster, ensure_topic

pytestmark = pytest.mark.embedded

CONTRACT = Contract(
    "click",
    1,
    (Field("user", FieldType.STRING), Field("n", FieldType.INT64)),
)


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    try:
        broker = EmbeddedBroker().start()
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    yield broker.brokers
    broker.stop()


@pytest.fixture
def dead() -> str:
    """An address that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def consume(brokers: str, topic: str, partitions: int) -> list[confluent_kafka.Message]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": brokers, "group.id": "test", "enable.partition.eof": True}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, p, 0) for p in range(partitions)])
    ends, messages = 0, []
    while ends < partitions:
        for message in consumer.consume(10_000, timeout=0.3):
            error = message.error()
            if error is None:
                messages.append(message)
            else:
                assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF
                ends += 1
    consumer.close()
    return messages


def present(content: bytes | None) -> bytes:
    assert content is not None
    return content


def partitions_of(keys: list[bytes], count: int) -> list[int]:
    offsets = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    data = np.frombuffer(b"".join(keys), dtype=np.uint8)
    out = np.empty(len(keys), dtype=np.int32)
    partition_of(data, offsets, count, out)
    return out.tolist()


def test_every_event_arrives_once_in_order_where_murmur2_says(brokers: str) -> None:
    topic = ensure_topic(brokers, "clicks", 7)
    n = 60_000
    users = [f"user-{i * i % 997}é" for i in range(n)]
    frame = pl.DataFrame({"user": users, "n": range(n)})
    seen: list[int] = []
    with EventProducer(CONTRACT, "clicks", "user", brokers=brokers, on_progress=seen.append) as p:
        assert p.send(frame) == n
        assert p.send(frame.clear()) == 0
    assert seen == [20_000, 40_000, 60_000]
    messages = consume(brokers, "clicks", topic.partitions)
    assert len(messages) == n
    keys = [present(m.key()) for m in messages]
    assert [m.partition() for m in messages] == partitions_of(keys, 7)
    rows = pl.DataFrame(
        {
            "partition": [m.partition() for m in messages],
            "n": [int(present(m.value()).rpartition(b":")[2].rstrip(b"}")) for m in messages],
        }
    )
    assert sorted(rows["n"]) == list(range(n))
    for _, part in rows.group_by("partition"):
        assert part["n"].is_sorted()


def test_rows_and_arrow_give_the_same_messages_as_a_frame(brokers: str) -> None:
    rows = [{"user": "a", "n": 1}, {"n": 2, "user": "b"}]
    frame = pl.DataFrame(rows)
    values = []
    forms: list[pl.DataFrame | pa.Table | pa.RecordBatch | Iterable[Mapping[str, object]]] = [
        frame, frame.to_arrow(), frame.to_arrow().to_batches()[0], iter(rows),
    ]  # fmt: skip
    for index, events in enumerate(forms):
        topic = f"same-{index}"
        ensure_topic(brokers, topic, 1)
        with EventProducer(CONTRACT, topic, "user", brokers=brokers) as producer:
            assert producer.send(events) == 2
        values.append([(m.key(), m.value()) for m in consume(brokers, topic, 1)])
    assert values[0] == [(b"a", b'{"user":"a","n":1}'), (b"b", b'{"user":"b","n":2}')]
    assert all(found == values[0] for found in values)


def test_nothing_is_sent_when_a_column_does_not_fit(brokers: str) -> None:
    ensure_topic(brokers, "refused", 1)
    with EventProducer(CONTRACT, "refused", "user", brokers=brokers) as producer:
        with pytest.raises(DefinitionError, match=r"click\.n: row 1 is null"):
            producer.send(pl.DataFrame({"user": ["a", "b"], "n": [1, None]}))
        with pytest.raises(DefinitionError, match=r"click\.user: row 0 has no value"):
            producer.send(pl.DataFrame({"user": [""], "n": [1]}))
        with pytest.raises(DefinitionError, match=r"click\.user: is the key"):
            producer.send(pl.DataFrame({"n": [1]}))
        with pytest.raises(DefinitionError, match=r"click\.n: the contract says int64"):
            producer.send([{"user": "a", "n": 1}, {"user": "b", "n": "x"}])
    assert producer.sent == 0
    assert consume(brokers, "refused", 1) == []


def test_rate_is_kept_by_an_injected_clock(brokers: str) -> None:
    ensure_topic(brokers, "slow", 1)
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    frame = pl.DataFrame({"user": ["a"] * 1_000, "n": range(1_000)})
    with EventProducer(
        CONTRACT, "slow", "user", brokers=brokers, rate=500, monotonic=lambda: now[0], sleep=sleep
    ) as producer:
        producer.send(frame)
        assert now[0] == pytest.approx(102.0)
        now[0] += 60  # a pause is not made up for by a burst of a minute
        producer.send(frame)
        assert now[0] == pytest.approx(163.0)
    assert max(slept) <= 0.06


def test_publisher_sends_to_the_named_partition(brokers: str) -> None:
    ensure_topic(brokers, "outputs", 3)
    with Publisher(brokers) as publisher:
        publisher.publish("outputs", b"v2", partition=2)
        publisher.publish("outputs", b"keyed", b"k")
        publisher.publish("outputs", None, b"k")
        publisher.publish_many("outputs", [b"a", b"b"], partition=1)
        publisher.flush()
    found = {(m.partition(), m.key(), m.value()) for m in consume(brokers, "outputs", 3)}
    where = partitions_of([b"k"], 3)[0]
    assert found == {
        (2, None, b"v2"), (where, b"k", b"keyed"), (where, b"k", None), (1, None, b"a"),
        (1, None, b"b"),
    }  # fmt: skip


def test_a_refused_message_is_named_and_the_publisher_goes_on(brokers: str) -> None:
    ensure_topic(brokers, "large", 1)
    with Publisher(brokers) as publisher:
        with pytest.raises(PipelineError, match="MSG_SIZE_TOO_LARGE"):
            publisher.publish("large", bytes(17 << 20))
        publisher.publish("large", b"small")
    assert [m.value() for m in consume(brokers, "large", 1)] == [b"small"]


@pytest.mark.kafka
@pytest.mark.parametrize("refused", ["too large", "from the future"])
def test_what_the_broker_itself_refuses_fails_the_flush_and_is_sent_again(
    kafka_brokers: str, topic: Callable[[str], str], refused: str
) -> None:
    """The client fails for good and raises what is no exception; the next one carries on."""
    name = topic("narrow")
    ensure_topic(kafka_brokers, name, 1, {"max.message.bytes": "1000"})
    with Publisher(kafka_brokers, timeout_s=5) as publisher:
        publisher.publish(name, b"before")
        publisher.flush()
        for _ in range(3):
            if refused == "too large":
                publisher.publish(name, np.random.default_rng(1).bytes(5_000))
            else:
                at = int((time.time() + 400 * 86_400) * 1000)
                publisher._producer().produce(name, b"x", timestamp=at)
            publisher.publish(name, b"behind it")
            with pytest.raises(BrokerUnavailableError, match=r"Message size|Invalid timestamp"):
                publisher.flush()
        publisher.publish(name, b"after")
    assert [m.value() for m in consume(kafka_brokers, name, 1)] == [b"before", b"after"]


def test_a_wrong_partition_fails_the_flush(brokers: str) -> None:
    ensure_topic(brokers, "narrow", 1)
    publisher = Publisher(brokers, timeout_s=3)
    publisher.publish("narrow", b"x", partition=5)
    with pytest.raises(PipelineError, match=r"deliver 1 messages to topic 'narrow'"):
        publisher.flush()
    publisher.publish("narrow", b"y", partition=0)
    publisher.flush()
    publisher.close()


def refused(publisher: Publisher, topic: str) -> None:
    """Send to a partition that is not there: refused at once where the client knows its topic
    already, else while it is waited for."""
    publisher.publish(topic, b"c", partition=7)
    publisher.wait(publisher.ticket())


def test_a_ticket_waits_for_its_messages_alone(brokers: str) -> None:
    ensure_topic(brokers, "tickets", 2)
    with Publisher(brokers, tickets=True, linger_ms=0) as publisher:
        publisher.publish_many("tickets", [b"a", b"b"], partition=0)
        first = publisher.ticket()
        assert first.left == 2
        none = publisher.ticket()
        with pytest.raises(PipelineError, match="tickets"):
            refused(publisher, "tickets")
        publisher.publish("tickets", b"d", partition=1)
        third = publisher.ticket()
        publisher.wait(third)
        assert (third.left, none.left) == (0, 0)
        publisher.wait(none)
    values = [m.value() for m in consume(brokers, "tickets", 2)]
    assert set(values) <= {b"a", b"b", b"d"}
    assert b"d" in values


def test_a_failed_message_fails_every_ticket_on_its_way(brokers: str) -> None:
    ensure_topic(brokers, "failing-tickets", 1)
    with Publisher(brokers, tickets=True) as publisher:
        publisher.publish("failing-tickets", b"a", partition=0)
        other = publisher.ticket()
        with pytest.raises(PipelineError, match="failing-tickets"):
            refused(publisher, "failing-tickets")
        if other.left:  # it had not been taken: it never was, though nothing is queued any more
            with pytest.raises(PipelineError):
                publisher.wait(other)
        publisher.publish("failing-tickets", b"b", partition=0)
        publisher.wait(publisher.ticket())


def test_a_client_that_failed_for_good_is_no_reason_to_end_when_asked(brokers: str) -> None:
    class Failed:
        """Raises what librdkafka's wrapper does after a fatal error."""

        def poll(self, _: float) -> int:
            raise SystemError("returned a result with an exception set")

        def purge(self) -> None:
            """Nothing is queued."""

    ensure_topic(brokers, "fatal", 1)
    with Publisher(brokers, tickets=True, linger_ms=50) as publisher:
        publisher.publish("fatal", b"a", partition=0)
        ticket = publisher.ticket()
        working, publisher._client = publisher._client, Failed()
        with pytest.raises(BrokerUnavailableError, match="could not deliver"):
            publisher.acknowledged(ticket)
        working.flush(5)
        publisher.publish("fatal", b"b", partition=0)
        publisher.wait(publisher.ticket())


def test_without_tickets_there_is_nothing_to_wait_for(brokers: str) -> None:
    with Publisher(brokers) as publisher, pytest.raises(PipelineError, match="tickets=True"):
        publisher.wait(publisher.ticket())


def test_dead_broker_is_named_in_bounded_time(dead: str) -> None:
    def publish() -> None:
        with Publisher(dead, timeout_s=1) as publisher:
            publisher.publish("t", b"v")

    def produce() -> None:
        with EventProducer(CONTRACT, "t", "user", brokers=dead, timeout_s=1) as producer:
            producer.send([{"user": "a", "n": 1}])

    for call in (
        publish,
        produce,
        lambda: ensure_topic(dead, "t", 1, timeout_s=1),
        lambda: describe(dead, "t", timeout_s=1),
        lambda: describe_cluster(dead, timeout_s=1),
    ):
        started = time.monotonic()
        with pytest.raises(BrokerUnavailableError) as caught:
            call()
        assert time.monotonic() - started < 4
        assert f"no Kafka broker answered at {dead} within 1 s (Connection refused)" in str(
            caught.value
        )
        assert caught.value.exit_code == 2


def test_clients_write_nothing_to_the_terminal(
    dead: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BrokerUnavailableError):
        describe(dead, "t", timeout_s=1)
    with pytest.raises(BrokerUnavailableError), Publisher(dead, timeout_s=1) as publisher:
        publisher.publish("t", b"v")
    assert capfd.readouterr() == ("", "")


def test_topics(brokers: str) -> None:
    made = ensure_topic(brokers, "purchases", 3)
    assert (made.topic, made.partitions, len(made.topic_id)) == ("purchases", 3, 22)
    assert ensure_topic(brokers, "purchases") == made == describe(brokers, "purchases")
    assert isinstance(made, TopicInfo)
    assert describe_cluster(brokers).topics["purchases"] == 3
    with pytest.raises(ConfigurationError, match="has 3 partitions, not 4: keys would change"):
        ensure_topic(brokers, "purchases", 4)
    with pytest.raises(UnknownNameError, match=r"no topic 'purchase'.*did you mean 'purchases'"):
        describe(brokers, "purchase")
    with pytest.raises(ConfigurationError, match=r"Invalid topic|TOPIC_EXCEPTION"):
        ensure_topic(brokers, "not a topic", 1)


def test_a_wrong_property_is_a_configuration_error(brokers: str) -> None:
    config = BrokerConfig(brokers, properties={"no.such.thing": "1"})
    with pytest.raises(ConfigurationError, match=r"no\.such\.thing"):
        Publisher(config).publish("t", b"v")


def test_arguments_are_checked() -> None:
    with pytest.raises(DefinitionError, match="give both"):
        EventProducer(CONTRACT, "t", brokers="h:1")
    with pytest.raises(UnknownNameError, match="has no field 'usr'"):
        EventProducer(CONTRACT, "t", "usr", brokers="h:1")
    with pytest.raises(DefinitionError, match="more than 0"):
        EventProducer(CONTRACT, "t", "user", brokers="h:1", rate=0)
