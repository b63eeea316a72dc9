"""Instructions of each kernel for one event or row, which repeat where times do not.

    python -m tests.bench.instructions [--write]

A made-up batch of behaviour events goes through every stage once, in one process under valgrind's
cachegrind. Then that process forks, for each stage twice: a child that ends at once, and one that
repeats the stage; the difference is what it takes, and no other thread is in it. Kernels are
compiled for a generic processor, so counts hold for any machine with the same versions of LLVM and
Numba. A count more than a twentieth above the one kept beside this file (``--write`` keeps new
ones) is a regression: exit code 1. Needs valgrind (Debian's package of that name); without it
nothing is counted, which is an error (2) only where ``CI`` is set.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
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
AGAIN = 20  # some ten million instructions, beside which a fork is little
TOLERANCE = 1.05
CHILD = re.compile(r"^==(\d+)== I\s+refs:\s+([\d,]+)", re.MULTILINE)
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
    _run([])  # compiles
    done = _run(["valgrind", "--tool=cachegrind", "--cache-sim=no",
                 "--cachegrind-out-file=/dev/null"])  # fmt: skip
    counts = {int(pid): int(count.replace(",", "")) for pid, count in CHILD.findall(done.stderr)}
    per = dict.fromkeys(STAGES, EVENTS) | dict.fromkeys(STAGES[4:], _rows())
    found = {}
    for line in done.stdout.splitlines():
        stage, without, repeated = line.split()
        more = counts[int(repeated)] - counts[int(without)]
        found[stage] = round(more / AGAIN / per[stage], 1)
    return found


def worse(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """What got worse, in words; a stage of which no count is kept counts as such."""
    return [
        f"{stage}: {count:g} instructions, kept are {kept.get(stage, 0):g}"
        for stage, count in found.items()
        if count > kept.get(stage, 0) * TOLERANCE
    ]


def _rows() -> int:
    return len({_user(i) for i in range(EVENTS)})


def _run(tool: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """This module's stages in a process of their own."""
    command = [*tool, sys.executable, "-m", "tests.bench.instructions", "--stages"]
    done = subprocess.run(
        command, env={**os.environ, **GENERIC}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return done


def _fork(times: int, run: Callable[[], object]) -> int:
    """A child that does a stage so many times; its process id."""
    child = os.fork()
    if not child:
        try:
            for _ in range(times):
                run()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return child


def _fork_all() -> None:
    """What the process under valgrind does: a line of two process ids for each stage."""
    found = stages()
    for run in found.values():
        run()
    gc.disable()
    for name, run in found.items():
        print(name, _fork(0, run), _fork(AGAIN, run), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts; 1 if one got worse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep these counts")
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.stages:
        _fork_all()
        return 0
    if shutil.which("valgrind") is None:
        print("left out: valgrind is not installed (apt-get install valgrind)", file=sys.stderr)
        return 2 if os.environ.get("CI") else 0
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
