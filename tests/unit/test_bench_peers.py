"""The benchmark's proof has to notice a peer whose windows are a tile too long or too short."""

from __future__ import annotations

import pytest

from tests.bench.peers import tiles
from tests.bench.peers.workload import PROOF, Rows, expected, mistakes


def rows() -> Rows:
    """What a peer with the shared tiles makes of the proof's log."""
    states: dict[str, tiles.State] = {}
    for block in PROOF.blocks():
        for user, time, price, dwell in block.select("user", "time", "price", "dwell").iter_rows():
            state = states.setdefault(str(user), tiles.fresh())
            tiles.add(state, time, price / 100, dwell / 1000)
    return {user: list(tiles.features(state)) for user, state in states.items()}


def test_the_tiles_of_the_peers_are_right() -> None:
    assert mistakes(expected(PROOF), rows()) == []


@pytest.mark.parametrize("ring", ["_SHORT_TILES", "_HOUR_TILES", "_DAY_TILES"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_tile_too_many_or_too_few_is_noticed(
    ring: str, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, ring, getattr(tiles, ring) + more)
    assert len(mistakes(expected(PROOF), rows())) > 10


@pytest.mark.parametrize("width", ["SHORT", "HOUR", "DAY"])
def test_a_tile_of_another_width_is_noticed(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, width, getattr(tiles, width) - 1)
    assert mistakes(expected(PROOF), rows())


def test_missing_and_surplus_rows_are_noticed() -> None:
    got = rows()
    got["nobody"] = got.pop(next(iter(got)))
    assert len(mistakes(expected(PROOF), got)) == 2
