"""Instructions of each kernel for one event or row, which repeat where times do not.

    python -m tests.bench.instructions [--write]

Runs a made-up batch of behaviour events under valgrind's cachegrind, once with every stage done
once and then once for each stage with that stage repeated: the difference is what it takes.
Kernels are compiled for a generic processor, so counts hold for any machine with the same versions
of LLVM and Numba. A count more than a tenth above the one kept beside this file (``--write`` keeps
new ones) is a regression: exit code 1. Needs valgrind (Debian's package of that name).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.features.derive import Derivation
from pipeline.ingest.decode import JsonDecoder
from pipeline.ingest.envelope import Envelope
from pipeline.state.table import StateTable
from pipeline.store.keys import partition_tag
from pipeline.store.marker import Marker
from pipeline.store.partition import RowWrite
from pipeline.store.transaction import Scratch, encode_commit
from tests.bench.peers.workload import view
from tests.reference.records import binary_batch

__all__ = ["KEPT", "STAGES", "measured", "worse"]

KEPT = Path(__file__).with_suffix(".json")
STAGES = ("decode", "lookup", "derive", "apply", "encode", "load", "finalize", "commit")
EVENTS, USERS = 2_000, 500
# So often that a stage takes some hundred million instructions: threads of libraries take some too.
AGAIN = dict.fromkeys(STAGES, 200) | dict.fromkeys(STAGES[4:], 1_000)
TOLERANCE = 1.1
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "PYTHONHASHSEED": "0"}


def stages() -> dict[str, Callable[[], object]]:
    """Each stage of one batch as a call that may be repeated."""
    activity = view("behaviour")
    plan, stream = activity.plan, activity.sources[0]
    batch = binary_batch(
        [_event(i) for i in range(EVENTS)], [b"%d" % _user(i) for i in range(EVENTS)]
    )
    envelope = Envelope(stream.schema, stream.key_fields, stream.time, 1)
    decoder = JsonDecoder.within(stream.schema, envelope)
    events = decoder.decode(batch)
    if events.reason.any():
        raise ValueError(f"events of this benchmark are refused: {events.rejects().counts()}")
    derivation = Derivation(plan, [])
    derived = derivation.compute(events)
    table = StateTable(plan)
    found = table.lookup(batch.keys, batch.key_offsets)
    first = found.slots[found.missing]
    table.load(first, [None] * len(first))
    select = np.ones(EVENTS, dtype=np.uint8)

    def apply() -> object:
        return table.apply(
            found.slots, batch.offsets, batch.timestamps_ms, events.event_time, select,
            derived.inputs, derived.valid, derived.masks,
        )  # fmt: skip

    apply()
    rows = table.encode(first)
    packed = [rows.row(i) for i in range(len(rows))]
    other = StateTable(plan)
    slots = other.lookup(rows.keys, rows.key_offsets).slots
    scratch, marker = Scratch(), Marker(plan.fingerprint, "", 0, EVENTS)
    tag = partition_tag("bench", batch.source)
    return {
        "decode": lambda: decoder.decode(batch),
        "lookup": lambda: table.lookup(batch.keys, batch.key_offsets),
        "derive": lambda: derivation.compute(events),
        "apply": apply,
        "encode": lambda: table.encode(first),
        "load": lambda: other.load(slots, packed),
        "finalize": lambda: table.finalize(first, "event"),
        "commit": lambda: encode_commit(
            scratch, tag, [RowWrite(plan.fingerprint, rows)], [marker], (), b""
        ),
    }


def _user(i: int) -> int:
    return 10_000_000 + i * i % USERS


def _event(i: int) -> bytes:
    return (
        b'{"user":%d,"time":%d,"item":%d,"category":"garden-and-outdoor","action":"view-item",'
        b'"price":%d.%02d,"dwell":%d.%03d}'
        % (_user(i), 1_700_000_000_000 + 37 * i, 10**12 + i, i % 900, i % 100, i % 100, i % 1000)
    )


def measured() -> dict[str, float]:
    """Instructions of every stage, of one event or (encode, load, finalize, commit) of one row."""
    _child("none", valgrind=False)  # compiles
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(_child, ["none", *STAGES]))
    per = dict.fromkeys(STAGES, EVENTS) | dict.fromkeys(STAGES[4:], _rows())
    return {
        stage: round((count - counts[0]) / AGAIN[stage] / per[stage], 1)
        for stage, count in zip(STAGES, counts[1:], strict=True)
    }


def worse(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """What got worse, in words."""
    return [
        f"{stage}: {count:g} instructions, kept are {kept[stage]:g}"
        for stage, count in found.items()
        if count > kept[stage] * TOLERANCE
    ]


def _rows() -> int:
    return len({_user(i) for i in range(EVENTS)})


def _child(stage: str, *, valgrind: bool = True) -> int:
    """Instructions of a process in which ``stage`` is repeated."""
    command = [sys.executable, "-m", "tests.bench.instructions", "--stage", stage]
    if valgrind:
        tool = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        command = ["valgrind", *tool, *command]
    done = subprocess.run(
        command, env={**os.environ, **GENERIC}, capture_output=True, text=True, check=False
    )
    counted = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or (valgrind and counted is None):
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return int(counted[1].replace(",", "")) if counted else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts; 1 if one got worse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep these counts")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.stage is not None:
        for name, run in stages().items():
            run()
            for _ in range(AGAIN[name] if name == asked.stage else 0):
                run()
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed (apt-get install valgrind)", file=sys.stderr)
        return 2
    found = measured()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for stage, count in found.items():
        per = "event" if stage in STAGES[:4] else "row"
        print(f"{stage:10s}{count:10,.1f} instructions a{'n' if per == 'event' else ''} {per}")
    if asked.write or not kept:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    for line in worse(found, kept):
        print(line, file=sys.stderr)
    return 1 if worse(found, kept) else 0


if __name__ == "__main__":
    sys.exit(main())
