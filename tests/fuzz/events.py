"""What the fuzzers of event formats have in common: a decoder against its twin."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.ingest.batch import Reason
from pipeline.ingest.envelope import Decoder
from tests.reference.records import binary_batch, row

Verdict = tuple[str, dict[str, Any]]


def checker(
    decoder: Decoder, twin: Callable[[bytes], Verdict]
) -> Callable[[Sequence[bytes]], list[str]]:
    """A check that every value gets the twin's reason, and where it is ok the twin's columns.

    Keys are not those of the entities, so a value is good if it comes as far as that.
    """

    def check(values: Sequence[bytes]) -> list[str]:
        events = decoder.decode(binary_batch(values, [b"\xff"] * len(values)))
        answers = []
        for i, value in enumerate(values):
            reason = Reason(int(events.reason[i])).name.lower()
            reason = "ok" if reason == "key_mismatch" else reason
            wanted, columns = twin(value)
            wanted = wanted if value else "empty"
            if reason != wanted:
                raise AssertionError(f"{reason}, the twin says {wanted}")
            got = {k: _bits(v) for k, v in row(events, i).items()} if reason == "ok" else {}
            if reason == "ok" and got != {k: _bits(v) for k, v in columns.items()}:
                raise AssertionError(f"{got}, the twin says {columns}")
            answers.append(f"{reason} {[k for k, v in got.items() if v is None]}")
        return answers

    return check


def _bits(value: Any) -> Any:
    """Floats compare by their bits, and every NaN alike."""
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)
    return value
