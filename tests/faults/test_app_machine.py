"""The machine under a worker: its clock jumps, disks are full, descriptors and threads run out."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos, cpu_seconds, eventually

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

HOUR_S, DAY_S = 3_600, 86_400
ALL_JUMPS = [HOUR_S, -HOUR_S, 400 * DAY_S, 399 * DAY_S, -400 * DAY_S, -399 * DAY_S]

# In the interpreter: what Python's clock says.
HOOK = """\
import mmap, os, struct, time
with open(os.environ["WRONG_CLOCK"], "rb") as file:
    ahead = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
right, right_ns = time.time, time.time_ns
time.time = lambda: right() + struct.unpack("q", ahead)[0]
time.time_ns = lambda: right_ns() + struct.unpack("q", ahead)[0] * 10**9
"""

# In the C library: what the Kafka client's clock says too. It waits up to times of this clock, by
# C11's calls, which libfaketime leaves alone: the client would sleep for 400 days.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>
static volatile long *ahead;
static long seconds(void) {
    if (!ahead) {
        int file = open(getenv("WRONG_CLOCK"), O_RDONLY);
        ahead = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return *ahead;
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int code = syscall(SYS_clock_gettime, id, at);
    if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += seconds();
    return code;
}
int gettimeofday(struct timeval *at, void *zone) {
    int code = syscall(SYS_gettimeofday, at, zone);
    if (!code) at->tv_sec += seconds();
    return code;
}
int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    static int (*wait)(cnd_t *, mtx_t *, const struct timespec *);
    struct timespec at = *until;
    if (!wait) wait = dlsym(RTLD_NEXT, "cnd_timedwait");
    at.tv_sec -= seconds();
    return wait(condition, mutex, &at);
}
time_t time(time_t *out) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}
"""


class WrongClock:
    """Makes the wall clock of workers differ from the machine's; the monotonic one stays right."""

    def __init__(self, directory: Path, where: str) -> None:
        self._file = directory / "clock"
        self._file.write_bytes(bytes(8))
        self.settings = {"WRONG_CLOCK": str(self._file)}
        code = directory / "clock-code"
        code.mkdir()
        if where == "python":
            (code / "sitecustomize.py").write_text(HOOK)
            paths = [str(code), os.environ.get("PYTHONPATH", "")]
            self.settings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            return
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler: apt-get install gcc libc6-dev")
        (code / "clock.c").write_text(SHIM)
        command = [compiler, "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"]
        subprocess.run(command, cwd=code, check=True)
        self.settings["LD_PRELOAD"] = str(code / "clock.so")

    def jump(self, seconds: int) -> None:
        """The clock is so far off from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", seconds))


def ahead_s(chaos: Chaos) -> list[float]:
    """How far beyond now each marker says that its partition was read."""
    return [m.processed_through_ms / 1000 - time.time() for m in chaos.shop.markers()]


def some_ahead(chaos: Chaos, seconds: int) -> bool:
    """Whether a worker whose clock is so far off has read a partition to its end."""
    return any(abs(s - seconds) < 5 for s in ahead_s(chaos))


@pytest.mark.fault(
    "F18", "the clock of one of two workers jumps, there and back",
    "the same features; pauses and time-outs take no notice; stale, never fresh by mistake",
)  # fmt: skip
@pytest.mark.parametrize(
    ("where", "jumps"),
    [
        ("python", [400 * DAY_S, -HOUR_S]),
        pytest.param("python", ALL_JUMPS, marks=pytest.mark.slow),
        pytest.param("libc", ALL_JUMPS, marks=pytest.mark.slow),
    ],
    ids=["python-2", "python-6", "libc-6"],
)
def test_clock_jumps(chaos: Chaos, tmp_path: Path, where: str, jumps: list[int]) -> None:
    clock = WrongClock(tmp_path, where)
    skewed, right = chaos.start(**clock.settings), chaos.start()
    chaos.publish(300)
    chaos.settle()
    chaos.wait_for(skewed, "assigned payments")
    chaos.wait_for(right, "assigned payments")
    for jump in [*jumps, 0]:
        with chaos.load(400):
            clock.jump(jump)
            used = cpu_seconds(skewed)
            time.sleep(2.5)
            assert cpu_seconds(skewed) - used < 2.3, "it spins"
            chaos.progress(200)
        chaos.settle()
        # partitions that are read to their end say so with the clock of their worker
        assert eventually(functools.partial(some_ahead, chaos, jump)), (
            f"{jump}: {ahead_s(chaos)}; {chaos.shop.last_words()}"
        )
        chaos.seen.append(f"{jump:+d} s")
    for worker in (skewed, right):
        assert worker.poll() is None
        assert "starting again from its marker" not in chaos.shop.log_of(worker)
    assert all(abs(s) < 5 for s in ahead_s(chaos)), "readers would take old for fresh for a year"
    chaos.end(skewed)
    chaos.settle()


def limited(code: str, directory: Path) -> dict[str, str]:
    """Settings of a worker whose interpreter runs ``code`` first."""
    place = directory / "limited"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(code)
    paths = [str(place), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


DESCRIPTORS = """\
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))
"""

# The n-th thread of Python is refused; a limit on processes does not bind whoever is root.
THREADS = """\
import threading
start, left = threading._start_new_thread, iter(range({0} - 1))
def refuse(*arguments):
    if next(left, None) is None:
        raise RuntimeError("can't start new thread")
    return start(*arguments)
threading._start_new_thread = refuse
"""


@pytest.mark.fault("F23", "a limit of file descriptors below what a worker needs",
                   "named error, exit 2, nothing committed")  # fmt: skip
def test_few_descriptors(chaos: Chaos, tmp_path: Path) -> None:
    chaos.publish(300)
    for limit in (20, 32, 64):
        worker = chaos.start(**limited(DESCRIPTORS.format(limit), tmp_path))
        chaos.ends(worker, 2, f"this process may open {limit} files")
    assert chaos.shop.consumed() == 0
    chaos.start(**limited(DESCRIPTORS.format(70), tmp_path))
    chaos.settle()


@pytest.mark.fault("F23", "descriptors run out while it runs", "tries again; exact, no part commit")
def test_descriptors_run_out(chaos: Chaos) -> None:
    chaos.shop.worker_brokers = chaos.cluster.proxied
    worker = chaos.start()
    chaos.publish(300)
    chaos.settle()
    before = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
    _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    with chaos.load(400):
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (8, most))
        chaos.link.reset()
        chaos.cluster.link.reset()
        chaos.wait_for(worker, "Too many open files")
        held = chaos.shop.wait_until_quiet()
        used = cpu_seconds(worker)
        time.sleep(2)
        assert cpu_seconds(worker) - used < 1.5, "it spins"
        assert chaos.shop.consumed() == held
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
        chaos.progress(200)
    chaos.settle()
    assert worker.poll() is None
    after = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
    assert after < before + 10, "descriptors leak"
    chaos.seen.append(f"descriptors {before} -> {after}")


@pytest.mark.fault("F23", "a thread cannot be started", "named error, exit 1, nothing committed")
def test_no_thread(chaos: Chaos, tmp_path: Path) -> None:
    """The first is of Faust's consumer, the second the data plane's."""
    chaos.publish(300)
    for number in (1, 2):
        worker = chaos.start(**limited(THREADS.format(number), tmp_path))
        chaos.ends(worker, 1, "can't start new thread")
    assert "error: the data plane got no thread" in chaos.shop.log_of(worker)
    assert chaos.shop.consumed() == 0
    chaos.start()
    chaos.settle()
