"""Workers that come, go, crash and fall asleep over one log and one store, from one seed.

Nothing here has a thread or a clock of its own: a seed gives the same run every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

from pipeline.errors import StoreFullError, StoreUnavailableError
from pipeline.features.view import FeatureView, Trigger
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog, MemoryPublisher

__all__ = ["FAULTS", "Simulation"]

FAULTS: Mapping[str, int] = {
    "crash": 3,
    "join": 3,
    "leave": 2,
    "rebalance": 6,
    "zombie": 3,
    "reply_lost": 3,
    "store_down": 2,
    "store_full": 2,
    "rollback": 2,
    "broker_fails": 3,
    "clock": 6,
}
"""What may happen between two steps, and how often in relation to each other."""

MOST_WORKERS = 8
BATCHES = (1, 2, 7, 40, 1000)
CACHES = (1, 2048, 1 << 24)  # the first evicts every row after its commit
UNDER_WAY = (0, 1, 2)
APART = (
    0,
    3,
    40,
    1 << 30,
)  # records; the first reads a view apart that is one behind, the last none


class Simulation:
    """Runs ``views`` over ``log`` with workers that fail; :meth:`run`, then look at ``driver``.

    ``faults`` weighs what happens (see :data:`FAULTS`); a step of some worker comes between two of
    them. ``history`` says what was done, ``counts`` how often; print them with a failure.
    """

    def __init__(
        self,
        views: Sequence[FeatureView],
        triggers: Sequence[Trigger] = (),
        *,
        log: MemoryLog,
        seed: int,
        workers: int = 3,
        faults: Mapping[str, int] = FAULTS,
    ) -> None:
        self.seed = seed
        self.log = log
        self.store = MemoryStore()
        self.clock = Clock(1_700_000_000_000)
        self.history: list[str] = []
        self.publishers: list[MemoryPublisher] = []
        self._views, self._triggers = views, triggers
        self._rng = Random(seed)
        self._faults = faults
        self._copies = [self.store.snapshot()]
        self._actions: dict[str, Callable[[], None]] = {
            name: getattr(self, f"_{name}") for name in faults
        }
        self._workers: list[Driver] = []
        self._asleep: list[Driver] = []  # they believe in an assignment that has passed on
        for _ in range(workers):
            self._workers.append(self._worker())
        self._share_out()

    @property
    def driver(self) -> Driver:
        """A worker that is alive, to read rows and markers with."""
        return self._workers[0]

    @property
    def counts(self) -> Counter[str]:
        """How often each thing was done."""
        return Counter(self.history)

    def run(self, steps: int = 200) -> Driver:
        """Let ``steps`` things go wrong, then let everything that was published be applied."""
        for _ in range(steps):
            self._note("step")
            self._rng.choice(self._workers).plane.step()
            if self._rng.random() < 0.2:
                self._copies = [*self._copies[-9:], self.store.snapshot()]
            (name,) = self._rng.choices(list(self._faults), list(self._faults.values()))
            self._note(name)
            self._actions[name]()
        return self.settle()

    def settle(self) -> Driver:
        """End all faults and run until nothing is left."""
        self.store.refuse, self.store.lose_replies = None, 0
        for worker in [*self._workers, *self._asleep]:
            worker.publisher.fail_next = False
        self._workers += self._asleep
        self._asleep = []
        self._share_out()
        quiet = 0
        while quiet < 3:
            self.clock.advance(6_000)  # longer than any pause
            resets = sum(worker.plane.step().resets for worker in self._workers)
            for worker in self._workers:
                worker.run()
            lag = sum(sum(worker.plane.lag().values()) for worker in self._workers)
            quiet = 0 if resets or lag else quiet + 1
        return self.driver

    def _note(self, what: str) -> None:
        self.history.append(what)

    def _worker(self) -> Driver:
        made = Driver(
            self._views,
            self._triggers,
            log=self.log,
            store=self.store,
            clock=self.clock,
            max_records=self._rng.choice(BATCHES),
            cache_bytes=self._rng.choice(CACHES),
            apart=self._rng.choice(APART),
            under_way=(under_way := self._rng.choice(UNDER_WAY)),
            threads=2 if under_way > 1 else 0,
            share=(0, 1),
        )
        self.publishers.append(made.publisher)
        return made

    def _share_out(self) -> None:
        """Deal the partitions to whoever is awake, in a new order."""
        self._rng.shuffle(self._workers)
        for number, worker in enumerate(self._workers):
            worker.lane.rebalance((number, len(self._workers)))

    # ---- what may happen

    def _crash(self) -> None:
        gone = self._workers.pop(self._rng.randrange(len(self._workers)))
        gone.crash()
        if not self._workers or self._rng.random() < 0.7:
            self._workers.append(self._worker())
        self._share_out()

    def _join(self) -> None:
        if len(self._workers) < MOST_WORKERS:
            self._workers.append(self._worker())
        self._share_out()

    def _leave(self) -> None:
        if len(self._workers) > 1:
            self._workers.pop(self._rng.randrange(len(self._workers))).plane.close()
        self._share_out()

    def _rebalance(self) -> None:
        self._share_out()

    def _zombie(self) -> None:
        """One falls asleep and others take over, or one wakes and goes on as if nothing was."""
        if self._asleep and self._rng.random() < 0.6:
            woken = self._asleep.pop()
            for _ in range(self._rng.randint(1, 3)):
                woken.plane.step()
            self._workers.append(woken)
        elif len(self._workers) > 1:
            self._asleep.append(self._workers.pop(self._rng.randrange(len(self._workers))))
        self._share_out()

    def _reply_lost(self) -> None:
        self.store.lose_replies = self._rng.randint(1, 3)

    def _store_down(self) -> None:
        up = self.store.refuse is not None
        self.store.refuse = None if up else StoreUnavailableError("down, says the simulation")

    def _store_full(self) -> None:
        up = self.store.refuse is not None
        self.store.refuse = None if up else StoreFullError("full, says the simulation")

    def _rollback(self) -> None:
        self.store.restore(self._rng.choice(self._copies))

    def _broker_fails(self) -> None:
        self._rng.choice(self._workers).publisher.fail_next = True

    def _clock(self) -> None:
        self.clock.advance(self._rng.choice((1, 100, 1500, 6000)))
