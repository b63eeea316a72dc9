"""The features of the demo as questions to a raw table, for the oracle.

Written a second time on purpose: the engine's own declaration is in
:mod:`pipeline.demo.views`, and a test holds the two lists of names together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HORIZON_NS", "QUESTIONS", "Question"]

HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS
HORIZON_NS = 60 * DAY_NS

Kind = Literal["count", "sum", "mean", "max", "share", "distinct", "last"]


@dataclass(frozen=True, slots=True)
class Question:
    """One feature. ``column`` is of the oracle's table; a ``*_cents`` column answers in dollars.

    ``share`` is the part of the rows in which ``column`` is above zero; ``last`` asks for the
    newest ``n`` values by (time, file order), newest first.
    """

    name: str
    kind: Kind
    column: str
    window_ns: int
    slide_ns: int = 0
    n: int = 0

    @property
    def is_list(self) -> bool:
        """Whether the answer is a list."""
        return self.kind == "last"

    @property
    def is_float(self) -> bool:
        """Whether the answer is a float64; all others are exact integers."""
        return self.kind in ("sum", "mean", "max", "share")

    @property
    def words(self) -> str:
        """The question for people: ``sum(sales_cents) over 7d, slide 1d``."""
        days = f"{self.window_ns // DAY_NS}d"
        if self.is_list:
            return f"last {self.n} {self.column} within {days}"
        slide = "1d" if self.slide_ns == DAY_NS else f"{self.slide_ns // HOUR_NS}h"
        return f"{self.kind}({self.column}) over {days}, slide {slide}"

    def sql(self, row: str, point: str) -> str:
        """The DuckDB aggregate over table alias ``row`` as of ``point.time_ns``."""
        end = f"{point}.time_ns"
        if self.slide_ns:
            end = f"({point}.time_ns // {self.slide_ns}) * {self.slide_ns}"
        inside = f"FILTER (WHERE {row}.time_ns > {end} - {self.window_ns})"
        column = f"{row}.{self.column}"
        count = f"count(*) {inside}"
        return {
            "count": count,
            "sum": f"CAST(coalesce(sum({column}) {inside}, 0) AS DOUBLE) / 100",
            "mean": f"CAST(sum({column}) {inside} AS DOUBLE) / 100 / nullif({count}, 0)",
            "max": f"max({column}) {inside} / 100.0::DOUBLE",
            "share": f"sum(({column} > 0)::BIGINT) {inside}::DOUBLE / nullif({count}, 0)",
            "distinct": f"count(DISTINCT {column}) {inside}",
            "last": (
                f"(list({column} ORDER BY {row}.time_ns DESC, {row}.seq DESC) {inside})[1:{self.n}]"
            ),
        }[self.kind]


QUESTIONS: tuple[Question, ...] = (
    Question("lines_1d", "count", "seq", DAY_NS, HOUR_NS),
    Question("baskets_1d", "distinct", "basket_id", DAY_NS, HOUR_NS),
    Question("spend_1d", "sum", "sales_cents", DAY_NS, HOUR_NS),
    Question("spend_7d", "sum", "sales_cents", 7 * DAY_NS, DAY_NS),
    Question("spend_30d", "sum", "sales_cents", 30 * DAY_NS, DAY_NS),
    Question("lines_7d", "count", "seq", 7 * DAY_NS, DAY_NS),
    Question("lines_30d", "count", "seq", 30 * DAY_NS, DAY_NS),
    Question("mean_line_30d", "mean", "sales_cents", 30 * DAY_NS, DAY_NS),
    Question("max_line_30d", "max", "sales_cents", 30 * DAY_NS, DAY_NS),
    Question("coupon_share_30d", "share", "coupon_cents", 30 * DAY_NS, DAY_NS),
    Question("products_7d", "distinct", "product_id", 7 * DAY_NS, DAY_NS),
    Question("products_30d", "distinct", "product_id", 30 * DAY_NS, DAY_NS),
    Question("baskets_7d", "distinct", "basket_id", 7 * DAY_NS, DAY_NS),
    Question("baskets_30d", "distinct", "basket_id", 30 * DAY_NS, DAY_NS),
    Question("stores_30d", "distinct", "store_id", 30 * DAY_NS, DAY_NS),
    Question("last_stores", "last", "store_id", HORIZON_NS, n=5),
    Question("last_basket", "last", "basket_id", HORIZON_NS, n=1),
)
