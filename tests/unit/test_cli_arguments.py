from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.cli import main
from pipeline.cli.parser import COMMANDS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("PIPELINE_") and "__" in name:
            monkeypatch.delenv(name)


def run(*argv: str) -> int:
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else -1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"pipeline {pipeline.__version__}\n"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_a_terminal_and_has_examples(
    command: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(*([command] if command else []), "--help") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 82
    if command:
        assert "examples:" in text
        assert f"  pipeline {command}" in text.partition("examples:")[2]
    else:
        assert all(f"\n    {name} " in text for name in COMMANDS)


def test_nothing_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "start here:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["plna"], "error: pipeline: no command 'plna'; did you mean 'plan'?"),
        (["plan"], "error: pipeline plan: the following arguments are required: APP"),
        (["plan", "x.py", "--viwe", "a"], "error: pipeline plan: unrecognized arguments: --viwe a"),
        (["plan", "nope.py:app"], "error: no file 'nope.py' (looked in "),
        (["plan", "no.such:app"], "error: no module 'no' on the path or in "),
        (["plan", "pipeline.nope:app"], "error: no module 'pipeline.nope' on the path"),
        (["read", "v"], "the following arguments are required: KEY"),
        (["read", "v", "1", "--set", "x"], "error: --set x: write --set key=value"),
        (["read", "v", "1", "--set", "stor.url=1"], "error: unknown setting 'stor.url' (flag); did "
         "you mean 'store.url'?"),
        (["read", "v", "1", "--set", "store.timeout_ms=soon"], "error: store.timeout_ms (flag): "
         "'soon' is not a duration"),
        (["read", "v", "1", "--config", "no.toml"], "error: cannot read no.toml: No such file"),
        (["read", "v", "1", "--store", "http://x"], "error: store address 'http://x'"),
        (["demo", "--events", "0"], "error: --events: must be at least 1, got 0"),
        (["demo", "--json", "/no/such/r.json"], "error: --json /no/such/r.json: no directory"),
        (["demo", "--json", "/"], "error: --json /: is a directory"),
        (["demo", "--store", "redis://x"], "error: pipeline demo: unrecognized arguments: --store"),
        (["run", "pipeline.demo.app:app", "--web-port", "70000"], "error: --web-port: must be"),
        (["read", "v", "1", "--at", "soon"], "error: --at 'soon': expected now, event, or a time"),
        (["read", "v", "1", "--at", "2017-12-31"], "no time zone; UTC is 2017-12-31T00:00:00Z"),
        (["read", "v", "1", "--max-staleness", "5"], "error: --max-staleness: '5' is not a "),
        (["doctor", "--timeout", "x"], "error: --timeout: 'x' is not a duration"),
        (["run", "pipeline.units:parse_size", "--brokers", ""], "error: pipeline.units:parse_size "
         "is a function, not a pipeline.App"),
        (["infer", "pipeline.units:app"], "error: pipeline.units has no 'app'; it defines no "
         "application"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("error:") == 1
    assert len(captured.err.splitlines()) <= 2
    assert "Traceback" not in captured.err + captured.out


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "nope.py:app", "--debug") == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "error: no file 'nope.py'" in error


def test_square_brackets_in_a_message_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "[bold]x[/bold].py:app") == 2
    assert "'[bold]x[/bold].py'" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["plan"], "command", interrupted)
    assert run("plan", "x.py") == 130
    assert capsys.readouterr() == ("", "stopped\n")


def test_a_closed_pipe_is_no_error() -> None:
    words = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())"]
    child = subprocess.Popen(
        [*words, "plan", "pipeline.demo.app:app"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 141
