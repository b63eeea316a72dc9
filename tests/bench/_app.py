"""The application of workload (a), for ``pipeline run``; its names come from the environment."""

from __future__ import annotations

import os

import pipeline as pp
from tests.bench.peers.workload import view

app = pp.App(os.environ["BENCH_APP"], views=[view(os.environ["BENCH_TOPIC"])])
