"""The loop of a fuzzer: mutate, check, keep what is new."""

from __future__ import annotations

import base64
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.fuzz.mutate import mutated

BATCH = 64
CORPUS = 2000


@dataclass
class Target:
    """What is fuzzed.

    ``check`` takes values and returns a word for each, of what became of it; it raises if one of
    them was not dealt with as it must be. ``dialect`` mends a mutated value (a checksum, say).
    """

    name: str
    seeds: Sequence[bytes]
    check: Callable[[Sequence[bytes]], Sequence[str]]
    dialect: Callable[[random.Random, bytes], bytes] = field(default=lambda rng, value: value)


class FoundError(AssertionError):
    """A value that a target does not deal with."""


def fuzz(
    target: Target, seconds: float, seed: int, before: Callable[[bytes], None]
) -> Counter[str]:
    """Run for some time; how many values got which answer. ``before`` is given each batch."""
    rng = random.Random(f"{target.name} {seed}")
    corpus = list(target.seeds)
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    end, first = float("inf"), True
    while time.monotonic() < end:
        values = [
            target.dialect(rng, mutated(rng, rng.choice(corpus), corpus)) for _ in range(BATCH)
        ]
        values = list(target.seeds) if first else values
        before(b"".join(base64.b64encode(v) + b"\n" for v in values))
        for value, answer in zip(values, _checked(target, values, seed), strict=True):
            counts[answer.partition(" ")[0]] += 1
            news = f"{answer} {len(value).bit_length()}"
            if news not in seen and len(corpus) < CORPUS:
                seen.add(news)
                corpus.append(value)
        if first:  # the seeds compiled the kernels
            end, first = time.monotonic() + seconds, False
    return counts


def _checked(target: Target, values: Sequence[bytes], seed: int) -> Sequence[str]:
    try:
        return target.check(values)
    except Exception as error:
        for value in values:  # which one was it?
            try:
                target.check([value])
            except Exception as alone:
                raise FoundError(_report(target, seed, [value])) from alone
        raise FoundError(_report(target, seed, values)) from error


def _report(target: Target, seed: int, values: Sequence[bytes]) -> str:
    text = " ".join(base64.b64encode(value).decode() for value in values)
    return f"{target.name}, seed {seed}: --value {text}"
