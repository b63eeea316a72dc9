"""What a view keeps of its events: rings of tiles, accumulators and lists, each once."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import DefinitionError
from pipeline.features.inputs import Inputs
from pipeline.features.plan import AccOp, Accumulator, CellType, ListKind, ListState, Ring
from pipeline.features.windows import MAX_BOUND, Window

__all__ = ["Kept"]


@dataclass
class Kept:
    """Collects the state that features share; where each is found is known once all are there."""

    inputs: Inputs
    rings: dict[int, int] = field(default_factory=dict)  # tile width -> tiles
    # tile width or -1 - list, op, input, mask
    accumulators: list[tuple[int, AccOp, int, int]] = field(default_factory=list)
    # kind, tile width or 0, input, mask, bound, horizon, type
    lists: list[tuple[ListKind, int, int, int, int, int, CellType]] = field(default_factory=list)

    def tiles(self, window: Window) -> None:
        """The ring of a tiled window, as long as the longest that shares it."""
        if window.width:
            self.rings[window.width] = max(self.rings.get(window.width, 0), window.tiles)

    def accumulate(self, where: str, window: Window, op: AccOp, source: int, mask: int) -> int:
        """An accumulator in tiles, or over events."""
        key = -1 - self.events(where, window, source, mask) if window.keep else window.width
        entry = (key, op, source, mask)
        if entry not in self.accumulators:
            self.accumulators.append(entry)
        return self.accumulators.index(entry)

    def group(
        self, where: str, window: Window, ops: tuple[AccOp, ...], source: int, mask: int
    ) -> int:
        """The first of accumulators that stand together; events need no more than that one."""
        first, *others = ops
        a = self.accumulate(where, window, first, source, mask)
        for op in [] if window.keep else others:
            self.accumulate(where, window, op, source, mask)
        return a

    def events(self, where: str, window: Window, source: int, mask: int) -> int:
        """The events list of this input, mask and bound, which reaches as far as any window."""
        key = (ListKind.EVENTS, 0, source, mask, window.keep)
        for i, (*other, horizon, type_) in enumerate(self.lists):
            if tuple(other) == key:
                self.lists[i] = (*key, max(horizon, window.horizon), type_)
                return i
        return self.list(where, *key, window.horizon)

    def extremes(self, kind: ListKind, window: Window, source: int, mask: int, n: int) -> int:
        """The list of the largest or smallest values, which keeps as many as any feature wants."""
        key = (kind, window.width, source, mask)
        for i, (*other, bound, _, type_) in enumerate(self.lists):
            if tuple(other) == key:
                self.lists[i] = (*key, max(bound, n), 0, type_)
                return i
        self.lists.append((*key, n, 0, self.inputs.columns[source][1]))
        return len(self.lists) - 1

    def list(
        self, where: str, kind: ListKind, width: int, source: int, mask: int, bound: int,
        horizon: int,
    ) -> int:  # fmt: skip
        """A list of this very kind; :class:`DefinitionError` names the bound that is wrong."""
        if not 1 <= bound <= MAX_BOUND:
            argument = "n" if kind is ListKind.LAST else "bound"
            raise DefinitionError(f"{where}.{argument}", f"must be 1 to {MAX_BOUND}")
        type_ = self.inputs.columns[source][1] if source >= 0 else CellType.INT
        entry = (kind, width, source, mask, bound, horizon, type_)
        if entry not in self.lists:
            self.lists.append(entry)
        return self.lists.index(entry)

    def order(self) -> dict[int, int]:
        """Where each accumulator stands in the plan, which has them sorted by ring, then list."""
        order = sorted(
            range(len(self.accumulators)), key=lambda i: (self._section(self.accumulators[i][0]), i)
        )
        return {old: new for new, old in enumerate(order)}

    def states(self) -> tuple[tuple[Ring, ...], tuple[Accumulator, ...], tuple[ListState, ...]]:
        """All of it, as a plan has it."""
        widths = [*self.rings]
        rings = tuple(Ring(width, tiles) for width, tiles in self.rings.items())
        accumulators = [
            Accumulator(self._section(self.accumulators[i][0]), *self.accumulators[i][1:])
            for i in self.order()
        ]
        lists = tuple(
            ListState(kind, widths.index(w) if w else -1, i, m, bound, horizon, type_)
            for kind, w, i, m, bound, horizon, type_ in self.lists
        )
        return rings, tuple(accumulators), lists

    def _section(self, key: int) -> int:
        widths = [*self.rings]
        return widths.index(key) if key > 0 else len(widths) - 1 - key
