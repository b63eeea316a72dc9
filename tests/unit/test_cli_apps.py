from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cli.options import load_app
from pipeline.errors import ConfigurationError, DefinitionError, UnknownNameError
from pipeline.kernels.caching import cache_directory

CONTRACT = {
    "title": "visit",
    "type": "object",
    "properties": {
        "shop": {"type": "integer"},
        "spent": {"type": "number", "x-decimal": 2},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["shop", "spent", "at"],
}
APP = """
from pathlib import Path
import polars as pl
import pipeline as pp

stream = pp.EventStream(
    "visits", contract=Path(__file__).with_name("visit.json"), key="shop", time="at"
)
view = pp.FeatureView(
    "shops", source=stream, entity="shop", ttl="30d",
    features={
        "spend": pp.sum("spent").over("7d", slide="1d"),
        "large": pp.count(where=pl.col("spent") > 100).over("7d", slide="1d"),
        "latest": pp.last("spent", n=3),
    },
)
app = pp.App("shops", views=[view], triggers=[pp.Trigger("any", view=view)])
other = 3
"""


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "visit.json").write_text(json.dumps(CONTRACT))
    path = tmp_path / "shop_features.py"
    path.write_text(APP)
    yield path
    sys.modules.pop("shop_features", None)


def test_by_file_by_module_and_with_the_default_name(features: Path) -> None:
    assert load_app(f"{features}:app").conf.id == "shops"
    sys.modules.pop("shop_features")
    assert load_app("shop_features:app").conf.id == "shops"
    assert load_app("shop_features").conf.id == "shops"


def test_a_wrong_name_lists_the_apps(features: Path) -> None:
    with pytest.raises(UnknownNameError, match="has no 'ap'; did you mean 'app'"):
        load_app(f"{features}:ap")
    with pytest.raises(ConfigurationError, match=r"is a int, not a pipeline\.App; .*app"):
        load_app(f"{features}:other")


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("x = (", ConfigurationError, "is not valid Python: '(' was never closed"),
        ("1 / 0", ConfigurationError, "ZeroDivisionError: division by zero"),
        ("import no_such_module", ConfigurationError, "No module named 'no_such_module'"),
        ("", UnknownNameError, "it defines no application"),
        (APP.replace('slide="1d"', 'slide="0d"', 1), DefinitionError, "slide"),
        (APP.replace('pp.sum("spent")', 'pp.sum("spend")'), DefinitionError, "spend"),
        (APP.replace("visit.json", "visits.json"), DefinitionError, "cannot be read: No such file"),
    ],
)
def test_a_file_that_fails_says_where(
    features: Path, code: str, error: type[ConfigurationError], says: str
) -> None:
    features.write_text(code)
    with pytest.raises(error) as caught:
        load_app(f"{features}:app")
    assert says in str(caught.value)
    if error is ConfigurationError:
        assert "shop_features.py" in str(caught.value)


def test_plan_names_what_is_looked_up(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = APP.replace(
        "app = pp.App",
        """
rated = pp.FeatureView(
    "rated", source=stream, entity="shop", lookups={"usual": view["spend"]},
    features={"above": pp.count(where=pl.col("spent") > pl.col("usual")).over("7d", slide="1d")},
)
app = pp.App""",
    ).replace("views=[view]", "views=[view, rated]")
    features.write_text(text)
    assert main(["plan", f"{features}:app", "--view", "rated"]) == 0
    shown = capsys.readouterr().out
    assert "looks up usual = shops:spend" in shown
    assert "keeps rows of shops of its own for that, at most " in shown


@pytest.mark.parametrize("width", ["80", "120"])
def test_plan_names_features_state_and_cost(
    features: Path, width: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", f"{features}:app"]) == 0
    text = capsys.readouterr().out
    for says in (
        "view shops",
        "one row per shop (int64), from topic visits",
        "a row expires after 30d without events",
        "sum(spent)",
        "count() where spent > 100",
        "last(spent, n=3)",
        "8 tiles of 1d = 8d",
        "worst case, all full",
        "per event: 1 input, 1 condition, 2 cells in 1 ring, 1 list update",
        "trigger any: every event, sends 2 features",
    ):
        assert says in text, says
    assert "Traceback" not in capsys.readouterr().err


def test_worst_case_is_not_below_a_real_row(features: Path) -> None:
    from pipeline.cli.plan import row_bytes

    view = load_app(f"{features}:app").views[0]
    header, cell, delta, tiles, value = 56, 10, 1, 8, 10
    ring = 1 + 10 + tiles * (2 * cell + delta) - delta
    kept = 1 + 1 + 10 + 3 * (10 + 10 + value)
    assert row_bytes(view.plan) == header + ring + kept


def test_plan_names_exact_and_delayed_windows(
    features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = """    features={
        "visits": pp.count().over("2d", bound=100),
        "known_spend": pp.sum("spent").over("7d", delay="14d"),
"""
    features.write_text(APP.replace("    features={\n", exact))
    assert main(["plan", f"{features}:app"]) == 0
    text = capsys.readouterr().out
    for says in ("exact", "7d, 14d ago", "events()", "100 events of 2d", "4,096 events of 21d"):
        assert says in text, says


def test_plan_names_lists_that_become_sketches(
    features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = """    features={
        "middle": pp.median("spent").over("2d", slide="1d"),
        "high": pp.quantile("spent", 0.95).over("2d", slide="1d", delay="3d"),
        "usual": pp.top_k("spent", 3, bound=100).over("2d", slide="1d"),
        "several": pp.distinct("spent").over("2d", slide="1d"),
        "dearest": pp.max_n("spent", 5).over("2d", slide="1d"),
        "cheapest": pp.min_n("spent", 1).over("2d", slide="1d"),
"""
    features.write_text(APP.replace("    features={\n", ranked))
    assert main(["plan", f"{features}:app"]) == 0
    text = capsys.readouterr().out
    for says in (
        "quantile(spent, q=0.5)", "quantile(spent, q=0.95)", "top_k(spent, k=3)", "float64[3]",
        "4,096 values, then buckets", "100 values, then the frequent ones",
        "4,096 values, then a sample", "counts(spent)", "frequent(spent)",
        "max_n(spent, n=5)", "float64[5]", "min_n(spent, n=1)", "largest(spent)", "5 values a tile",
    ):  # fmt: skip
        assert says in text, says


def test_plan_names_strings_and_their_words(
    features: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    texts = """    features={
        "prices": pp.last(pl.col("spent").cast(pl.String), 3, max_bytes=9),
"""
    features.write_text("import polars as pl\n" + APP.replace("    features={\n", texts))
    assert main(["plan", f"{features}:app"]) == 0
    text = capsys.readouterr().out
    assert "dead-lettered where a string is longer than max_bytes" in text
    for says in ("last(spent.strict_cast(String), n=3)", "string[3]", "[0:8]", "[8:16]"):
        assert says in text, says


def test_plan_names_spread_decay_and_nulls(
    features: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made = """    features={
        "spread": pp.std("spent", nulls="propagate").over("7d", slide="1d"),
        "first": pp.first("spent").over("7d", slide="1d"),
        "population": pp.var("spent", ddof=0, nulls="reject").over("2d"),
        "busy": pp.decayed_count("1h", where=pl.col("spent") > 3),
        "worth": pp.decayed_sum("spent", "7d"),
        "usual": pp.ewma("spent", "7d", nulls="propagate"),
"""
    features.write_text(APP.replace("    features={\n", made))
    assert main(["plan", f"{features}:app"]) == 0
    text = capsys.readouterr().out
    for says in (
        "dead-lettered where spent.is_null()",
        "std(spent), null if spent.is_null()",
        "first(spent)",
        "var(spent, ddof=0)",
        "decayed_count(1h) where spent > 3",
        "decayed_sum(spent, 7d)",
        "ewma(spent, 7d), null if spent.is_null()",
        "half after 7d",
        "var(spent), count() where spent.is_null(), first(spent)",
        "1 event of any time",
    ):
        assert says in re.sub(r"\s+", " ", text), says


def test_plan_of_an_unknown_view(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{features}:app", "--view", "shop"]) == 2
    assert "error: no view 'shop'; did you mean 'shops'?" in capsys.readouterr().err


def test_compile_says_where_the_kernels_are(
    features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], [f"{features}:app"]):
        assert main(["compile", *arguments]) == 0
        assert f"kernels in {cache_directory()}, ready after" in capsys.readouterr().err
    assert main(["compile", "nothing.py"]) == 2
