"""Columns of text that stand for uuids or bytes, as the values they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import forms as kernel
from pipeline.kernels.hash import hash_spans

__all__ = ["Text", "base64_bytes", "lower_uuids", "uuid_texts"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_AT = np.array([k for k in range(kernel.UUID_LENGTH) if k not in (8, 13, 18, 23)])
Text = tuple[U8, I64, I64]  # bytes, start int64[n], length int64[n]


def lower_uuids(text: Text, valid: U8, reason: U8, column: I64) -> Text:
    """The uuids of a column in lower case; ``column`` int64[n] becomes their hashes.

    A text that is none makes ``reason`` SCHEMA, unless an earlier check refused the record.
    """
    out = np.zeros((len(column), kernel.UUID_LENGTH), dtype=np.uint8)
    data, start, length = (_frozen(part) for part in text)
    kernel.lower_uuids(data, start, length, valid, reason, out)
    starts = np.arange(len(column), dtype=np.int64) * kernel.UUID_LENGTH
    lengths = np.full(len(column), kernel.UUID_LENGTH, dtype=np.int64)
    return _hashed((out.reshape(-1), starts, lengths), column)


def base64_bytes(text: Text, valid: U8, reason: U8, column: I64) -> Text:
    """The bytes that the base64 texts of a column stand for; as :func:`lower_uuids` else."""
    data, start, length = (_frozen(part) for part in text)
    out = np.empty(int(length.sum()), dtype=np.uint8)
    bounds = np.empty(len(column) + 1, dtype=np.int64)
    kernel.decode_base64(data, start, length, valid, reason, out, bounds)
    return _hashed((out, bounds[:-1].copy(), np.diff(bounds)), column)


def uuid_texts(raw: U8) -> U8:
    """The 36 lower-case characters of uuids of 16 bytes: uint8[n, 16] to uint8[n, 36]."""
    digits = np.empty((len(raw), 32), dtype=np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _DIGITS[raw >> 4], _DIGITS[raw & 15]
    out = np.full((len(raw), kernel.UUID_LENGTH), ord("-"), dtype=np.uint8)
    out[:, _AT] = digits
    return out


def _hashed(text: Text, column: I64) -> Text:
    data, start, length = (_frozen(part) for part in text)
    hash_spans(data, start, length, column)
    return text


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: kernels compile once, whether buffers are writable or not."""
    view = array.view()
    view.flags.writeable = False
    return view
