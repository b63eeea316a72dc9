"""The command; see the package."""

from __future__ import annotations

import argparse
import base64
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.fuzz.run import FoundError, Target, fuzz

NAMES = ("json", "avro", "protobuf", "arrow", "rows")


def target(name: str) -> Target:
    found: Target = importlib.import_module(f"tests.fuzz.{name}").target()
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*NAMES, []], metavar="format", help=", ".join(NAMES)
    )
    parser.add_argument("--seconds", type=float, default=60, help="for each format (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    parser.add_argument("--value", nargs="+", help="run these values (base64) of one format again")
    parser.add_argument("--last", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    names = given.names or NAMES
    if given.value:
        with np.errstate(all="ignore"):
            print(target(names[0]).check([base64.b64decode(value) for value in given.value]))
        return 0
    if given.last:
        return _here(names[0], given.seconds, given.seed, given.last)
    return max([_child(name, given.seconds, given.seed) for name in names])


def _child(name: str, seconds: float, seed: int) -> int:
    """Fuzz in a process of its own; what it was at when it died can be read behind it."""
    with tempfile.NamedTemporaryFile() as last:
        command = [sys.executable, "-m", "tests.fuzz", name, "--last", last.name]
        command += ["--seconds", str(seconds), "--seed", str(seed)]
        code = subprocess.run(command, check=False).returncode
        if code not in (0, 1):
            values = Path(last.name).read_text().split()
            print(f"{name}, seed {seed}: died with {code} in one of --value {' '.join(values)}")
    return int(code != 0)


def note(last: Path, batch: bytes) -> None:
    last.write_bytes(batch)


def _here(name: str, seconds: float, seed: int, last: Path) -> int:
    try:
        with np.errstate(all="ignore"):
            counts = fuzz(target(name), seconds, seed, lambda batch: note(last, batch))
    except FoundError as found:
        print(f"{found}\n{found.__cause__!r}")
        return 1
    total = sum(counts.values())
    print(
        f"{name}, seed {seed}: {total} values; " + ", ".join(f"{k} {v}" for k, v in counts.items())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
