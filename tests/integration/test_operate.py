"""What operators do to a running application: verify it, forget an entity."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.app.build import build_plane
from pipeline.cli import main
from pipeline.cli.options import load_app
from pipeline.config import Config
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import ensure_topic
from pipeline.serve.client import FeatureClient

FILE = Path(__file__).with_name("operated.py")
EVENTS = 600


class Operated:
    """An application whose plane a thread steps, and words that name it and its servers."""

    def __init__(self, brokers: str, store: str, topic: str) -> None:
        self.app = load_app(f"{FILE}:app")
        self.topic, self.store = topic, store
        flags = {"broker.brokers": brokers, "store.url": store}
        self.words = [f"{FILE}:app", "--brokers", brokers, "--store", store]
        self.publisher = Publisher(brokers)
        self.config = Config.load(environ={}, flags=flags)
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def sell(self, start: int, count: int) -> None:
        """Sales of 23 users in 5 shops, one of them with text for a number."""
        now_ms = time.time_ns() // 1_000_000
        for i in range(start, start + count):
            sale = {"user": i % 23, "shop": f"s{i % 5}", "cents": i, "at": now_ms + i % 7}
            self.publisher.publish(self.topic, json.dumps(sale).encode(), key=b"%d" % (i % 23))
        self.publisher.publish(self.topic, b'{"user": "x"}', key=b"7")
        self.publisher.flush()

    def read(self, view: str, entity: str, keys: list[Any]) -> list[tuple[Any, str]]:
        """(count, status) of each key."""
        with FeatureClient(self.store) as client:
            table: Any = client.prepare([f"{view}:n"]).read({entity: keys}, at="event")
        return list(zip(table["n"].to_pylist(), table[f"{view}__status"].to_pylist(), strict=True))

    def wait_for(self, sold: int) -> None:
        """Until both views have counted so many sales."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._failure is not None:
                raise self._failure
            try:
                counts = self.read("shops", "shop", [f"s{i}" for i in range(5)])
            except Exception as error:  # noqa: BLE001  (not registered yet)
                last: object = error
            else:
                last = counts
                if sum(n or 0 for n, _ in counts) == sold:
                    return
            time.sleep(0.1)
        raise AssertionError(f"not counted in time: {last!r}")

    def close(self) -> None:
        """Stop the thread; its failure is the test's."""
        self._stopped.set()
        self._thread.join()
        self.publisher.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            plane = build_plane(self.app.conf.id, self.app.views, [], self.config)
            plane.start()
            while not self._stopped.is_set():
                plane.step()
            plane.close()
        except BaseException as error:  # noqa: BLE001  (raised by close and wait_for)
            self._failure = error


@pytest.fixture
def operated(
    kafka_brokers: str,
    redis_url: str,
    topic: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Operated]:
    """The application with its sales counted."""
    name = topic("sales")
    monkeypatch.setenv("OPERATED_TOPIC", name)
    monkeypatch.setenv("OPERATED_APP", topic("app"))
    ensure_topic(kafka_brokers, name, 3)
    made = Operated(kafka_brokers, redis_url, name)
    try:
        made.sell(0, EVENTS)
        made.wait_for(EVENTS)
        yield made
    finally:
        made.close()


@pytest.mark.kafka
@pytest.mark.redis
def test_verify_and_forget(
    operated: Operated, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *operated.words, "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {r["view"]: (r["equal"], r["unknown"], r["differing"]) for r in results}
    assert found == {"users": (23, 0, []), "shops": (5, 0, [])}

    with redis.Redis.from_url(redis_url) as client:
        mark = f":r:{operated.app.views[0].plan.fingerprint:016x}:"
        rows = {k: k for k in client.keys("*") if mark.encode() in k}
        key = next(k for k in rows if k.endswith(b":5"))
        other = next(k for k in rows if k.endswith(b":6"))
        right = client.get(key)
        client.set(key, client.get(other))
        assert main(["verify", *operated.words, "--view", "users", "--key", "5"]) == 1
        out = capsys.readouterr().out
        assert "users 5" in out
        assert "the first to differ is" in out
        assert "(source offset)" in out
        client.set(key, right)

    assert operated.read("users", "user", [7, 8]) == [(26, "present"), (26, "present")]
    assert main(["forget", *operated.words[:1], "7", "--entity", "user", *operated.words[1:]]) == 0
    out = capsys.readouterr().out
    # The record alone: the deletion leaves no letter, at the route to shops either.
    assert "dead letters closed: 1, copies of corrupt rows removed: 0" in out
    assert "deleted from users" in out
    assert operated.read("users", "user", [7, 8]) == [(None, "missing"), (26, "present")]
    assert main(["forget", operated.words[0], "s3", "--entity", "shop", *operated.words[1:]]) == 0
    assert operated.read("shops", "shop", ["s3", "s4"]) == [(None, "missing"), (120, "present")]

    with redis.Redis.from_url(redis_url) as client:  # a corrupt row is in the way of a deletion
        (broken,) = (k for k in client.keys("*") if mark.encode() in k and k.endswith(b":8"))
        copy = broken.replace(b":r:", b":q:")
        client.set(broken, b"x" * 60)
        client.set(copy, b"x" * 60)
        assert (
            main(["forget", operated.words[0], "8", "--entity", "user", *operated.words[1:]]) == 0
        )
        assert "copies of corrupt rows removed: 1" in capsys.readouterr().out
        assert not client.exists(copy)
    assert operated.read("users", "user", [8]) == [(None, "missing")]
    operated.sell(EVENTS, 230)
    operated.wait_for(EVENTS - 120 + 230)
    assert operated.read("users", "user", [7, 8]) == [(10, "present"), (10, "present")]
    assert main(["verify", *operated.words]) == 0


def test_what_is_wrong_with_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{FILE}:app", "x", "--entity"]
    assert main(["forget", *words, "user"]) == 2
    assert "user is a 64-bit integer, 'x' is none" in capsys.readouterr().err
    assert main(["forget", *words, "usr"]) == 2
    assert "did you mean 'user'" in capsys.readouterr().err
    assert main(["verify", f"{FILE}:app", "--view", "user"]) == 2
    assert "did you mean 'users'" in capsys.readouterr().err
    assert main(["verify", f"{FILE}:app", "--sample", "0"]) == 2
    assert "--sample: must be at least 1" in capsys.readouterr().err
