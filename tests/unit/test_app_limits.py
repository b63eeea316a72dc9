"""How many descriptors a worker asks for."""

from __future__ import annotations

import resource

import pytest

from pipeline.app.limits import BASE_DESCRIPTORS, ensure_descriptors
from pipeline.errors import ConfigurationError

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "set_to"),
    [
        ((1024, 4096), None),
        ((NONE, NONE), None),
        ((BASE_DESCRIPTORS + 10, 4096), None),
        ((BASE_DESCRIPTORS + 9, 4096), (BASE_DESCRIPTORS + 10, 4096)),
        ((20, BASE_DESCRIPTORS + 10), (BASE_DESCRIPTORS + 10, BASE_DESCRIPTORS + 10)),
        ((20, NONE), (BASE_DESCRIPTORS + 10, NONE)),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], set_to: tuple[int, int] | None
) -> None:
    changed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: changed.append(new))
    ensure_descriptors(10)
    assert changed == ([] if set_to is None else [set_to])


def test_a_hard_limit_that_is_too_low_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 73))
    with pytest.raises(ConfigurationError, match=r"may open 73 files.* needs 74.*ulimit -n"):
        ensure_descriptors(10)
