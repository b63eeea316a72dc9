"""Does an ONNX file name other files? A walk over its protobuf wire form.

A tensor with ``data_location = EXTERNAL`` makes the runtime open a path that the file chose.
The walk needs no ``onnx`` package and looks wherever the schema (onnx.proto3, IR version 13)
allows a tensor: initializers, node attributes, their subgraphs, functions, training graphs.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import ModelError

__all__ = ["names_external_data"]

_TENSOR = "tensor"
# message -> field number -> message of that field
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    "attribute": {
        5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse",
    },
}  # fmt: skip
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 64


def names_external_data(data: bytes) -> bool:
    """Whether any tensor lies in another file. Raises :class:`ModelError` for noise."""
    return _walk(memoryview(data), "model", 0)


def _walk(data: memoryview, message: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ModelError("not an ONNX model: nested too deeply")
    children = _CHILDREN.get(message, {})
    for number, value in _fields(data):
        if message == _TENSOR:
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
                return True
        elif (
            number in children
            and isinstance(value, memoryview)
            and _walk(value, children[number], depth + 1)
        ):
            return True
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ModelError(f"not an ONNX model: protobuf wire type {wire}")
        if at + length > end:
            raise ModelError("not an ONNX model: a field is longer than the file")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ModelError("not an ONNX model: a number is cut off")
