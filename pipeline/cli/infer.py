"""``pipeline infer``: answer an application's prediction requests."""

from __future__ import annotations

import argparse

from pipeline.cli.options import APP_HELP, load_app, load_config, show_progress
from pipeline.errors import UnknownNameError

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "HINTS", "USAGE", "add_arguments", "command"]

HELP = "run a model over an application's prediction requests"
USAGE = "pipeline infer APP --model FILE [--web-port PORT] [settings]"
DESCRIPTION = """\
Read the requests that the triggers of an application send, batch them within
the deadline, run the model, and write predictions to the store and to a topic.
Every request ends in exactly one of predicted or fallback."""
EXAMPLES = """\
  pipeline infer features.py:app --model models/next_week_spend.json
  pipeline infer features.py:app --model models/next_week_spend.json \\
      --set inference.slo_ms=10 --web-port 6070
"""
HINTS = {UnknownNameError: "'pipeline run APP' makes the topics of requests and predictions"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --model, --web-port."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument("--model", metavar="FILE", help="the model's manifest (.json)")
    parser.add_argument("--web-port", type=int, metavar="PORT", help="of /metrics (default: none)")


def command(arguments: argparse.Namespace) -> int:
    """Run until stopped."""
    from pipeline.app.predicting import run_inference

    if arguments.model is not None:
        arguments.set.append(f"inference.model={arguments.model}")
    config = load_config(arguments)
    app = load_app(arguments.app)
    app.configure(config)
    show_progress(arguments)
    run_inference(app, web_port=arguments.web_port)
    return 0
