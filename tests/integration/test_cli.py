from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.cli import main
from pipeline.embedded import EmbeddedServers
from pipeline.errors import MissingExtraError

pytestmark = pytest.mark.embedded

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "events" / "purchase.json"


@pytest.fixture(scope="module")
def words() -> Iterator[list[str]]:
    """Options that name the servers."""
    try:
        servers = EmbeddedServers().start()
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    yield ["--brokers", servers.brokers, "--store", servers.redis_url]
    servers.stop()


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Three purchases whose times have no zone, as Parquet."""
    path = tmp_path / "purchases.parquet"
    times = pl.datetime_range(
        pl.datetime(2017, 1, 1), pl.datetime(2017, 1, 3), "1d", eager=True, time_unit="ns"
    )
    pl.DataFrame(
        {
            **{
                name: [1, 2, 3]
                for name in ("household_id", "store_id", "basket_id", "product_id", "quantity")
            },
            "sales_value": [0.5, 1.25, 0.1 + 0.2],
            "retail_disc": [0.0] * 3,
            "coupon_disc": [0.0] * 3,
            "coupon_match_disc": [0.0] * 3,
            "week": [1] * 3,
            "transaction_timestamp": times,
        }
    ).write_parquet(path)
    return path


def test_produce_creates_only_for_events_that_fit(
    words: list[str], events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send = ["produce", str(events), "--topic", "purchases", "--contract", str(SCHEMA),
            "--key", "household_id", *words]  # fmt: skip
    assert main([*send, "--create", "4"]) == 2
    assert "without a time zone" in capsys.readouterr().err
    assert main([*send, "--timezone", "UTC"]) == 2
    error = capsys.readouterr().err
    assert "error: no topic 'purchases' at " in error
    assert "--create N creates it" in error
    assert main([*send, "--timezone", "UTC", "--create", "4"]) == 0
    assert capsys.readouterr().out.startswith("3 events to purchases (4 partitions) in ")
    assert main([*send, "--timezone", "UTC", "--create", "5"]) == 2
    assert "topic 'purchases' has 4 partitions, not 5" in capsys.readouterr().err
    assert main([*send, "--timezone", "UTC", "--limit", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 events to purchases")


def test_doctor_finds_nothing_wrong(
    words: list[str], events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce = ["produce", str(events), "--topic", "purchases", "--contract", str(SCHEMA)]
    main([*produce, "--key", "household_id", "--timezone", "UTC", "--create", "4", *words])
    capsys.readouterr()
    assert main(["doctor", "pipeline.demo.app:app", *words]) == 0
    text = capsys.readouterr().out
    assert "fail" not in text.partition("\nsetting ")[0]
    for says in ("purchases (4)", "noeviction", "round trip passed", "purchases: 4 partitions"):
        assert says in text, says


def test_a_view_nobody_runs_is_unknown(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", "household_activity", "1", *words]) == 2
    assert "'pipeline run APP' registers the views" in capsys.readouterr().err
