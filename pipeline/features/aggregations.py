"""Aggregations: the right-hand sides of a feature view.

Each function returns a frozen :class:`Aggregation`; ``.over(window, slide=...)``
gives it a window. Nothing is computed here: :mod:`pipeline.features.compile` turns
aggregations into a :class:`~pipeline.features.plan.Plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import polars as pl

from pipeline.errors import DefinitionError
from pipeline.features.plan import FeatureOp
from pipeline.units import parse_duration

__all__ = [
    "Aggregation",
    "Column",
    "Nulls",
    "count",
    "decayed_count",
    "decayed_sum",
    "distinct",
    "ewma",
    "first",
    "last",
    "max",
    "max_n",
    "mean",
    "median",
    "min",
    "min_n",
    "quantile",
    "ratio",
    "std",
    "sum",
    "top_k",
    "var",
]

Column = str | pl.Expr
"""A field of the event contract by name, or a polars expression over its fields."""

Duration = str | int | timedelta
"""``"7d"``, a number of nanoseconds, or a timedelta."""

Nulls = Literal["ignore", "propagate", "reject"]
"""What a null (or NaN) in the column of an event that passes ``where`` does.

``"ignore"``     nothing: the event is not one of the feature's
``"propagate"``  the feature is null while such an event is in its window
``"reject"``     the whole record is dead-lettered for this view, with the reason ``null_value``
"""


@dataclass(frozen=True, slots=True, eq=False)  # an expression has no truth value to compare by
class Aggregation:
    """What to compute; immutable. Build it with the functions of this module.

    ``column`` is None for a count of records. ``where`` keeps events for which
    the expression is true (null counts as false). ``parts`` are numerator and
    denominator of a ratio. ``window_ns`` is 0 without a window; a window without a slide is
    ``exact``. ``keep`` is how many events of an entity an exact window keeps (None: the default).
    ``ddof`` is of a variance, ``half_life`` of what decays, ``q`` of a quantile,
    ``max_bytes`` of a string.
    """

    op: FeatureOp
    column: Column | None = None
    where: pl.Expr | None = None
    n: int = 1
    bound: int = 0
    parts: tuple[Aggregation, ...] = ()
    window_ns: int = 0
    slide_ns: int = 0
    default: float | None = None
    delay_ns: int = 0
    exact: bool = False
    keep: int | None = None
    nulls: Nulls = "ignore"
    ddof: int = 0
    half_life: Duration | None = None
    q: float = 0.0
    max_bytes: int | None = None

    def over(
        self,
        window: Duration,
        *,
        slide: Duration | None = None,
        delay: Duration | None = None,
        bound: int | None = None,
    ) -> Aggregation:
        """The same aggregation over a sliding window, as read at ``T``.

        With ``slide`` it covers ``(floor(T, slide) - window, T]``, from tiles. Without, it covers
        exactly ``(T - window, T]``, from the entity's events, of which the newest ``bound``
        (default 4096) are kept; a read that would need a dropped one has status ``degraded``.
        ``delay`` moves the window back, for what is known only later: to
        ``(T - delay - window, T - delay]``, or with a slide to the same of ``floor(T, slide)``.

        All of this holds for every ``T`` at or after the entity's last event.
        :class:`DefinitionError` if a duration is not understood.
        """
        return replace(
            self,
            window_ns=_duration("window", window),
            slide_ns=0 if slide is None else _duration("slide", slide),
            delay_ns=0 if delay is None else _duration("delay", delay),
            exact=slide is None,
            keep=bound,
        )


def count(
    column: Column | None = None, *, where: pl.Expr | None = None, nulls: Nulls = "ignore"
) -> Aggregation:
    """Number of events (int64), or of events with a non-null ``column``; 0 when there are none."""
    return Aggregation(FeatureOp.COUNT, column, where, nulls=nulls)


def sum(column: Column, *, where: pl.Expr | None = None, nulls: Nulls = "ignore") -> Aggregation:
    """Sum of ``column``; 0 when there are no events.

    int64 for integers, exact, null with status ``degraded`` on overflow; float64
    for decimals (summed exactly, rounded once) and for floats (in offset order
    within a tile, tiles in time order). NaN counts as null, here and everywhere; see
    :data:`Nulls` for what a null does.
    """
    return Aggregation(FeatureOp.SUM, column, where, nulls=nulls)


def mean(
    column: Column, *, where: pl.Expr | None = None, default: float | None = None,
    nulls: Nulls = "ignore",
) -> Aggregation:  # fmt: skip
    """Arithmetic mean (float64) of the non-null values; null, or ``default``, without any."""
    return Aggregation(FeatureOp.MEAN, column, where, default=default, nulls=nulls)


def var(
    column: Column, *, ddof: int = 1, where: pl.Expr | None = None, nulls: Nulls = "ignore"
) -> Aggregation:
    """Variance (float64) of the ``n`` non-null values: squared differences from their mean, added
    up, over ``n - ddof``. Null where ``n <= ddof``.

    A large mean costs no digits of a small variance: mean and squares are updated value by value
    (Welford 1962), the mean to twice the digits, and tiles are combined in time order (Chan,
    Golub and LeVeque 1979). Null with status ``degraded`` if a value is infinite or the squares
    exceed float64.
    """
    return Aggregation(FeatureOp.VAR, column, where, ddof=ddof, nulls=nulls)


def std(
    column: Column, *, ddof: int = 1, where: pl.Expr | None = None, nulls: Nulls = "ignore"
) -> Aggregation:
    """Standard deviation (float64): the square root of :func:`var`."""
    return Aggregation(FeatureOp.STD, column, where, ddof=ddof, nulls=nulls)


def min(column: Column, *, where: pl.Expr | None = None, nulls: Nulls = "ignore") -> Aggregation:
    """Smallest non-null value, in the column's type; null without any."""
    return Aggregation(FeatureOp.MIN, column, where, nulls=nulls)


def max(column: Column, *, where: pl.Expr | None = None, nulls: Nulls = "ignore") -> Aggregation:
    """Largest non-null value, in the column's type; null without any."""
    return Aggregation(FeatureOp.MAX, column, where, nulls=nulls)


def max_n(
    column: Column, n: int, *, where: pl.Expr | None = None, nulls: Nulls = "ignore"
) -> Aggregation:
    """The ``n`` largest non-null values, the largest first, in the column's type.

    Each as often as it occurred: of 5, 5 and 3 the two largest are 5 and 5. A scalar for ``n=1``,
    else a list, shorter where there are fewer values and null without any; ``n`` is at most 1024.
    -0.0 counts as 0.0. Strings are not supported.

    Exact, whatever the number of values: a tile keeps its ``n`` largest different ones. An exact
    window keeps events, and a read that needs a dropped one is ``degraded``.
    """
    return Aggregation(FeatureOp.MAX_N, column, where, n=n, nulls=nulls)


def min_n(
    column: Column, n: int, *, where: pl.Expr | None = None, nulls: Nulls = "ignore"
) -> Aggregation:
    """The ``n`` smallest non-null values, the smallest first; else as :func:`max_n`."""
    return Aggregation(FeatureOp.MIN_N, column, where, n=n, nulls=nulls)


def ratio(
    numerator: Aggregation, denominator: Aggregation, *, default: float | None = None
) -> Aggregation:
    """Quotient (float64) of two counts or sums over one window; null, or ``default``, at /0."""
    return Aggregation(FeatureOp.RATIO, parts=(numerator, denominator), default=default)


def distinct(
    column: Column, *, where: pl.Expr | None = None, bound: int = 4096, nulls: Nulls = "ignore"
) -> Aggregation:
    """Number of different non-null values (int64).

    Exact while the entity has at most ``bound`` of them in the view's longest window of this slide;
    beyond, a sample of them is kept and reads that come from it have status ``estimated``: the
    standard error is about ``1.2 / sqrt(bound)``, 1.9 % of 4096. Strings are compared by their
    64-bit hash. An exact window keeps events, not values: there the ``bound`` of
    :meth:`Aggregation.over` counts, or this one if that is not given, and a read that needs a
    dropped event is ``degraded``.

    Source: Wegman's adaptive sampling (Flajolet, "On adaptive sampling", Computing 43, 1990).
    """
    return Aggregation(FeatureOp.DISTINCT, column, where, bound=bound, nulls=nulls)


def top_k(
    column: Column, k: int, *, where: pl.Expr | None = None, bound: int = 4096,
    nulls: Nulls = "ignore", max_bytes: int | None = None,
) -> Aggregation:  # fmt: skip
    """The ``k`` most frequent non-null values, the most frequent first, in the column's type.

    A scalar for ``k=1``, else a list, shorter where there are fewer. Equally frequent ones come
    smaller first; -0.0 counts as 0.0. Of strings (and bytes) it takes codes of up to 7 bytes, and
    ``max_bytes`` has to say so: a record with a longer one is dead-lettered as of :func:`last`, and
    equally frequent ones come in the order of their word (``docs/row-layout.md``).

    Exact while the entity has at most ``bound`` values, counted once per tile of the ring; beyond,
    rare ones go and reads have status ``estimated``: no count is too high, and none is too low by
    more than (events of the window) * (tiles) / bound. Source: Misra and Gries, "Finding repeated
    elements", 1982; Agarwal et al., "Mergeable summaries", PODS 2012. For an exact window ``bound``
    is how many events are kept, as of :func:`distinct`.
    """
    return Aggregation(
        FeatureOp.TOP_K, column, where, n=k, bound=bound, nulls=nulls, max_bytes=max_bytes
    )


def quantile(
    column: Column, q: float, *, where: pl.Expr | None = None, bound: int = 4096,
    nulls: Nulls = "ignore",
) -> Aggregation:  # fmt: skip
    """The value at rank ``max(1, ceil(q * n))`` of the n non-null values, ascending (float64).

    One of the values, never between two. Null without any. ``q`` is 0 (the minimum) to 1 (the
    maximum), and ``q * n`` is exact: 0.07 of 100 is 7, whatever float64 makes of 0.07. Of integers,
    decimals, floats and booleans.

    Exact while the entity has at most ``bound`` values, counted once per tile of the ring; beyond,
    near values share a bucket and reads have status ``estimated``: the answer is within a relative
    error of a value at that rank. Buckets double in width as needed, so the error depends on how
    many must fit: about ``log(largest / smallest) * tiles / bound``, and for values from 1 to 1000
    in 24 tiles of 4096 entries at most 3.1 %. For an exact window ``bound`` is how many events are
    kept, as of :func:`distinct`.

    Source: DDSketch (Masson, Rim, Lee, VLDB 2019) with the uniform collapse of UDDSketch (Epicoco
    et al., IEEE Access 2020).
    """
    return Aggregation(FeatureOp.QUANTILE, column, where, bound=bound, q=q, nulls=nulls)


def median(
    column: Column, *, where: pl.Expr | None = None, bound: int = 4096, nulls: Nulls = "ignore"
) -> Aggregation:
    """The lower median (float64): :func:`quantile` with ``q=0.5``."""
    return quantile(column, 0.5, where=where, bound=bound, nulls=nulls)


def first(
    column: Column, *, where: pl.Expr | None = None, nulls: Nulls = "ignore",
    max_bytes: int | None = None,
) -> Aggregation:  # fmt: skip
    """The oldest non-null value by (event time, offset) in the window; null without any.

    Of strings and bytes too, as of :func:`last`.
    """
    return Aggregation(FeatureOp.FIRST, column, where, nulls=nulls, max_bytes=max_bytes)


def last(
    column: Column, n: int = 1, *, where: pl.Expr | None = None, nulls: Nulls = "ignore",
    max_bytes: int | None = None,
) -> Aggregation:  # fmt: skip
    """The last ``n`` non-null values by (event time, offset), newest first.

    A scalar for ``n=1``, else a list. Without ``.over`` it looks back as far as the view's ``ttl``.

    Of a string (UTF-8) or of bytes, ``max_bytes`` are kept, 1 to 255, by default 39: a record with
    a longer one, for which ``where`` is true, is dead-lettered for this view, with the reason
    ``text_too_long``.
    """
    return Aggregation(FeatureOp.LAST, column, where, n=n, nulls=nulls, max_bytes=max_bytes)


def decayed_sum(
    column: Column, half_life: Duration, *, where: pl.Expr | None = None, nulls: Nulls = "ignore"
) -> Aggregation:
    """Sum (float64) of the non-null values, each counting half after every ``half_life``.

    Read at ``T`` it is the sum of ``x * 2 ** -((T - t) / half_life)`` over all events of the row,
    so it takes no window, and no event is too late for it. 0 when there are none. An infinite value
    never decays.
    """
    return Aggregation(FeatureOp.DECAYED, column, where, half_life=half_life, nulls=nulls)


def decayed_count(half_life: Duration, *, where: pl.Expr | None = None) -> Aggregation:
    """Number of events (float64), each counting half after every ``half_life``; no window."""
    return Aggregation(FeatureOp.DECAYED, None, where, half_life=half_life)


def ewma(
    column: Column, half_life: Duration, *, where: pl.Expr | None = None,
    default: float | None = None, nulls: Nulls = "ignore",
) -> Aggregation:  # fmt: skip
    """Mean (float64) of the non-null values, weighted by ``2 ** -((T - t) / half_life)``.

    :func:`decayed_sum` over the decayed count of the same values, so it does not change until the
    next event. Null, or ``default``, without any; no window.
    """
    return Aggregation(
        FeatureOp.EWMA, column, where, default=default, half_life=half_life, nulls=nulls
    )


def _duration(argument: str, value: Duration) -> int:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise DefinitionError(f"over({argument}={value!r})", str(error)) from error
