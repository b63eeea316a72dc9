"""Rows a second of the inference worker, beside model servers with the same model (target P15).

    python -m tests.bench.serving [--requests 3000] [--rounds 3] [--clients 64] [--quick]

Requests of 64 rows of 64 features; the model takes 2 ms and 2 us a row, and one run at a time. Ours
reads them from Kafka, and publishes and commits every prediction exactly once; mosec and LitServe
answer over HTTP on loopback, to ``--clients`` connections that each wait for their answer before
they ask again, and keep nothing. In both cases a process of its own asks, with requests that were
made before the clock starts; it runs until the last answer is there, or committed.
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
from contextlib import ExitStack
from typing import Any

import numpy as np

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
START_S, GOAL = 60.0, 1.3
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


def send(brokers: str, topic: str, requests: int) -> None:
    """What a client of ours does: says that it is ready, and sends when told so."""
    keys = np.frombuffer(b"".join(b"%04d" % i for i in range(ROWS)), dtype=np.uint8)
    messages = [
        encode_requests(
            RequestOrigin("bench", 1, "bench", "events"),
            keys=keys, key_offsets=np.arange(ROWS + 1, dtype=np.int64) * 4, source_partition=0,
            source_offset=np.arange(i * ROWS, (i + 1) * ROWS, dtype=np.int64), trigger="t",
            event_time=np.arange(ROWS, dtype=np.int64), requested_at_ms=time.time_ns() // 10**6,
            names=NAMES, features=block(i).astype(np.float64),
        )
        for i in range(requests)
    ]  # fmt: skip
    publisher = Publisher(brokers)
    print("ready", flush=True)
    sys.stdin.readline()
    for message in messages:
        publisher.publish(topic, message, partition=0)
    publisher.flush()


def ours(brokers: str, redis_url: str, number: int, requests: int) -> float:
    """Rows a second through Kafka and the worker."""
    name = f"serving-{number}"
    flags = {"broker.brokers": brokers, "store.url": redis_url}
    config = Config.load(environ={}, flags=flags)
    topics = {t: ensure_topic(config.broker, f"{name}-{t}", 1) for t in ("ask", "answer", "dead")}
    command = [sys.executable, "-m", "tests.bench.serving", "--requests", str(requests)]
    command += ["--send", brokers, f"{name}-ask"]
    done, total = 0, requests * ROWS
    with ExitStack() as stack:
        client = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(client.kill)
        store = open_store(redis_url)
        stack.callback(store.close)
        publisher = Publisher(config.broker, linger_ms=0, tickets=True)
        stack.callback(publisher.close)
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
        if client.stdout is None or client.stdin is None or client.stdout.readline() != "ready\n":
            raise RuntimeError("the client is not ready")
        client.stdin.write("go\n")
        client.stdin.flush()
        began = time.perf_counter()
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


def theirs(name: str, requests: int, clients: int) -> float:
    """Rows a second of a server in a process of its own, which is asked by another."""
    module, path = PEERS[name]
    port = free_port()
    python = environment("serving", "requirements-serving.txt")
    command = [python, "-m", f"tests.bench.peers.{module}", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True,
                          stderr=subprocess.DEVNULL) as server:  # fmt: skip
        try:
            wait_for(server, port)
            asking = [sys.executable, "-m", "tests.bench.serving", "--ask", str(port), path]
            for count in (clients, requests):  # first, once for all that is done once
                asking += ["--requests", str(count), "--clients", str(clients)]
                done = subprocess.run(asking, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise PeerError(done.stderr[-500:])
            return float(done.stdout)
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # LitServe leaves workers behind else


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
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
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
    requests, rounds = (600, 1) if asked.quick else (asked.requests, asked.rounds)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in PEERS}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        ours(brokers, redis_url, -1, 200)
        for number in range(rounds):
            own = ours(brokers, redis_url, number, requests)
            print(f"ours: {own:,.0f} rows/s")
            for name in list(rates):
                try:
                    rates[name].append((own, theirs(name, requests, asked.clients)))
                except PeerError as failure:
                    left_out("P15", f"rows a second beside {name}", failure)
                    del rates[name]
    what = f"rows a second, requests of {ROWS} x {FEATURES}"
    found: list[Figure] = []
    for name, pairs in rates.items():
        own_rates, other_rates = zip(*pairs, strict=True)
        found.append(compared("P15", what, own_rates, name, other_rates, "rows/s", GOAL))
    publish(found, described, quick=asked.quick)


if __name__ == "__main__":
    main()
