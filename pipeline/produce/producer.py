"""Events to a topic, checked against their contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType

import polars as pl
import pyarrow as pa

from pipeline.config import BrokerConfig, Config
from pipeline.contracts.contract import Contract
from pipeline.errors import DefinitionError
from pipeline.features.entity import entity_fields, entity_type
from pipeline.features.stream import EventStream
from pipeline.produce.encode import conform, encode_json, encode_keys
from pipeline.produce.publisher import Publisher

__all__ = ["EventProducer", "Events"]

Events = pl.DataFrame | pa.Table | pa.RecordBatch | Iterable[Mapping[str, object]]

_CHUNK_ROWS = 20_000
_CHUNKS_PER_S = 20  # of a limited rate: even enough for a 50 ms reader, few enough to cost nothing


class EventProducer:
    """Publishes events of one contract to one topic, keyed by one field or several.

    ``stream``       an :class:`EventStream`, or a :class:`Contract` with ``topic`` and ``key``
    ``brokers``      ``host:port,...`` or a :class:`BrokerConfig` (default: file, environment)
    ``rate``         events per second, None for as fast as the broker takes them
    ``on_progress``  called with the number of events handed over so far

    Values are JSON: there is no producer of the other formats that streams can read. Keys are as
    :mod:`pipeline.ingest.entity` says, partitioned as Java's clients do. A uuid is text,
    ``uuid.UUID`` or 16 bytes, bytes are ``bytes``, written as base64. Delivery
    is idempotent with acks=all and in order per key. Leaving a ``with`` block flushes.
    """

    def __init__(
        self,
        stream: EventStream | Contract,
        topic: str | None = None,
        key: str | Sequence[str] | None = None,
        *,
        brokers: str | BrokerConfig | None = None,
        rate: float | None = None,
        on_progress: Callable[[int], None] | None = None,
        timeout_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._contract, self.topic, self._key = _target(stream, topic, key)
        if rate is not None and not rate > 0:
            raise DefinitionError("EventProducer.rate", f"must be more than 0, got {rate}")
        broker = Config.load().broker if brokers is None else brokers
        self._publisher = Publisher(broker, client_id="pipeline-producer", timeout_s=timeout_s)
        self._rate = rate
        self._on_progress = on_progress
        self._monotonic = monotonic
        self._sleep = sleep
        self._due_s: float | None = None
        self.sent = 0

    def send(self, events: Events) -> int:
        """Check and queue ``events``; returns how many there were.

        Frames and Arrow data are checked as a whole before the first event is queued, an iterable
        of mappings 20,000 at a time. Raises :class:`DefinitionError` naming the column that does
        not fit the contract, and what :class:`Publisher` raises.
        """
        before = self.sent
        for frame in _frames(events):
            self._send_frame(frame)
        return self.sent - before

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every event is acknowledged; raises if one was not."""
        self._publisher.flush(timeout_s)

    def close(self) -> None:
        """Drop what is still queued and disconnect."""
        self._publisher.close()

    def __enter__(self) -> EventProducer:
        self._publisher.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def _send_frame(self, frame: pl.DataFrame) -> None:
        if frame.height == 0:
            return
        keys = encode_keys(self._contract, frame, self._key)
        checked = conform(self._contract, frame)
        rows = _CHUNK_ROWS
        if self._rate is not None:
            rows = max(1, min(rows, int(self._rate / _CHUNKS_PER_S)))
        for start in range(0, frame.height, rows):
            values = encode_json(checked.slice(start, rows)).to_list()
            self._publisher.publish_many(self.topic, values, keys.slice(start, rows).to_list())
            self._account(len(values))

    def _account(self, events: int) -> None:
        self.sent += events
        if self._on_progress is not None:
            self._on_progress(self.sent)
        if self._rate is None:
            return
        now = self._monotonic()
        if self._due_s is None:
            self._due_s = now
        # Behind by more than a second, the lost time is not made up for with a burst.
        self._due_s = max(self._due_s, now - 1.0) + events / self._rate
        if self._due_s > now:
            self._sleep(self._due_s - now)


def _target(
    stream: EventStream | Contract, topic: str | None, key: str | Sequence[str] | None
) -> tuple[Contract, str, tuple[str, ...]]:
    if isinstance(stream, EventStream):
        if stream.format != "json":
            raise DefinitionError(
                f"EventProducer({stream.topic!r}).stream",
                f"is of {stream.format}, but a producer writes json",
            )
        topic, key = topic or stream.topic, key or stream.key
        stream = stream.schema
    if topic is None or key is None:
        raise DefinitionError(
            "EventProducer", "a contract alone names neither topic nor key: give both"
        )
    fields = entity_fields(f"{stream.name}.key", key)
    for name in fields:
        stream.field(name)
    entity_type(f"{stream.name}.key", stream, fields)
    return stream, topic, fields


def _frames(events: Events) -> Iterator[pl.DataFrame]:
    if isinstance(events, pl.DataFrame):
        yield events
    elif isinstance(events, pa.Table | pa.RecordBatch):
        frame = pl.from_arrow(events)
        yield frame if isinstance(frame, pl.DataFrame) else frame.to_frame()
    else:
        rows = iter(events)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            yield _from_mappings(chunk)


def _from_mappings(rows: list[Mapping[str, object]]) -> pl.DataFrame:
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DefinitionError("events", f"values of one field differ in type: {error}") from error
