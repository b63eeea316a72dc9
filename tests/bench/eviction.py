"""How well a worker's cache keeps what will be needed: rows read from the store an event.

    python -m tests.bench.eviction [--quick]

A table of rows of equal size gets batches of 1,000 events over 20,000 keys, as a worker does: keys
are looked up, missing rows are loaded, rows beyond the cache's bound leave. Counted are the rows
loaded, in the second half of the events, with room for a twentieth, a fifth and half of the keys.
Beside it policies that decide event by event, with room for as many rows: least recently used
(LRU), 2Q (Johnson and Shasha, VLDB 1994; a quarter for new rows, half as many remembered), and the
optimum, which knows the future (Belady, IBM Systems Journal 5, 1966). Events are drawn by Zipf's
law (1.1), evenly, by Zipf's law with every fifth from a walk over as many other keys, and by Zipf's
law with other hot keys each sixth. Counts repeat exactly; nothing here is timed.
"""

from __future__ import annotations

import argparse
import heapq
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import pipeline as pp
from pipeline.state.table import StateTable
from tests.bench.backfill import keys_of, nothing

KEYS, EVENTS, BATCH = 20_000, 300_000, 1_000
SIZES = (0.05, 0.2, 0.5)
CONTRACT = {
    "title": "event",
    "type": "object",
    "properties": {"key": {"type": "integer"}, "at": {"type": "integer", "x-unix-time": "ns"}},
    "required": ["key", "at"],
}
Trace = npt.NDArray[np.int64]


def traces(events: int) -> dict[str, Trace]:
    """Keys of events."""
    draw = np.random.default_rng(5)
    weight = 1 / np.arange(1, KEYS + 1) ** 1.1
    ends = np.cumsum(weight / weight.sum())
    rank = np.minimum(np.searchsorted(ends, draw.random(events)), KEYS - 1)
    zipf = draw.permutation(KEYS)[rank]
    scanned = zipf.copy()
    walked = draw.random(events) < 0.2
    scanned[walked] = KEYS + np.arange(walked.sum()) % KEYS
    parts = np.array_split(rank, 6)
    return {
        "Zipf": zipf,
        "even": draw.integers(0, KEYS, events),
        "Zipf and a scan": scanned,
        "Zipf that moves": np.concatenate([draw.permutation(KEYS)[part] for part in parts]),
    }


def least_recent(keys: list[int], room: int) -> list[int]:
    """Positions of the events whose rows are read; the row unused for longest goes."""
    held: OrderedDict[int, None] = OrderedDict()
    missed = []
    for i, key in enumerate(keys):
        if key in held:
            held.move_to_end(key)
            continue
        missed.append(i)
        held[key] = None
        if len(held) > room:
            held.popitem(last=False)
    return missed


def two_queues(keys: list[int], room: int) -> list[int]:
    """The same of 2Q."""
    new: OrderedDict[int, None] = OrderedDict()
    main: OrderedDict[int, None] = OrderedDict()
    gone: OrderedDict[int, None] = OrderedDict()
    missed = []
    for i, key in enumerate(keys):
        if key in main:
            main.move_to_end(key)
        elif key not in new:
            missed.append(i)
            if key in gone:
                del gone[key]
                main[key] = None
            else:
                new[key] = None
            if len(new) + len(main) <= room:
                continue
            if len(new) > room // 4:
                gone[new.popitem(last=False)[0]] = None
                if len(gone) > room // 2:
                    gone.popitem(last=False)
            else:
                main.popitem(last=False)
    return missed


def optimal(keys: list[int], room: int) -> list[int]:
    """The same of the policy that knows when each row is needed next: the last one goes."""
    following, seen = [0] * len(keys), dict[int, int]()
    for i in range(len(keys) - 1, -1, -1):
        following[i] = seen.get(keys[i], len(keys))
        seen[keys[i]] = i
    held: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    missed = []
    for i, key in enumerate(keys):
        if key not in held:
            missed.append(i)
            while len(held) >= room:
                when, oldest = heapq.heappop(latest)
                if held.get(oldest) == -when:  # else it was needed meanwhile
                    del held[oldest]
        held[key] = following[i]
        heapq.heappush(latest, (-following[i], key))
    return missed


def ours(keys: list[int], room: int) -> list[int]:
    """The same of :class:`StateTable`."""
    stream = pp.EventStream("events", pp.Contract.load(CONTRACT), key="key", time="at")
    features = {"n": pp.count().over("1h", slide="1m")}
    table = StateTable(pp.FeatureView("held", source=stream, entity="key", features=features).plan)
    table.lookup(*keys_of(np.full(1, KEYS)))  # a key of the usual length
    table.max_bytes = room * table.nbytes
    table.clear()
    missed = []
    for first in range(0, len(keys), BATCH):
        found = table.lookup(*keys_of(np.array(keys[first : first + BATCH])))
        table.load(found.slots[found.missing], nothing(len(found.missing)))
        missed += (found.missing + first).tolist()
        table.evict()
    return missed


POLICIES: dict[str, Callable[[list[int], int], list[int]]] = {
    "optimum": optimal,
    "LRU": least_recent,
    "2Q": two_queues,
    "this cache": ours,
}


def main() -> None:
    """Print a line per trace and size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    events = EVENTS // 10 if parser.parse_args().quick else EVENTS
    for what, trace in traces(events).items():
        keys = trace.tolist()
        for size in SIZES:
            found = []
            for name, policy in POLICIES.items():
                missed = policy(keys, int(size * KEYS))
                reads = sum(i >= events // 2 for i in missed) / (events - events // 2)
                found.append(f"{name} {reads:.3f}")
            print(
                f"{what}, room for {size:.0%} of the keys: rows read an event: {', '.join(found)}"
            )


if __name__ == "__main__":
    main()
