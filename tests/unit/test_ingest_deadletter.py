"""Dead letters: what is kept of a record that cannot be applied."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from pipeline.ingest.batch import Reason, Rejects
from pipeline.ingest.deadletter import dead_letters
from tests.reference.records import binary_batch


def letters(reasons: dict[int, Reason], **kwargs: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """Keys and parsed values of the dead letters of these rows."""
    batch = binary_batch(
        [b"x" * 2000, None, b"", b"\xff\x00"], [b"\xfe", None, b"", b"k"], sizes=[2000, 0, 0, 9_999]
    )
    rejects = Rejects(
        np.array(list(reasons), dtype=np.int64), np.array(list(reasons.values()), dtype=np.uint8)
    )
    return [(key, json.loads(value)) for key, value in dead_letters(batch, rejects, **kwargs)]


def test_the_first_kibibyte_is_kept() -> None:
    [(key, letter)] = letters({0: Reason.DECODE})
    assert key == b"events/0/0"
    assert letter["size"] == 2000
    assert base64.b64decode(letter["value"]) == b"x" * 1024
    assert base64.b64decode(letter["key"]) == b"\xfe"


def test_null_empty_and_left_out_are_told_apart() -> None:
    tombstone, empty, large = [
        letter for _, letter in letters({1: Reason.TOMBSTONE, 2: Reason.EMPTY, 3: Reason.TOO_LARGE})
    ]
    assert (tombstone["value"], tombstone["key"], tombstone["reason"]) == (None, None, "tombstone")
    assert (empty["value"], empty["key"], empty["reason"]) == ("", "", "empty")
    assert (large["value"], large["size"], large["reason"]) == (None, 9_999, "too_large")


def test_the_key_tells_views_apart() -> None:
    [(key, letter)] = letters({0: Reason.EXPRESSION}, view="spend", topic_id="id")
    assert key == b"events/0/0/spend"
    assert (letter["view"], letter["topic_id"], letter["offset"]) == ("spend", "id", 0)
