from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.demo import html
from pipeline.demo.html import Panel, page, write
from pipeline.demo.oracle import OracleResult
from pipeline.demo.questions import QUESTIONS
from pipeline.demo.report import Accounting, DemoReport, Machine, Predictions
from pipeline.demo.sample import Sample

REPORT = DemoReport(
    events=30,
    entities=7,
    events_per_s=10.0,
    partitions={0: Accounting(20, 20), 1: Accounting(10, 10)},
    seconds={"stream": 3.0},
    machine=Machine(2, "A processor", 7.8),
    versions={"python": "3.11.0"},
    oracle=OracleResult(7, 119, 0),
)
SAMPLES = [
    Sample(0.0),
    Sample(0.5, produced=100, applied=50, lag=50, freshness_p50_ms=5.0, freshness_p99_ms=9.0),
    Sample(1.0, produced=300, applied=150, lag=150),
    Sample(2.0, produced=300, applied=300, lag=0, freshness_p50_ms=4.0, freshness_p99_ms=8.0),
]
PANELS = (Panel("Share", "%", (("coupon_share_30d", "30 days"),), digits=1, scale=100.0),)


def household(rows: int = 3) -> pl.DataFrame:
    start = datetime(2017, 1, 1, 12)
    frame = pl.DataFrame(
        {
            "household_id": [900] * rows,
            "event_time": [start + timedelta(days=i) for i in reversed(range(rows))],
            "coupon_share_30d": [None, *(0.25 for _ in range(rows - 1))],
        },
        schema_overrides={"coupon_share_30d": pl.Float64},
    )
    return frame.with_columns(pl.col("event_time").cast(pl.Datetime("ns", "UTC")))


def plots(text: str) -> dict[str, dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.S)
    assert found
    return {plot["id"]: plot for plot in json.loads(found[1])}


class Tags(HTMLParser):
    """Elements that are not closed, and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br", "link", "img", "input"}:
            self.open.append(tag)
        self.links += [str(v) for k, v in attrs if k in {"src", "href", "srcset", "action"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    text = page(REPORT, SAMPLES, household(), PANELS)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.links == []
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text
    assert not re.search("@[A-Z]+@", text)


def test_rates_are_means_of_the_last_second() -> None:
    found = plots(page(REPORT, SAMPLES))
    produced, applied = found["throughput"]["series"]
    assert produced["y"] == [0.0, 200.0, 300.0, 0.0]
    assert applied["y"] == [0.0, 100.0, 150.0, 150.0]
    assert found["throughput"]["x"] == [0.0, 0.5, 1.0, 2.0]
    assert found["throughput"]["unit"] == "events/s"


def test_predictions_are_drawn_only_where_there_are_some() -> None:
    samples = [Sample(0.0), Sample(1.0, produced=10, applied=10, predicted=4)]
    names = [s["name"] for s in plots(page(REPORT, samples))["throughput"]["series"]]
    assert names == ["produced", "applied", "predicted"]
    assert len(plots(page(REPORT, SAMPLES))["throughput"]["series"]) == 2


def test_freshness_keeps_gaps_and_lag_its_counts() -> None:
    found = plots(page(REPORT, SAMPLES))
    p50, p99 = found["freshness"]["series"]
    assert p50["y"] == [None, 5.0, None, 4.0]
    assert p99["y"] == [None, 9.0, None, 8.0]
    assert found["lag"]["series"][0]["y"] == [0.0, 50.0, 150.0, 0.0]
    assert found["lag"]["words"] == ("Lag: produced, not yet applied, in events: lag from 0 to 150")


def test_a_household_is_drawn_in_the_order_of_time_with_its_unit() -> None:
    text = page(REPORT, SAMPLES, household(), PANELS)
    life = plots(text)["life0"]
    noon = 1_483_272_000.0
    assert life["x"] == [noon, noon + 86_400, noon + 2 * 86_400]
    assert life["series"][0]["y"] == [25.0, 25.0, None]
    assert life["suffix"] == "%"
    assert "Household 900" in text


def test_the_built_in_panels_name_features_of_the_demo() -> None:
    named = {column for panel in html.PANELS for column, _ in panel.features}
    assert named <= {q.name for q in QUESTIONS}


def test_no_household_and_no_samples_leave_a_page() -> None:
    text = page(REPORT, [], household().head(0))
    assert "Household" not in text
    assert list(plots(text)) == ["throughput", "freshness", "lag"]


def test_a_wrong_run_says_so_first_and_marks_the_partition() -> None:
    bad = replace(
        REPORT,
        partitions={0: Accounting(20, 19), 1: Accounting(10, 10)},
        predictions=Predictions(3, 1, 1),
    )
    text = page(bad, SAMPLES)
    assert text.index("The run is wrong") < text.index("<h1>")
    assert "partition 0: 20 consumed, but 19 accounted for" in text
    assert '<tr class="bad"><td>0</td>' in text
    assert "<tr><td>1</td>" in text
    assert "3 requested ≠ 1 predicted + 1 fallback" in text
    assert "Exact" not in text


def test_text_from_outside_cannot_become_markup() -> None:
    evil = "</script><img src=x onerror=alert(1)>@PLOTS@"
    bad = replace(REPORT, oracle=OracleResult(1, 17, 1, (evil,)), notes=(evil,), command=evil)
    panels = (Panel(evil, evil, (("coupon_share_30d", evil),)),)
    text = page(bad, SAMPLES, household(), panels)
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert plots(text)["life0"]["title"] == evil
    assert text.count("@PLOTS@") > 1  # shown as it is, not filled in


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write(tmp_path / "demo.html", REPORT, SAMPLES)
    assert [p.name for p in tmp_path.iterdir()] == ["demo.html"]
    assert (tmp_path / "demo.html").read_text("utf-8") == page(REPORT, SAMPLES)
