"""Workers that are killed, stopped, shut down and thrown out of their group."""

from __future__ import annotations

import signal
import threading
import time

import confluent_kafka
import pytest

from tests.faults.chaos import SETTINGS, Chaos, eventually, state

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.mark.fault("F1", "SIGKILL the worker after >= 5 % progress", "exact")
@pytest.mark.parametrize("rounds", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9(chaos: Chaos, rounds: int) -> None:
    share = 1_000
    for number in range(rounds):
        worker = chaos.start()
        chaos.publish(share)
        chaos.progress(max(share // 5, rounds * share // 20))
        time.sleep(chaos.random.random() * 0.1)
        worker.kill()
        assert worker.wait() == -signal.SIGKILL, "the worker was to be killed, not to end"
        if number % 2 == 0:
            chaos.safe()
    chaos.start()
    chaos.settle()
    chaos.seen.append(f"{rounds} kills")


@pytest.mark.fault("F2", "SIGKILL at named points of a batch", "exact")
@pytest.mark.parametrize(
    "points",
    [
        ["computed", "sent", "committed"],
        pytest.param(["computed", "sent", "begun", "committed"] * 3, marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_crash_points(chaos: Chaos, points: list[str]) -> None:
    for point in points:
        chaos.publish(800)
        count = chaos.random.randint(2, 4)
        worker = chaos.start(PIPELINE_CRASH_AT=f"{point}:{count}")
        assert worker.wait(60) == -signal.SIGKILL, chaos.shop.last_words()
        chaos.safe()
        chaos.seen.append(f"{point}:{count}")
    chaos.start()
    chaos.settle()


@pytest.mark.fault(
    "F3", "SIGSTOP between outputs and EXEC, longer than the session, then SIGCONT",
    "its late commit is refused; it drops its rows and rejoins",
)  # fmt: skip
def test_zombie(chaos: Chaos) -> None:
    zombie = chaos.start(PIPELINE_CRASH_AT="sent:3:STOP")
    chaos.publish(1_500)
    chaos.shop.wait(lambda: state(zombie) == "T", lambda: "not stopped yet")
    other = chaos.start()
    chaos.shop.wait_until_consumed(1_500)
    zombie.send_signal(signal.SIGCONT)
    chaos.wait_for(zombie, "another worker took the lease")
    chaos.publish(1_500)
    chaos.wait_for(zombie, "assigned payments", 2)
    chaos.publish(500)
    chaos.settle()
    assert zombie.poll() is None
    assert other.poll() is None
    refused = chaos.shop.log_of(zombie).count("starting again from its marker")
    chaos.seen.append(f"{refused} refusals")


@pytest.mark.fault("F4", "stuck in compute for longer than max.poll.interval.ms", "as F3")
@pytest.mark.parametrize("lane", ["native", pytest.param("portable", marks=pytest.mark.slow)])
def test_stuck_in_compute(chaos: Chaos, lane: str) -> None:
    """The client's own threads beat on, then leave the group for the worker that does not poll."""
    limit = {"PIPELINE_BROKER__PROPERTIES__MAX__POLL__INTERVAL__MS": "4000"}
    stuck = chaos.start(PIPELINE_CRASH_AT="computed:4:SLEEP:12", PIPELINE_APP__LANE=lane, **limit)
    chaos.publish(1_500)
    chaos.wait_for(stuck, "asleep at computed")
    assert chaos.shop.consumed() < 1_500, "it was not stuck"
    other = chaos.start(PIPELINE_APP__LANE=lane, **limit)
    chaos.shop.wait_until_consumed(1_500)
    chaos.wait_for(stuck, "another worker took the lease")
    chaos.publish(1_500)
    chaos.wait_for(stuck, "assigned payments", 2)
    chaos.publish(500)
    chaos.settle()
    assert stuck.poll() is None
    assert other.poll() is None
    refused = chaos.shop.log_of(stuck).count("starting again from its marker")
    chaos.seen.append(f"{refused} refusals")


@pytest.mark.fault("F5", "members that join and leave all the time", "exact; nobody crashes")
@pytest.mark.parametrize("seconds", [8, pytest.param(120, marks=pytest.mark.slow)])
def test_rebalance_storm(chaos: Chaos, seconds: int) -> None:
    workers = [chaos.start(), chaos.start()]
    chaos.publish(500)
    chaos.shop.wait_until_consumed(500)
    members = [threading.Thread(target=_member, args=(chaos, i, seconds)) for i in range(2)]
    with chaos.load(250):
        for member in members:
            member.start()
        for member in members:
            member.join()
    chaos.settle()
    for worker in workers:
        assert worker.poll() is None, chaos.shop.last_words()
    rebalances = sum(chaos.shop.log_of(w).count("assigned payments") for w in workers)
    assert rebalances >= seconds // 5
    chaos.seen.append(f"{rebalances} assignments")


def _member(chaos: Chaos, number: int, seconds: float) -> None:
    """A bare member of the group that takes partitions, does nothing with them, and leaves."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        consumer = confluent_kafka.Consumer(
            {
                **chaos.shop.properties,
                "group.id": f"{chaos.shop.app}.features",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SETTINGS["PIPELINE_APP__SESSION_TIMEOUT_MS"],
                "heartbeat.interval.ms": "300",
                "enable.auto.commit": "false",
            }
        )
        consumer.subscribe([chaos.shop.topic])
        until = time.monotonic() + 0.5 + number * 0.7 + chaos.random.random()
        while time.monotonic() < until:
            consumer.poll(0.1)
        consumer.close()


@pytest.mark.fault("F6", "SIGTERM under load", "leaves the group, exit 0 within 10 s, exact")
def test_terminate_under_load(chaos: Chaos) -> None:
    worker = chaos.start()
    with chaos.load(2_000):
        chaos.progress(500)
        started = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(15)
        took = time.monotonic() - started
    assert code == 0, chaos.shop.last_words()
    assert took < 10
    chaos.safe()
    after = time.monotonic()
    heir = chaos.start()
    assert eventually(lambda: "assigned payments" in chaos.shop.log_of(heir), 30)
    chaos.settle()
    chaos.seen.append(f"exit 0 in {took:.1f} s, heir assigned in {time.monotonic() - after:.1f} s")


@pytest.mark.fault("F6", "SIGTERM while starting", "exit 0 within 10 s")
@pytest.mark.parametrize(
    "delays", [[1.0], pytest.param([0.0, 0.9, 1.0, 1.1, 1.5], marks=pytest.mark.slow)], ids=len
)
def test_terminate_while_starting(chaos: Chaos, delays: list[float]) -> None:
    took = []
    for delay in delays:
        worker = chaos.start()
        chaos.wait_for(worker, "[^Worker]: Starting")
        time.sleep(delay)
        started = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0, chaos.shop.last_words()
        took.append(time.monotonic() - started)
    chaos.seen.append(f"exit 0 in at most {max(took):.1f} s")
