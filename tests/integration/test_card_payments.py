"""Real card payments: twelve window features of other people, computed again as a stream.

The customer's are over ``(t - W, t]``, the payment itself included; the terminal's over
``(t - 7d - W, t - 7d]``, since fraud is known a week later. Two payments of one customer in one
second may be taken in either order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.testing.driver import Driver

pytestmark = pytest.mark.data

F64 = npt.NDArray[np.float64]
DAYS = (1, 7, 30)
CONTRACT: dict[str, Any] = {
    "title": "payment",
    "type": "object",
    "properties": {
        "customer": {"type": "integer"},
        "terminal": {"type": "integer"},
        "amount": {"type": "number", "x-decimal": 2},
        "fraud": {"type": "integer"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["customer", "terminal", "amount", "fraud", "at"],
}
EXPECTED = {
    "customer": {
        **{f"payments_{d}d": f"CUSTOMER_ID_NB_TX_{d}DAY_WINDOW" for d in DAYS},
        **{f"amount_{d}d": f"CUSTOMER_ID_AVG_AMOUNT_{d}DAY_WINDOW" for d in DAYS},
    },
    "terminal": {
        **{f"payments_{d}d": f"TERMINAL_ID_NB_TX_{d}DAY_WINDOW" for d in DAYS},
        **{f"fraud_{d}d": f"TERMINAL_ID_RISK_{d}DAY_WINDOW" for d in DAYS},
    },
}


def driver() -> Driver:
    """Both views, each over a topic keyed by its entity, and a trigger that sends every row."""
    contract = pp.Contract.load(CONTRACT)

    def view(entity: str, features: dict[str, Any]) -> pp.FeatureView:
        source = pp.EventStream(f"payments_by_{entity}", contract=contract, key=entity, time="at")
        return pp.FeatureView(entity, source=source, entity=entity, features=features)

    views = [
        view(
            "customer",
            {f"payments_{d}d": pp.count("amount").over(f"{d}d") for d in DAYS}
            | {f"amount_{d}d": pp.mean("amount").over(f"{d}d") for d in DAYS},
        ),
        view(
            "terminal",
            {f"payments_{d}d": pp.count("fraud").over(f"{d}d", delay="7d") for d in DAYS}
            | {
                f"fraud_{d}d": pp.mean("fraud", default=0.0).over(f"{d}d", delay="7d") for d in DAYS
            },
        ),
    ]
    triggers = [pp.Trigger(f"every_{v.name}", view=v) for v in views]
    return Driver(views, triggers, max_records=50_000, cache_bytes=1 << 28)


def streamed(payments: pl.DataFrame, entities: Sequence[str]) -> dict[str, dict[str, F64]]:
    """Features as of each payment, by entity and name, in the order of the payments."""
    run = driver()
    columns = (
        payments["CUSTOMER_ID"],
        payments["TERMINAL_ID"],
        payments["TX_AMOUNT"].round(2),  # a few are 85.64999999999999 and such
        payments["TX_FRAUD"],
        payments["TX_DATETIME"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    values = [
        json.dumps(dict(zip(CONTRACT["required"], event, strict=True))).encode()
        for event in zip(*columns, strict=True)
    ]
    times = payments["TX_DATETIME"].dt.epoch("ms").to_list()
    for entity in entities:
        keys = payments[f"{entity.upper()}_ID"].to_list()
        for key, value, time in zip(keys, values, times, strict=True):
            run.log.append(f"payments_by_{entity}", b"%d" % key, value, time, partition=0)
    run.run()
    found: dict[str, dict[str, F64]] = {}
    for entity in entities:
        messages = run.publisher.sent[run.names.requests(f"every_{entity}")]
        sent: Any = pa.concat_tables(pa.ipc.open_stream(m).read_all() for _, _, m in messages)
        assert sent["source_offset"].to_pylist() == list(range(len(payments)))
        (marker,) = run.markers(entity)
        assert (marker.consumed, marker.applied) == (len(payments), len(payments))
        found[entity] = {n: sent[n].to_numpy().astype(np.float64) for n in EXPECTED[entity]}
    return found


def differing(payments: pl.DataFrame, entity: str, got: dict[str, F64]) -> npt.NDArray[np.bool_]:
    """Per payment, whether a feature differs: counts exactly, quotients by more than rounding."""
    wrong = np.zeros(len(payments), dtype=np.bool_)
    for name, column in EXPECTED[entity].items():
        expected = payments[column].to_numpy()
        if name.startswith("payments"):
            wrong |= got[name] != expected
        else:
            wrong |= ~np.isclose(got[name], expected, rtol=1e-9, atol=1e-9)
    return wrong


def mismatches(payments: pl.DataFrame) -> int:
    """Payments whose features differ from the published ones in any order of equal times."""
    got = streamed(payments, ("customer", "terminal"))
    wrong = differing(payments, "customer", got["customer"])
    tied = payments.select(pl.struct("CUSTOMER_ID", "TX_DATETIME").is_duplicated()).to_series()
    if tied.any():
        mine = pl.col("CUSTOMER_ID").is_in(payments.filter(tied)["CUSTOMER_ID"].unique().to_list())
        other = payments.with_row_index().filter(mine)
        other = other.sort("TX_DATETIME", -pl.col("index").cast(pl.Int64))
        again = differing(other, "customer", streamed(other, ("customer",))["customer"])
        at = other["index"].to_numpy()
        wrong[at] &= again | ~tied.to_numpy()[at]
    return int((wrong | differing(payments, "terminal", got["terminal"])).sum())


@pytest.fixture(scope="module")
def payments(data_dir: Path) -> pl.DataFrame:
    """The payments in time order, with their published features."""
    path = data_dir / "card_payments_45d.parquet"
    if not path.is_file():
        pytest.skip(f"no card payments: {path} is not there")
    return pl.read_parquet(path)


def test_features_of_all_payments_equal_the_published_ones(payments: pl.DataFrame) -> None:
    assert len(payments) == 431_773
    assert mismatches(payments) == 0


def test_a_wrong_window_is_noticed(payments: pl.DataFrame) -> None:
    """The comparison can fail: a payment left out changes what follows it."""
    some = payments.head(20_000)
    short = some.slice(1)
    got = streamed(short, ("customer",))["customer"]
    assert differing(short, "customer", got).any()
