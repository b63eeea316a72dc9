"""State of one user for the Python peers: tiles in plain lists, as their users would write it.

A state is ``[short, hour, day]``, each a list of tiles in time order, a tile a list that starts
with its number: ``[tile, n]``, ``[tile, cents, dwell, n]``, ``[tile, most cents, n]``. Events of
a user come in time order. Tile ``k`` of width ``w`` holds the times ``(k*w, (k+1)*w]``, and a
window read at ``T`` covers ``(T // w * w - window, T]``.
"""

from __future__ import annotations

from typing import Any

State = list[list[list[Any]]]

SHORT, HOUR, DAY = 10_000, 60_000, 1_800_000  # ms of a tile
_SHORT_TILES, _HOUR_TILES, _DAY_TILES = 30, 60, 48  # of a window


def fresh() -> State:
    """The state of a user nobody has seen."""
    return [[], [], []]


def add(state: State, time: int, price: float, dwell: float) -> None:
    """Count one event, and drop the tiles that no later read can need."""
    short, hour, day = state
    cents = round(price * 100)
    tile = (time - 1) // SHORT
    if short and short[-1][0] == tile:
        short[-1][1] += 1
    else:
        short.append([tile, 1])
    while short[0][0] < time // SHORT - _SHORT_TILES:
        del short[0]
    tile = (time - 1) // HOUR
    if hour and hour[-1][0] == tile:
        newest = hour[-1]
        newest[1] += cents
        newest[2] += dwell
        newest[3] += 1
    else:
        hour.append([tile, cents, dwell, 1])
    while hour[0][0] < time // HOUR - _HOUR_TILES:
        del hour[0]
    tile = (time - 1) // DAY
    if day and day[-1][0] == tile:
        newest = day[-1]
        if cents > newest[1]:
            newest[1] = cents
        newest[2] += 1
    else:
        day.append([tile, cents, 1])
    while day[0][0] < time // DAY - _DAY_TILES:
        del day[0]


def features(state: State) -> list[int | float]:
    """The five features as of the user's newest event, whose tile is the newest everywhere."""
    short, hour, day = state
    cents, dwell, n = hour[0][1:] if len(hour) == 1 else map(sum, list(zip(*hour, strict=True))[1:])
    return [
        short[0][1] if len(short) == 1 else sum([tile[1] for tile in short]),
        cents / 100,
        dwell / n,
        day[0][1] / 100 if len(day) == 1 else max([tile[1] for tile in day]) / 100,
        day[0][2] if len(day) == 1 else sum([tile[2] for tile in day]),
    ]
