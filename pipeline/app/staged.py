"""What a partition made of a batch: computed, not yet sent or committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.app.lookups import LookedUp
from pipeline.app.routing import StagedRoute
from pipeline.app.viewplan import ViewPlan
from pipeline.ingest.batch import EventBatch, Rejects
from pipeline.state.batch import Fired
from pipeline.store.marker import Marker
from pipeline.store.partition import RowWrite

__all__ = ["StagedBatch", "StagedView"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StagedView:
    """What one view made of one batch, computed and not yet committed.

    ``events`` are the batch as its stream reads it, ``refused`` those that only that way refuses.
    ``failed``, ``nulls`` (rejected for a null), ``long`` (for a long string), ``late`` and
    ``corrupt`` (their entity's stored row is) are rows of the batch; ``fired_rows`` the rows of
    ``fired``. ``quarantined`` are copies of corrupt rows to be written.
    """

    plan: ViewPlan
    events: EventBatch
    refused: Rejects
    slots: I32
    write: RowWrite
    marker: Marker
    changes: pa.RecordBatch | None
    fired: Fired
    fired_rows: I64
    failed: I64
    nulls: I64
    long: I64
    late: I64
    corrupt: I64
    quarantined: RowWrite | None
    outcomes: Mapping[str, int]
    looked: LookedUp

    @property
    def writes(self) -> list[RowWrite]:
        """Everything but the marker that the commit writes."""
        rows = [*self.looked.writes, self.write] if len(self.slots) else self.looked.writes
        return rows if self.quarantined is None else [*rows, self.quarantined]


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A batch of one partition, ready to be sent out and committed; ``events`` as most read it.

    Its rejects before offset ``reported`` were dead-lettered when another view read them.
    ``behind``: it is of the views and routes that are read apart.
    """

    events: EventBatch
    views: list[StagedView]
    reported: int
    routes: list[StagedRoute] = field(default_factory=list)
    behind: bool = False

    @property
    def markers(self) -> list[Marker]:
        """What the commit writes beside rows."""
        return [v.marker for v in self.views] + [r.marker for r in self.routes]
