"""Applies each mutation to a copy of the tree and runs the tests that have to notice it.

    python -m tests.mutation.run                 all of them; a table, and build/mutation.json
    python -m tests.mutation.run --check         only whether each can still be applied
    python -m tests.mutation.run --only fenced   those with that in their name or file

Kernels are left uncompiled (PIPELINE_JIT=off). Exits with 1 if one survives or cannot be applied.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest

from tests.mutation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "build" / "mutation.json"
PARTS = ("pipeline", "tests", "schemas", "pyproject.toml")
TESTS_FAILED = 1  # pytest's own exit codes; 2 to 5 mean that nothing was tested
SECONDS = 600
IMPORTED = ("hypothesis", "numpy", "polars", "pyarrow", "pyarrow.compute", "redis", "rich")
ENDLESS = "the tests never ended"
_seconds = count(1)


@dataclass(frozen=True)
class Verdict:
    """What became of one mutation.

    caught     a test failed (``by``) that passes without the mutation
    SURVIVED   no test noticed
    STALE      its text is not in its file any more
    BROKEN     nothing was tested, as when a module cannot be imported
    UNPROVEN   the test that failed fails without the mutation too
    """

    name: str
    file: str
    verdict: str
    by: str
    seconds: float


def copied(root: Path) -> None:
    """The tree's sources below ``root``."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", "bench")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, root / part, ignore=skip)
        else:
            shutil.copy(ROOT / part, root / part)


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code of pytest over ``tests`` in ``root``, and what failed first.

    In a fork of this process, which has imported everything but the tree itself: a run then takes
    a third of the time.
    """
    output = root / "pytest.txt"
    child = os.fork()
    if child == 0:
        os._exit(_in_fork(root, tests, output))
    deadline = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return TESTS_FAILED, ENDLESS
        time.sleep(0.05)
    text = output.read_text(encoding="utf-8", errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    last = (text.strip().splitlines() or [""])[-1]
    return os.waitstatus_to_exitcode(status), failed[1] if failed else last


def _in_fork(root: Path, tests: Sequence[str], output: Path) -> int:
    os.setsid()
    with output.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    os.environ |= {"PIPELINE_JIT": "off", "PYTHONPATH": str(root)}  # its own processes too
    sys.path[:] = [str(root), *(p for p in sys.path if p not in {"", str(ROOT)})]
    for name in [n for n in sys.modules if n.split(".")[0] in {"tests", "pipeline"}]:
        del sys.modules[name]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--timeout=200"]
    code = int(pytest.main([*options, "--no-header", *tests]))
    sys.stdout.flush()
    return code


def judged(root: Path, mutation: Mutation) -> Verdict:
    """Apply, test, undo."""
    started = time.monotonic()

    def verdict(what: str, by: str) -> Verdict:
        seconds = round(time.monotonic() - started, 1)
        return Verdict(mutation.name, mutation.file, what, by, seconds)

    problem = mutation.problem(root)
    if problem is not None:
        return verdict("STALE", problem)
    before = mutation.apply(root)
    _touch(root / mutation.file)
    try:
        code, by = run_tests(root, mutation.tests)
    finally:
        (root / mutation.file).write_text(before, encoding="utf-8")
        _touch(root / mutation.file)
    if code == TESTS_FAILED:
        return verdict("caught" if _passes(str(root), by) else "UNPROVEN", by)
    return verdict("SURVIVED" if code == 0 else "BROKEN", by)


@cache
def _passes(root: str, test: str) -> bool:
    """Whether the test that failed passes while nothing is changed; else it proved nothing."""
    return test == ENDLESS or run_tests(Path(root), [test])[0] == 0


def _touch(path: Path) -> None:
    """A time of its own, to the second: Python takes a module's bytecode for its source by it."""
    at = time.time() + next(_seconds)
    os.utime(path, (at, at))


def shown(verdict: Verdict) -> str:
    """A line of the table."""
    by = verdict.by.replace("tests/", "", 1)
    return f"{verdict.verdict:9} {verdict.seconds:6.1f} s  {verdict.name:62} {by}"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only whether each can be applied")
    parser.add_argument("--only", default="", help="part of a name or file")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in f"{m.name} {m.file}"]
    if arguments.check:
        stale = [f"{m.name}: {p}" for m in chosen if (p := m.problem(ROOT)) is not None]
        print("\n".join(stale) or f"all {len(chosen)} mutations can be applied")
        return int(bool(stale))
    for name in IMPORTED:
        import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutation-") as directory:
        root = Path(directory)
        copied(root)
        verdicts = []
        for mutation in chosen:
            verdicts.append(judged(root, mutation))
            print(shown(verdicts[-1]), flush=True)
    caught = sum(v.verdict == "caught" for v in verdicts)
    print(f"{caught} of {len(chosen)} caught")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([asdict(v) for v in verdicts], indent=1) + "\n", encoding="utf-8")
    return int(caught < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
