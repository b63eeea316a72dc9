"""How long a partition is left alone, and how much is read after a commit that failed."""

from __future__ import annotations

import pytest

from pipeline.errors import FencedError, StoreUnavailableError
from pipeline.store.trouble import BatchLimit, Trouble
from tests.unit.test_app_plane import drive, expected, identity_holds, logged

__all__ = ["expected"]

DOWN = StoreUnavailableError("down, says the test")


def test_pauses_double_up_to_a_bound() -> None:
    trouble, pauses = None, []
    for _ in range(8):
        trouble = Trouble.of(DOWN, 10.0, trouble)
        pauses.append(trouble.pause_s)
        assert trouble.retry_at == 10.0 + trouble.pause_s
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_lease_that_others_have_for_minutes_is_an_error() -> None:
    fenced = FencedError("taken, says the test")
    first = Trouble.of(fenced, 0.0, None)
    again = Trouble.of(fenced, 100.0, first)
    assert again.fenced_at == 0.0
    between = Trouble.of(DOWN, 110.0, again)
    assert between.fenced_at is None
    with pytest.raises(FencedError):
        Trouble.of(fenced, 121.0, again)


def test_a_batch_is_halved_after_a_commit_that_failed_and_grows_again_slowly() -> None:
    limit = BatchLimit(100_000)
    assert limit.records(0.0) == 100_000
    found = []
    for now in range(1, 10):
        limit.failed(now)
        found.append(limit.records(now))
    assert found == [50_000, 25_000, 12_500, 6_250, 3_125, 1_562, 1_000, 1_000, 1_000]
    grown = [limit.records(9.0 + 5 * n) for n in range(20)]
    assert grown[:6] == [1_000, 1_000, 2_000, 2_000, 4_000, 4_000]
    assert grown[-1] == 100_000


def test_a_small_batch_is_never_enlarged() -> None:
    limit = BatchLimit(7)
    limit.failed(0.0)
    assert limit.records(100.0) == 7


def test_a_store_that_takes_no_large_commit_gets_smaller_ones(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes]
) -> None:
    """As behind a slow link, where a commit has to be sent within the store's timeout."""
    monkeypatch.setattr("pipeline.store.trouble.LEAST_RECORDS", 1)
    driver = drive(logged(), max_records=1000)
    driver.plane.step()
    most, refused = 2, 0
    for partition in driver.plane._partitions.values():
        commit = partition.store.begin_commit

        def begin(writes, markers, expiries=(), commit=commit):  # type: ignore[no-untyped-def]
            nonlocal refused
            if sum(len(write.rows) for write in writes) > most:
                refused += 1
                raise StoreUnavailableError("the link is too slow, says the test")
            commit(writes, markers, expiries)

        monkeypatch.setattr(partition.store, "begin_commit", begin)
    for _ in range(5_000):
        if sum(m.consumed for m in driver.markers("spending")) == 1500:
            break
        driver.plane.step()
        driver.clock.advance(6_000)
    assert refused > 5
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)
