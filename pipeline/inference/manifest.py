"""The manifest of a model file: what it must be, byte for byte, and what it expects.

A JSON object beside the model file; every key but ``view``, ``fallback_score`` and ``details`` is
required, and an unknown key is refused::

    {"name": "next_week_spend", "version": "1", "format": "onnx",
     "file": "next_week_spend.onnx", "sha256": "<64 hex digits>", "size": 123456,
     "view": "household_activity", "input": "features",
     "features": [{"name": "spend_7d", "dtype": "float32"}, ...], "null_value": -1.0,
     "outputs": ["variable"], "fallback_score": null,
     "train_window": {"start": "2017-01-01T00:00:00Z", "end": "2017-07-01T00:00:00Z"},
     "metrics": {"mae": 1.0}, "details": {...}}

``null_value`` takes the place of a missing feature (null: NaN). ``fallback_score`` is the
score of a row that got no prediction (null: none).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.errors import ModelError

__all__ = ["InputFeature", "ModelManifest"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORMATS = ("onnx",)
_DTYPES = ("float32",)
_REQUIRED = ("name", "version", "format", "file", "sha256", "size", "input", "features",
             "null_value", "outputs", "train_window", "metrics")  # fmt: skip
_OPTIONAL = ("view", "fallback_score", "details")


@dataclass(frozen=True, slots=True)
class InputFeature:
    """One column of the model's input block."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A validated manifest; see the module for the meaning of each field.

    ``null_value`` and ``fallback_score`` are NaN where the manifest says null.
    """

    name: str
    version: str
    format: str
    file: str
    sha256: str
    size: int
    input: str
    features: tuple[InputFeature, ...]
    null_value: float
    outputs: tuple[str, ...]
    train_window: tuple[datetime, datetime]
    metrics: Mapping[str, float]
    view: str = ""
    fallback_score: float = math.nan
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def fingerprint(self) -> int:
        """uint64 from the SHA-256 of name and version: what predictions are stored under."""
        digest = hashlib.sha256(f"{self.name}\0{self.version}".encode()).digest()
        return int.from_bytes(digest[:8], "little")

    @property
    def input_names(self) -> tuple[str, ...]:
        """Feature names in the order of the block's columns."""
        return tuple(feature.name for feature in self.features)

    @classmethod
    def load(cls, path: str | Path) -> ModelManifest:
        """Read and check a manifest. Raises :class:`ModelError`, which names file and field."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"{path}: not a JSON document ({error}); a model is named by its manifest (.json)"
            ) from error
        return cls.parse(document, where=str(path))

    @classmethod
    def parse(cls, document: object, where: str = "manifest") -> ModelManifest:
        """Check a decoded JSON document. Raises :class:`ModelError`, which names the field."""
        return _Checked(document, where).manifest()


class _Checked:
    """A JSON object whose fields are taken out with their type checked."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise ModelError(f"{where}: must be a JSON object")
        self._fields, self._where = document, where
        for name in _REQUIRED:
            if name not in document:
                raise self._refused(name, "is missing")
        for name in document:
            if name not in _REQUIRED + _OPTIONAL:
                raise self._refused(name, "is not a field of a model manifest")

    def manifest(self) -> ModelManifest:
        """All fields, checked."""
        return ModelManifest(
            name=self._matching("name", _NAME, "1 to 100 of A-Z a-z 0-9 . _ -"),
            version=self._matching("version", _NAME, "1 to 100 of A-Z a-z 0-9 . _ -"),
            format=self._one_of("format", self._fields["format"], _FORMATS),
            file=self._file(),
            sha256=self._matching("sha256", _SHA256, "64 lower-case hexadecimal digits"),
            size=self._size(),
            input=self._text("input", self._fields["input"]),
            features=self._features(),
            null_value=self._number("null_value", self._fields["null_value"]),
            outputs=self._outputs(),
            train_window=self._window(),
            metrics=self._metrics(),
            view=self._text("view", self._fields["view"]) if "view" in self._fields else "",
            fallback_score=self._number("fallback_score", self._fields.get("fallback_score")),
            details=self._object("details", self._fields.get("details", {})),
        )

    def _refused(self, name: str, problem: str) -> ModelError:
        return ModelError(f"{self._where}: {name}: {problem}")

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= 200:
            raise self._refused(name, "must be text of 1 to 200 characters")
        return value

    def _matching(self, name: str, pattern: re.Pattern[str], meaning: str) -> str:
        text = self._text(name, self._fields[name])
        if not pattern.fullmatch(text):
            raise self._refused(name, f"{text!r} must be {meaning}")
        return text

    def _one_of(self, name: str, value: object, allowed: tuple[str, ...]) -> str:
        text = self._text(name, value)
        if text not in allowed:
            hint = " (pickle runs code while it loads)" if text in {"pickle", "joblib"} else ""
            raise self._refused(name, f"{text!r} is refused{hint}; use {', '.join(allowed)}")
        return text

    def _file(self) -> str:
        text = self._text("file", self._fields["file"])
        if not _NAME.fullmatch(text):
            raise self._refused("file", f"{text!r} must be a file name beside the manifest")
        return text

    def _size(self) -> int:
        value = self._fields["size"]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._refused("size", f"{value!r} must be a positive number of bytes")
        return value

    def _number(self, name: str, value: object) -> float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise self._refused(name, f"{value!r} must be a finite number or null")
        return float(value)

    def _object(self, name: str, value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self._refused(name, "must be an object")
        return value

    def _features(self) -> tuple[InputFeature, ...]:
        value = self._fields["features"]
        if not isinstance(value, list) or not value:
            raise self._refused("features", "must be a list of at least one feature")
        features: list[InputFeature] = []
        for i, entry in enumerate(value):
            if not isinstance(entry, dict) or set(entry) != {"name", "dtype"}:
                raise self._refused(f"features[{i}]", "must have exactly name and dtype")
            name = self._text(f"features[{i}].name", entry["name"])
            dtype = self._one_of(f"features[{i}].dtype", entry["dtype"], _DTYPES)
            if any(name == feature.name for feature in features):
                raise self._refused(f"features[{i}].name", f"{name!r} occurs twice")
            features.append(InputFeature(name, dtype))
        return tuple(features)

    def _outputs(self) -> tuple[str, ...]:
        value = self._fields["outputs"]
        if not isinstance(value, list) or len(value) != 1:
            raise self._refused("outputs", "must be a list of one name: the score")
        return (self._text("outputs[0]", value[0]),)

    def _window(self) -> tuple[datetime, datetime]:
        window = self._object("train_window", self._fields["train_window"])
        if set(window) != {"start", "end"}:
            raise self._refused("train_window", "must have exactly start and end")
        start, end = (self._time(f"train_window.{name}", window[name]) for name in ("start", "end"))
        if not start < end:
            raise self._refused("train_window.end", "must be after train_window.start")
        return start, end

    def _time(self, name: str, value: object) -> datetime:
        try:
            time = datetime.fromisoformat(self._text(name, value))
        except ValueError as error:
            raise self._refused(name, f"{value!r} is not an ISO 8601 time") from error
        if time.tzinfo is None:
            raise self._refused(name, f"{value!r} has no time zone")
        return time

    def _metrics(self) -> dict[str, float]:
        metrics = self._object("metrics", self._fields["metrics"])
        return {name: self._number(f"metrics.{name}", value) for name, value in metrics.items()}


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
