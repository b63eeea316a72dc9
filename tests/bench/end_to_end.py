"""JSON events in Kafka to windowed features in Redis, beside other systems (targets P1 and P2).

    python -m tests.bench.end_to_end [--rounds 3] [--events 3000000] [--scale 1.0]
                                     [--spread zipf uniform] [--peers quix bytewax ...]

Every system reads the same log from the same broker and leaves a row a user in the same Redis.
First each one has to give the rows that an oracle takes from the events themselves: of a log of 28
hours, in which every window moves, and again of every timed run. One that does not is reported
and not timed. Then the systems take turns, ours and bare consumption of the topic in each round.
A peer gets a beginning of the log that it needs 5 to 20 s for; rates are compared.
What each peer does, and with which settings: tests/bench/peers/README.md.
Rows of results are added to build/bench.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import redis

from pipeline.app.build import build_plane, open_lane
from pipeline.config import Config
from pipeline.embedded import EmbeddedBroker, EmbeddedRedis
from pipeline.embedded.kafka import KafkaNode
from pipeline.produce.topics import ensure_topic
from pipeline.serve.client import FeatureClient
from tests.bench.peers.systems import HERE, PEERS, ROOT, Peer, PeerError, Took, Where
from tests.bench.peers.workload import FEATURES, PROOF, Log, Rows, expected, mistakes, view
from tests.bench.report import Figure, machine, record

PARTITIONS = 12
OURS = "pipeline"
BARE = "bare consumption"
LIBRARIES = ROOT / "infra" / "kafka" / "target"


def consume(config: Config, group: str, where: Where) -> Took:
    """Bare consumption of the topic: the lane, and nothing done with what it gives."""
    lane = open_lane(group, config)
    lane.subscribe(
        [where.topic],
        on_assign=lambda sources: dict.fromkeys(sources, 0),
        on_revoke=lambda *_: None,
    )

    def poll() -> tuple[int, int]:
        read = sum(map(len, lane.poll(20_000, 10)))
        return read, read

    took = clocked(poll, where.events)
    lane.close()
    return took


def process(config: Config, group: str, where: Where, views: int = 1) -> Took:
    """The data plane over the topic, until the commit of the last event is acknowledged; all
    ``views`` have the same features."""
    made = [view(where.topic), *(view(where.topic, f"activity{i}") for i in range(1, views))]
    plane = build_plane(group, made, [], config)
    plane.start()

    def step() -> tuple[int, int]:
        told = plane.step()
        return told.polled, sum(len(batch.events) for batch in told.batches)

    took = clocked(step, where.events)
    plane.close()
    return took


def clocked(step: Callable[[], tuple[int, int]], total: int) -> Took:
    """Time until ``step``, which says how many events it read and how many are done with, is done
    with ``total``; from the beginning of the one that read the first.
    """
    wall, cpu, read, done = 0.0, 0.0, 0, 0
    while done < total:
        if not read:
            wall, cpu = time.perf_counter(), time.process_time()
        more, finished = step()
        read, done = read + more, done + finished
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def our_rows(url: str, want: Rows) -> Rows:
    """What a reader gets of every user, as of the user's last event."""
    users = [int(user) for user in want]
    with FeatureClient(url, timeout_ms=60_000) as client:
        table = client.prepare([f"activity:{name}" for name in FEATURES]).read(
            {"user": users}, at="event"
        )
    columns = zip(*(table[name].to_pylist() for name in FEATURES), strict=True)
    return {str(user): list(row) for user, row in zip(users, columns, strict=True)}


def peer_rows(url: str) -> Rows:
    """The rows a peer left: a JSON list of features under ``user:<user>``."""
    with redis.Redis.from_url(url) as store:
        keys: list[bytes] = list(store.scan_iter("user:*", count=10_000))
        rows: list[Any] = store.mget(keys) if keys else []
    return {
        key.removeprefix(b"user:").decode(): json.loads(row)
        for key, row in zip(keys, rows, strict=True)
    }


class Bench:
    """The servers, the logs on them, and what each system took."""

    def __init__(self, brokers: str, redis_url: str, wanted: dict[str, Rows]) -> None:
        self.brokers = brokers
        self.redis_url = redis_url
        self.config = Config.load(
            environ={},
            flags={
                "broker.brokers": brokers,
                "store.url": redis_url,
                "app.session_timeout_ms": "6000",
            },
        )
        self._wanted = wanted
        self._runs = 0

    def write(self, log: Log) -> None:
        """Put a log on the broker, and work out what has to come of it."""
        if log.topic in self._wanted:
            return
        ensure_topic(self.config.broker, log.topic, PARTITIONS)
        written = log.produce(self.brokers)
        self._wanted[log.topic] = expected(log)
        say(f"{log.topic}: {log.events:,} events of {written / log.events:.0f} bytes")

    def bare(self, log: Log) -> Took:
        """Bare consumption of a log."""
        return consume(self.config, self._group("bare"), self._where(log))

    def ours(self, log: Log) -> Took:
        """Our time for a log, with the right rows; raises :class:`PeerError`."""
        took = process(self.config, self._group("ours"), self._where(log))
        self._prove(log, our_rows(self.redis_url, self._wanted[log.topic]))
        return took

    def peer(self, peer: Peer, log: Log) -> Took:
        """A peer's time for a log, with the right rows; raises :class:`PeerError`."""
        took = peer.run(self._group("peer"), self._where(log))
        self._prove(log, peer_rows(self.redis_url))
        return took

    def _where(self, log: Log) -> Where:
        return Where(self.brokers, self.redis_url, log.topic, log.events)

    def _group(self, name: str) -> str:
        """A name nobody used, and an empty store."""
        with redis.Redis.from_url(self.redis_url) as store:
            store.flushall()
        self._runs += 1
        return f"{name}-{self._runs}"

    def _prove(self, log: Log, rows: Rows) -> None:
        wrong = mistakes(self._wanted[log.topic], rows)
        if wrong:
            raise PeerError(f"WRONG: {len(wrong)} of {len(rows)} rows, the first: {wrong[0]}")


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def servers() -> Iterator[tuple[str, str, str]]:
    """Brokers, address of Redis, and which broker it is: a real Kafka where it is resolved."""
    with ExitStack() as running:
        store = running.enter_context(EmbeddedRedis())
        if KafkaNode.available(LIBRARIES):
            node = running.enter_context(KafkaNode(LIBRARIES))
            jar = next(LIBRARIES.glob("kafka_2*.jar")).stem
            yield node.brokers, store.url, f"Apache {jar}"
        else:
            broker = running.enter_context(EmbeddedBroker())
            yield broker.brokers, store.url, "the embedded broker"


def about(broker: str, redis_url: str) -> dict[str, Any]:
    """What the figures depend on, beside the machine."""
    with redis.Redis.from_url(redis_url) as store:
        redis_version = store.info()["redis_version"]
    wanted = (HERE / "requirements.txt").read_text().splitlines()
    poms = "".join((HERE / name / "pom.xml").read_text() for name in ("streams", "flink"))
    wanted += [f"{name} {of}" for name, of in re.findall(r"<(kafka|flink)\.version>([^<]+)", poms)]
    wanted += re.findall(r"github.com/lovoo/goka \S+", (HERE / "goka" / "go.mod").read_text())
    return {
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "broker": broker,
        "redis": redis_version,
        "librdkafka": f"confluent-kafka {version('confluent-kafka')}",
        "peers": [line for line in wanted if not line.startswith("#")],
    }


def proven(bench: Bench, peers: list[Peer]) -> list[Peer]:
    """The peers that can be installed and are right about the log in which all windows move."""
    bench.write(PROOF)
    bench.ours(PROOF)
    say(f"  {OURS}: all rows equal to the oracle's")
    good: list[Peer] = []
    for peer in peers:
        try:
            peer.prepare()
            bench.peer(peer, PROOF)
        except PeerError as failure:
            say(f"  {peer.name}: NOT TIMED, {failure}")
        else:
            say(f"  {peer.name}: all rows equal to the oracle's")
            good.append(peer)
    return good


def measure(
    bench: Bench, peers: list[Peer], logs: dict[str, Log], rounds: int
) -> dict[str, list[Took]]:
    """What an event took each system in each round; a peer that fails once is out."""
    taken: dict[str, list[Took]] = {name: [] for name in [BARE, OURS, *(p.name for p in peers)]}
    for log in logs.values():
        bench.write(log)

    def note(name: str, took: Took) -> None:
        events = logs[name].events
        each = Took(took.seconds / events, took.cpu_seconds / events)
        taken[name].append(each)
        say(
            f"  {name:18s}{events:10,} events {took.seconds:7.2f} s {1 / each.seconds:12,.0f} "
            f"events/s {each.cpu_seconds * 1e6:8.2f} us of CPU an event"
        )

    for number in range(rounds):
        say(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.2f}")
        note(BARE, bench.bare(logs[BARE]))
        note(OURS, bench.ours(logs[OURS]))
        for peer in peers:
            if peer.name not in taken:
                continue
            try:
                note(peer.name, bench.peer(peer, logs[peer.name]))
            except PeerError as failure:
                say(f"  {peer.name}: OUT, {failure}")
                del taken[peer.name]
    return taken


def results(taken: dict[str, list[Took]], peers: list[Peer], what: str) -> list[Figure]:
    """A result a system; ratios are of one round, the middle one counts."""
    goals = {peer.name: (peer.target, peer.goal) for peer in peers} | {BARE: ("P1", 0.5)}

    def rate(name: str) -> int:
        return round(statistics.median(1 / took.seconds for took in taken[name]))

    def cpu_us(name: str) -> float:
        return round(statistics.median(took.cpu_seconds for took in taken[name]) * 1e6, 2)

    found: list[Figure] = []
    for name, (target, goal) in goals.items():
        if name not in taken:
            continue
        pairs = zip(taken[OURS], taken[name], strict=True)
        ratios = [other.seconds / ours.seconds for ours, other in pairs]
        ratio = statistics.median(ratios)
        found.append(
            Figure(
                id=target,
                what=what,
                ours=rate(OURS),
                peer=name,
                peer_value=rate(name),
                ratio=round(ratio, 2),
                goal=goal,
                unit="events/s",
                runs=len(ratios),
                spread=(round(min(ratios), 2), round(max(ratios), 2)),
                met=ratio >= goal,
                cpu_us=(cpu_us(OURS), cpu_us(name)),
            )
        )
    return found


def table(found: list[Figure]) -> Iterator[str]:
    """The results as text."""
    yield (
        f"{'':4s}{'peer':18s}{'ours/s':>12s}{'peer/s':>12s}{'ratio':>8s}{'goal':>6s}"
        f"{'from':>8s}{'to':>7s}{'us CPU':>8s}{'peer':>8s}"
    )
    for row in found:
        (low, high), (our_cpu, peer_cpu) = row.spread, row.cpu_us or (math.nan, math.nan)
        yield (
            f"{row.id:4s}{row.peer:18s}{row.ours:12,.0f}{row.peer_value:12,.0f}{row.ratio:8.2f}"
            f"{row.goal:6.1f}{low:8.2f}{high:7.2f}{our_cpu:8.2f}{peer_cpu:8.2f}"
            f"{'' if row.met else '  NOT MET'}"
        )


def chosen() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=3_000_000, help="for our own system")
    parser.add_argument("--scale", type=float, default=1.0, help="of the peers' numbers of events")
    parser.add_argument("--spread", nargs="+", default=["zipf", "uniform"],
                        choices=["zipf", "uniform"])  # fmt: skip
    parser.add_argument("--peers", nargs="*", help="beginnings of their names; all by default")
    return parser.parse_args()


def main() -> None:
    """Prove, measure, print, record."""
    asked = chosen()
    starts = tuple(name.lower() for name in asked.peers) if asked.peers is not None else ("",)
    peers = [peer for peer in PEERS if peer.name.lower().startswith(starts)]
    if shutil.disk_usage(ROOT).free < 8 << 30:
        say("warning: less than 8 GB of disk are free")
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        say(json.dumps({**machine(), **described}, indent=1))
        bench = Bench(brokers, redis_url, {})
        good = proven(bench, peers)
        for spread in asked.spread:
            sizes = {BARE: asked.events, OURS: asked.events}
            sizes |= {peer.name: max(1_000, int(peer.events * asked.scale)) for peer in good}
            logs = {
                name: Log(f"behaviour-{spread}-{events}", events, spread=spread)
                for name, events in sizes.items()
            }
            taken = measure(bench, good, logs, asked.rounds)
            what = f"end to end, {spread} users"
            found = results(taken, good, what)
            say("\n".join(["", what, *table(found), ""]))
            record(found, described)


if __name__ == "__main__":
    main()
