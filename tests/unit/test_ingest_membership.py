"""Assignment bookkeeping of a lane, and the errors that it sorts."""

from __future__ import annotations

import re

import pytest

from pipeline.errors import (
    ConfigurationError,
    LogTruncatedError,
    PipelineError,
    UnknownNameError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.faults import STUCK_AFTER, Faults
from pipeline.ingest.lane import BEGINNING, END, LaneConfig, Position
from pipeline.ingest.membership import Membership, start_offset

A, B, C = (TopicPartition("t", p) for p in range(3))


def _members(starts: dict[TopicPartition, int]) -> tuple[Membership, list[tuple[str, object]]]:
    told: list[tuple[str, object]] = []
    members = Membership()

    def on_assign(sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        told.append(("assign", sources))
        return starts

    members.listen(on_assign, lambda sources, lost: told.append(("revoke", (sources, lost))))
    return members, told


def test_assign_and_revoke_pass_through() -> None:
    members, told = _members({A: 5, B: BEGINNING})
    assert members.assigned([A, B]) == {A: Position(5), B: Position(BEGINNING)}
    members.reached_end(A, 7)
    members.reached_end(C, 7)
    assert members.ended == {A: 7}
    members.revoked([A], lost=True)
    assert told == [("assign", [A, B]), ("revoke", ([A], True))]
    assert (members.owned, members.held, members.ended) == ({B}, {B}, {})
    with pytest.raises(PipelineError, match=r"t\[0\] is not assigned"):
        members.require([B, A])


def test_a_failed_partition_is_held_but_never_owned_nor_revoked() -> None:
    members, told = _members({A: 5})
    members.assigned([A])
    assert members.assigned([B]) == {B: Position(END)}
    assert (members.owned, members.held) == ({A}, {A, B})
    assert members.assigned([C]) == {C: Position(END)}  # the application is not asked again
    members.revoked([A, B, C], lost=False)
    assert told == [("assign", [A]), ("assign", [B]), ("revoke", ([A], False))]
    assert not members.held
    failure = members.take_failure()
    assert isinstance(failure, PipelineError)
    assert str(failure) == "t[1]: on_assign returned no offset for it"
    assert not members.failed


def test_a_second_failure_becomes_a_note_of_the_first() -> None:
    members, _ = _members({})
    members.assigned([A])
    members.fail(ValueError("later"))
    failure = members.take_failure()
    assert failure is not None
    assert failure.__notes__ == ["then: ValueError('later')"]


@pytest.mark.parametrize("offset", [-3, -1000, -1001])
def test_other_logical_offsets_are_refused(offset: int) -> None:
    assert [start_offset(A, o) for o in (0, BEGINNING, END)] == [0, BEGINNING, END]
    with pytest.raises(PipelineError, match=f"{offset} is not"):
        start_offset(A, offset)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-140, LogTruncatedError),
        (-139, LogTruncatedError),
        (-150, PipelineError),
        (-188, UnknownNameError),
        (30, ConfigurationError),
    ],
)
def test_errors_that_waiting_cannot_mend_are_raised_once(
    code: int, kind: type[PipelineError]
) -> None:
    faults = Faults()
    faults.seen(code, "NAME", "text", A, 7)
    with pytest.raises(kind, match=r"t\[0\] at offset 7: .*NAME: text"):
        faults.raise_pending()
    faults.raise_pending()
    assert faults.health.errors == {}


def test_other_errors_are_counted() -> None:
    faults = Faults()
    faults.seen(-195, "_TRANSPORT", "refused")
    faults.seen(-195, "_TRANSPORT", "reset")
    assert faults.health.connected
    faults.seen(-187, "_ALL_BROKERS_DOWN", "1/1 brokers are down")
    faults.raise_pending()
    assert not faults.health.connected
    assert faults.health.errors == {"_TRANSPORT": 2, "_ALL_BROKERS_DOWN": 1}
    assert faults.health.last_error == "_ALL_BROKERS_DOWN: 1/1 brokers are down"
    faults.alive()
    assert faults.health.connected


def test_an_offset_that_gives_one_error_again_and_again_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Faults()
    for _ in range(STUCK_AFTER - 1):
        faults.seen(-198, "_BAD_COMPRESSION", "bad", A, 7)
    faults.seen(-198, "_BAD_COMPRESSION", "bad", A, 8)  # another one: it went on
    assert faults.health.stuck == {}
    for _ in range(STUCK_AFTER + 5):
        faults.seen(-198, "_BAD_COMPRESSION", "bad", A, 8)
    assert faults.health.stuck == {A: 8}
    told = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert [re.sub(r" \(.*", "", text) for text in told] == [
        "kafka: t[0] is stuck at offset 8 after 10 attempts"
    ]
    faults.arrived(A)
    assert faults.health.stuck == {}


def test_properties_win_over_defaults_only() -> None:
    config = LaneConfig("b:1", "g", properties={"fetch.wait.max.ms": "7"})
    settings = config.settings()
    assert settings["fetch.wait.max.ms"] == "7"
    assert settings["enable.auto.commit"] == "false"
    assert (settings["bootstrap.servers"], settings["group.id"]) == ("b:1", "g")
    assert config.cooperative
    assert not LaneConfig(
        "b:1", "g", properties={"partition.assignment.strategy": "range"}
    ).cooperative
    new = LaneConfig("b:1", "g", properties={"group.protocol": "consumer"})
    assert "partition.assignment.strategy" not in new.settings()
    assert new.cooperative


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"brokers": ""}, "lane.brokers"),
        ({"max_value_bytes": 0}, "lane.max_value_bytes"),
        ({"properties": {"group.id": "x"}}, "lane.properties.group.id"),
        ({"properties": {"fetch.wait.max.ms": 7}}, "lane.properties.fetch.wait.max.ms"),
    ],
)
def test_wrong_settings_name_their_field(changes: dict[str, object], field: str) -> None:
    settings: dict[str, object] = {"brokers": "b:1", "group": "g", **changes}
    with pytest.raises(ConfigurationError, match=field.replace(".", r"\.")):
        LaneConfig(**settings)  # type: ignore[arg-type]


def test_held_back_is_what_lies_between_the_end_that_was_seen_and_the_high_watermark() -> None:
    members, _ = _members({A: 0, B: 0})
    members.assigned([A, B])
    assert members.held_back(A, 9) is None  # records may be left to be read
    members.reached_end(A, 7)
    assert members.held_back(A, 7) is None
    assert members.held_back(A, 9) == (7, 9)
    assert members.held_back(B, 9) is None
    members.arrived(A)
    assert members.held_back(A, 9) is None
