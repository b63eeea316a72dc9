"""What a plan's cells, accumulators, lists and features can be, as the kernels number them."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "COUNT_KINDS",
    "COUNT_OPS",
    "GROUPED_OPS",
    "LIST_OPS",
    "TILE_BOUND_KINDS",
    "WORD_OPS",
    "AccOp",
    "CellType",
    "FeatureOp",
    "ListKind",
]


class CellType(IntEnum):
    """How the 64 bits of a cell are read."""

    INT = 0  # int64
    FLOAT = 1  # float64
    DECIMAL = 2  # int64 scaled by 10**scale
    TIME = 3  # int64 ns since the Unix epoch
    BOOL = 4  # int64 0/1
    HASH = 5  # int64 bits of the xxh64 of a string
    TEXT = 6  # of features: a string, of several cells, see features.texts
    BINARY = 7  # the same of bytes


class AccOp(IntEnum):
    """What an accumulator does with a value (identity of an empty cell in brackets)."""

    COUNT = 0  # [0] number of records with mask and, if an input is named, a non-null input
    SUM_INT = 1  # [0] exact; saturates at OVERFLOW and stays there
    SUM_FLOAT = 2  # [0.0] in offset order
    MIN_INT = 3  # [2**63 - 1]
    MAX_INT = 4  # [-2**63]
    MIN_FLOAT = 5  # [+inf]
    MAX_FLOAT = 6  # [-inf]
    # Cells that one value changes together; a group stands in this order, in one ring.
    VAR_INT = 7  # [0] number of values (int64); then VAR_MEAN, VAR_LOW, VAR_M2
    VAR_FLOAT = 8  # [0] the same of float64 values
    VAR_MEAN = 9  # [0.0] their mean
    VAR_LOW = 10  # [0.0] what float64 does not hold of the mean
    VAR_M2 = 11  # [0.0] sum of the squared differences from the mean
    FIRST_AT = 12  # [0] time of the oldest value less the tile's start; then FIRST_INT or _FLOAT
    FIRST_INT = 13  # [0] that value
    FIRST_FLOAT = 14  # [0.0]


WORD_OPS = frozenset({
    AccOp.SUM_FLOAT, AccOp.MIN_FLOAT, AccOp.MAX_FLOAT,
    AccOp.VAR_MEAN, AccOp.VAR_LOW, AccOp.VAR_M2, AccOp.FIRST_FLOAT,
})  # fmt: skip
"""Accumulators whose cell is a float64."""

COUNT_OPS = frozenset({AccOp.COUNT, AccOp.VAR_INT, AccOp.VAR_FLOAT, AccOp.FIRST_AT})
"""Accumulators whose cell is never negative."""

GROUPED_OPS = frozenset({
    AccOp.VAR_MEAN, AccOp.VAR_LOW, AccOp.VAR_M2, AccOp.FIRST_INT, AccOp.FIRST_FLOAT,
})  # fmt: skip
"""Accumulators that the one before them changes."""


class ListKind(IntEnum):
    """The kinds of bounded lists."""

    DISTINCT = 0  # entries (value, newest tile), ascending by value
    LAST = 1  # entries (event time, offset, value), ascending by (event time, offset)
    EVENTS = 2  # the same, or (event time, offset) without an input; what is dropped is remembered
    DECAYED = 3  # one entry (reference time, weight, sum), or (reference time, weight)
    COUNTS = 4  # entries (tile, value, count), ascending; beyond the bound buckets of values
    IDS = 5  # as EVENTS, of event ids: an event whose id is there is a duplicate
    FREQUENT = 6  # as COUNTS; beyond the bound rare values go and the others' error is remembered
    LARGEST = 7  # as COUNTS, but of each tile the ``bound`` largest values, and no others
    SMALLEST = 8  # the same of the smallest values


COUNT_KINDS = frozenset({ListKind.COUNTS, ListKind.FREQUENT, ListKind.LARGEST, ListKind.SMALLEST})
"""Lists that hold values with their counts, by tile."""

TILE_BOUND_KINDS = frozenset({ListKind.LARGEST, ListKind.SMALLEST})
"""Those of which ``bound`` is that of a tile, not of the list."""


class FeatureOp(IntEnum):
    """How a feature is computed from accumulators and lists at read time."""

    COUNT = 0
    SUM = 1
    MEAN = 2  # a = sum, b = count
    MIN = 3  # a = min, b = count (null when 0)
    MAX = 4
    RATIO = 5  # a / b, both as float64
    DISTINCT = 6  # a = list
    LAST = 7  # a = list; n cells
    VAR = 8  # a = VAR_INT or VAR_FLOAT
    STD = 9
    FIRST = 10  # a = FIRST_AT
    DECAYED = 11  # a = list: its sum, or its weight if it has no input
    EWMA = 12  # a = list: sum / weight
    TOP_K = 13  # a = list; k cells
    QUANTILE = 14  # a = list; float64 at rank max(1, ceil(q * n)), q as it is written
    MAX_N = 15  # a = list; n cells
    MIN_N = 16


LIST_OPS = frozenset(
    {
        FeatureOp.DISTINCT,
        FeatureOp.LAST,
        FeatureOp.DECAYED,
        FeatureOp.EWMA,
        FeatureOp.TOP_K,
        FeatureOp.QUANTILE,
        FeatureOp.MAX_N,
        FeatureOp.MIN_N,
    }
)
"""Features whose ``a`` is a list, not an accumulator."""
