"""The figures of build/bench.json as a table and a picture.

    python -m tests.bench.figures            prints the table
    python -m tests.bench.figures --write    puts it into README.md and draws docs/images/bench.svg

Run it after the benchmarks, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from tests.bench.report import PLACE

README = PLACE.parents[1] / "README.md"
PICTURE = README.parent / "docs" / "images" / "bench.svg"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

WIDTH, LABEL, ROW, TOP = 1060, 560, 26, 56
COSTS = {"s", "ms", "us", "bytes"}  # the fewer the better
LIMITS = {  # no other systems: what we are held against besides
    "goal", "ideal", "bare consumption", "memory copy", "raw MSET", "exact optimum", "end to end",
    "packed row", "the usual", "1 master",
}  # fmt: skip
GOOD, SHORT, INK, FAINT = "#2f7d4f", "#b4632c", "#222222", "#8a8a8a"


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table, and of what they were taken on."""
    yield "| | what | ours | beside | theirs | ratio | goal |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        low, high = row["spread"]
        mark = "" if row["met"] else " (not met)"
        yield (
            f"| {row['id']} | {row['what']} | {_count(row['ours'])} {row['unit']} "
            f"| {row['peer']} | {_count(row['peer_value'])} "
            f"| {row['ratio']:g} ({low:g} to {high:g}) | {row['goal']:g}{mark} |"
        )
    machines = {(m["cores"], m["cpu"], m["python"]) for m in (row["machine"] for row in rows)}
    yield ""
    for cores, cpu, python in sorted(machines):
        where = f"{cores} cores of {cpu}, Python {python}"
        yield f"Medians and spreads over pairs taken in turn; {where}."


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """How many times as good as other systems, on a logarithmic scale, a tick at each goal."""
    beside = [(row, *_advantage(row)) for row in rows if row["peer"] not in LIMITS]
    most = max(max(times, goal) for _, times, goal in beside) * 1.3
    least = min(0.1, *(min(times, goal) for _, times, goal in beside))
    span = WIDTH - LABEL - 90

    def x(times: float) -> float:
        return LABEL + span * math.log(times / least) / math.log(most / least)

    height = TOP + ROW * len(beside) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="16" fill="{INK}">How many times as good as other systems, '
        "on the same machine, in turns</text>",
        f'<text x="16" y="42" fill="{FAINT}">more events a second, or less time, CPU or memory; '
        "tick: goal; green where it is met</text>",
        f'<line x1="{x(1):.1f}" y1="{TOP - 6}" x2="{x(1):.1f}" y2="{height - 18}" '
        f'stroke="{FAINT}" stroke-dasharray="3 3"/>',
        f'<text x="{x(1):.1f}" y="{height - 4}" text-anchor="middle" fill="{FAINT}">equal</text>',
    ]
    for number, (row, times, goal) in enumerate(beside):
        y = TOP + ROW * number
        color = GOOD if row["met"] else SHORT
        left, right = sorted((x(1), x(times)))
        what = escape(f"{row['id']}  {row['what']}"[:54])
        lines += [
            f'<text x="16" y="{y + 16}" fill="{INK}">{what}</text>',
            f'<text x="{LABEL - 10}" y="{y + 16}" text-anchor="end" fill="{FAINT}">'
            f"{escape(row['peer'][:26])}</text>",
            f'<rect x="{left:.1f}" y="{y + 4}" width="{max(right - left, 1):.1f}" height="16" '
            f'fill="{color}" rx="2"/>',
            f'<line x1="{x(goal):.1f}" y1="{y + 1}" x2="{x(goal):.1f}" '
            f'y2="{y + 23}" stroke="{INK}" stroke-width="2"/>',
            f'<text x="{max(right, x(goal)) + 8:.1f}" y="{y + 16}" fill="{INK}">{times:.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _advantage(row: dict[str, Any]) -> tuple[float, float]:
    """The ratio and its goal, so that more is better."""
    if row["unit"] in COSTS:
        return 1 / row["ratio"], 1 / row["goal"]
    return row["ratio"], row["goal"]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def main() -> None:
    """Print, or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="README.md and docs/images/bench.svg")
    asked = parser.parse_args()
    rows = sorted(json.loads(PLACE.read_text()), key=lambda r: (int(r["id"][1:]), r["what"]))
    text = "\n".join(table(rows))
    print(text)
    if asked.write:
        whole = README.read_text()
        before, after = whole.partition(BEGIN)[0], whole.partition(END)[2]
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
        PICTURE.write_text(picture(rows))


if __name__ == "__main__":
    main()
