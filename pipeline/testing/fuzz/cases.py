"""A view, a log and the questions to ask: one fuzzed case, from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from pipeline.features.stream import EventStream
from pipeline.features.view import FeatureView
from pipeline.testing.driver import Driver
from pipeline.testing.fuzz.events import EventFuzzer, Shape
from pipeline.testing.fuzz.views import any_stream, edges, fuzz_view
from pipeline.testing.log import MemoryLog
from pipeline.testing.oracle import Oracle, disagreements, miscounts, records_of

__all__ = ["Case", "case", "drawn"]


@dataclass(frozen=True)
class Case:
    """A view over a log in memory; ``seed`` is how to make it again, None if Hypothesis did."""

    view: FeatureView
    log: MemoryLog = field(repr=False)
    seed: int | None = None

    def oracle(self) -> Oracle:
        """The oracle, which has read the whole log."""
        topic = self.view.stream.topic
        oracle = Oracle(self.view, partitions=len(self.log.topics[topic]))
        oracle.feed(records_of(self.log, topic))
        return oracle

    def times(self, oracle: Oracle) -> list[int | None]:
        """When to read: at each row's newest event, at the log's, before it, and at every edge."""
        newest = [oracle.newest(key) or 0 for key in oracle.entities]
        if not newest:
            return [None]
        last = max(newest)
        found = {last, last + 1, last - 1, min(newest)}
        for edge in edges(self.view):
            found |= {last + edge - 1, last + edge, last + edge + 1, -(-last // edge) * edge}
        return [None, *sorted(t for t in found if t < 2**62)]

    def problems(self, driver: Driver | None = None, **options: Any) -> list[str]:
        """What a driver that ran the view over the log did otherwise than the oracle.

        Without ``driver`` one is made with ``options`` and run.
        """
        if driver is None:
            driver = Driver([self.view], log=self.log, **options)
            driver.run()
        oracle = self.oracle()
        found = miscounts(driver.markers(self.view.name), oracle)
        return found + disagreements(driver.store, oracle, self.times(oracle))


def case(
    seed: int,
    *,
    events: int = 200,
    partitions: int = 2,
    shape: Shape | None = None,
    stream: EventStream | None = None,
) -> Case:
    """What ``seed`` makes: about ``events`` records of ``stream``, else of one of our own."""
    return drawn(Random(seed), events, partitions, shape, seed, stream)


def drawn(
    rng: Random, events: int, partitions: int, shape: Shape | None, seed: int | None = None,
    stream: EventStream | None = None,
) -> Case:  # fmt: skip
    """The case that ``rng`` makes."""
    stream = stream or any_stream(rng)
    view = fuzz_view(stream, rng)
    log = MemoryLog()
    log.create(stream.topic, partitions)
    fuzzer = EventFuzzer(stream, rng, edges_ns=edges(view), partitions=partitions, shape=shape)
    fuzzer.fill(log, events)
    return Case(view, log, seed)
