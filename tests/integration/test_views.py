"""A view is changed while it is read: old and new version side by side on real servers."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

import pipeline as pp
from pipeline.app.build import build_plane, open_audit
from pipeline.cli import main
from pipeline.config import Config
from pipeline.errors import UnknownNameError
from pipeline.features.view import FeatureView
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import ensure_topic
from pipeline.serve.client import FeatureClient

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

CONTRACT: dict[str, Any] = {
    "title": "sale",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "cents": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["user", "cents", "at"],
}
USERS = 23
APART = 100  # records of a batch, and by how many a view is behind that is read apart


def version(topic: str, number: int) -> FeatureView:
    """Two versions of a view; the second of a contract with a field more."""
    contract = CONTRACT
    features: dict[str, Any] = {"n": pp.count().over("30d", slide="1h")}
    if number == 2:
        wider = {**CONTRACT["properties"], "tax": {"type": "integer"}}
        contract = {**CONTRACT, "properties": wider}
        features["spent"] = pp.sum("cents").over("30d", slide="1h")
    stream = pp.EventStream(topic, pp.Contract.load(contract), key="user", time="at")
    return FeatureView("users", source=stream, entity="user", features=features)


class Shop:
    """A topic of sales, and programs over it."""

    def __init__(self, brokers: str, store: str, topic: str, lane: str) -> None:
        self.topic, self.store, self.sold = topic, store, 0
        flags = {
            "broker.brokers": brokers, "store.url": store, "app.lane": lane,
            "app.max_records": str(APART), "app.catch_up_records_per_s": "2000",
        }  # fmt: skip
        self.config = Config.load(environ={}, flags=flags)
        self.publisher = Publisher(brokers)

    def sell(self, count: int) -> None:
        for i in range(self.sold, self.sold + count):
            sale = {"user": i % USERS, "cents": i, "at": 1_700_000_000_000 + i}
            self.publisher.publish(self.topic, json.dumps(sale).encode(), key=b"%d" % (i % USERS))
        self.publisher.flush()
        self.sold += count

    @contextmanager
    def program(self, app: str, view: FeatureView) -> Iterator[None]:
        """A worker of ``app`` with this view, on a thread; builds its plane again where needed."""
        stopped, failures = threading.Event(), []

        def run() -> None:
            again = False
            try:
                while not stopped.is_set():
                    plane = build_plane(app, [view], [], self.config, again=again)
                    plane.start()
                    while not stopped.is_set() and not plane.step().outdated:
                        pass
                    plane.close()
                    again = True
            except BaseException as error:  # noqa: BLE001  (raised below)
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            if failures:
                raise failures[0]

    def read(self) -> dict[str, int]:
        """Sums over all users of what readers get, by feature."""
        with FeatureClient(self.store) as client:
            query = client.prepare(["users"])
            table: Any = query.read({"user": list(range(USERS))}, at="event")
        return {name: sum(x or 0 for x in table[name].to_pylist()) for name in query.features}

    def keys(self, view: FeatureView) -> int:
        """How many keys the store has of a version."""
        mark = b"%016x" % view.plan.fingerprint
        with redis.Redis.from_url(self.store) as client:
            return sum(mark in key for key in client.keys("*"))

    def equal(self, app: str, view: FeatureView) -> int:
        """Rows that are, byte for byte, what the log gives a program with that view alone."""
        (result,) = open_audit(app, [view], self.config, sample=1_000).run()
        assert (result.unknown, result.expired, result.differing) == (0, 0, [])
        return result.equal


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(f"not in time: {what}")


@pytest.mark.parametrize("lane", ["native", "portable"])
def test_a_view_is_changed_while_it_is_read(
    kafka_brokers: str,
    redis_url: str,
    topic: Callable[[str], str],
    lane: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    name, app = topic("sales"), topic("app")
    ensure_topic(kafka_brokers, name, 2)
    shop = Shop(kafka_brokers, redis_url, name, lane)
    old, new = version(name, 1), version(name, 2)
    at = ["--store", redis_url]
    words = {v: ["users", f"{v.plan.fingerprint:016x}", *at] for v in (old, new)}

    shop.sell(3_000)
    with shop.program(app, old):
        eventually(lambda: _found(shop) == {"n": 3_000}, "the old program counts")

    with shop.program(app, new):  # it does not define the old version
        shop.sell(50)
        eventually(lambda: _found(shop) == {"n": 3_050}, "the old version goes on")
        eventually(lambda: main(["views", "activate", *words[new]]) == 0, "it catches up")
        assert caplog.text.count("a new view is read apart, from offset 0") == 2
        assert shop.read() == {"n": 3_050, "spent": sum(range(3_050))}
        assert main(["views", "activate", *words[old]]) == 0
        shop.sell(25)
        eventually(lambda: _found(shop) == {"n": 3_075}, "back, and still kept up")
        capsys.readouterr()
        assert main(["views", "list", "users", "--json", *at]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {(x["fingerprint"], x["active"], x["kept_up"], x["behind"]) for x in lines} == {
            (words[old][1], True, True, 0), (words[new][1], False, True, 0),
        }  # fmt: skip

        assert shop.equal(app, old) == shop.equal(app, new) == USERS
        assert main(["views", "activate", *words[new]]) == 0
        assert shop.keys(old) == USERS + 2
        assert main(["views", "retire", *words[old], "--rate", "1000000"]) == 0
        shop.sell(25)
        eventually(lambda: _found(shop).get("n") == 3_100, "the rest goes on")
        assert shop.keys(old) == 0
        assert shop.equal(app, new) == USERS
    shop.publisher.close()


def _found(shop: Shop) -> dict[str, int]:
    """What is read, nothing while there is no such view."""
    try:
        return shop.read()
    except UnknownNameError:
        return {}
