"""The words of the command line: commands, options that all of them share, help that teaches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import pipeline
from pipeline.cli import (
    compile,
    demo,
    dlq,
    doctor,
    forget,
    infer,
    plan,
    produce,
    read,
    run,
    verify,
    views,
)
from pipeline.cli.screen import error_console
from pipeline.settings import suggest

__all__ = ["parse"]

COMMANDS = {
    "demo": demo,
    "run": run,
    "infer": infer,
    "produce": produce,
    "read": read,
    "plan": plan,
    "views": views,
    "dlq": dlq,
    "verify": verify,
    "forget": forget,
    "doctor": doctor,
    "compile": compile,
}

EPILOG = """\
start here:
  pipeline demo                        all of it on this machine, in a minute
  pipeline plan features.py:app        what a definition keeps; needs no server
  pipeline run features.py:app         keep its features up to date
  pipeline read household_activity 42  read them back
  pipeline doctor                      what is wrong, and what to do about it

settings, weakest first: defaults; pipeline.toml, or --config FILE; the
environment, as PIPELINE_STORE__URL for store.url; options. 'pipeline doctor'
shows every value and its origin. 'pipeline COMMAND --help' has examples.
"""


class _Parser(argparse.ArgumentParser):
    """Errors as one line with the closest valid word, like every other error of the program."""

    def error(self, message: str) -> NoReturn:
        out = error_console()
        out.print(f"[bold red]error:[/] {self.prog}: ", end="")
        out.print(message, markup=False)
        out.print(f"[dim]hint:[/]  {self.prog} --help", markup=True)
        sys.exit(2)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; ``command`` is the function to call with them. Exits on ``--help``, errors."""
    parser = _Parser(
        prog="pipeline",
        description="Kafka topics to exact, fresh features in Redis and batched predictions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pipeline {pipeline.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=_Parser)
    shared, settings = _shared(), _settings()
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            usage=module.USAGE,
            description=module.DESCRIPTION,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[settings, shared] if getattr(module, "SETTINGS", True) else [shared],
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(command=module.command, hints=getattr(module, "HINTS", {}))
    if not argv:
        parser.print_help()
        sys.exit(2)
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(f"no command {argv[0]!r}{suggest(argv[0], COMMANDS)}")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        commands.choices[argv[0]].error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _settings() -> _Parser:
    """What a command takes that uses the servers of the user."""
    settings = _Parser(add_help=False)
    group = settings.add_argument_group("settings")
    group.add_argument(
        "--config", metavar="FILE", help="TOML file (default: pipeline.toml, if any)"
    )
    group.add_argument("--brokers", metavar="HOST:PORT,...", help="Kafka brokers (broker.brokers)")
    group.add_argument("--store", metavar="URL", help="feature store (store.url)")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting, such as app.max_records=5000; may be repeated",
    )
    return settings


def _shared() -> _Parser:
    shared = _Parser(add_help=False)
    group = shared.add_argument_group("messages")
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more; -vv logs everything"
    )
    group.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return shared
