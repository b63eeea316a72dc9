"""One protocol for models, and the only way from a file to a model: verified bytes.

The SHA-256 is taken over the very bytes that are handed to the runtime, so nothing can be
swapped between the check and the load. Pickle is refused whatever the manifest calls it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.onnx import OnnxModel
from pipeline.inference.service import ServiceTime

__all__ = ["Model", "load", "load_file", "read_verified"]

F32 = npt.NDArray[np.float32]
CHUNK = 1 << 20


class Model(Protocol):
    """A loaded model. One thread at a time may call it."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Feature names in the order of the block's columns."""

    def predict(self, block: F32, out: F32) -> int:
        """Score ``block`` float32[n, F] into ``out`` float32[n].

        Returns the number of scores that the model made; ``out`` is written only where that is
        n. Every failure is a :class:`ModelError`; NaN may be written.
        """

    def warm_up(self, buckets: Sequence[int]) -> ServiceTime:
        """Run every size once or more, and return the service time fitted to those runs."""

    def close(self) -> None:
        """Give the runtime's memory back; twice is fine."""


def load(data: bytes, manifest: ModelManifest) -> Model:
    """The model in ``data``, which must be exactly what the manifest says.

    Raises :class:`ModelError` (size, digest, pickle, external data, inputs, outputs) and
    :class:`MissingExtraError` where the runtime is not installed.
    """
    _verify(data, manifest)
    return OnnxModel(data, manifest)


def load_file(path: str | Path) -> tuple[ModelManifest, Model]:
    """Manifest at ``path`` and the model file beside it, verified and loaded."""
    manifest = ModelManifest.load(path)
    return manifest, load(read_verified(Path(path).parent, manifest), manifest)


def read_verified(directory: str | Path, manifest: ModelManifest) -> bytes:
    """Bytes of the manifest's file, hashed as they are read; a link is not followed.

    Reads at most one byte more than the manifest's size. Raises :class:`ModelError`.
    """
    path = Path(directory) / manifest.file
    digest, parts, left = hashlib.sha256(), [], manifest.size + 1
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            while left and (part := file.read(min(CHUNK, left))):
                digest.update(part)
                parts.append(part)
                left -= len(part)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    data = b"".join(parts)
    _compare(len(data), digest.hexdigest(), manifest)
    return data


def _verify(data: bytes, manifest: ModelManifest) -> None:
    _compare(len(data), hashlib.sha256(data).hexdigest(), manifest)
    # Protocol 2 and up starts with 0x80 and the protocol; no ONNX file starts so.
    if data[:1] == b"\x80" or manifest.format != "onnx":
        raise ModelError(f"{manifest.file}: pickle is refused: it runs code while it loads")


def _compare(size: int, digest: str, manifest: ModelManifest) -> None:
    if size != manifest.size:
        difference = "longer" if size > manifest.size else "shorter"
        raise ModelError(f"{manifest.file}: is {difference} than size {manifest.size}")
    if digest != manifest.sha256:
        raise ModelError(
            f"{manifest.file}: its sha256 is {digest}, the manifest says {manifest.sha256}"
        )
