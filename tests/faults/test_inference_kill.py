"""SIGKILL an inference worker in mid-batch, again and again: every row is answered once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import numpy as np
import numpy.typing as npt
import pytest
import redis

from pipeline.inference.delivery import InferenceSettings
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.prediction import Outcome, Prediction
from pipeline.inference.request import RequestOrigin, encode_requests
from pipeline.inference.service import ServiceTime
from pipeline.inference.worker import InferenceWorker
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import marker_key, partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.open import open_store
from pipeline.testing.log import MemoryLane, MemoryLog, MemoryPublisher

TOPIC, APP, MESSAGES, ROWS, KEYS = "requests", "kill", 300, 40, 500
SEED, KILLS = 7, 8
F32 = npt.NDArray[np.float32]

MANIFEST = ModelManifest.parse(
    {
        "name": "slow_sum",
        "version": "1",
        "format": "onnx",
        "file": "slow_sum.onnx",
        "sha256": "0" * 64,
        "size": 1,
        "input": "x",
        "features": [{"name": "a", "dtype": "float32"}],
        "null_value": 0,
        "outputs": ["y"],
        "train_window": {"start": "2017-01-01T00:00:00Z", "end": "2017-02-01T00:00:00Z"},
        "metrics": {},
    }
)


class SlowSum:
    """Adds one, and takes long enough to be killed in the middle."""

    input_names = ("a",)

    def predict(self, block: F32, out: F32) -> int:
        time.sleep(0.004)
        out[:] = block[:, 0] + 1
        return len(block)

    def warm_up(self, buckets: object) -> ServiceTime:
        return ServiceTime(4e6, 1.0)

    def close(self) -> None:
        return


def log_of_requests() -> MemoryLog:
    """The same log in every process; every tenth message repeats rows of the one before."""
    log = MemoryLog()
    log.create(TOPIC, 1)
    offset = 0
    for i in range(MESSAGES):
        first = offset - 5 if i % 10 == 9 else offset
        rows = np.arange(first, offset + ROWS, dtype=np.int64)
        keys = [b"%d" % (row % KEYS) for row in rows]
        value = encode_requests(
            RequestOrigin("view", 1, "shop", "purchases"),
            keys=np.frombuffer(b"".join(keys), dtype=np.uint8),
            key_offsets=np.cumsum([0] + [len(k) for k in keys]).astype(np.int64),
            source_partition=0,
            source_offset=rows,
            trigger="t",
            event_time=rows,
            requested_at_ms=time.time_ns() // 1_000_000,
            names=("a",),
            features=rows.astype(np.float64).reshape(-1, 1),
        )
        log.append(TOPIC, None, value, 0, 0)
        offset += ROWS
    return log


def child(url: str) -> None:
    """Answer the whole log; one line of output a step that committed something."""
    worker = InferenceWorker(
        app=APP,
        topic_ids={TOPIC: ""},
        manifest=MANIFEST,
        model=SlowSum(),
        lane=MemoryLane(log_of_requests()),
        store=open_store(url),
        publisher=MemoryPublisher(),
        settings=InferenceSettings(
            "predictions", "dead", slo_ms=600_000, max_batch=160, max_messages=8, max_wait_ms=1
        ),
        clock_ns=time.time_ns,
        monotonic_ns=time.monotonic_ns,
    )
    worker.start()
    source = TopicPartition(TOPIC, 0)
    while True:
        step = worker.step()
        if step.messages:
            print(worker.partitions[source].marker.next_offset, flush=True)
        if worker.partitions and worker.partitions[source].marker.next_offset == MESSAGES:
            return


@pytest.mark.redis
@pytest.mark.fault("F19", "SIGKILL the worker in mid-batch", "every row answered once")
def test_kill_9_loses_and_repeats_no_row(redis_url: str) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    reached = 0
    for round_ in range(KILLS + 1):
        goal = MESSAGES if round_ == KILLS else reached + rng.randint(8, 30)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.test_inference_kill", redis_url],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            assert int(line) >= reached  # the marker never goes back
            reached = int(line)
            if reached >= goal:
                break
        if reached < MESSAGES:
            time.sleep(rng.random() * 0.004)  # somewhere within a batch
            process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
    tag, total = partition_tag(APP, TopicPartition(TOPIC, 0)), MESSAGES * ROWS
    with redis.Redis.from_url(redis_url) as database:
        data = database.get(marker_key(tag, MANIFEST.fingerprint))
        assert isinstance(data, bytes)
        marker = Marker.unpack(data)
        assert (marker.applied, marker.next_offset) == (total, MESSAGES)
        assert marker.duplicate == 5 * (MESSAGES // 10)
        assert marker.consumed == marker.applied + marker.duplicate
        for key in range(KEYS):
            row = database.get(row_key(tag, MANIFEST.fingerprint, b"%d" % key))
            assert isinstance(row, bytes)
            newest = Prediction.unpack(row)
            last = max(range(key, total, KEYS))
            assert (newest.source_offset, newest.score) == (last, last + 1)
            assert newest.outcome is Outcome.PREDICTED


if __name__ == "__main__":
    child(sys.argv[1])
