"""``make faults``: every fault with a seed, a table on the terminal, ``build/faults.json``.

python -m tests.faults.run [--seed N] [--short] [pytest arguments]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

__all__ = ["FAULTS", "REPORT_VARIABLE", "SEED_VARIABLE", "main", "not_run"]

REPORT_VARIABLE = "PIPELINE_FAULTS_REPORT"
SEED_VARIABLE = "PIPELINE_FAULTS_SEED"
REPORT = Path("build/faults.json")
FAULTS = tuple(f"F{number}" for number in range(1, 25))  # interleavings: I1 to I7; inputs: B
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run, print, write; pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default: 1)")
    parser.add_argument("--short", action="store_true", help="leave the long forms out")
    arguments, others = parser.parse_known_args()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    os.environ[REPORT_VARIABLE] = str(REPORT.resolve())
    os.environ[SEED_VARIABLE] = str(arguments.seed)
    kinds = ["-m", "not slow"] if arguments.short else []
    code = int(pytest.main([str(HERE), *kinds, *others]))
    if REPORT.is_file():
        rows = json.loads(REPORT.read_text())
        REPORT.write_text(json.dumps({"seed": arguments.seed, "faults": rows}, indent=1) + "\n")
        Console().print(_table(rows, arguments.seed))
    return code


def not_run(rows: list[dict[str, Any]], left_out: set[str]) -> list[dict[str, Any]]:
    """A row for each fault that has none, with the reason."""
    found = {row["id"] for row in rows}
    return [
        {
            "id": name, "test": "", "what": "", "case": "", "expected": "", "seen": "",
            "identity": "skipped", "mismatches": 0, "ok": False, "outcome": "skipped",
            "seconds": 0.0,
            "error": "left out: long forms only" if name in left_out else "no test was selected",
        }
        for name in FAULTS
        if name not in found
    ]  # fmt: skip


def _table(rows: list[dict[str, Any]], seed: int) -> Table:
    table = Table(title=f"faults (seed {seed}) -> {REPORT}", title_justify="left")
    for column in ("id", "what", "expected", "seen", "s", ""):
        table.add_column(column, overflow="fold")
    for row in sorted(rows, key=lambda r: (r["id"][0], int(r["id"][1:]))):
        what = f"{row['what']} [{row['case']}]" if row["case"] else row["what"]
        mark = {"ok": "[green]ok[/]", "failed": "[red]FAILED[/]"}.get(row["outcome"], "skipped")
        seen = row["seen"] or row["error"][:200]
        table.add_row(row["id"], what, row["expected"], seen, str(row["seconds"]), mark)
    return table


if __name__ == "__main__":
    sys.exit(main())
