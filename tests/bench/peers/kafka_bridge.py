"""A model server behind Kafka: what its users write to have answers kept as ours are.

Reads the request messages that our worker reads, asks the server over HTTP, publishes a message of
predictions for each, and once these are acknowledged writes a row for each entity and the next
offset in one transaction of Redis. Reading, asking and delivering overlap, several batches are
under way. No fence, no deadlines, nothing is deduplicated.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

LEADING = 6  # columns before the features
UNDER_WAY = 4  # batches


class Bridge:
    """From one topic by way of a server to another and to Redis."""

    def __init__(self, brokers: str, redis_url: str, ask: str, answer: str, path: str) -> None:
        self.consumer = Consumer({
            "bootstrap.servers": brokers, "group.id": ask, "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        })  # fmt: skip
        self.consumer.assign([TopicPartition(ask, 0, 0)])
        self.producer = Producer({
            "bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 0,
            "compression.type": "lz4",
        })  # fmt: skip
        self.store = redis.Redis.from_url(redis_url)
        self.name, self.answer, self.path = ask, answer, path
        self.free: asyncio.Queue[Any] = asyncio.Queue()

    async def run(self, port: int, clients: int, requests: int) -> None:
        """Until so many requests are answered, and that is kept."""
        for _ in range(clients):
            self.free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
        print("ready", flush=True)
        queue: asyncio.Queue[Any] = asyncio.Queue(UNDER_WAY)
        delivering = asyncio.create_task(self.deliver(queue, requests))
        read = 0
        while read < requests:
            messages = await asyncio.to_thread(self.consumer.consume, 256, 0.01)
            if messages:
                streams = [pa.ipc.open_stream(m.value() or b"") for m in messages]
                batches = [stream.read_next_batch() for stream in streams]
                asked = [asyncio.create_task(self.score(batch)) for batch in batches]
                await queue.put((messages[-1].offset(), batches, asked))
                read += len(messages)
        await delivering

    async def score(self, batch: pa.RecordBatch) -> Any:
        """The server's answer to one request."""
        columns: list[Any] = batch.columns[LEADING:]
        block = np.empty((len(batch), len(columns)), dtype=np.float32)
        for i, column in enumerate(columns):
            block[:, i] = column
        body = block.tobytes()
        reader, writer = connection = await self.free.get()
        kind = "Host: a\r\nContent-Type: application/octet-stream"
        head = f"POST {self.path} HTTP/1.1\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(answered.partition("content-length:")[2].split()[0])
        scores = np.frombuffer(await reader.readexactly(size), dtype=np.float32)
        self.free.put_nowait(connection)
        if " 200 " not in answered.splitlines()[0] or len(scores) != len(batch):
            raise RuntimeError(answered)
        return scores

    async def deliver(self, queue: asyncio.Queue[Any], requests: int) -> None:
        """Publish answers in order, then keep them."""
        while requests:
            last, batches, asked = await queue.get()
            rows: dict[bytes, bytes] = {}
            for batch, scores in zip(batches, await asyncio.gather(*asked), strict=True):
                columns: list[Any] = [*batch.columns[:LEADING], pa.array(scores)]
                names = [*batch.schema.names[:LEADING], "score"]
                sink = pa.BufferOutputStream()
                made = pa.RecordBatch.from_arrays(columns, names)
                with pa.ipc.new_stream(sink, made.schema) as writer:
                    writer.write_batch(made)
                self.producer.produce(self.answer, sink.getvalue().to_pybytes(), partition=0)
                raw = scores.tobytes()
                values = [raw[at : at + 4] for at in range(0, len(raw), 4)]
                rows.update(zip(batch.column(0).to_pylist(), values, strict=True))
            if await asyncio.to_thread(self.producer.flush, 30):
                raise RuntimeError("answers were not acknowledged")
            await asyncio.to_thread(self.keep, rows, last + 1)
            requests -= len(batches)

    def keep(self, rows: dict[bytes, bytes], offset: int) -> None:
        """The newest row of each entity, and where to go on, or nothing."""
        whole = self.store.pipeline(transaction=True)
        whole.mset({f"{self.name}:".encode() + key: row for key, row in rows.items()})
        whole.set(f"{self.name}:next", offset)
        whole.execute()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("brokers", "redis", "ask", "answer", "path"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("port", "clients", "requests"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asked = parser.parse_args()
    bridge = Bridge(asked.brokers, asked.redis, asked.ask, asked.answer, asked.path)
    asyncio.run(bridge.run(asked.port, asked.clients, asked.requests))
