"""The demo's second opinion: every feature computed again, from the raw table, by DuckDB.

Shares no code and no method with the engine: no tiles, no state, no kernels. A feature is an
aggregate over the household's rows up to one of them, as the words of the definition say it:
over ``(floor(T, slide) - window, T]``. Money is summed in whole cents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from pipeline.demo.dataset import TIME
from pipeline.demo.questions import QUESTIONS, Question
from pipeline.errors import DefinitionError, MissingExtraError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Oracle", "OracleResult", "requested", "sample"]

RELATIVE = 1e-9
MAX_EXAMPLES = 10
POSITION = ("household_id", "event_time", "source_partition", "source_offset")

_LOG = """
CREATE TABLE log AS SELECT
    seq, household_id AS household,
    time_ns, store_id, basket_id, product_id,
    CAST(round(sales_value * 100) AS BIGINT) AS sales_cents,
    CAST(round(coupon_disc * 100) AS BIGINT) AS coupon_cents
FROM purchases
"""
_OFFSETS = """
SELECT seq, row_number() OVER (PARTITION BY partition ORDER BY seq) - 1 AS "offset"
FROM log JOIN homes USING (household)
"""
_ANSWERS = """
SELECT p.id, {columns}
FROM points p JOIN log r ON r.household = p.household AND r.seq <= p.seq AND r.time_ns <= p.time_ns
GROUP BY p.id ORDER BY p.id
"""


@dataclass(frozen=True, slots=True)
class OracleResult:
    """What a comparison found.

    ``points``      rows compared, each one household at one time
    ``checked``     values compared
    ``mismatches``  values that differ, and rows that are missing, unknown or not where they say
    ``examples``    the first of them as sentences
    """

    points: int = 0
    checked: int = 0
    mismatches: int = 0
    examples: tuple[str, ...] = ()

    def __add__(self, other: OracleResult) -> OracleResult:
        return OracleResult(
            self.points + other.points,
            self.checked + other.checked,
            self.mismatches + other.mismatches,
            (self.examples + other.examples)[:MAX_EXAMPLES],
        )


@dataclass(slots=True)
class _Tally:
    points: int = 0
    checked: int = 0
    problems: list[str] = field(default_factory=list)

    def result(self) -> OracleResult:
        examples = tuple(self.problems[:MAX_EXAMPLES])
        return OracleResult(self.points, self.checked, len(self.problems), examples)


class Oracle:
    """Answers from a raw purchases table, in file order. Close it, or use it with ``with``.

    Raises :class:`MissingExtraError` where DuckDB is not installed and
    :class:`DefinitionError` where the table is not in the order of time.
    """

    def __init__(self, purchases: pl.DataFrame, questions: Sequence[Question] = QUESTIONS) -> None:
        if not purchases[TIME].is_sorted():
            raise DefinitionError(f"purchases.{TIME}", "the log is not in the order of time")
        self._questions = tuple(questions)
        self._db = _connect()
        numbered = purchases.with_columns(
            seq=pl.int_range(pl.len(), dtype=pl.Int64), time_ns=pl.col(TIME).dt.epoch("ns")
        )
        self._register("purchases", numbered.drop(TIME))
        self._db.execute(_LOG)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the database."""
        self._db.close()

    def check(
        self,
        rows: pl.DataFrame,
        partitions: Mapping[int, int] | None = None,
        questions: Sequence[Question] | None = None,
    ) -> OracleResult:
        """Compare published change rows with the log as it was at their offsets.

        ``rows`` are of a changes topic: ``household_id``, ``event_time`` (T, datetime[ns]),
        ``source_partition``, ``source_offset`` (of the last purchase included) and one column a
        feature. A purchase's offset is its rank in its partition, so the partition of **every**
        household is needed: from ``partitions``, or else from ``rows``. ``questions`` are the
        features that the rows hold (default: all).
        """
        asked = self._questions if questions is None else tuple(questions)
        _require(rows, POSITION, asked)
        homes = dict(partitions or rows.select("household_id", "source_partition").iter_rows())
        self._register("homes", _homes(homes))
        self._missing_homes()
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE placed AS {_OFFSETS}")
        places = rows.select(partition="source_partition", offset="source_offset")
        self._register("asked", _asked(rows).with_columns(places))
        points = self._ask(
            """SELECT a.id, a.household, a.time_ns, r.seq, r.time_ns AS row_ns
               FROM asked a LEFT JOIN (log r JOIN placed USING (seq) JOIN homes USING (household))
                 ON r.household = a.household AND homes.partition = a.partition
                AND placed."offset" = a."offset" ORDER BY a.id"""
        )
        tally = _Tally(points=len(rows))
        for row in points.filter(pl.col("seq").is_null()).iter_rows(named=True):
            tally.problems.append(
                f"household {row['household']}: partition {places['partition'][row['id']]} "
                f"offset {places['offset'][row['id']]} is not one of its purchases"
            )
        return self._compare(rows, points.drop_nulls("seq"), asked, tally)

    def check_final(self, rows: pl.DataFrame) -> OracleResult:
        """Compare the last state of every household, one row each.

        ``rows`` holds ``household_id``, ``event_time`` (T, the household's last event time or
        later, datetime[ns]) and one column a feature. A household without a row is a mismatch.
        """
        _require(rows, POSITION[:2], self._questions)
        self._register("asked", _asked(rows))
        points = self._ask(
            """SELECT a.id, coalesce(a.household, r.household) AS household,
                      a.time_ns, r.seq, r.row_ns
               FROM asked a FULL JOIN (SELECT household, max(seq) AS seq, max(time_ns) AS row_ns
                                       FROM log GROUP BY household) r USING (household)
               ORDER BY a.id"""
        )
        tally = _Tally(points=len(rows))
        for row in points.filter(pl.col("id").is_null()).iter_rows(named=True):
            tally.problems.append(f"household {row['household']}: has purchases but no row")
        for row in points.filter(pl.col("seq").is_null()).iter_rows(named=True):
            tally.problems.append(f"household {row['household']}: has a row but no purchase")
        seen = rows.filter(pl.col("household_id").is_duplicated())["household_id"].unique()
        tally.problems.extend(f"household {home}: has more than one row" for home in seen.sort())
        return self._compare(rows, points.drop_nulls(["id", "seq"]), self._questions, tally)

    def new_baskets(self) -> int:
        """How often a household's basket differs from that of its purchase before."""
        count = self._ask(
            """SELECT count(*) AS n FROM (SELECT basket_id, lag(basket_id) OVER (
                 PARTITION BY household ORDER BY seq) AS before FROM log)
               WHERE basket_id IS DISTINCT FROM before"""
        )
        return int(count["n"][0])

    def _compare(
        self,
        rows: pl.DataFrame,
        points: pl.DataFrame,
        questions: Sequence[Question],
        tally: _Tally,
    ) -> OracleResult:
        early = points.filter(pl.col("time_ns").is_null() | (pl.col("time_ns") < pl.col("row_ns")))
        for row in early.iter_rows(named=True):
            tally.problems.append(
                f"household {row['household']}: T = {row['time_ns']} ns is before its last "
                f"purchase at {row['row_ns']} ns"
            )
        later = points.filter(pl.col("time_ns") >= pl.col("row_ns"))
        answers = self._answers(later, questions)
        given = rows.with_row_index("id").join(answers.select("id"), on="id").sort("id")
        for question in questions:
            pairs = zip(
                given[question.name].to_list(), answers[question.name].to_list(), strict=True
            )
            for i, (actual, expected) in enumerate(pairs):
                tally.checked += 1
                if not _same(actual, expected, question):
                    home, time = given["household_id"][i], given["event_time"][i]
                    tally.problems.append(
                        f"household {home} at {time:%Y-%m-%d %H:%M:%S}: {question.name} is "
                        f"{_shown(actual)}, DuckDB says {_shown(expected)} [{question.words}]"
                    )
        return tally.result()

    def _answers(self, points: pl.DataFrame, questions: Sequence[Question]) -> pl.DataFrame:
        self._register("points", points.select("id", "household", "time_ns", "seq"))
        columns = ", ".join(f'{q.sql("r", "p")} AS "{q.name}"' for q in questions)
        return self._ask(_ANSWERS.format(columns=columns))

    def _ask(self, sql: str) -> pl.DataFrame:
        return pl.DataFrame(self._db.sql(sql).to_arrow_table())

    def _missing_homes(self) -> None:
        unknown = self._db.execute(
            "SELECT DISTINCT household FROM log ANTI JOIN homes USING (household) LIMIT 3"
        ).fetchall()
        if unknown:
            names = ", ".join(str(row[0]) for row in unknown)
            raise DefinitionError("partitions", f"the partition of household {names} is not known")

    def _register(self, name: str, frame: pl.DataFrame) -> None:
        self._db.register(name, frame.to_arrow())


def requested(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a request topic in the form that :meth:`Oracle.check` takes: the key as a number."""
    key = pl.col("entity_key").cast(pl.String).cast(pl.Int64)
    return rows.with_columns(household_id=key)


def sample(rows: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """``n`` of the rows (all where there are fewer), the same ones for the same seed."""
    return rows.sample(min(n, len(rows)), seed=seed, shuffle=False)


def _connect() -> DuckDBPyConnection:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise MissingExtraError("duckdb", "demo") from error
    return duckdb.connect(":memory:")


def _require(rows: pl.DataFrame, names: Iterable[str], questions: Iterable[Question]) -> None:
    missing = [n for n in (*names, *(q.name for q in questions)) if n not in rows.columns]
    if missing:
        raise DefinitionError("rows", f"no column {', '.join(missing)}")


def _homes(homes: Mapping[int, int]) -> pl.DataFrame:
    data = {"household": list(homes.keys()), "partition": list(homes.values())}
    return pl.DataFrame(data, schema={"household": pl.Int64, "partition": pl.Int64})


def _asked(rows: pl.DataFrame) -> pl.DataFrame:
    time_ns = pl.col("event_time").dt.epoch("ns")
    return rows.select(household=pl.col("household_id"), time_ns=time_ns).with_row_index("id")


def _same(actual: Any, expected: Any, question: Question) -> bool:
    if question.is_list:
        return _items(actual) == _items(expected)
    if actual is None or expected is None:
        return actual is expected
    if question.is_float:
        return math.isclose(actual, expected, rel_tol=RELATIVE, abs_tol=0.0)
    return bool(actual == expected)


def _items(value: Any) -> list[Any]:
    """A list without its padding; ``last(n=1)`` may come as the value itself."""
    if value is None:
        return []
    return [item for item in value if item is not None] if isinstance(value, list) else [value]


def _shown(value: Any) -> str:
    return repr(_items(value)) if isinstance(value, list) else repr(value)
