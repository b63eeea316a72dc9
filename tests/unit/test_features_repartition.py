"""Definitions of views that are keyed otherwise than their topics, or read several."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.app.topic import check_topics
from pipeline.contracts.contract import FieldType
from pipeline.errors import DefinitionError
from pipeline.features.repartition import Repartition


def contract(title: str, **fields: str | dict[str, Any]) -> pp.Contract:
    shown = {n: {"type": t} if isinstance(t, str) else t for n, t in fields.items()}
    shown["at"] = {"type": "string", "format": "date-time"}
    return pp.Contract.load(
        {"title": title, "type": "object", "properties": shown, "required": list(shown)}
    )


def stream(topic: str, key: str = "user", **fields: str | dict[str, Any]) -> pp.EventStream:
    return pp.EventStream(topic, contract(topic, **{key: "integer", **fields}), key, time="at")


def view(source: Any, entity: Any = "shop", name: str = "v") -> pp.FeatureView:
    features = {"n": pp.count().over("1d", slide="1h")}
    return pp.FeatureView(name, source=source, entity=entity, features=features)


def test_only_a_view_of_its_topics_key_reads_the_topic() -> None:
    one, two = stream("a", shop="string"), stream("b", shop="string")
    assert view(one, "user").stream is one
    assert view([one], "user").stream is one
    by_shop = view(one)
    assert isinstance(by_shop.stream, Repartition)
    assert by_shop.stream.topic_in("app") == "app-a-by-shop"
    assert by_shop.plan.source == "a-by-shop"
    assert (by_shop.plan.entity, by_shop.plan.entity_type) == ("shop", "string")
    assert view([one, two], "user").stream.topic_in("app") == "app-a.b-by-user"
    assert view([one, two]).sources == (one, two)
    fingerprints = {v.plan.fingerprint for v in (by_shop, view([one, two]), view([two, one]))}
    assert len(fingerprints) == 3
    anywhere = pp.EventStream("a", one.contract, "user", "at", misrouted="route")
    assert view(anywhere, "user").stream.topic_in("app") == "app-a-by-user"


def test_fields_are_united_by_name() -> None:
    money = {"type": "number", "x-decimal": 2}
    one = stream("a", shop="string", cents=money, note={"type": ["string", "null"]})
    two = stream("b", "order", shop="string", cents=money, note="string")
    united = view([one, two]).stream.schema
    assert united.names == ("user", "shop", "cents", "note", "at", "order")
    nullable = {f.name for f in united.fields if f.nullable}
    assert nullable == {"user", "note", "order"}
    assert united.field("cents").type is FieldType.DECIMAL
    both = pp.FeatureView(
        "v", source=[one, two], entity="shop",
        features={"n": pp.count("order", where=pl.col("user") > 1).over("1d", slide="1h")},
    )  # fmt: skip
    assert both.plan.inputs == ("order",)
    pp.Trigger("t", view=both, when=pl.col("order") > pl.col("user"))


@pytest.mark.parametrize(
    ("source", "entity", "named", "says"),
    [
        ([], "shop", "v.source", "a list of them"),
        (["a"], "shop", "v.source", "a list of them"),
        ([stream("a", shop="string")] * 2, "shop", "v.source", "names a topic twice"),
        (stream("a"), "shop", "v.entity", "topic 'a' has no field 'shop'; it has: user, at"),
        ([stream("a", shop="string"), stream("b")], "shop", "v.entity", "topic 'b' has no field"),
        (stream("a", shop="number"), "shop", "v.entity", "'shop' is float64"),
        (stream("a", shop="string"), ("shop", "shop"), "v.entity", "twice"),
        (stream("a"), "at", "v.entity", "'at' is timestamp"),
        ([stream("a", shop="string"), stream("b", shop="integer")], "shop", "v.source",
         "field 'shop' is string in topic 'a' and int64 in 'b'"),
        ([stream("a" * 150, shop="string"), stream("b" * 150, shop="string")], "shop", "v.source",
         "too long for Kafka"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(source: Any, entity: Any, named: str, says: str) -> None:
    with pytest.raises(DefinitionError, match=says) as caught:
        view(source, entity)
    assert caught.value.field == named


def test_misrouted_is_one_of_two() -> None:
    with pytest.raises(DefinitionError) as caught:
        pp.EventStream("a", contract("a", user="integer"), "user", "at", misrouted="skip")  # type: ignore[arg-type]
    assert caught.value.field == "EventStream('a').misrouted"


def test_one_repartition_topic_is_of_the_same_streams() -> None:
    shop = {"shop": "string"}
    joined, dotted = stream("a.b", **shop), [stream("a", **shop), stream("b", **shop)]
    with pytest.raises(DefinitionError, match=r"share the repartition topic 'app-a\.b-by-shop'"):
        check_topics("app", [view(joined, name="v"), view(dotted, name="w")])
    taken = stream("app-a-by-shop", **shop)
    with pytest.raises(DefinitionError, match="is a source and the repartition topic of 'v'"):
        check_topics("app", [view(stream("a", **shop)), view(taken, "user", name="w")])
    other = stream("a", shop="string", more="integer")
    with pytest.raises(DefinitionError, match="describes topic 'a' differently"):
        check_topics("app", [view([other, stream("b", **shop)]), view(dotted, name="w")])
    check_topics("app", [view(dotted, name="v"), view(dotted, name="w")])
    with pytest.raises(DefinitionError, match="249"):
        check_topics("x" * 100, [view(stream("a" * 160, **shop))])
