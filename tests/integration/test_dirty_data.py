"""Real dirty data: taxi trips with negative fares, missing blocks and drop-offs before pick-ups.

Nothing is cleaned before it is published. Every trip is accounted for, and what is wrong with it
is counted by features, or is a dead letter with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import pipeline as pp
from pipeline.serve.client import FeatureClient
from pipeline.testing.driver import Driver

pytestmark = pytest.mark.data

CONTRACT: dict[str, Any] = {
    "title": "trip",
    "type": "object",
    "properties": {
        "zone": {"type": "integer"},
        "picked_up": {"type": "string", "format": "date-time"},
        "dropped_off": {"type": "string", "format": "date-time"},
        "vendor": {"type": ["integer", "null"]},
        "passengers": {"type": ["integer", "null"]},
        "distance": {"type": "number"},
        "fare": {"type": "number", "x-decimal": 2},
    },
    "required": ["zone", "picked_up", "dropped_off", "distance", "fare"],
}


@pytest.fixture(scope="module")
def trips(data_dir: Path) -> pl.DataFrame:
    """The trips as they were recorded, in the order of their drop-offs."""
    path = data_dir / "yellow_taxi_2018.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name}: real trips with real mistakes")
    stamp = {"time_unit": "ns", "time_zone": "UTC"}
    return pl.read_parquet(path).select(
        zone="pickup_location_id",
        picked_up=pl.col("pickup_datetime").str.to_datetime(**stamp),  # type: ignore[arg-type]
        dropped_off=pl.col("dropoff_datetime").str.to_datetime(**stamp),  # type: ignore[arg-type]
        vendor=pl.col("vendor_id").cast(pl.Int64),
        passengers=pl.col("passenger_count").cast(pl.Int64),
        distance="trip_distance",
        fare="fare_amount",
    )


def test_what_is_wrong_is_counted(trips: pl.DataFrame) -> None:
    """Counts of a year by zone equal those of the file; the largest fare is as large as it is."""
    features = {
        "trips": pp.count(),
        "backwards": pp.count(where=pl.col("dropped_off") < pl.col("picked_up")),
        "negative": pp.count(where=pl.col("fare") < 0),
        "no_passengers": pp.count(where=pl.col("passengers") == 0),
        "vendors": pp.distinct("vendor"),
        "fares": pp.sum("fare"),
        "largest": pp.max("fare"),
    }
    stream = pp.EventStream(
        "trips", pp.Contract.load(CONTRACT), key="zone", time="picked_up", max_future="1h"
    )
    view = pp.FeatureView(
        "zone",
        source=stream,
        entity="zone",
        where=pl.col("distance") > 0,
        features={n: f.over("800d", slide="1d") for n, f in features.items()},
    )
    run = Driver([view], partitions=4, max_records=20_000)
    run.clock.advance(1_600_000_000_000)
    text = pl.col("picked_up", "dropped_off").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    values = trips.with_columns(text).select(pl.struct(pl.all()).struct.json_encode()).to_series()
    times = trips["dropped_off"].cast(pl.Int64) // 1_000_000
    for zone, value, time in zip(trips["zone"], values, times, strict=True):
        run.log.append("trips", b"%d" % zone, value.encode(), time)
    run.run()
    ahead = pl.col("picked_up") > pl.col("dropped_off") + pl.duration(hours=1)
    counted = trips.filter(~ahead, pl.col("distance") > 0)
    markers = run.markers("zone")
    assert sum(m.consumed for m in markers) == len(trips)
    assert sum(m.dead_lettered for m in markers) == trips.filter(ahead).height
    assert sum(m.filtered for m in markers) == trips.filter(~ahead, pl.col("distance") <= 0).height
    assert sum(m.applied for m in markers) == len(counted)
    backwards = pl.col("dropped_off") < pl.col("picked_up")
    expected = (
        counted.group_by("zone")
        .agg(
            trips=pl.len().cast(pl.Int64),
            backwards=backwards.sum().cast(pl.Int64),
            negative=(pl.col("fare") < 0).sum().cast(pl.Int64),
            no_passengers=(pl.col("passengers") == 0).sum().cast(pl.Int64),
            vendors=pl.col("vendor").n_unique().cast(pl.Int64),
            fares=(pl.col("fare") * 100).round().cast(pl.Int64).sum(),
            largest=pl.col("fare").max(),
        )
        .sort("zone")
    )
    # Python rounds a quotient once; polars takes the reciprocal of a constant.
    fares = pl.Series("fares", [cents / 100 for cents in expected["fares"]])
    expected = expected.with_columns(fares)
    assert expected["negative"].sum() > 50
    assert expected["largest"].max() == 429490.2  # as it stands in the file
    query = FeatureClient(run.store).prepare(["zone"])
    found: Any = query.read({"zone": expected["zone"].to_list()}, at="event")
    read = pl.DataFrame(pl.from_arrow(found.select(expected.columns)))
    assert_frame_equal(read, expected, check_exact=True)
