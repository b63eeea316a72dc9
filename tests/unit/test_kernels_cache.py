"""Compiled kernels are found again by their text, wherever the package lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.kernels import jit

CALL = """
import numpy as np
from pipeline.kernels.hash import xxh64
print(xxh64(np.frombuffer(b"abc", dtype=np.uint8), 0, 3))
print(*(path.name for path in sorted(__import__("pathlib").Path({cache!r}).rglob("*.nbc"))))
print(sum(xxh64.stats.cache_hits.values()))
"""

pytestmark = pytest.mark.skipif(not jit.JIT_ENABLED, reason="kernels are left uncompiled")


def _copy(target: Path) -> Path:
    package = Path(jit.__file__).parents[1]
    shutil.copytree(package, target / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def _run(place: Path, cache: Path) -> list[str]:
    environment = {**os.environ, "PIPELINE_CACHE": str(cache), "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(cache=str(cache))],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_copy_elsewhere_finds_what_the_first_compiled(tmp_path: Path) -> None:
    first = _run(_copy(tmp_path / "one"), tmp_path / "cache")
    second = _run(_copy(tmp_path / "two"), tmp_path / "cache")
    assert first[:2] == second[:2]
    assert (first[2], second[2]) == ("0", "1")


def test_a_change_in_an_imported_kernel_is_seen(tmp_path: Path) -> None:
    place = _copy(tmp_path / "one")
    before = _run(place, tmp_path / "cache")
    inner = place / "pipeline" / "kernels" / "jit.py"
    inner.write_text(inner.read_text() + "\n# changed\n")
    after = _run(place, tmp_path / "cache")
    assert before[0] == after[0]
    assert after[2] == "0"
    assert len(after[1].split()) == 2


def _result(cache: Path, **environment: str) -> str:
    code = CALL.splitlines()[1:4]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        env={**os.environ, "PIPELINE_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_directory_that_cannot_be_used_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert _result(file) == _result(tmp_path / "cache")


def test_what_was_cut_short_is_compiled_again(tmp_path: Path) -> None:
    good = _result(tmp_path)
    for pattern in ("*.nbi", "*.nbc"):
        for path in tmp_path.rglob(pattern):
            path.write_bytes(b"")
        assert _result(tmp_path) == good
        assert all(path.stat().st_size for path in tmp_path.rglob("*.nb?"))


def test_numba_that_is_switched_off_leaves_kernels_plain(tmp_path: Path) -> None:
    assert _result(tmp_path, NUMBA_DISABLE_JIT="1") == _result(tmp_path)
    assert len({path.parent for path in tmp_path.rglob("*.nbc")}) == 1
