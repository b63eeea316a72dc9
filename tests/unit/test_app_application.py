"""The application object: names, agents, Faust's own settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import faust
import pytest

import pipeline as pp
from pipeline.config import BrokerConfig, Config
from pipeline.errors import ConfigurationError, DefinitionError

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "at"],
    }
)


def view(name: str = "visits", topic: str = "visits", **options: Any) -> pp.FeatureView:
    return pp.FeatureView(
        name,
        source=pp.EventStream(topic, contract=CONTRACT, key="user", time="at", **options),
        entity="user",
        features={"visits": pp.count().over("1d", slide="1h")},
    )


def test_another_version_of_faust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust, "__version__", "0.16.0")
    with pytest.raises(ConfigurationError, match=r"faust-streaming==0\.15\.3"):
        pp.App("shop", views=[view()])


def test_faust_keeps_its_directory_out_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = pp.App("shop", views=[view()])
    assert app.conf.datadir.is_absolute()
    assert app.conf.datadir.parent.is_dir()  # Faust makes one level only
    assert tmp_path not in app.conf.datadir.parents
    assert pp.App("shop", views=[view()], datadir="here").conf.datadir == Path("here")
    monkeypatch.setenv("APP_DATADIR", "there")
    assert pp.App("shop", views=[view()]).conf.datadir == Path("there")


def test_two_applications_in_a_process_do_not_share_servers() -> None:
    one = pp.App("one", views=[view()], config=Config(broker=BrokerConfig(brokers="a:1,b:2")))
    two = pp.App("two", views=[view()])
    two.configure(Config(broker=BrokerConfig(brokers="c:3")))
    assert [url.host for url in one.conf.broker] == ["a", "b"]
    assert [url.host for url in two.conf.broker] == ["c"]


def test_definitions_import_without_a_warning() -> None:
    program = "import pipeline as pp; pp.App; import tests.unit.test_app_application as t; "
    program += "pp.App('shop', views=[t.view()])"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.parametrize(
    ("views", "problem"),
    [
        ([], "at least one view"),
        ([view(), view()], "two views are called"),
        ([view("a"), view("b", max_future="2h")], "describes topic 'visits' differently"),
    ],
)
def test_views_that_do_not_fit_together_are_refused(
    views: list[pp.FeatureView], problem: str
) -> None:
    with pytest.raises(DefinitionError, match=problem):
        pp.App("shop", views=views)


def test_an_agent_of_a_view_of_another_application_is_refused() -> None:
    app = pp.App("shop", views=[view()])
    with pytest.raises(DefinitionError, match="has no such view"):
        app.agent(view("other").changes)


def test_an_application_whose_name_is_no_topic_name_is_refused() -> None:
    for name in ("", "a b", "a/b", "shop{1}", "x" * 200):
        with pytest.raises(DefinitionError, match="name"):
            pp.App(name, views=[view()])
