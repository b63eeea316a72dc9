"""A second opinion on any feature view: plain Python over the whole log.

No tiles, no kernels, nothing of what compiles and runs a view: only its definition is read. A value
is what its aggregation says of the key's events in the window at ``T``, computed anew for each
question, so it is slow and easy to believe.
"""

from __future__ import annotations

from pipeline.testing.oracle.agreement import differences, disagreements, miscounts
from pipeline.testing.oracle.expected import Expected, Value
from pipeline.testing.oracle.records import Event, Record, RefusedError, read_json, records_of
from pipeline.testing.oracle.replay import Accounting, Oracle

__all__ = [
    "Accounting",
    "Event",
    "Expected",
    "Oracle",
    "Record",
    "RefusedError",
    "Value",
    "differences",
    "disagreements",
    "miscounts",
    "read_json",
    "records_of",
]
