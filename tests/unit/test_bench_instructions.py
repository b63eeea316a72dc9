"""The guard over instruction counts has to notice a kernel that takes more of them."""

from __future__ import annotations

import json

import pytest

from tests.bench import instructions
from tests.bench.instructions import KEPT, STAGES, worse


def test_a_count_is_kept_of_every_stage() -> None:
    kept = json.loads(KEPT.read_text())
    assert set(kept) == set(STAGES)
    assert worse(kept, kept) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_takes_more_is_named(stage: str) -> None:
    kept = json.loads(KEPT.read_text())
    assert worse({**kept, stage: kept[stage] * 1.04}, kept) == []
    (line,) = worse({**kept, stage: kept[stage] * 1.06}, kept)
    assert line.startswith(f"{stage}: ")


def test_a_stage_without_a_count_is_named() -> None:
    assert worse({"new": 1.0}, {}) == ["new: 1 instructions, kept are 0"]


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 2)])
def test_without_valgrind_only_ci_fails(
    ci: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert instructions.main([]) == code
    assert "valgrind is not installed" in capsys.readouterr().err
