"""A stream with a field of every type, and random views over any stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import polars as pl

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError
from pipeline.features import aggregations as agg
from pipeline.features.aggregations import Aggregation, Column
from pipeline.features.stream import EventStream
from pipeline.features.view import FeatureView

__all__ = ["KEYS", "any_stream", "edges", "fuzz_stream", "fuzz_view"]

UNITS = (1, 10**6, 10**9)  # ns: tiles as narrow as can be, and ordinary ones
NUMBERS = {FieldType.INT64, FieldType.FLOAT64, FieldType.DECIMAL, FieldType.BOOL}
ORDERED = NUMBERS | {FieldType.TIMESTAMP}
TEXTS = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}


KEYS: tuple[str | tuple[str, ...], ...] = ("key", "key", "tag", "id", "raw", ("tag", "key"),
                                           ("raw", "id", "tag"))  # fmt: skip
"""Keys that :func:`fuzz_stream` can have."""


def fuzz_stream(
    topic: str = "fuzz",
    key: str | Sequence[str] = "key",
    *,
    event_id: str | None = None,
    dedup: str | int = "1h",
    dedup_bound: int = 4096,
) -> EventStream:
    """Events with a field of every type, some of which may be null or absent."""
    types = {
        "key": ("int64", False),
        "at": ("timestamp", False),
        "tag": ("string", False),
        "id": ("uuid", False),
        "raw": ("bytes", False),
        "count": ("int64", True),
        "price": ("float64", True),
        "cents": ("decimal", True),
        "flag": ("bool", True),
        "shop": ("string", True),
        "seen": ("timestamp", True),
    }
    fields = tuple(
        Field(
            name, FieldType(kind), nullable=null, required=not null,
            scale=2 if kind == "decimal" else 0, unit="ns" if kind == "timestamp" else "",
        )
        for name, (kind, null) in types.items()
    )  # fmt: skip
    contract = Contract("fuzz", 1, fields)
    return EventStream(
        topic, contract=contract, key=key, time="at", max_value_bytes=4096,
        event_id=event_id, dedup=dedup, dedup_bound=dedup_bound,
    )  # fmt: skip


def any_stream(rng: Random) -> EventStream:
    """A :func:`fuzz_stream` with any key; of some, events have ids."""
    return fuzz_stream(
        key=rng.choice(KEYS),
        event_id=rng.choice((None, None, "count", "shop")),
        dedup=rng.choice((10, 10**7, 10**10, 10**13)),
        dedup_bound=rng.choice((2, 5, 4096)),
    )


def fuzz_view(stream: EventStream, rng: Random, name: str = "fuzz") -> FeatureView:
    """A view of one to eight features of any kind, perhaps with a ttl and a filter."""
    maker = _Maker(stream, rng)
    features = {"events": agg.count().over(maker.unit * 100, slide=maker.unit * 10)}
    if rng.random() < 0.3:
        features = {}
    wanted = rng.randint(1, 8)
    for i in range(wanted):
        features[f"f{i}"] = maker.feature()
    where = maker.condition() if rng.random() < 0.3 else None
    # A row must outlive its windows: the ttl is the longest reach, or a little more.
    reach = max(a.window_ns + a.slide_ns + a.delay_ns for a in features.values())
    ttl = reach + rng.choice((0, 1, maker.unit * 10)) if rng.random() < 0.4 and reach else None
    try:
        return FeatureView(
            name, source=stream, entity=stream.key_fields, features=features, where=where, ttl=ttl
        )
    except DefinitionError:  # such as rows that would be too large
        return fuzz_view(stream, rng, name)


def edges(view: FeatureView) -> list[int]:
    """Lengths that matter to a view, in ns: slides, windows, delays, ttl."""
    found = {view.plan.ttl_ns, *(s.dedup_ns for s in view.sources if s.event_id is not None)}
    for a in view.features.values():
        found |= {a.window_ns, a.slide_ns, a.delay_ns, math.gcd(a.window_ns, a.slide_ns)}
    return sorted(found - {0}) or [10**9]


class _Maker:
    """Draws features that fit a stream."""

    def __init__(self, stream: EventStream, rng: Random) -> None:
        self.stream = stream
        self.rng = rng
        self.unit = rng.choice(UNITS)

    def feature(self) -> Aggregation:
        makers: list[Callable[[], Aggregation]] = [
            self._count, self._count, self._sum, self._sum, self._mean, self._extreme,
            self._extreme, self._ratio, self._distinct, self._last, self._spread, self._first,
            self._decayed, self._quantile, self._top_k, self._extremes,
        ]  # fmt: skip
        made = self.rng.choice(makers)()
        if made.column is not None and self.rng.random() < 0.2:
            made = replace(made, nulls="propagate" if self.rng.random() < 0.8 else "reject")
        if made.half_life is not None or (made.op.name == "LAST" and self.rng.random() < 0.5):
            return made
        return self._windowed(made)

    def condition(self) -> pl.Expr:
        """True, false or null, row by row."""
        field = self.rng.choice([f for f in self.stream.schema.fields if f.type in NUMBERS])
        column = pl.col(field.name)
        if field.type is FieldType.BOOL:
            return column
        return self.rng.choice((column > 0, column != 1, column.is_not_null(), column % 2 == 0))

    def _windowed(self, made: Aggregation) -> Aggregation:
        rng = self.rng
        if rng.random() < 0.35:
            window = self.unit * rng.choice((1, 10, 60, 300))
            delay = self.unit * rng.choice((0, 0, 5, 60))
            keep = None if made.op.name == "LAST" and not delay else rng.choice((None, 1, 5, 50))
            if keep is not None and keep < made.n:
                keep = made.n
            return made.over(window, delay=delay, bound=keep)
        slide = self.unit * rng.choice((1, 7, 10, 60))
        window = slide * rng.randint(1, 5) + (rng.randint(0, 9) * slide // 10)
        width = math.gcd(window, slide)
        if (window + slide) // width > 2000:
            window = slide * 3
            width = slide
        tiled = made.op.name not in {"DISTINCT", "LAST"}
        delay = width * rng.choice((0, 0, 1, 9)) if tiled else 0
        return made.over(window, slide=slide, delay=delay)

    def _where(self) -> pl.Expr | None:
        return self.condition() if self.rng.random() < 0.25 else None

    def _column(self, types: set[FieldType]) -> Column:
        """A field, or an expression whose value may be null, NaN or infinite."""
        names = [f.name for f in self.stream.schema.fields if f.type in types]
        name = self.rng.choice(names)
        if self.rng.random() < 0.75:
            return name
        numbers = [f.name for f in self.stream.schema.fields if f.type is FieldType.FLOAT64]
        if not numbers:
            return name
        price = pl.col(self.rng.choice(numbers))
        return self.rng.choice((price / (price - price), price * 2 + 1, price.floor(), price % 3))

    def _count(self) -> Aggregation:
        every = {f.type for f in self.stream.schema.fields}
        column = self._column(every) if self.rng.random() < 0.5 else None
        return agg.count(column, where=self._where())

    def _sum(self) -> Aggregation:
        return agg.sum(self._column(NUMBERS), where=self._where())

    def _mean(self) -> Aggregation:
        default = self.rng.choice((None, 0.0, -1.5))
        return agg.mean(self._column(NUMBERS), where=self._where(), default=default)

    def _extreme(self) -> Aggregation:
        kind = self.rng.choice((agg.min, agg.max))
        return kind(self._column(ORDERED), where=self._where())

    def _extremes(self) -> Aggregation:
        kind = self.rng.choice((agg.max_n, agg.min_n))
        return kind(self._column(ORDERED), self.rng.choice((1, 2, 5)), where=self._where())

    def _spread(self) -> Aggregation:
        kind = self.rng.choice((agg.var, agg.std))
        return kind(self._column(NUMBERS), ddof=self.rng.choice((0, 1, 1, 2)), where=self._where())

    def _first(self) -> Aggregation:
        column, max_bytes = self._shown()
        return agg.first(column, where=self._where(), max_bytes=max_bytes)

    def _decayed(self) -> Aggregation:
        half_life = self.unit * self.rng.choice((1, 7, 60, 10**6))
        if self.rng.random() < 0.3:
            return agg.decayed_count(half_life, where=self._where())
        kind = self.rng.choice((agg.decayed_sum, agg.ewma))
        return kind(self._column(NUMBERS), half_life, where=self._where())

    def _ratio(self) -> Aggregation:
        parts = [self.rng.choice((self._count, self._sum))() for _ in range(2)]
        return agg.ratio(parts[0], parts[1], default=self.rng.choice((None, 0.0)))

    def _distinct(self) -> Aggregation:
        column = self._column(ORDERED | TEXTS)
        return agg.distinct(column, where=self._where(), bound=self.rng.choice((2, 5, 4096)))

    def _quantile(self) -> Aggregation:
        q = self.rng.choice((0, 0.07, 0.1, 1 / 3, 0.5, 0.58, 0.9, 1))
        bound = self.rng.choice((3, 20, 4096))
        return agg.quantile(self._column(NUMBERS), q, where=self._where(), bound=bound)

    def _top_k(self) -> Aggregation:
        k, bound = self.rng.choice((1, 3)), self.rng.choice((3, 20, 4096))
        codes = [f.name for f in self.stream.schema.fields if f.type in TEXTS - {FieldType.UUID}]
        if codes and self.rng.random() < 0.3:
            column = self.rng.choice(codes)
            return agg.top_k(column, k, where=self._where(), bound=bound, max_bytes=7)
        return agg.top_k(self._column(ORDERED), k, where=self._where(), bound=bound)

    def _last(self) -> Aggregation:
        column, max_bytes = self._shown()
        n = self.rng.choice((1, 2, 5))
        return agg.last(column, n=n, where=self._where(), max_bytes=max_bytes)

    def _shown(self) -> tuple[Column, int | None]:
        """A column of any type; of strings and bytes perhaps with a bound."""
        texts = [f.name for f in self.stream.schema.fields if f.type in TEXTS]
        if not texts or self.rng.random() < 0.6:
            return self._column(ORDERED), None
        return self.rng.choice(texts), self.rng.choice((None, 15, 40, 64))
