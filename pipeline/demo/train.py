"""Train the demo's model again: ``python -m pipeline.demo.train [DIRECTORY]``.

Predicts what a household will spend in the seven days after the first line of a new basket.
Writes ``next_week_spend.onnx`` and its manifest, byte for byte the same at every run with
the same versions. Needs the extras ``demo`` and ``train``; takes about half a minute.

The split is by time. Validation is July and August; the settings below, and the start in February,
were chosen by looking at it. The test points, from September on, were looked at once, after
that. Training points end seven days before July, so that no label looks into the validation
period, and start in February, because the purchases start in January and a 30-day window is not
full before.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.demo.dataset import purchases
from pipeline.demo.training import FEATURES, LABEL, LABEL_DAYS, POINT_TIME, PointsInTime
from pipeline.errors import MissingExtraError, ModelError
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.model import load

__all__ = ["main", "train"]

NAME, VERSION, VIEW = "next_week_spend", "1", "household_activity"
SEED = 20170701
SETTINGS: dict[str, Any] = {
    "n_estimators": 120,
    "learning_rate": 0.08,
    "max_leaf_nodes": 12,
    "max_depth": 5,
    "min_samples_leaf": 50,
    "subsample": 0.5,
    "random_state": SEED,
}
DATA_START = datetime(2017, 1, 1)
POINTS_START = datetime(2017, 2, 1)
SPLIT = datetime(2017, 7, 1)
VALIDATION_END = datetime(2017, 9, 1)
END = datetime(2017, 12, 25)  # the last seven days that the purchases hold are labels only
MAX_BYTES = 500_000
# Scores reach some hundred dollars and are float32; sklearn adds 120 leaves in float64.
TOLERANCE = 1e-3

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Split:
    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


def train(points: PointsInTime, directory: Path) -> ModelManifest:
    """Train on what ``points`` gives, write model and manifest to ``directory``.

    Raises :class:`ModelError` where the ONNX file disagrees with scikit-learn on a validation or
    test row, or is larger than 500 kB.
    """
    split = _split(points(purchases(), POINTS_START, END))
    model = _fit(split.train)
    data = _to_onnx(model)
    metrics = _metrics(split.train, split.validation, model)
    tested = _metrics(split.train, split.test, model)
    metrics |= {f"test_{name}": value for name, value in tested.items()}
    document = _manifest(data, split, metrics)
    manifest = ModelManifest.parse(document)
    for part in (split.validation, split.test):
        block = _block(part)
        _compare(data, manifest, block, model.predict(block))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / manifest.file).write_bytes(data)
    text = json.dumps(document, indent=2) + "\n"
    (directory / f"{NAME}.json").write_text(text, encoding="utf-8")
    return manifest


def _split(points: pl.DataFrame) -> _Split:
    at, embargo = pl.col(POINT_TIME), SPLIT - timedelta(days=LABEL_DAYS)
    return _Split(
        points.filter(at < embargo),
        points.filter(at.is_between(SPLIT, VALIDATION_END, closed="left")),
        points.filter(at >= VALIDATION_END),
    )


def _block(points: pl.DataFrame) -> F32:
    """The features as the worker gathers them: float32, in the manifest's order."""
    return np.ascontiguousarray(points.select(FEATURES).to_numpy().astype(np.float32))


def _fit(points: pl.DataFrame) -> Any:
    try:
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train") from error
    model = GradientBoostingRegressor(**SETTINGS)
    return model.fit(_block(points), points[LABEL].to_numpy())


def _to_onnx(model: Any) -> bytes:
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise MissingExtraError("skl2onnx", "train") from error
    inputs = [("features", FloatTensorType([None, len(FEATURES)]))]
    proto = to_onnx(model, initial_types=inputs, name=NAME, target_opset={"": 17, "ai.onnx.ml": 3})
    proto.graph.name = NAME
    data: bytes = proto.SerializeToString(deterministic=True)
    if len(data) > MAX_BYTES:
        raise ModelError(f"{NAME}.onnx: {len(data)} bytes, more than {MAX_BYTES}")
    return data


def _compare(data: bytes, manifest: ModelManifest, block: F32, expected: F64) -> None:
    out = np.empty(len(block), dtype=np.float32)
    made = load(data, manifest).predict(block, out)
    worst = float(np.abs(out - expected).max())
    if made != len(block) or not worst < TOLERANCE:
        raise ModelError(f"{manifest.file}: differs from scikit-learn by up to {worst} dollars")


def _manifest(data: bytes, split: _Split, metrics: dict[str, float]) -> dict[str, object]:
    return {
        "name": NAME,
        "version": VERSION,
        "format": "onnx",
        "file": f"{NAME}.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "view": VIEW,
        "input": "features",
        "features": [{"name": name, "dtype": "float32"} for name in FEATURES],
        "null_value": -1.0,
        "outputs": ["variable"],
        "fallback_score": None,
        "train_window": {"start": _utc(DATA_START), "end": _utc(SPLIT)},
        "metrics": metrics,
        "details": {
            "predicts": f"dollars that the household spends in the {LABEL_DAYS} days after",
            "train_points": {
                "from": _utc(POINTS_START),
                "before": _utc(SPLIT - timedelta(days=LABEL_DAYS)),
                "rows": len(split.train),
            },
            "validation_points": {
                "from": _utc(SPLIT),
                "before": _utc(VALIDATION_END),
                "rows": len(split.validation),
                "note": "settings were chosen by looking at these",
            },
            "test_points": {
                "from": _utc(VALIDATION_END),
                "before": _utc(END),
                "rows": len(split.test),
                "note": "not looked at before the settings were fixed",
            },
            "algorithm": "sklearn.ensemble.GradientBoostingRegressor",
            "settings": SETTINGS,
            "versions": _versions(),
        },
    }


def _metrics(train: pl.DataFrame, points: pl.DataFrame, model: Any) -> dict[str, float]:
    """Mean absolute error in dollars and R2 on ``points``, beside naive answers."""
    label = points[LABEL].to_numpy()
    typical = train[LABEL]
    answers = {
        "": model.predict(_block(points)),
        "baseline_train_mean_": np.full(len(label), typical.mean()),
        "baseline_train_median_": np.full(len(label), typical.median()),
        "baseline_spend_7d_": points["spend_7d"].to_numpy(),
        "baseline_spend_30d_x_7_30_": points["spend_30d"].to_numpy() * 7 / 30,
    }
    spread = float(((label - label.mean()) ** 2).sum())
    metrics = {}
    for name, answer in answers.items():
        metrics[f"{name}mae"] = round(float(np.abs(label - answer).mean()), 3)
        metrics[f"{name}r2"] = round(1 - float(((label - answer) ** 2).sum()) / spread, 4)
    return metrics


def _versions() -> dict[str, str]:
    import skl2onnx
    import sklearn

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": str(sklearn.__version__),
        "skl2onnx": str(skl2onnx.__version__),
    }


def _utc(time: datetime) -> str:
    return time.isoformat() + "Z"


def main(arguments: list[str]) -> int:
    """Train, write and print the metrics. The directory defaults to this package's."""
    from pipeline.demo.training import training_points

    directory = Path(arguments[0]) if arguments else Path(__file__).parent
    manifest = train(training_points, directory)
    print(f"{manifest.file}: {manifest.size} bytes, sha256 {manifest.sha256}")
    for name, value in manifest.metrics.items():
        print(f"  {name:32} {value:10.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
