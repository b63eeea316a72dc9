"""A small disk of a test's own: a tmpfs that can be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Disk", "small_disk"]

BLOCK = 4096


class Disk:
    """``directory`` is on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self, spare: int = 0) -> None:
        """Leave ``spare`` bytes, in whole blocks."""
        with self._ballast.open("ab", buffering=0) as ballast:
            while (room := self._room() - spare // BLOCK) > 0:
                ballast.write(bytes(room * BLOCK))

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink()

    def _room(self) -> int:
        return min(os.statvfs(self.directory).f_bfree, 256)


@contextmanager
def small_disk(directory: Path, size: str = "16m") -> Iterator[Disk]:
    """Mount one on ``directory``, which is made; skips the test where that is not allowed."""
    directory.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk: {error}")
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.strip()} (mounting needs root)")
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
