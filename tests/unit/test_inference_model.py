"""Manifests, verified bytes, external data, and the ONNX runtime with the demo's model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline.demo
from pipeline.errors import MissingExtraError, ModelError
from pipeline.inference.external import names_external_data
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.model import load, load_file, read_verified

onnx = pytest.importorskip("onnx")
helper, TensorProto = onnx.helper, onnx.TensorProto

DEMO = Path(pipeline.demo.__file__).with_name("next_week_spend.json")


def document(data: bytes = b"x", /, **changes: object) -> dict[str, object]:
    return {
        "name": "sum",
        "version": "1",
        "format": "onnx",
        "file": "sum.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "input": "x",
        "features": [{"name": "a", "dtype": "float32"}, {"name": "b", "dtype": "float32"}],
        "null_value": None,
        "outputs": ["y"],
        "train_window": {"start": "2017-01-01T00:00:00Z", "end": "2017-07-01T00:00:00Z"},
        "metrics": {"mae": 1.5},
        **changes,
    }


def linear(weights: list[float] | None = None, *, width: int = 2, external: str = "") -> bytes:
    """An ONNX file: y = x @ weights, float32[n, width] -> float32[n, 1]."""
    values = np.array(weights or [1.0] * width, dtype=np.float32)
    weight = onnx.numpy_helper.from_array(values.reshape(width, 1), "w")
    if external:
        onnx.external_data_helper.set_external_data(weight, location=external)
        weight.ClearField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [weight],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "../x"}, "name"),
        ({"version": ""}, "version"),
        ({"format": "pickle"}, "format"),
        ({"file": "../m.onnx"}, "file"),
        ({"file": "/etc/passwd"}, "file"),
        ({"sha256": "AB"}, "sha256"),
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"features": []}, "features"),
        ({"features": [{"name": "a"}]}, "features[0]"),
        ({"features": [{"name": "a", "dtype": "int8"}]}, "features[0].dtype"),
        ({"features": [{"name": "a", "dtype": "float32"}] * 2}, "features[1].name"),
        ({"null_value": "0"}, "null_value"),
        ({"null_value": 10**400}, "null_value"),
        ({"outputs": []}, "outputs"),
        ({"train_window": {"start": "2017-01-01T00:00:00Z"}}, "train_window"),
        ({"train_window": {"start": "2017-01-01", "end": "2018-01-01"}}, "train_window.start"),
        ({"train_window": {"start": "2018-01-01T00:00:00Z", "end": "2017-01-01T00:00:00Z"}},
         "train_window.end"),
        ({"metrics": {"mae": "good"}}, "metrics.mae"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_names_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ModelError) as error:
        ModelManifest.parse(document(**changes))
    assert str(error.value).startswith(f"manifest: {field}: ")


def test_a_missing_field_is_named() -> None:
    incomplete = document()
    del incomplete["sha256"]
    with pytest.raises(ModelError, match="sha256: is missing"):
        ModelManifest.parse(incomplete)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_noise_is_not_a_manifest(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"m\.json"):
        ModelManifest.load(path)
    with pytest.raises(ModelError, match="cannot be read"):
        ModelManifest.load(tmp_path / "absent.json")


def test_name_and_version_make_the_fingerprint() -> None:
    one = ModelManifest.parse(document())
    two = ModelManifest.parse(document(version="2"))
    expected = hashlib.sha256(b"sum\x001").digest()[:8]
    assert one.fingerprint == int.from_bytes(expected, "little") != two.fingerprint
    assert math.isnan(one.null_value)


def test_verified_bytes_only(tmp_path: Path) -> None:
    data = linear()
    path = tmp_path / "sum.onnx"
    manifest = ModelManifest.parse(document(data))
    path.write_bytes(data)
    assert read_verified(tmp_path, manifest) == data
    for changed, what in (
        (data[:-1], "shorter"),
        (data + b"\0", "longer"),
        (data[:-1] + bytes([data[-1] ^ 1]), "sha256"),
    ):
        path.write_bytes(changed)
        with pytest.raises(ModelError, match=what):
            read_verified(tmp_path, manifest)
        with pytest.raises(ModelError, match=what):
            load(changed, manifest)
    path.unlink()
    (tmp_path / "real.onnx").write_bytes(data)
    path.symlink_to(tmp_path / "real.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        read_verified(tmp_path, manifest)


def test_pickle_is_refused_under_any_name() -> None:
    data = pickle.dumps({"a": 1})
    with pytest.raises(ModelError, match="pickle"):
        load(data, ModelManifest.parse(document(data)))


def test_external_data_is_refused() -> None:
    data = linear(external="../secret.bin")
    assert names_external_data(data)
    assert not names_external_data(linear())
    with pytest.raises(ModelError, match="external data"):
        load(data, ModelManifest.parse(document(data)))


def test_external_data_is_found_in_a_constant_inside_a_subgraph() -> None:
    tensor = onnx.numpy_helper.from_array(np.ones(4, dtype=np.float32), "t")
    onnx.external_data_helper.set_external_data(tensor, location="x")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], []
    )
    outer = helper.make_graph(
        [helper.make_node("If", ["p"], ["y"], then_branch=inner, else_branch=inner)], "o", [], []
    )
    assert names_external_data(helper.make_model(outer).SerializeToString())


@pytest.mark.parametrize("seed", range(30))
def test_noise_is_refused_not_crashed_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(linear())
    for _ in range(int(rng.integers(1, 20))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    noisy = bytes(data[: int(rng.integers(1, len(data) + 1))])
    with contextlib.suppress(ModelError):  # a flip may as well leave a valid model
        load(noisy, ModelManifest.parse(document(noisy))).close()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"input": "z"}, "input"),
        ({"outputs": ["z"]}, "outputs"),
        ({"features": [{"name": "a", "dtype": "float32"}]}, "features"),
    ],
)
def test_file_and_manifest_must_agree(changes: dict[str, object], what: str) -> None:
    data = linear()
    with pytest.raises(ModelError, match=what):
        load(data, ModelManifest.parse(document(data, **changes)))


def test_predict_writes_scores_and_close_ends_it() -> None:
    data = linear([2.0, 1.0])
    model = load(data, ModelManifest.parse(document(data)))
    out = np.zeros(3, dtype=np.float32)
    block = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    assert model.predict(block, out) == 3
    assert out.tolist() == [4, 10, 16]
    with pytest.raises(ModelError, match="sum"):
        model.predict(np.zeros((2, 5), dtype=np.float32), out)
    assert model.warm_up([1, 64])(64) > 0
    model.close()
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model.predict(block, out)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    data = linear()
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*pipeline\[inference\]"):
        load(data, ModelManifest.parse(document(data)))


def test_the_demos_model_loads_and_its_manifest_is_honest() -> None:
    manifest, model = load_file(DEMO)
    assert manifest.size < 500_000
    assert len(model.input_names) == 15
    for name, value in manifest.metrics.items():
        if name.startswith("baseline_"):
            better = value > manifest.metrics["mae"] if name.endswith("mae") else None
            better = value < manifest.metrics["r2"] if better is None else better
            assert better, name
    out = np.empty(2, dtype=np.float32)
    few, many = [1.0] * 15, [5, 2, 40, 150, 600, 60, 250, 3, 30, 0.1, 50, 180, 5, 20, 3]
    assert model.predict(np.array([few, many], dtype=np.float32), out) == 2
    assert 0 < out[0] < out[1] < 500
    json.dumps(manifest.details)
