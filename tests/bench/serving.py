"""Rows a second of the inference worker, beside model servers with the same model (target P15).

    python -m tests.bench.serving [--requests 10000] [--rounds 5] [--clients 64] [--warm 5000]
                                  [--quick]

Requests of 64 rows of 64 features; the model takes 2 ms and 2 us a row, and one run at a time.

======================= ============================ ==========================================
ours                    Arrow messages from Kafka    predictions in Kafka, then rows and offset in
                                                     Redis in one fenced transaction; deadlines,
                                                     repeated rows dropped
mosec behind Kafka      the same messages, asked on  the same without fence, deadlines and dropping
                        by ``peers/kafka_bridge.py`` (a second process: reads, asks, delivers)
mosec, LitServe         HTTP on loopback             nothing: an answer to whoever asked
======================= ============================ ==========================================

Over HTTP ``--clients`` connections wait for each answer before they ask again. In all cases a
process of its own asks, with requests made before the clock starts, which runs until the last
answer is there, or kept. Before, ``--warm`` requests are answered: the broker's JIT takes a while.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import redis

from pipeline.app.build import open_lane
from pipeline.config import Config
from pipeline.embedded.process import free_port
from pipeline.inference.delivery import InferenceSettings
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.prediction import Outcome
from pipeline.inference.request import RequestOrigin, encode_requests
from pipeline.inference.service import ServiceTime
from pipeline.inference.worker import InferenceWorker
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import ensure_topic
from pipeline.store.open import open_store
from tests.bench.end_to_end import about, servers
from tests.bench.peers.device import FEATURES, ROW_S, ROWS, T0_S, score
from tests.bench.peers.systems import ROOT, PeerError, environment
from tests.bench.report import Figure, compared, left_out, publish

NAMES = tuple(f"f{i}" for i in range(FEATURES))
PEERS = {"mosec": ("mosec_job", "/inference"), "LitServe": ("litserve_job", "/predict")}
BEHIND = "mosec behind Kafka"
START_S, GOAL = 60.0, 1.3
ENTITIES, KEY = 100_000, 6
MANIFEST = ModelManifest.parse(
    {
        "name": "device", "version": "1", "format": "onnx", "file": "device.onnx",
        "sha256": "0" * 64, "size": 1, "input": "x", "null_value": 0.0, "outputs": ["y"],
        "features": [{"name": name, "dtype": "float32"} for name in NAMES], "metrics": {},
        "train_window": {"start": "2024-01-01T00:00:00Z", "end": "2024-02-01T00:00:00Z"},
    }
)  # fmt: skip


class Device:
    """The model of everybody."""

    input_names = NAMES

    def predict(self, block: Any, out: Any) -> int:
        """Sums."""
        out[:] = score(block)
        return len(block)

    def warm_up(self, buckets: object) -> ServiceTime:
        """As it is known."""
        return ServiceTime(T0_S * 1e9, ROW_S * 1e9)

    def close(self) -> None:
        """Nothing to give back."""


def block(number: int) -> Any:
    """The rows of a request."""
    rows = np.arange(number * ROWS, (number + 1) * ROWS) % 1000
    return np.repeat(rows[:, None], FEATURES, axis=1).astype(np.float32)


def entities(number: int) -> list[bytes]:
    """Who the rows of a request are about."""
    return [b"%06d" % (i % ENTITIES) for i in range(number * ROWS, (number + 1) * ROWS)]


def send(brokers: str, topic: str, requests: int) -> None:
    """What a client of ours does: says that it is ready, and sends when told so."""
    with Publisher(brokers) as publisher:
        messages = [
            encode_requests(
                RequestOrigin("bench", 1, "bench", "events"),
                keys=np.frombuffer(b"".join(entities(i)), dtype=np.uint8),
                key_offsets=np.arange(ROWS + 1, dtype=np.int64) * KEY, source_partition=0,
                source_offset=np.arange(i * ROWS, (i + 1) * ROWS, dtype=np.int64), trigger="t",
                event_time=np.arange(ROWS, dtype=np.int64), requested_at_ms=time.time_ns() // 10**6,
                names=NAMES, features=block(i).astype(np.float64),
            )
            for i in range(requests)
        ]  # fmt: skip
        print("ready", flush=True)
        sys.stdin.readline()
        for message in messages:
            publisher.publish(topic, message, partition=0)


def ours(brokers: str, redis_url: str, number: int, requests: int) -> float:
    """Rows a second through Kafka and the worker."""
    name = f"serving-{number}"
    flags = {"broker.brokers": brokers, "store.url": redis_url}
    config = Config.load(environ={}, flags=flags)
    topics = {t: ensure_topic(config.broker, f"{name}-{t}", 1) for t in ("ask", "answer", "dead")}
    done, total = 0, requests * ROWS
    with ExitStack() as stack:
        client = stack.enter_context(sender(brokers, f"{name}-ask", requests))
        store = open_store(redis_url)
        stack.callback(store.close)
        publisher = stack.enter_context(Publisher(config.broker, linger_ms=0, tickets=True))
        worker = InferenceWorker(
            app=name, topic_ids={f"{name}-ask": topics["ask"].topic_id}, manifest=MANIFEST,
            model=Device(), lane=open_lane(name, config), store=store, publisher=publisher,
            settings=InferenceSettings(f"{name}-answer", f"{name}-dead", slo_ms=600_000),
            clock_ns=time.time_ns, monotonic_ns=time.monotonic_ns,
        )  # fmt: skip
        stack.callback(worker.close)
        worker.start()
        while not worker.partitions:
            worker.step()
        began = time.perf_counter()
        go(client)
        while done < total:
            done += worker.step().rows[Outcome.PREDICTED]
        return total / (time.perf_counter() - began)


async def ask(port: int, path: str, requests: int, clients: int) -> float:
    """Rows a second of a server over HTTP; RuntimeError for a wrong answer."""
    blocks = [block(i) for i in range(16)]
    plain = path == "/inference"
    bodies = [b.tobytes() if plain else in_json(b) for b in blocks]
    kind = "application/octet-stream" if plain else "application/json"
    left = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            body = bodies[number % 16]
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: "
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(answered.partition("content-length:")[2].split()[0])
            data = await reader.readexactly(size)
            scores = data if plain else base64.b64decode(json.loads(data)["scores"])
            if scores != blocks[number % 16].sum(axis=1).tobytes():
                raise RuntimeError(f"a wrong answer: {answered}{data[:200]!r}")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return requests * ROWS / (time.perf_counter() - began)


def in_json(rows: Any) -> bytes:
    """A request as LitServe takes it."""
    return json.dumps({"rows": base64.b64encode(rows.tobytes()).decode()}).encode()


@contextmanager
def serving(name: str) -> Iterator[tuple[int, str]]:
    """Port and path of a server in a process of its own."""
    module, path = PEERS[name]
    port = free_port()
    python = environment("serving", "requirements-serving.txt")
    command = [python, "-m", f"tests.bench.peers.{module}", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True,
                          stderr=subprocess.DEVNULL) as server:  # fmt: skip
        try:
            wait_for(server, port)
            yield port, path
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # LitServe leaves workers behind else


def theirs(name: str, requests: int, clients: int, warm: int) -> float:
    """Rows a second of a server that is asked by another process."""
    with serving(name) as (port, path):
        asking = [sys.executable, "-m", "tests.bench.serving", "--ask", str(port), path]
        for count in (warm, requests):
            asking += ["--requests", str(count), "--clients", str(clients)]
            done = subprocess.run(asking, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PeerError(done.stderr[-500:])
        return float(done.stdout)


def behind_kafka(brokers: str, redis_url: str, number: int, requests: int, clients: int) -> float:
    """Rows a second from Kafka by way of mosec to Kafka and Redis."""
    name = f"bridge-{number}"
    flags = {"broker.brokers": brokers, "store.url": redis_url}
    config = Config.load(environ={}, flags=flags)
    for topic in ("ask", "answer"):
        ensure_topic(config.broker, f"{name}-{topic}", 1)
    with ExitStack() as stack:
        port, path = stack.enter_context(serving("mosec"))
        client = stack.enter_context(sender(brokers, f"{name}-ask", requests))
        command = [sys.executable, "-m", "tests.bench.peers.kafka_bridge", "--brokers", brokers]
        command += ["--redis", redis_url, "--ask", f"{name}-ask", "--answer", f"{name}-answer"]
        command += ["--path", path, "--port", str(port), "--clients", str(clients)]
        command += ["--requests", str(requests)]
        bridge = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(bridge.kill)
        if bridge.stdout is None or bridge.stdout.readline() != "ready\n":
            raise PeerError(bridge.communicate()[1][-500:])
        took_s = -time.perf_counter()
        go(client)
        problem = bridge.communicate()[1]
        took_s += time.perf_counter()
        if bridge.returncode:
            raise PeerError(problem[-500:])
    last = requests - 1
    with redis.Redis.from_url(redis_url) as store:
        kept: Any = store.mget([f"{name}-ask:".encode() + key for key in entities(last)])
    if b"".join(kept) != block(last).sum(axis=1).tobytes():
        raise PeerError("the rows that were kept are not those of the last request")
    return requests * ROWS / took_s


@contextmanager
def sender(brokers: str, topic: str, requests: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has made its requests and waits for :func:`go`."""
    command = [sys.executable, "-m", "tests.bench.serving", "--requests", str(requests)]
    command += ["--send", brokers, topic]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        try:
            if client.stdout is None or client.stdout.readline() != "ready\n":
                raise RuntimeError("the client is not ready")
            yield client
        finally:
            client.kill()


def go(client: subprocess.Popen[str]) -> None:
    """Have it send."""
    if client.stdin is None:
        raise RuntimeError("the client cannot be told")
    client.stdin.write("go\n")
    client.stdin.flush()


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Until something listens."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise PeerError("the server did not start")


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--warm", type=int, default=5_000)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    parser.add_argument("--send", nargs=2, metavar="", help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=2, metavar="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.send:
        brokers, topic = asked.send
        send(brokers, topic, asked.requests)
        return
    if asked.ask:
        port, path = asked.ask
        print(asyncio.run(ask(int(port), path, asked.requests, asked.clients)))
        return
    requests, rounds, warm = asked.requests, asked.rounds, asked.warm
    if asked.quick:
        requests, rounds, warm = 600, 1, asked.clients
    names = [BEHIND, *PEERS]
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        ours(brokers, redis_url, -1, warm)
        for number in range(rounds):
            own = ours(brokers, redis_url, number, requests)
            print(f"ours: {own:,.0f} rows/s")
            for name in list(rates):
                try:
                    if name == BEHIND:
                        took = behind_kafka(brokers, redis_url, number, requests, asked.clients)
                    else:
                        took = theirs(name, requests, asked.clients, warm)
                except PeerError as failure:
                    left_out("P15", f"rows a second beside {name}", failure)
                    del rates[name]
                else:
                    print(f"{name}: {took:,.0f} rows/s")
                    rates[name].append((own, took))
    found: list[Figure] = []
    for name, pairs in rates.items():
        kept = "kept by both" if name == BEHIND else "kept by ours"
        what = f"rows a second, requests of {ROWS} x {FEATURES}, {kept}"
        own_rates, other_rates = zip(*pairs, strict=True)
        found.append(compared("P15", what, own_rates, name, other_rates, "rows/s", GOAL))
    publish(found, described, quick=asked.quick)


if __name__ == "__main__":
    main()
