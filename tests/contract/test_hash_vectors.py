"""Published vectors: a hash that differs from other clients' is a broken key."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.kernels import hash as kernel
from tests.reference import hash as reference

# org.apache.kafka.common.utils.UtilsTest.testMurmur2
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}

# xxHash's own sanity check: the first bytes of a generator, seeds 0 and 2654435761.
PRIME32 = 2654435761
XXH64 = [
    (0, 0, 0xEF46DB3751D8E999),
    (0, PRIME32, 0xAC75FDA2929B17EF),
    (1, 0, 0xE934A84ADB052768),
    (1, PRIME32, 0x5014607643A9B4C3),
    (4, 0, 0x9136A0DCA57457EE),
    (14, 0, 0x8282DCC4994E35C8),
    (14, PRIME32, 0xC3BD6BF63DEB6DF0),
    (222, 0, 0xB641AE8CB691C174),
    (222, PRIME32, 0x20CB8AB7AE10C14A),
]


def _generated(n: int) -> bytes:
    state, out = PRIME32, bytearray()
    for _ in range(n):
        out.append(state >> 56)
        state = state * 11400714785074694797 % 2**64
    return bytes(out)


@pytest.mark.parametrize("key", MURMUR2)
def test_murmur2_of_the_java_client(key: bytes) -> None:
    data = np.frombuffer(b"--" + key + b"--", dtype=np.uint8)
    assert int(kernel.murmur2(data, 2, 2 + len(key))) == MURMUR2[key]
    assert reference.murmur2(key) == MURMUR2[key]


@pytest.mark.parametrize(("n", "seed", "expected"), XXH64)
def test_xxh64_of_the_specification(n: int, seed: int, expected: int) -> None:
    data = _generated(n)
    with np.errstate(over="ignore"):
        got = kernel.xxh64(np.frombuffer(b"-" + data, dtype=np.uint8), 1, 1 + n, seed)
    assert int(got) % 2**64 == expected
    assert reference.xxh64(data, seed) == expected


def test_xxh64_of_words() -> None:
    for word, expected in {b"a": 0xD24EC4F1A98C6E5B, b"abc": 0x44BC2CF5AD770999}.items():
        assert reference.xxh64(word) == expected
