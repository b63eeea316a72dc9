"""Run one Apache Kafka node on this machine: ``python infra/kafka/node.py --data DIR run``.

Prints ``brokers=HOST:PORT pid=PID`` when the node answers and runs until it is interrupted or
terminated. ``make kafka`` resolves the libraries it needs.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from pipeline.embedded.kafka import KafkaNode
from pipeline.errors import PipelineError

LIBRARIES = Path(__file__).resolve().parent / "target"


def main(arguments: list[str] | None = None) -> int:
    """Run the node; 0 when it was asked to end, 1 when it ended by itself, 2 when it cannot run."""
    options = _parser().parse_args(arguments)
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    settings = dict(setting.split("=", 1) for setting in options.set)
    try:
        with KafkaNode(
            options.libraries,
            directory=options.data,
            port=options.port,
            heap=options.heap,
            settings=settings,
        ) as node:
            sys.stdout.write(f"brokers={node.brokers} pid={node.pid}\n")
            sys.stdout.flush()
            while node.pid is not None:
                if ending.wait(0.5):
                    return 0
            sys.stderr.write("the Kafka node ended by itself\n")
            return 1
    except PipelineError as failure:
        sys.stderr.write(f"{failure}\n")
        return failure.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, help="log and metadata; default: a temporary directory"
    )
    parser.add_argument("--libraries", type=Path, default=LIBRARIES, help="resolved jars")
    parser.add_argument("--port", type=int, default=0, help="default: a free port")
    parser.add_argument("--heap", default="768m", help="maximum heap of the JVM")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a broker setting"
    )
    parser.add_argument("command", choices=["run"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
