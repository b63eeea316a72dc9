"""A short run of every fuzzer: `make fuzz` runs them for minutes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz.__main__ import NAMES, main, target
from tests.fuzz.run import FoundError, Target, fuzz

SECONDS = 2


@pytest.mark.parametrize("name", [name for name in NAMES if name != "arrow"])
def test_no_bytes_break_a_decoder(name: str) -> None:
    with np.errstate(all="ignore"):
        counts = fuzz(target(name), SECONDS, 1, lambda batch: None)
    print(name, counts)
    assert len(counts) > 1


def test_arrow_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["arrow", "--seconds", str(SECONDS)]) == 0
    assert "decode" in capfd.readouterr().out


def test_a_value_that_breaks_is_named() -> None:
    def check(values: object) -> list[str]:
        assert isinstance(values, list)
        if any(len(value) > 3 for value in values):
            raise IndexError
        return ["ok"] * len(values)

    with pytest.raises(FoundError, match=r"short, seed 5: --value [A-Za-z0-9+/=]+$"):
        fuzz(Target("short", [b"abc"], check), 10, 5, lambda batch: None)
