"""What a person sees while the demo runs: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.demo.sample import Sample, rate

__all__ = ["DemoProgress"]

COUNTS = ("produced", "applied", "predicted")
KEPT_SAMPLES = 64


class DemoProgress:
    """Shows samples as they come; a context manager.

    ``total``       events that will be produced
    ``requests``    predictions that will be asked for, None where not known or not wanted
    ``interval_s``  seconds of sample time between two lines where ``console`` is no terminal
    """

    def __init__(
        self,
        total: int,
        console: Console,
        *,
        requests: int | None = None,
        interval_s: float = 5.0,
    ) -> None:
        self._totals = {"produced": total, "applied": total, "predicted": requests}
        self._console = console
        self._interval_s = interval_s
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._printed_s: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._samples and self._printed_s != self._samples[-1].t_s:
            self._print()

    def note(self, text: str) -> None:
        """A line of its own, above the bars."""
        self._console.print(Text(text, style="dim"))

    def update(self, sample: Sample) -> None:
        """Show ``sample``; rates are over the last two seconds of samples."""
        self._samples.append(sample)
        if self._live is not None:
            self._live.update(self.render())
        elif self._printed_s is None or sample.t_s - self._printed_s >= self._interval_s:
            self._print()

    def render(self) -> Table:
        """The bars for the newest sample."""
        sample = self._samples[-1]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=10)
        grid.add_column(width=30)
        grid.add_column(justify="right")
        grid.add_column(justify="right")
        for name in COUNTS:
            total, count = self._totals[name], getattr(sample, name)
            if name == "predicted" and total is None and count == 0:
                continue
            of = f"{count:,}" if total is None else f"{count:,} / {total:,}"
            bar = ProgressBar(
                total=total,
                completed=count,
                complete_style="cyan",
                finished_style="green",
                pulse=total is None,
            )
            grid.add_row(name, bar, of, Text(f"{self._rate(name):,.0f}/s", style="cyan"))
        fresh = _freshness(sample)
        grid.add_row("lag", ProgressBar(total=max(sample.produced, 1), completed=sample.lag,
                                        complete_style="yellow"),
                     f"{sample.lag:,}", Text(fresh, style="cyan"))  # fmt: skip
        return grid

    def _print(self) -> None:
        sample = self._samples[-1]
        self._printed_s = sample.t_s
        counts = [f"{sample.t_s:6.1f} s"]
        counts += [
            f"{name} {getattr(sample, name):,} ({self._rate(name):,.0f}/s)"
            for name in COUNTS
            if name != "predicted" or sample.predicted or self._totals["predicted"]
        ]
        counts.append(f"lag {sample.lag:,}")
        counts += [_freshness(sample)] if sample.freshness_p99_ms is not None else []
        self._console.print("  ".join(counts), highlight=False, soft_wrap=True)

    def _rate(self, name: str) -> float:
        return rate(tuple(self._samples), name)


def _freshness(sample: Sample) -> str:
    if sample.freshness_p99_ms is None:
        return ""
    return f"fresh in {sample.freshness_p99_ms:,.0f} ms (p99)"
