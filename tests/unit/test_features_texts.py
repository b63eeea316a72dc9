"""Strings that are read back: their words, definitions, reads, rows, and what is too long."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline as pp
from pipeline.app.outputs import ipc_messages
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.expressions import canonical, deserialize
from pipeline.features.plan import CellType, ListKind
from pipeline.features.planjson import from_json, to_json
from pipeline.features.texts import bytes_of, text_of_word, word_column, words_needed
from pipeline.ingest.deadletter import DeadLetter
from pipeline.serve.client import FeatureClient
from pipeline.state.columns import feature_type
from pipeline.testing.driver import Driver
from tests.reference.texts import text_of, words_of

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "page": {"type": ["string", "null"]},
            "session": {"type": "string", "format": "uuid"},
            "count": {"type": "integer"},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
START = 1_767_225_600  # 2026-01-01, s
UPPER = pl.col("page").str.to_uppercase()


def view(where: pl.Expr | None = None, **features: Aggregation) -> pp.FeatureView:
    return pp.FeatureView("v", source=STREAM, entity="user", features=features, where=where)


def driver(made: pp.FeatureView, events: list[dict[str, Any]], **options: Any) -> Driver:
    """Has applied ``events``, one a second."""
    run = Driver([made], **options)
    run.clock.advance(START * 1000 + 10**9)
    for second, event in enumerate(events):
        at = f"2026-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
        run.pipe("visits", {"user": "u", "at": at} | event, START * 1000)
    run.run()
    return run


def read(run: Driver, *users: str) -> dict[str, list[Any]]:
    query = FeatureClient(run.store).prepare(["v"])
    columns: dict[str, list[Any]] = query.read({"user": users or ["u"]}, at="event").to_pydict()
    return columns


# ---- words


@given(st.lists(st.binary(max_size=39) | st.none(), min_size=1, max_size=20))
def test_words_are_those_of_the_twin_and_come_back(texts: list[bytes | None]) -> None:
    frame = pl.DataFrame({"b": pl.Series(texts, dtype=pl.Binary)})
    got = frame.select(word_column(pl.col("b"), i).alias(str(i)) for i in range(5))
    for row, text in zip(got.rows(), texts, strict=True):
        assert list(row) == ([None] * 5 if text is None else words_of(text, 5))
        assert text is None or text_of(row) == text
    valid = np.array([text is not None for text in texts])
    back = bytes_of(got.fill_null(7).to_numpy(), valid, pa.binary())
    back.validate(full=True)
    assert back.to_pylist() == texts


@given(st.text(max_size=60))
def test_a_string_is_kept_as_utf8_if_it_fits(text: str) -> None:
    size = len(text.encode())
    words = words_needed("v.a", max(size, 1))
    frame = pl.DataFrame({"s": [text]})
    row = frame.select(word_column(pl.col("s"), i).alias(str(i)) for i in range(words)).row(0)
    assert bytes_of(np.array([row]), np.array([True]), pa.string()).to_pylist() == [text]
    assert 8 * (words - 1) <= max(size, 1) <= 8 * words - 1


def test_words_that_are_no_string_are_null() -> None:
    """Such as only somebody who forges a row can write; nothing else of the column suffers."""
    words = [words_of(b"good", 2), [0, 0], [5, 0], words_of(b"\xff\xfe", 2), [1, 0], [-1, -1]]
    valid = np.ones(len(words), dtype=bool)
    found = bytes_of(np.array(words), valid, pa.string())
    found.validate(full=True)
    assert found.to_pylist() == ["good", None, None, None, "", None]
    assert bytes_of(np.array(words), valid, pa.binary()).to_pylist() == [
        b"good", None, None, b"\xff\xfe", b"", None
    ]  # fmt: skip
    assert bytes_of(np.empty((0, 2), dtype=np.int64), valid[:0], pa.string()).to_pylist() == []


def test_a_word_can_be_told_from_other_columns() -> None:
    for word in (0, 3):
        text, number = text_of_word(canonical(word_column(UPPER, word), "here")) or ("", -1)
        assert (str(deserialize(text)), number) == (str(UPPER), word)
    assert text_of_word(canonical(UPPER == "a", "here")) is None


# ---- definitions


def test_words_are_kept_as_numbers_and_features_share_them() -> None:
    made = view(
        a=pp.last("page", max_bytes=15),
        b=pp.last("page", max_bytes=16),
        c=pp.last(UPPER, 3, max_bytes=7).over("1h", slide="1m"),
        d=pp.first("session").over("1h", slide="1m"),
        e=pp.first("page", max_bytes=8).over("1h"),
    ).plan
    assert [f.words for f in made.features] == [
        (0, 1), (0, 1, 2), (3,), (0, 2, 4, 6, 8), (10, 11)
    ]  # fmt: skip
    assert [(f.cell, f.width, f.cells) for f in made.features] == [
        (0, 1, 2), (2, 1, 3), (5, 3, 3), (8, 1, 5), (13, 1, 2)
    ]  # fmt: skip
    assert made.cells == 15
    assert [s.kind for s in made.lists] == [ListKind.LAST] * 4 + [ListKind.EVENTS] * 2
    assert {s.type for s in made.lists} == {CellType.INT}
    assert [str(feature_type(f)) for f in made.features] == [
        "string", "string", "list<item: string>", "string", "string"
    ]  # fmt: skip
    assert from_json(to_json(made)) == made
    assert "words" not in to_json(view(a=pp.last("count")).plan)


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (lambda: pp.last("page", max_bytes=0), "v.a.max_bytes", "1 to 255"),
        (lambda: pp.last("page", max_bytes=256), "v.a.max_bytes", "1 to 255"),
        (lambda: pp.first("page", max_bytes=True).over("1h"), "v.a.max_bytes", "1 to 255"),
        (lambda: pp.last("page", max_bytes=9.0), "v.a.max_bytes", "1 to"),  # type: ignore[arg-type]
        (lambda: pp.last("count", max_bytes=9), "v.a.max_bytes", "of strings"),
        (lambda: pp.last("page", 0), "v.a.n", "1 to"),
        (lambda: pp.last("pages"), "v.a", "no field"),
        (lambda: pp.last(pl.col("pages").str.head(2)), "v.a", "no field"),
        (lambda: pp.first("page"), "v.a", "no window"),
        (lambda: pp.max("page").over("1h"), "v.a", "no order"),
        (lambda: pp.top_k("page", 2).over("1h"), "v.a", "7 bytes"),
        (lambda: pp.top_k("page", 2, max_bytes=8).over("1h"), "v.a.max_bytes", "7 bytes"),
        (lambda: pp.top_k("page", 0, max_bytes=7).over("1h"), "v.a.k", "1 to"),
        (lambda: pp.top_k("count", 2, max_bytes=7).over("1h"), "v.a.max_bytes", "of strings"),
    ],
)
def test_a_wrong_definition_names_its_argument(
    feature: Callable[[], Aggregation], field: str, part: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        view(a=feature())
    assert caught.value.field == field
    assert part in caught.value.problem


def test_what_takes_numbers_refuses_strings_by_name() -> None:
    made = view(a=pp.last("page"), n=pp.last("count"))
    assert pp.Trigger("t", view=made).sent == ("n",)
    with pytest.raises(DefinitionError, match="no scalar feature 'a'"):
        pp.Trigger("t", view=made, features=["a"])
    with pytest.raises(DefinitionError, match="no such scalar feature"):
        made["a"]
    with pytest.raises(DefinitionError, match=r"changed\(\) of a string"):
        pp.Trigger("t", view=made, when=pp.changed("page"))
    run = driver(made, [{"page": "home", "count": 3}])
    with pytest.raises(DefinitionError, match="v:a: is a string"):
        FeatureClient(run.store).prepare(["v:n", "v:a"]).read_matrix({"user": ["u"]})


# ---- reads


def test_strings_are_read_as_they_came() -> None:
    made = view(
        last=pp.last("page"),
        upper=pp.last(UPPER, 3, max_bytes=12),
        session=pp.last("session"),
        first=pp.first("page").over("1h", slide="1m"),
        early=pp.last("page", 2).over("1h", delay="4s"),
        big=pp.last("page", where=pl.col("count") > 1),
    )
    pages = ["Apple", "", None, "12345678", "ü\0z", "x\0", "aé"]
    session = "0123abcd-0000-4000-8000-0000000000ff"
    events: list[dict[str, Any]] = [
        {"page": page, "count": i % 4, "session": session.upper()} for i, page in enumerate(pages)
    ]
    run = driver(made, events)
    assert {k: v for k, v in read(run, "u", "w").items() if "__" not in k} == {
        "user": ["u", "w"],
        "last": ["aé", None],
        "upper": [["AÉ", "X\0", "Ü\0Z"], None],
        "session": [session, None],
        "first": ["Apple", None],
        "early": [["", "Apple"], None],
        "big": ["aé", None],
    }
    changed = run.changes("v")
    assert changed["upper"].to_pylist()[-1] == ["AÉ", "X\0", "Ü\0Z"]
    assert changed.schema.field("last").type == pa.string()


def test_the_most_frequent_strings() -> None:
    """Of up to 7 bytes; as frequent ones by their word, which begins with the last byte."""
    made = view(
        tiled=pp.top_k("page", 4, max_bytes=7).over("1h", slide="1m"),
        exact=pp.top_k("page", 1, max_bytes=7).over("1h"),
    )
    pages = ["EUR", "USD", "", "EUR", "seven b", "CHF", "USD", "USD", None, ""]
    got = read(driver(made, [{"page": page} for page in pages]))
    assert words_of(b"", 1) < words_of(b"EUR", 1)
    assert words_of(b"CHF", 1) < words_of(b"seven b", 1)
    assert (got["tiled"], got["exact"]) == ([["USD", "", "EUR", "CHF"]], ["USD"])


def test_each_feature_has_its_own_status() -> None:
    made = view(a=pp.last("page", 2), b=pp.max_n("count", 2).over("1h", bound=2), c=pp.last("page"))
    run = driver(made, [{"page": "a", "count": i} for i in range(3)])
    query = FeatureClient(run.store).prepare(["v"])
    table = query.read({"user": ["u"]}, at="event", status="feature")
    found = {n: table[f"{n}__status"].to_pylist() for n in "abc"}
    assert found == {"a": ["present"], "b": ["degraded"], "c": ["present"]}


def test_a_null_policy_holds_for_strings() -> None:
    made = view(a=pp.last("page", nulls="propagate").over("3s"), b=pp.last("page"))
    events: list[dict[str, Any]] = [{"page": "a"}, {"page": None}]
    assert read(driver(made, events), "u")["a"] == [None]
    assert read(driver(made, events), "u")["b"] == ["a"]
    more: list[dict[str, Any]] = [*events, {"page": "b"}, {"page": "c"}, {"page": "d"}]
    assert read(driver(made, more), "u")["a"] == ["d"]


def test_a_string_that_is_too_long_is_dead_lettered_and_changes_nothing() -> None:
    """By bytes, not characters, and only where the feature takes the event."""
    made = view(
        where=pl.col("count") >= 0,
        a=pp.last("page", max_bytes=9, where=pl.col("count") < 5),
        n=pp.last("count"),
    )
    fits, long = "éééé9", "ééééé"
    events: list[dict[str, Any]] = [
        {"page": fits, "count": 1},
        {"page": long, "count": 2},
        {"page": long, "count": 6},
        {"page": long},
    ]
    run = driver(made, events)
    got = read(run)
    assert (got["a"], got["n"]) == ([fits], [6])
    (marker,) = run.markers("v")
    counts = marker.applied, marker.dead_lettered, marker.filtered
    assert counts == (2, 1, 1)
    letters = [
        DeadLetter.from_message(key, value)
        for _, key, value in run.publisher.sent[run.names.dead_letters]
        if key is not None
    ]
    assert [(x.reason, x.view, x.offset) for x in letters] == [("text_too_long", "v", 1)]


# ---- rows


def test_a_row_holds_the_words() -> None:
    """Body: a list for each word; the reader needs no more than these bytes and the plan."""
    made = view(a=pp.last("page", max_bytes=15))
    run = driver(made, [{"page": "Apple pie"}])
    (row,) = run.rows("v").values()
    assert words_of(b"Apple pie", 2) == [0x6970_2065_6C70_7041, 0x0165]
    assert row[48:] == bytes.fromhex("0100 0000 82c183c7ad9990f0d2010100 0000 ca05")


def test_rows_do_not_depend_on_batches_workers_or_evictions() -> None:
    rng = random.Random(20260101)
    texts = ["", "a", "ü" * 9, "seven b", "eight by", "\0", "x" * 23, None]
    events: list[dict[str, Any]] = [
        {"user": f"u{rng.randrange(9)}", "page": rng.choice(texts)} for _ in range(400)
    ]
    made = view(
        a=pp.last("page"), b=pp.last("page", 3, max_bytes=23).over("1m", slide="10s"),
        c=pp.first("page").over("1m", slide="10s"), d=pp.last("page", 2).over("40s", delay="20s"),
    )  # fmt: skip
    whole = driver(made, events, partitions=3)
    users = [f"u{i}" for i in range(9)]
    for options in ({"max_records": 1}, {"max_records": 7, "cache_bytes": 1}):
        run = driver(made, events, partitions=3, **options)
        assert run.digest("v") == whole.digest("v")
        assert read(run, *users) == read(whole, *users)
    other = Driver([made], log=whole.log, share=(0, 2), max_records=13)
    second = Driver([made], log=whole.log, store=other.store, share=(1, 2), max_records=5)
    for run in (other, second):
        run.clock.advance(START * 1000 + 10**9)
        run.run()
    assert second.rows("v") == whole.rows("v")


def test_messages_of_long_strings_stay_small() -> None:
    """Sizes of rows are of their own strings, null ones and those in lists too."""
    lists = [["x" * 1000] * 900 if i == 5 else None for i in range(10)]
    batch = pa.record_batch({"s": [None, "x" * 10] * 5, "l": lists})
    sent = [pa.ipc.open_stream(m).read_all() for m in ipc_messages(batch)]
    assert pa.concat_tables(sent).to_pydict() == batch.to_pydict()
    assert len(sent) > 1
    assert json.dumps(sent[0].to_pydict())
