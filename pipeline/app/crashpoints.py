"""Named points where a fault test stops the process; no-ops everywhere else.

``PIPELINE_CRASH_AT=sent:3`` sends the process SIGKILL the third time it reaches ``sent``;
``sent:3:STOP`` sends SIGSTOP, which makes a zombie of it; ``computed:3:SLEEP:9`` is stuck there for
9 seconds while the client's own threads go on. For tests only. The points of a batch:

=============  ============================================================================
``computed``   its rows are computed, nothing has left the process
``sent``       its outputs are acknowledged, its transaction is not sent
``begun``      its transaction is sent, the answer is not read
``committed``  its transaction is applied, the group offset is not committed
=============  ============================================================================
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter

__all__ = ["VARIABLE", "reach"]

log = logging.getLogger(__name__)

VARIABLE = "PIPELINE_CRASH_AT"
_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Say that ``point`` is reached."""
    armed = os.environ.get(VARIABLE, "").split(":")
    if armed[0] != point:
        return
    _reached[point] += 1
    count, name, seconds = (*armed[1:], *("1", "KILL", "0")[len(armed) - 1 :])
    if _reached[point] != int(count):
        return
    if name == "SLEEP":
        log.warning("asleep at %s for %s s", point, seconds)
        time.sleep(float(seconds))
    else:
        # to this thread: it must not run on while another one takes the signal
        signal.pthread_kill(threading.get_ident(), signal.Signals[f"SIG{name}"])
