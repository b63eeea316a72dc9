"""Decoding speed of binary formats on one core: ``python -m tests.bench.formats [events]``.

Prints ns an event (best and median of 25) for AvroDecoder and ProtobufDecoder over the events of
``tests.bench.decode``, with keys and times checked, beside fastavro's and google.protobuf's own
reading of the same bytes one by one, into Python objects. The runs alternate, each once unmeasured
and once measured. Decides nothing: a figure on a shared machine is no test. build/bench.json gets
them too.
"""

from __future__ import annotations

import io
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fastavro
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline.contracts.contract import Contract
from pipeline.contracts.protobuf import compile_proto
from pipeline.ingest.batch import BinaryBatch
from pipeline.ingest.envelope import Decoder, Envelope
from pipeline.ingest.formats import make_decoder
from tests.bench.decode import ROUNDS, timed
from tests.bench.report import compared, record
from tests.reference.records import binary_batch

AVRO: Any = {
    "type": "record",
    "name": "behaviour",
    "fields": [
        {"name": "user_id", "type": "long"},
        {"name": "item_id", "type": "long"},
        {"name": "action", "type": "string"},
        {"name": "price", "type": "double"},
        {"name": "quantity", "type": ["null", "int"], "default": None},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "session", "type": "string"},
    ],
}
PROTO = """
syntax = "proto3";
import "pipeline/options.proto";
message behaviour {
  int64 user_id = 1;
  int64 item_id = 2;
  string action = 3;
  double price = 4;
  optional int32 quantity = 5;
  int64 event_time = 6 [(pipeline.unix_time) = "ms"];
  string session = 7;
}
"""


def event(r: random.Random) -> dict[str, Any]:
    """One behaviour event."""
    return {
        "user_id": r.randrange(100_000),
        "item_id": r.randrange(1_000_000),
        "action": r.choice(["view", "cart", "purchase"]),
        "price": r.random() * 100,
        "quantity": r.randrange(1, 9),
        "event_time": 1_704_067_200_000 + r.randrange(86_400_000),
        "session": f"{r.getrandbits(64):016x}",
    }


GOALS = {"avro": 15.0, "protobuf": 8.0}


def decoder(source: Any) -> Decoder:
    """The decoder of a contract."""
    contract = source if isinstance(source, Contract) else Contract.load(source)
    return make_decoder(contract.language, contract, Envelope(contract, "user_id", "event_time", 1))


def avro(events: list[dict[str, Any]]) -> tuple[Decoder, list[bytes], Callable[[bytes], object]]:
    """Decoder, values and the peer's way to read one."""
    schema: Any = fastavro.parse_schema(
        {**AVRO, "fields": [*AVRO["fields"][:5], {"name": "event_time", "type": "long"},
                            AVRO["fields"][6]]}
    )  # fmt: skip
    values = []
    for item in events:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, item)
        values.append(out.getvalue())
    return (
        decoder(AVRO),
        values,
        lambda value: fastavro.schemaless_reader(io.BytesIO(value), schema),
    )


def protobuf(
    events: list[dict[str, Any]],
) -> tuple[Decoder, list[bytes], Callable[[bytes], object]]:
    """Decoder, values and the peer's way to read one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "behaviour.proto"
        path.write_text(PROTO)
        contract, compiled = Contract.load(path), compile_proto(path)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("behaviour"))

    def read(value: bytes) -> object:
        m = kind.FromString(value)
        return m.user_id, m.item_id, m.action, m.price, m.quantity, m.event_time, m.session

    return decoder(contract), [kind(**e).SerializeToString() for e in events], read


def main(n: int) -> None:
    """Print the table."""
    events = [event(random.Random(i)) for i in range(n)]
    keys: list[bytes | None] = [str(e["user_id"]).encode() for e in events]
    for name, peer, make in (("avro", "fastavro", avro), ("protobuf", "google.protobuf", protobuf)):
        ours, values, read = make(events)
        batch: BinaryBatch = binary_batch(values, keys)
        rejected = ours.decode(batch).rejects().counts()
        runs: dict[str, Callable[[], object]] = {
            "decode": partial(ours.decode, batch),
            peer: lambda: [read(value) for value in values],  # noqa: B023  (called in this turn)
        }
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(ROUNDS):
            for key, run in runs.items():
                run()  # protobuf's library gives free memory back: the next one would pay for that
                times[key].append(timed(run))
        size = sum(map(len, values)) / n
        print(f"{name}: {n} events, {size:.0f} bytes each, rejected {rejected}")
        for key, spent in times.items():
            best, median = min(spent) / n * 1e9, statistics.median(spent) / n * 1e9
            print(f"  {key:20} {best:8.1f} ns best {median:8.1f} ns median {1e3 / best:8.2f} M/s")
        fast, slow = ([n / t for t in times[key]] for key in ("decode", peer))
        record([compared("P5", name, fast, peer, slow, "events/s", GOALS[name])])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
