"""The examples of the documents: some are run, all of them parse."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXECUTED = [ROOT / "docs" / name for name in ("reading-features.md", "look-ups.md")]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(language, textwrap.dedent(text)) for _, language, text in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_a_page_parses(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            ast.parse(text)


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_a_page_prints_what_it_says(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Python blocks run one after the other; what one prints is the text block after it."""
    names: dict[str, object] = {}
    printed, checked = "", 0
    for language, text in blocks(page):
        if language == "python":
            assert printed == "", "printed, but not shown"
            exec(compile(text, page.name, "exec", dont_inherit=True), names)
            printed = capsys.readouterr().out
        elif language == "text":
            assert printed == text
            printed, checked = "", checked + 1
    assert printed == ""
    assert checked


def test_every_guarantee_names_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 30
    for file, test in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text, f"{file}::{test}"
    items = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^#|^Kafka|\Z)", page, re.MULTILINE | re.DOTALL)
    assert not [item[:60] for item in items if "::test_" not in item]
