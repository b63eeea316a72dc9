"""Strings as integers: the words of 8 bytes that a feature of a string keeps.

A string of at most ``8 * n - 1`` bytes is n words: its bytes in UTF-8, a byte 1, and zeros, cut
into integers of 64 bits, little-endian. So a short string has small words and zeros. Each word is a
column of the events, kept as any integer is; columns of one string are null together, so what is
kept of them is in step.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.errors import DefinitionError

__all__ = ["DEFAULT_BYTES", "WORD", "bytes_of", "text_of_word", "word_column", "words_needed"]

I64 = npt.NDArray[np.int64]
Arrow = Any  # arrays and types of pyarrow, whose stubs do not know what a column holds
WORD = 8
DEFAULT_BYTES = 39  # holds a UUID
MOST_BYTES = 255
_END = b"\1" + bytes(WORD - 1)


def words_needed(where: str, max_bytes: int | None) -> int:
    """Words of a string of at most so many bytes (None: the default)."""
    most = DEFAULT_BYTES if max_bytes is None else max_bytes
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_BYTES:
        raise DefinitionError(f"{where}.max_bytes", f"must be 1 to {MOST_BYTES}, but is {most!r}")
    return most // WORD + 1


def word_column(text: pl.Expr, word: int) -> pl.Expr:
    """A word of a string or of bytes; null where that is."""
    ended = text.cast(pl.Binary) + pl.lit(_END)
    part = ended.bin.slice(WORD * word, WORD).bin.reinterpret(dtype=pl.Int64, endianness="little")
    return pl.when(text.is_not_null()).then(part.fill_null(0))  # of what is shorter there is none


def text_of_word(serialized: str) -> tuple[str, int] | None:
    """Expression (as JSON) and number of the word that a serialized column is; None if it is none.

    No other column looks at bytes: expressions of users cannot.
    """
    if '"BinaryExpr":{"Reinterpret"' not in serialized:
        return None
    word = json.loads(serialized)["Ternary"]
    (text,) = word["predicate"]["Function"]["input"]
    filled = word["truthy"]["Function"]["input"][0]["Function"]["input"][0]
    start = filled["Function"]["input"][1]["Literal"]["Dyn"]["Int"]
    return json.dumps(text), start // WORD


def bytes_of(words: I64, valid: npt.NDArray[np.bool_], type_: Arrow) -> Arrow:
    """Strings, or bytes, of int64[n, w] words; null where not ``valid``.

    Words that are no string, which no writer makes, are null too.
    """
    n, size = len(words), WORD * words.shape[1]
    data = np.ascontiguousarray(words, dtype="<i8").view(np.uint8).reshape(n, size)
    lengths = size - 1 - np.argmax(data[:, ::-1] != 0, axis=1)  # the last byte but zeros ends it
    valid = valid & (data[np.arange(n), lengths] == _END[0])
    lengths = np.where(valid, lengths, 0)
    offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    kept = data[np.arange(size)[None, :] < lengths[:, None]]
    parts = (np.packbits(valid, bitorder="little"), offsets, kept)
    buffers: Any = [pa.py_buffer(part.data) for part in parts]
    made: Arrow = pa.Array.from_buffers(pa.large_binary(), n, buffers)
    try:
        return made.cast(type_)
    except pa.ArrowInvalid:  # some are not UTF-8
        return pa.array([_decoded(value) for value in made.to_pylist()], type=type_)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
