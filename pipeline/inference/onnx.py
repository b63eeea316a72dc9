"""ONNX models on the CPU through onnxruntime (extra ``inference``)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import MissingExtraError, ModelError
from pipeline.inference.external import names_external_data
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.service import ServiceTime

__all__ = ["OnnxModel"]

F32 = npt.NDArray[np.float32]
WARM_UP_RUNS = 5


class OnnxModel:
    """A model with one float32 input [n, F] and one output of n scores.

    ``threads`` is the number of intra-op threads. One is the default: a lane is one thread,
    more lanes are more processes, and a batch of 64 rows is too short to share.
    Raises :class:`ModelError` where the file and its manifest disagree.
    """

    def __init__(self, data: bytes, manifest: ModelManifest, *, threads: int = 1) -> None:
        runtime = _runtime()
        self._failures = _failures(runtime)
        self._manifest = manifest
        if names_external_data(data):
            raise ModelError(f"{manifest.file}: external data is refused: one file is one model")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._runner: Any = runtime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise ModelError(f"{manifest.file}: not a model that can be run: {error}") from error
        self._check_schema()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Feature names in the order of the block's columns."""
        return self._manifest.input_names

    def predict(self, block: F32, out: F32) -> int:
        """Scores of ``block`` float32[n, F] into ``out``; see :class:`~.model.Model`."""
        if self._runner is None:
            raise ModelError(f"{self._manifest.name}: the model is closed")
        try:
            (scores,) = self._runner.run(
                list(self._manifest.outputs), {self._manifest.input: block}
            )
        except self._failures as error:
            raise ModelError(f"{self._manifest.name}: {error}") from error
        made = int(np.size(scores))
        if made == len(block):
            out[:] = np.reshape(scores, made)
        return made

    def warm_up(self, buckets: Sequence[int]) -> ServiceTime:
        """Median of five runs over each size (zeros), fitted; at least two sizes."""
        rows, times = [], []
        for size in sorted(set(buckets)):
            block = np.zeros((size, len(self.input_names)), dtype=np.float32)
            out = np.empty(size, dtype=np.float32)
            self.predict(block, out)
            took = []
            for _ in range(WARM_UP_RUNS):
                start = time.perf_counter_ns()
                self.predict(block, out)
                took.append(time.perf_counter_ns() - start)
            rows.append(size)
            times.append(float(np.median(took)))
        return ServiceTime.fit(rows, times)

    def close(self) -> None:
        """Let the runtime go."""
        self._runner = None

    def _check_schema(self) -> None:
        where, runner = self._manifest.file, self._runner
        inputs = {i.name: i for i in runner.get_inputs()}
        if set(inputs) != {self._manifest.input}:
            raise ModelError(f"{where}: input: the file has {sorted(inputs)}")
        entry = inputs[self._manifest.input]
        width = len(self.input_names)
        if entry.type != "tensor(float)" or len(entry.shape) != 2 or entry.shape[1] != width:
            raise ModelError(
                f"{where}: features: the file takes {entry.type} {entry.shape}, "
                f"the manifest names {width} float32 features"
            )
        outputs = {o.name: o for o in runner.get_outputs()}
        name = self._manifest.outputs[0]
        if name not in outputs:
            raise ModelError(f"{where}: outputs: no {name!r}, the file has {sorted(outputs)}")
        if outputs[name].type not in ("tensor(float)", "tensor(double)"):
            raise ModelError(f"{where}: outputs: {name!r} is {outputs[name].type}, not a score")


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "inference") from error
    return onnxruntime  # type: ignore[no-any-return, unused-ignore]


def _failures(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """onnxruntime's own exceptions (they share no base but Exception), and the built-in ones."""
    state = runtime.capi.onnxruntime_pybind11_state
    own = [t for t in vars(state).values() if isinstance(t, type) and issubclass(t, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)
