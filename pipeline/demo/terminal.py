"""The report on a terminal: a verdict, three proofs, a handful of figures."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.demo.report import DemoReport, Quantiles

__all__ = ["render"]

SHOWN_EXAMPLES = 3


def render(report: DemoReport) -> RenderableType:
    """The report for :meth:`rich.console.Console.print`; what is wrong is red and comes first."""
    problems = report.problems()
    parts: list[RenderableType] = [_verdict(report, problems), Text(), _proofs(report)]
    if report.oracle is not None and report.oracle.examples:
        shown = [f"- {line}" for line in report.oracle.examples[:SHOWN_EXAMPLES]]
        parts.append(Padding(Text("\n".join(shown), style="red"), (0, 0, 0, 2)))
    parts += [Text(), _figures(report)]
    parts += [Text(note, style="dim") for note in report.notes]
    return Padding(Group(*parts), (1, 2))


def _verdict(report: DemoReport, problems: list[str]) -> Text:
    if problems:
        title = Text("✘ The run is wrong\n", style="bold red")
        return title.append("\n".join(f"  {problem}" for problem in problems), style="red")
    what = f"{report.events:,} purchases by {report.entities:,} households"
    if report.oracle is None:
        return Text("● Every record accounted for; not verified", style="bold yellow").append(
            f"  {what}", style="default not bold"
        )
    return Text("✔ Exact", style="bold green").append(f"  {what}", style="default not bold")


def _proofs(report: DemoReport) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=11)
    grid.add_column()
    a = report.accounting
    ways = {
        "applied": a.applied,
        "duplicate": a.duplicate,
        "late": a.late,
        "dead-lettered": a.dead_lettered,
        "filtered": a.filtered,
    }
    named = " + ".join(f"{n:,} {way}" for way, n in ways.items() if n or way == "applied")
    sign = "=" if a.balanced else "≠"
    grid.add_row(
        "records", _told(not report.unaccounted(), f"{a.consumed:,} consumed {sign} {named}")
    )
    if report.oracle is None:
        grid.add_row("features", Text("not compared", style="yellow"))
    else:
        o = report.oracle
        told = f"{o.checked:,} values in {o.points:,} rows, {o.mismatches:,} differ from DuckDB"
        grid.add_row("features", _told(o.checked > 0 and not o.mismatches, told))
    if report.predictions is not None:
        p = report.predictions
        sign = "=" if p.balanced else "≠"
        told = (
            f"{p.requested:,} requested {sign} {p.predicted:,} predicted + {p.fallback:,} fallback"
        )
        grid.add_row("predictions", _told(not report.unpredicted(), told))
    return grid


def _figures(report: DemoReport) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=11, style="dim")
    grid.add_column()
    grid.add_row("throughput", f"{report.events_per_s:,.0f} events/s")
    if report.freshness_ms is not None:
        grid.add_row("freshness", f"{_quantiles(report.freshness_ms)}  produced to readable")
    if report.read_ms is not None:
        of = f"  {report.read_keys:,} households a read" if report.read_keys else ""
        grid.add_row("read", f"{_quantiles(report.read_ms)}{of}")
    if report.bytes_per_entity is not None:
        grid.add_row("state", f"{report.bytes_per_entity:,.0f} bytes a household")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    grid.add_row("time", times)
    machine = report.machine
    grid.add_row(
        "machine", f"{machine.cores} cores, {machine.cpu}, {machine.memory_gib:g} GiB memory"
    )
    return grid


def _told(good: bool, text: str) -> Text:
    return Text("✔ " if good else "✘ ", style="green" if good else "bold red").append(
        text, style="default" if good else "red"
    )


def _quantiles(q: Quantiles) -> str:
    return f"p50 {_ms(q.p50)}, p99 {_ms(q.p99)}"


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"
