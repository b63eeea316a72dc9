"""Faults that the tests must notice, each as one change of one source file.

``old`` stands exactly once in ``file``; where it does not any more, the mutation says so instead of
passing. ``tests`` are short ones of which at least one has to fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTATIONS", "Mutation"]

UNIT = "tests/unit"
FUZZ = f"{UNIT}/test_testing_fuzz.py::test_the_engine_equals_the_oracle_on_a_fuzzed_log"
NARROW = f"{UNIT}/test_kernels_rings.py"
EDGES = f"{UNIT}/test_state_edges.py"
EXACT = f"{UNIT}/test_state_exact.py"
PLANE = f"{UNIT}/test_app_plane.py"
FAULTS = f"{UNIT}/test_app_faults.py"
SIMULATION = f"{UNIT}/test_testing_simulation.py"
CASES = f"{UNIT}/test_engine_cases.py"
CRASH = f"{SIMULATION}::test_a_crash_after_any_batch_changes_nothing"
WRONG_CLOCK = "test_what_a_worker_with_a_wrong_clock_said_of_the_future_is_taken_back"
CACHE = f"{SIMULATION}::test_bytes_do_not_depend_on_what_the_cache_evicts"
STORM = f"{SIMULATION}::test_whatever_a_simulation_does_the_bytes_are_those_of_a_quiet_run"
SPREAD = f"{UNIT}/test_state_spread.py"
COMPUTING = f"{UNIT}/test_app_computing.py"
DEDUP = f"{UNIT}/test_app_dedup.py"
TOMBSTONES = f"{UNIT}/test_app_tombstones.py"
STORE = "tests/contract/test_store.py"
WIRE = "tests/faults/test_store_faults.py"

COMBINE, GROUPED = "pipeline/kernels/combine.py", "pipeline/kernels/grouped.py"
APPLY, FINALIZE = "pipeline/kernels/apply.py", "pipeline/kernels/finalize.py"
TILES, EVENTS, LISTS = (f"pipeline/kernels/{name}.py" for name in ("tiles", "events", "lists"))
RINGS = "pipeline/kernels/rings.py"
COMMITS = "pipeline/app/commits.py"
PLANES, PARTITION = "pipeline/app/plane.py", "pipeline/app/partition.py"
VIEW_STATE = "pipeline/app/viewstate.py"
FENCE, MEMORY = "pipeline/store/fence.py", "pipeline/store/memory.py"
TRANSACTION, LEASE = "pipeline/store/transaction.py", "pipeline/store/lease.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change. ``redis``: its tests need a redis-server on PATH or PIPELINE_TEST_REDIS."""

    name: str
    file: str
    old: str
    new: str
    tests: Sequence[str]
    redis: bool = False

    def problem(self, root: Path) -> str | None:
        """Why it cannot be applied to the tree at ``root``; None if it can."""
        path = root / self.file
        found = path.read_text(encoding="utf-8").count(self.old) if path.exists() else 0
        return None if found == 1 else f"its text stands {found} times in {self.file}"

    def apply(self, root: Path) -> str:
        """Change the file; returns its text from before."""
        path = root / self.file
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace(self.old, self.new), encoding="utf-8")
        return before


MUTATIONS: tuple[Mutation, ...] = (
    # ---- windows and aggregations
    Mutation(
        "minimum of cumulative sums",
        TILES,
        "        return min(cell, value)\n",
        "        return min(cell, add_exact(cell, value))\n",
        (FUZZ, NARROW),
    ),
    Mutation(
        "minimum of cumulative sums in narrow tiles",
        RINGS,
        "        cell = min(cell, value)\n",
        "        cell = min(cell, add_wrapping(cell, value))\n",
        (FUZZ, NARROW),
    ),
    Mutation(
        "maximum of cumulative sums",
        TILES,
        "        return max(cell, value)\n",
        "        return max(cell, add_exact(cell, value))\n",
        (FUZZ, NARROW),
    ),
    Mutation(
        "maximum of cumulative sums in narrow tiles",
        RINGS,
        "        cell = max(cell, value)\n",
        "        cell = max(cell, add_wrapping(cell, value))\n",
        (FUZZ, NARROW),
    ),
    Mutation(
        "mean returns the sum",
        FINALIZE,
        "        cells[k] = as_bits(q)\n",
        "        cells[k] = as_bits(q * np.float64(y) if op == OP_MEAN else q)\n",
        (FUZZ,),
    ),
    Mutation(
        "a window by subtracting cumulative sums",
        COMBINE,
        "        for i in range(first, stop):\n"
        "            cell = fold(op, cell, load_word(arena, p + i * entry))\n"
        "        return cell\n",
        "        if op == 2:\n"
        "            total, before = np.float64(0), np.float64(0)\n"
        "            for i in range(stop):\n"
        "                value = np.int64(load_word(arena, p + i * entry)).view(np.float64)\n"
        "                total += value\n"
        "                before += value if i < first else np.float64(0)\n"
        "            return np.float64(total - before).view(np.int64)\n"
        "        for i in range(first, stop):\n"
        "            cell = fold(op, cell, load_word(arena, p + i * entry))\n"
        "        return cell\n",
        (f"{CASES}::test_24_an_old_large_value_takes_nothing_from_the_window_after_it",),
    ),
    Mutation(
        "an event with the time of the newest is skipped",
        APPLY,
        "    early = (slots[slot, STATE] & PRESENT) == 0 or time > newest\n    some = False\n",
        "    early = (slots[slot, STATE] & PRESENT) == 0 or time > newest\n    some = False\n"
        "    if not early and time == newest:\n        return False\n",
        (FUZZ, EDGES),
    ),
    Mutation(
        "a read does not look whether the row expired",
        FINALIZE,
        "    if ttl_ns > 0 and minus(at, slots[slot, EVENT_TIME]) > ttl_ns:\n",
        "    if False:\n",
        (FUZZ, EDGES),
    ),
    Mutation(
        "an event does not empty an expired row",
        APPLY,
        "time > newest and minus(time, newest) > ttl_ns:",
        "time > newest and minus(time, newest) > 2**62:",
        (f"{EDGES}::test_a_row_is_emptied_by_an_event_more_than_the_ttl_later",),
    ),
    Mutation(
        "a row expires at its ttl, not after it",
        FINALIZE,
        "minus(at, slots[slot, EVENT_TIME]) > ttl_ns:",
        "minus(at, slots[slot, EVENT_TIME]) >= ttl_ns:",
        (FUZZ, EDGES),
    ),
    Mutation(
        "an exact window is closed at its start and open at its end",
        EVENTS,
        "        if arena[block + middle * entry] <= time:\n",
        "        if arena[block + middle * entry] < time:\n",
        (FUZZ, EXACT),
    ),
    Mutation(
        "a tiled window begins a tile early",
        COMBINE,
        "    return max(-(-start // width), held)\n",
        "    return max(-(-start // width) - 1, held)\n",
        (FUZZ, EDGES),
    ),
    Mutation(
        "a delayed window ends a tile late",
        COMBINE,
        "wide, end // rings[ring, RING_WIDTH])\n",
        "wide, end // rings[ring, RING_WIDTH] + 1)\n",
        (FUZZ, EXACT),
    ),
    Mutation(
        "a tile is closed at its start and open at its end",
        TILES,
        "    if time % width == 0:\n",
        "    if False:\n",
        (FUZZ, EDGES),
    ),
    Mutation(
        "a tile is stamped in the future",
        APPLY,
        "time, rings[r, RING_WIDTH], tile, first,\n",
        "time, rings[r, RING_WIDTH], tile + 1, first,\n",
        (FUZZ,),
    ),
    Mutation(
        "lateness is taken from the newest of the batch",
        APPLY,
        "        if not _joins(slots, arena,",
        "        if (slots[slot, STATE] & PRESENT) != 0:\n"
        "            for k in range(e + 1, len(chosen)):\n"
        "                if chosen[k] == slot and event_time[k] > slots[slot, EVENT_TIME]:\n"
        "                    slots[slot, EVENT_TIME] = event_time[k]\n"
        "        if not _joins(slots, arena,",
        (FUZZ, EDGES),
    ),
    Mutation(
        "a ring takes one tile too many",
        "pipeline/kernels/rows.py",
        "    return minus(tile_of(newest, rings[ring, RING_WIDTH]), rings[ring, RING_TILES]) + 1\n",
        "    return minus(tile_of(newest, rings[ring, RING_WIDTH]), rings[ring, RING_TILES])\n",
        (EDGES, FUZZ),
    ),
    Mutation(
        "an integer sum wraps around",
        "pipeline/kernels/integers.py",
        "    if a == OVERFLOW or b == OVERFLOW or ((a ^ s) & (b ^ s)) < 0:\n"
        "        return np.int64(OVERFLOW)\n",
        "",
        (FUZZ, f"{UNIT}/test_kernels_integers.py"),
    ),
    Mutation(
        "a NaN is a value",
        APPLY,
        "        if real[k] != 0 and is_nan(values[k]):\n",
        "        if False:\n",
        (f"{CASES}::test_24_a_nan_is_a_null_and_an_infinity_a_number",),
    ),
    Mutation(
        "-0.0 is another value than 0.0",
        LISTS,
        "    return np.int64(0) if kind == _FLOAT and bits == _MINUS_ZERO else bits\n",
        "    return bits\n",
        (f"{CASES}::test_24_both_zeros_are_one_value",),
    ),
    Mutation(
        "the last values go by offset",
        LISTS,
        "        if arena[e] < time or (arena[e] == time and arena[e + 1] <= offset):\n",
        "        if arena[e + 1] <= offset:\n",
        (FUZZ,),
    ),
    Mutation(
        "a value seen again keeps its older tile",
        "pipeline/kernels/distinct.py",
        "        arena[entries + 2 * i + 1] = max(arena[entries + 2 * i + 1], tile)\n",
        "",
        (f"{CASES}::test_24_a_value_counts_as_long_as_its_newest_event_does",),
    ),
    Mutation(
        "what a full list dropped is forgotten",
        EVENTS,
        "        slots[slot, evicted] = max(slots[slot, evicted], dropped)\n",
        "",
        (FUZZ, EXACT),
    ),
    Mutation(
        "a read before the newest event is not degraded",
        FINALIZE,
        "        status[f] = S_DEGRADED if newer else code\n",
        "        status[f] = code\n",
        (FUZZ, EDGES),
    ),
    Mutation(
        "a trigger sees the row after its event",
        APPLY,
        "        firing = len(triggers) > 0 and _judge(\n"
        "            triggers, slots, arena, slot, rings, lists, values, usable, passed, fires\n"
        "        )\n"
        "        _stamp(slots, slot, event_time[e], timestamps_ms[e], offsets[e])\n"
        "        _include(\n"
        "            slots, arena, heads, slot, rings, accumulators, lists,\n"
        "            event_time[e], offsets[e], joined, values, usable, passed,\n"
        "        )  # fmt: skip\n",
        "        _stamp(slots, slot, event_time[e], timestamps_ms[e], offsets[e])\n"
        "        _include(\n"
        "            slots, arena, heads, slot, rings, accumulators, lists,\n"
        "            event_time[e], offsets[e], joined, values, usable, passed,\n"
        "        )  # fmt: skip\n"
        "        firing = len(triggers) > 0 and _judge(\n"
        "            triggers, slots, arena, slot, rings, lists, values, usable, passed, fires\n"
        "        )\n",
        (EDGES,),
    ),
    Mutation(
        "a condition that is null holds",
        "pipeline/features/derive.py",
        'masks[i, rows] = _broadcast(result[f"m{i}"], n).fill_null(False).to_numpy()',
        'masks[i, rows] = _broadcast(result[f"m{i}"], n).fill_null(True).to_numpy()',
        (FUZZ,),
    ),
    Mutation(
        "one expression that fails fails its batch",
        "pipeline/features/derive.py",
        "        if len(rows) == 1:\n            failed.append(int(rows[0]))\n",
        "        if len(rows) >= 1:\n            failed += rows.tolist()\n",
        (f"{UNIT}/test_features_derive.py",),
    ),
    Mutation(
        "one row that a strict step fails on stands for those of every kind",
        "pipeline/features/strict.py",
        "                failed |= kind == number\n",
        "                failed[:] = True\n",
        (f"{UNIT}/test_features_strict.py",),
    ),
    Mutation(
        "a branch that is taken is not told from one that is not",
        "pipeline/features/strict.py",
        '            yield json.dumps(_lenient(node["Ternary"]["predicate"]))\n',
        "            pass\n",
        (f"{UNIT}/test_features_strict.py",),
    ),
    Mutation(
        "a time from far in the future is accepted",
        "pipeline/kernels/checks.py",
        "                reason[i] = TS_FUTURE\n",
        "                reason[i] = 0\n",
        (FUZZ,),
    ),
    Mutation(
        "a record in the wrong partition is accepted",
        "pipeline/kernels/checks.py",
        "            code = MISROUTED\n",
        "            code = 0\n",
        (FUZZ, f"{UNIT}/test_ingest_decode.py"),
    ),
    Mutation(
        "a standard deviation returns the mean",
        GROUPED,
        "        count += arena[p]\n    return count, squares\n",
        "        count += arena[p]\n    return count, mean * mean * count\n",
        (SPREAD, FUZZ),
    ),
    Mutation(
        "a standard deviation returns the variance",
        GROUPED,
        "    value = np.sqrt(value) if feature[F_OP] == OP_STD else",
        "    value = value if feature[F_OP] == OP_STD else",
        (SPREAD, FUZZ),
    ),
    Mutation(
        "a null that propagates is not seen",
        COMBINE,
        "    return count, kept_all(slots, slot, rings, accumulators, lists, a, start)\n",
        "    return 0 * count, kept_all(slots, slot, rings, accumulators, lists, a, start)\n",
        (f"{UNIT}/test_features_nulls.py", FUZZ),
    ),
    # ---- event ids and deletions
    Mutation(
        "an event id is not looked for",
        "pipeline/kernels/ids.py",
        "    return bool(k >= first)\n",
        "    return False\n",
        (DEDUP,),
    ),
    Mutation(
        "the filter of ids is not told of an id",
        "pipeline/kernels/ids.py",
        "    _note(arena, slots[slot, at], slots[slot, at + 2], value)\n",
        "",
        (DEDUP,),
    ),
    Mutation(
        "a quantile is of the rank below",
        "pipeline/kernels/ranking.py",
        "max(np.int64(1), part_of(q, total))",
        "max(np.int64(1), part_of(q, total) - 1)",
        (FUZZ, f"{UNIT}/test_state_sketches.py"),
    ),
    Mutation(
        "a string that is too long is cut",
        "pipeline/features/compile.py",
        "        self.long.append(self.inputs.longer(column, most, aggregation.where))\n",
        "",
        (FUZZ, f"{UNIT}/test_features_texts.py"),
    ),
    Mutation(
        "the words of a string have the status of other features",
        "pipeline/state/table.py",
        "status[:, : len(self.plan.features)]",
        "status[:, -len(self.plan.features) :]",
        (FUZZ, f"{UNIT}/test_features_texts.py"),
    ),
    Mutation(
        "a tile of largest values keeps the smallest",
        "pipeline/kernels/counts.py",
        "    if list_kind == LARGEST:\n        for k",
        "    if list_kind != LARGEST:\n        for k",
        (f"{UNIT}/test_state_extremes.py",),
    ),
    Mutation(
        "a largest value that occurred twice is one",
        "pipeline/kernels/extremes.py",
        "min(scratch[pair], past - cell)",
        "min(1, past - cell)",
        (FUZZ, f"{UNIT}/test_state_extremes.py"),
    ),
    Mutation(
        "a quotient is rounded before it is scaled",
        "pipeline/kernels/integers.py",
        "    high, low = _times_power(magnitude(a), max(-scale, 0))",
        "    if scale > 0:\n        return divide_scaled(a, b, np.int64(0)) / np.float64(power)\n"
        "    high, low = _times_power(magnitude(a), max(-scale, 0))",
        (f"{UNIT}/test_kernels_integers.py",),
    ),
    Mutation(
        "an event id is kept for ever",
        "pipeline/kernels/ids.py",
        "    oldest = minus(slots[slot, EVENT_TIME], lists[i, LIST_HORIZON])\n",
        "    oldest = np.int64(-(2**63))\n",
        (DEDUP, FUZZ),
    ),
    Mutation(
        "a deletion is forgotten",
        "pipeline/kernels/tombstones.py",
        "    slots[slot, DELETED] = deleted\n",
        "",
        (TOMBSTONES,),
    ),
    Mutation(
        "an event of the time of a deletion revives the entity",
        "pipeline/kernels/tombstones.py",
        "    return bool(deleted != NOTHING and time <= deleted)\n",
        "    return bool(deleted != NOTHING and time < deleted)\n",
        (TOMBSTONES,),
    ),
    # ---- offsets, accounting, order of a commit
    Mutation(
        "offset + 1 is missing",
        "pipeline/ingest/batch.py",
        "        return int(self.log_offsets[-1]) + 1 if len(self) else 0\n",
        "        return int(self.log_offsets[-1]) if len(self) else 0\n",
        (CRASH, PLANE),
    ),
    Mutation(
        "a batch is dropped as a whole if its last record was seen",
        VIEW_STATE,
        "        fresh = events.log_offsets >= self.staged.next_offset\n",
        "        seen = binary.next_offset <= self.staged.next_offset\n"
        "        fresh = np.full(len(events), not seen)\n",
        (
            f"{FAULTS}::test_a_view_that_joins_catches_up_without_a_gap_and_sends_no_dead_letter_twice",
            f"{CASES}::test_8_a_batch_that_overlaps_what_a_view_has_seen_is_deduplicated_row_by_row",
        ),
    ),
    Mutation(
        "every record is fresh",
        VIEW_STATE,
        "        fresh = events.log_offsets >= self.staged.next_offset\n",
        "        fresh = events.log_offsets >= 0\n",
        (
            f"{FAULTS}::test_a_view_that_joins_catches_up_without_a_gap_and_sends_no_dead_letter_twice",
            f"{CASES}::test_8_a_batch_that_overlaps_what_a_view_has_seen_is_deduplicated_row_by_row",
        ),
    ),
    Mutation(
        "a record that failed in a view is applied",
        VIEW_STATE,
        "    accepted[refused] = False\n",
        "",
        (f"{CASES}::test_17_a_batch_of_only_bad_records_moves_the_offset_and_changes_nothing",),
    ),
    Mutation(
        "late records are counted as applied",
        VIEW_STATE,
        '            "applied": counts[_APPLIED],\n            "late": counts[_LATE],\n',
        '            "applied": counts[_APPLIED] + counts[_LATE],\n            "late": 0,\n',
        (FUZZ, PLANE),
    ),
    Mutation(
        "what threads compute of lost partitions is committed",
        PLANES,
        "            self._collect()\n            for source in lost:\n",
        "            for source in lost:\n",
        (f"{COMPUTING}::test_what_is_being_computed_of_lost_partitions_is_not_committed",),
    ),
    Mutation(
        "a thread's error is passed over",
        "pipeline/app/computing.py",
        "        return [(task.partition, task.done.result()) for task in begun]\n",
        "        return [(b.partition, b.done.result()) for b in begun if not b.done._exception]\n",
        (f"{COMPUTING}::test_an_error_of_a_thread_ends_the_plane_without_a_commit_of_its_batch",),
    ),
    Mutation(
        "a batch is committed though its outputs were not taken",
        COMMITS,
        "        except UnavailableError as error:\n            self._lose(error)\n"
        "            return\n"
        '        reach("sent")\n',
        '        except UnavailableError:\n            pass\n        reach("sent")\n',
        (f"{PLANE}::test_outputs_that_no_broker_took_are_not_committed_and_come_again",),
    ),
    Mutation(
        "a batch is committed though an error took its outputs along",
        COMMITS,
        "            self._waiting.clear()\n            self._begun = None\n            raise\n",
        "            raise\n",
        (
            f"{PLANE}::test_outputs_that_are_refused_for_good_are_not_committed_when_partitions_go_back",
        ),
    ),
    Mutation(
        "a transaction is sent before its outputs are acknowledged",
        COMMITS,
        "            self._done.letters(self._sender.wait(self._waiting[0].sent))\n",
        "            self._done.letters(self._waiting[0].sent.rejected)\n",
        (f"{PLANE}::test_outputs_that_no_broker_took_are_not_committed_and_come_again",),
    ),
    Mutation(
        "what is under way in a partition outlives its reset",
        COMMITS,
        " for w in flight.works if w.partition is not partition]\n",
        " for w in flight.works]\n",
        (f"{PLANE}::test_what_is_under_way_in_a_partition_that_is_reset_comes_again_once",),
    ),
    Mutation(
        "nobody hears of a batch that a failed read found committed",
        COMMITS,
        "        if self._begun is not None and partition.store.settled:\n",
        "        if False:\n",
        (f"{UNIT}/test_app_computing.py",),
    ),
    Mutation(
        "a read does not ask whether the rows are of our time",
        MEMORY,
        "            self._finished = True\n        with self._store.asked():\n"
        "            self._refuse_changed()\n",
        "            self._finished = True\n        with self._store.asked():\n",
        (f"{SIMULATION}::test_requests_late_and_dead_letters_are_those_of_a_quiet_run",),
    ),
    Mutation(
        "a batch is computed on the markers of the store, not on those under way",
        PARTITION,
        "            state.staged = marker\n        return staged\n",
        "            pass\n        return staged\n",
        (STORM,),
    ),
    Mutation(
        "nothing is sought after a reset",
        PLANES,
        "                self._lane.seek(source, start.offset, start.leader_epoch)\n",
        "",
        (f"{PLANE}::test_outputs_that_no_broker_took_are_not_committed_and_come_again", STORM),
    ),
    Mutation(
        "a partition opens with the rows it had",
        PARTITION,
        "            table = StateTable(compiled, max_bytes=self.cache_bytes)\n",
        "            kept = self.__dict__.setdefault('kept', {})\n"
        "            table = kept.setdefault(\n"
        "                compiled.fingerprint, StateTable(compiled, max_bytes=self.cache_bytes)\n"
        "            )\n",
        (STORM, f"{SIMULATION}::test_a_replay_from_any_offset_gives_the_same_bytes"),
    ),
    Mutation(
        "a quiet partition does not look at its store",
        PLANES,
        "            self._compare([p for s, p in self._partitions.items() if s not in"
        " self._trouble])\n",
        "            pass\n",
        (f"{SIMULATION}::test_a_replay_from_any_offset_gives_the_same_bytes",),
    ),
    Mutation(
        "a dirty row is evicted before its commit",
        "pipeline/kernels/evict.py",
        "        if slots[slot, KEY_SIZE] >= 0 and slots[slot, STATE] < DIRTY:\n",
        "        if slots[slot, KEY_SIZE] >= 0:\n",
        (f"{UNIT}/test_state_eviction.py",),
    ),
    Mutation(
        "a number that does not fit is cut to half a word",
        RINGS,
        "    if not fits(cell):\n        return False\n    store_half(arena, p, cell)\n",
        "    store_half(arena, p, cell)\n",
        (NARROW,),
    ),
    Mutation(
        "a scan pushes out what is used again and again",
        "pipeline/kernels/evict.py",
        "-(age >> 3 if (slots[slot, STATE] & AGAIN) != 0 else age)",
        "-age",
        (f"{UNIT}/test_state_eviction.py",),
    ),
    Mutation(
        "rows that are evicted come back empty",
        "pipeline/state/table.py",
        "data, found.offsets, found.absent, errors,",
        "data, found.offsets, np.ones_like(found.absent), errors,",
        (CACHE, CRASH),
    ),
    Mutation(
        "a log that was truncated is read from where it starts",
        "pipeline/app/opening.py",
        "    if partition.next_offset < low:\n",
        "    if False:\n",
        (f"{PLANE}::test_a_log_that_starts_after_the_marker_is_a_named_stop",),
    ),
    Mutation(
        "a view that is read apart joins the others five records early",
        PARTITION,
        "state.behind = state.behind and state.marker.next_offset < met",
        "state.behind = state.behind and state.marker.next_offset < met - 5",
        (f"{UNIT}/test_app_catchup.py",),
    ),
    Mutation(
        "a view that is read apart is said to be read to the end",
        PARTITION,
        "            if not state.behind\n",
        "",
        (f"{UNIT}/test_app_catchup.py::test_nothing_is_said_to_be_read_that_was_not",),
    ),
    Mutation(
        "all versions of a view read a topic by one contract",
        VIEW_STATE,
        "        events = usual if own is None else own\n",
        "        events = usual\n",
        (f"{UNIT}/test_app_versions.py",),
    ),
    Mutation(
        "a retired version is registered again by whoever lost its marker",
        "pipeline/store/registry.py",
        "        if retired is None or not again:\n",
        "        if True:\n",
        (f"{UNIT}/test_store_registry.py", f"{UNIT}/test_app_versions.py"),
    ),
    Mutation(
        "a marker need not add up",
        "pipeline/store/marker.py",
        "        if self.consumed != sum(counts) or min(counts) < 0:\n",
        "        if False:\n",
        ("tests/contract/test_store_layout.py",),
    ),
    Mutation(
        "a partition beats without a broker",
        PLANES,
        "                if connected and self._at_end(partition.source):\n",
        "                if self._at_end(partition.source):\n",
        (f"{FAULTS}::test_a_heartbeat_needs_a_broker_that_answers",),
    ),
    Mutation(
        "a heartbeat takes no notice of open transactions",
        "pipeline/app/plane.py",
        "        return self._lane.at_end(source) and self._lane.held_back(source) is None\n",
        "        return self._lane.at_end(source)\n",
        (f"{FAULTS}::test_a_heartbeat_needs_a_log_that_no_open_transaction_holds_back",),
    ),
    Mutation(
        "freshness of a wrong clock is for ever",
        "pipeline/app/partition.py",
        "max(through_ms(f), min(m.processed_through_ms, now_ms))",
        "max(through_ms(f), m.processed_through_ms)",
        (f"{FAULTS}::{WRONG_CLOCK}",),
    ),
    Mutation(
        "a record's time says how far was read, even from the future",
        "pipeline/app/routing.py",
        "min(now_ms, max(marker.processed_through_ms, newest)),",
        "max(marker.processed_through_ms, newest),",
        (f"{FAULTS}::test_a_record_from_the_future_does_not_say_that_the_future_was_read",),
    ),
    Mutation(
        "a row's checksum is not compared",
        "pipeline/kernels/header.py",
        "    if code == OK and not _checksum_holds(data, start, end):\n",
        "    if code == OK and not _checksum_holds(data, start, end) and False:\n",
        (f"{UNIT}/test_kernels_rows.py",),
    ),
    # ---- fencing
    Mutation(
        "the epoch is not raised",
        LEASE,
        "    return Lease(epoch + 1, nonce, generation)\n",
        "    return Lease(max(epoch, 1), nonce, generation)\n",
        ("tests/contract/test_store_layout.py", f"{STORE}::test_acquired_again_goes_on"),
    ),
    Mutation(
        "an older generation may take the lease",
        LEASE,
        " or stored.generation <= generation:\n",
        " or stored.generation <= generation or True:\n",
        (f"{STORE}::test_older_generation_is_refused", FAULTS),
    ),
    Mutation(
        "a zombie commits: memory",
        MEMORY,
        "            self._refuse_changed()\n            for expiry in expiries:\n",
        "            for expiry in expiries:\n",
        (f"{PLANE}::test_a_zombie_is_fenced_and_its_rows_are_not_applied", STORM),
    ),
    Mutation(
        "the marker is written outside the transaction: memory",
        MEMORY,
        "        self._sent = (list(writes), list(markers), list(expiries))\n",
        "        self._sent = (list(writes), list(markers), list(expiries))\n"
        "        for marker in markers:\n"
        "            key = marker_key(self._tag, marker.fingerprint)\n"
        "            self._store.values[key] = self._expected[key] = marker.pack()\n",
        (STORM, FAULTS),
    ),
    Mutation(
        "the marker is written outside the transaction: after EXEC",
        TRANSACTION,
        "    tail += _EXEC + after\n",
        "    tail = _EXEC + tail + after\n",
        (STORE, WIRE),
        redis=True,
    ),
    Mutation(
        "the lease is not compared before MULTI",
        FENCE,
        "        if values != list(self._expected.values()):\n"
        "            self._lose(self._why_aborted(keys, values))\n\n"
        "    def _keep_if_unchanged",
        "        _ = keys, values\n\n    def _keep_if_unchanged",
        (f"{WIRE}::test_zombie_that_slept_between_exec_and_watch",),
        redis=True,
    ),
    Mutation(
        "nothing is watched",
        TRANSACTION,
        '    return command(b"WATCH", *keys) + command(b"MGET", *keys)\n',
        '    return command(b"WATCH", b"nothing") + command(b"MGET", *keys)\n',
        (f"{WIRE}::test_zombie_that_slept_between_watch_and_exec", STORE),
        redis=True,
    ),
    Mutation(
        "only the lease is watched, not the markers",
        TRANSACTION,
        '    return command(b"WATCH", *keys) + command(b"MGET", *keys)\n',
        '    return command(b"WATCH", keys[0]) + command(b"MGET", *keys)\n',
        (STORE, WIRE),
        redis=True,
    ),
    Mutation(
        "a silent reconnect between WATCH and EXEC",
        FENCE,
        "            self._link.send(memoryview(data))\n"
        "        except StoreUnavailableError as gone:\n"
        "            self._lose(gone)\n"
        "            raise\n",
        "            self._link.send(memoryview(data))\n"
        "        except StoreUnavailableError:\n"
        "            self._link = self._connect()\n"
        "            self._replies = Replies(self._link)\n"
        "            self._link.send(memoryview(data))\n",
        (WIRE,),
        redis=True,
    ),
    Mutation(
        "a lost reply counts as a commit",
        FENCE,
        "        with self._whole:\n            sent, self._sent = self._sent, None\n"
        "            self._finish(sent)\n",
        "        sent, self._sent = self._sent, None\n"
        "        try:\n            self._finish(sent)\n"
        "        except StoreUnavailableError:\n            self._expected = sent.expected\n",
        (WIRE,),
        redis=True,
    ),
    Mutation(
        "any reply to a commit is taken for the one that it was applied",
        "pipeline/store/wire.py",
        "        if not self._memory.startswith(reply, self._at, self._end):\n"
        "            return False\n",
        "",
        (WIRE,),
        redis=True,
    ),
    Mutation(
        "rows that were asked for and never taken are left on the connection",
        FENCE,
        "        if self._asked:\n",
        "        if False:\n",
        (f"{STORE}::test_rows_that_were_asked_for_and_never_taken_end_the_connection",),
        redis=True,
    ),
    Mutation(
        "rows are taken by whoever comes first",
        FENCE,
        "        if not self._asked or self._asked[0].number != number:\n",
        "        if not self._asked:\n",
        (f"{STORE}::test_rows_are_never_given_to_a_read_that_did_not_ask_for_them",),
        redis=True,
    ),
    Mutation(
        "what was sent is remembered after it was sent",
        FENCE,
        "            self._asked.append(read)\n            if now and len(index):\n"
        "                self._ask(read, 0)\n",
        "            if now and len(index):\n                self._ask(read, 0)\n"
        "        self._asked.append(read)\n",
        (f"{WIRE}::test_an_interrupt_at_any_line_leaves_nothing_that_is_taken_for_something_else",),
        redis=True,
    ),
    Mutation(
        "however many rows are asked for at once",
        FENCE,
        "        now = under_way + len(index) <= _KEYS_PER_MGET and all(",
        "        now = len(index) <= _KEYS_PER_MGET and all(",
        (f"{WIRE}::test_so_many_rows_and_no_more_are_under_way",),
        redis=True,
    ),
    Mutation(
        "rows are taken whoever wrote them",
        FENCE,
        "            if parts and not self._unchanged():\n                raise self._again()\n",
        "            if parts:\n                self._read(Replies.read_bulks)\n",
        (f"{STORE}::test_rows_asked_for_before_another_took_over_are_ours_and_refused_after",),
        redis=True,
    ),
    Mutation(
        "the rows of a partition are awaited before those of the next are asked for",
        "pipeline/app/computing.py",
        "            self._run(tasks)\n",
        "            for task in tasks:\n                self._run([task])\n",
        (f"{UNIT}/test_app_computing.py",),
    ),
    Mutation(
        "rows may be written without their marker",
        TRANSACTION,
        "        if write.marked_by not in marked:\n",
        "        if False:\n",
        (f"{STORE}::test_commits_that_break_a_promise_are_refused",),
    ),
)
