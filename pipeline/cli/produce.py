"""``pipeline produce``: a file of events to a topic."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.options import load_config
from pipeline.cli.screen import error_console
from pipeline.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    import polars as pl

    from pipeline.config import BrokerConfig
    from pipeline.contracts.contract import Contract
    from pipeline.produce.topics import TopicInfo

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "USAGE", "add_arguments", "command", "read_events"]

HELP = "publish the events of a file, checked against their contract"
USAGE = """\
pipeline produce FILE --topic TOPIC --contract FILE --key FIELD
           [--create N] [--timezone ZONE] [--rate N] [--limit N] [settings]"""
DESCRIPTION = """\
Publish each row of a file as a JSON event. All rows are checked against the
contract first: a file that does not fit it sends nothing. Delivery is
idempotent, acknowledged by all replicas, and in order per key; the exit code is
0 only if every event was acknowledged."""
EXAMPLES = """\
  pipeline produce purchases.parquet --topic purchases --timezone UTC \\
      --contract schemas/events/purchase.json --key household_id
  pipeline produce today.csv --topic purchases --create 12 --rate 5000 \\
      --contract purchase.avsc --key household_id
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE and where to send it."""
    parser.add_argument("file", metavar="FILE", type=Path, help=".parquet, .csv, .jsonl or .ndjson")
    parser.add_argument("--topic", required=True, help="where to")
    parser.add_argument(
        "--contract",
        required=True,
        type=Path,
        metavar="FILE",
        help="JSON Schema (.json) or Avro (.avsc) of an event",
    )
    parser.add_argument(
        "--key",
        required=True,
        metavar="FIELD[,...]",
        help="field whose value is the message key, or the fields that make it",
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", help="zone of times that carry none, such as UTC"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="events per second (default: all)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N events")
    parser.add_argument(
        "--create",
        type=int,
        metavar="N",
        help="create the topic with N partitions if it is not there",
    )


def command(arguments: argparse.Namespace) -> int:
    """Publish and report."""
    from pipeline.contracts.contract import Contract
    from pipeline.produce.encode import conform
    from pipeline.produce.producer import EventProducer

    for option, least in (("limit", 0), ("create", 1)):
        given = getattr(arguments, option)
        if given is not None and given < least:
            raise ConfigurationError(f"--{option}: must be at least {least}, got {given}")
    broker = load_config(arguments).broker
    contract = Contract.load(arguments.contract)
    key = arguments.key.split(",")
    for name in key:
        contract.field(name)
    events = read_events(arguments.file, contract, arguments.limit)
    if arguments.timezone is not None:
        events = _in_zone(events, contract, arguments.timezone)
    conform(contract, events)  # before a topic is made for events that are refused
    topic = _topic(broker, arguments.topic, arguments.create)
    started = time.monotonic()
    with _progress(events.height, arguments.topic) as advance:
        producer = EventProducer(
            contract,
            arguments.topic,
            key,
            brokers=broker,
            rate=arguments.rate,
            on_progress=advance,
        )
        with producer:
            producer.send(events)
    elapsed = time.monotonic() - started
    print(
        f"{producer.sent:,} events to {topic.topic} ({topic.partitions} partitions) "
        f"in {elapsed:.1f} s, {producer.sent / max(elapsed, 1e-9):,.0f}/s, all acknowledged"
    )
    return 0


def _topic(broker: BrokerConfig, name: str, create: int | None) -> TopicInfo:
    from pipeline.produce.topics import describe, ensure_topic

    if create is not None:
        return ensure_topic(broker, name, create)
    try:
        return describe(broker, name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}; --create N creates it") from error


def read_events(path: Path, contract: Contract, limit: int | None = None) -> pl.DataFrame:
    """The rows of a file, with text columns read as the contract's types.

    Raises :class:`ConfigurationError` for a file that cannot be read.
    """
    import polars as pl

    readers: dict[str, Callable[[], pl.DataFrame]] = {
        ".parquet": lambda: pl.read_parquet(path, n_rows=limit),
        ".csv": lambda: pl.read_csv(path, n_rows=limit, schema_overrides=_types(contract)),
        ".jsonl": lambda: _read_lines(path, contract, limit),
    }
    readers[".ndjson"] = readers[".jsonl"]
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(f"{path}: expected {', '.join(readers)}")
    if not path.is_file():
        raise ConfigurationError(f"no file {str(path)!r} (looked in {Path.cwd()})")
    try:
        return _from_base64(path, reader(), contract)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _read_lines(path: Path, contract: Contract, limit: int | None) -> pl.DataFrame:
    """A file of JSON objects; a field that none of them has is no column, one that some lack is
    null in these."""
    import polars as pl

    types = _types(contract)
    try:
        return pl.read_ndjson(path, n_rows=limit, schema_overrides=types)
    except pl.exceptions.SchemaFieldNotFoundError:
        # polars knows the fields of the first lines only, and wants a type to be of one of these.
        there = pl.scan_ndjson(path, infer_schema_length=None).collect_schema()
        found = {name: kind for name, kind in types.items() if name in there}
        return pl.read_ndjson(path, n_rows=limit, schema_overrides=found, infer_schema_length=None)


def _in_zone(events: pl.DataFrame, contract: Contract, zone: str) -> pl.DataFrame:
    """``events`` with the contract's times without a zone taken as times in ``zone``."""
    import polars as pl

    naive = [
        name
        for name, kind in events.schema.items()
        if name in contract.names and isinstance(kind, pl.Datetime) and kind.time_zone is None
    ]
    try:
        return events.with_columns(pl.col(naive).dt.replace_time_zone(zone))
    except pl.exceptions.PolarsError as error:
        raise ConfigurationError(f"--timezone {zone}: {error}") from error


def _types(contract: Contract) -> dict[str, pl.DataType]:
    """What text files are read as; times stay text, or integers where the contract counts them."""
    import polars as pl

    from pipeline.contracts.contract import FieldType

    types: dict[str, pl.DataType] = {}
    for field in contract.fields:
        if field.type is FieldType.TIMESTAMP:
            types[field.name] = pl.String() if field.unit.startswith("iso") else pl.Int64()
        else:
            types[field.name] = {
                FieldType.INT64: pl.Int64(),
                FieldType.FLOAT64: pl.Float64(),
                FieldType.DECIMAL: pl.Float64(),
                FieldType.BOOL: pl.Boolean(),
                FieldType.STRING: pl.String(),
                FieldType.UUID: pl.String(),
                FieldType.BYTES: pl.String(),
            }[field.type]
    return types


def _from_base64(path: Path, events: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """``events`` with the text of the contract's bytes decoded."""
    import polars as pl

    from pipeline.contracts.contract import FieldType

    names = [field.name for field in contract.fields if field.type is FieldType.BYTES]
    texts = [name for name in names if events.schema.get(name) == pl.String]
    try:
        return events.with_columns(pl.col(texts).str.decode("base64")) if texts else events
    except pl.exceptions.PolarsError as error:
        raise ConfigurationError(f"{path}: {', '.join(texts)} is not base64: {error}") from error


@contextmanager
def _progress(total: int, topic: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; nothing where it is not."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = error_console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(topic, total=total)
        yield lambda sent: bar.update(task, completed=sent)
