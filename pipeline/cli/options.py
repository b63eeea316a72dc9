"""From the options that all commands share to a configuration, and from a name to an app."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.errors import ConfigurationError, PipelineError, UnknownNameError
from pipeline.settings import suggest

if TYPE_CHECKING:
    from pipeline.app.application import App

__all__ = ["APP_HELP", "application_name", "load_app", "load_config", "show_progress"]

APP_HELP = "the application: 'module:name' or 'path/to/file.py:name'"


def load_config(arguments: argparse.Namespace) -> Config:
    """Defaults, file, environment, and the options of ``arguments``."""
    flags: dict[str, str] = {}
    for assignment in arguments.set:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {assignment}: write --set key=value")
        flags[key.strip()] = value
    if arguments.brokers is not None:
        flags["broker.brokers"] = arguments.brokers
    if arguments.store is not None:
        flags["store.url"] = arguments.store
    return Config.load(arguments.config, flags=flags)


def show_progress(arguments: argparse.Namespace) -> None:
    """Log what the pipeline does; what Faust does only under ``-v``."""
    if arguments.verbose < 2:
        logging.getLogger("pipeline").setLevel(logging.INFO)


def application_name(name: str) -> str:
    """The name of an application: ``name`` itself, or that of what it stands for in a file."""
    return str(load_app(name).conf.id) if ":" in name or name.endswith(".py") else name


def load_app(name: str) -> App:
    """The application that ``name`` (see :data:`APP_HELP`) stands for.

    Raises :class:`ConfigurationError` that says which part of the name is wrong, or where the
    user's own code failed.
    """
    from pipeline.app.application import App

    target, colon, attribute = name.rpartition(":")
    if not colon:
        target, attribute = name, "app"
    module = _load_file(Path(target)) if target.endswith(".py") else _load_module(target)
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    found = getattr(module, attribute, None)
    if found is None:
        raise UnknownNameError(
            f"{target} has no {attribute!r}{suggest(attribute, apps) if apps else _NO_APP}"
        )
    if not isinstance(found, App):
        raise ConfigurationError(
            f"{target}:{attribute} is a {type(found).__name__}, not a pipeline.App"
            f"{suggest(attribute, apps) if apps else ''}"
        )
    return found


_NO_APP = "; it defines no application: app = pipeline.App('name', views=[...])"


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"no file {str(path)!r} (looked in {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except PipelineError:
        raise
    except Exception as error:
        raise _failed(str(path), error) from error
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except PipelineError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigurationError(
                f"no module {missing!r} on the path or in {Path.cwd()}; "
                f"give a file as path/to/file.py:app"
            ) from error
        raise _failed(name, error) from error
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ConfigurationError:
    """Where in the user's code it happened; the rest is under --debug."""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
        return ConfigurationError(f"{name} is not valid Python: {error.msg}{where}")
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and __file__ != f.filename]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return ConfigurationError(
        f"{name} failed while it was loaded: {type(error).__name__}: {error}{where}; "
        f"--debug shows the traceback"
    )
