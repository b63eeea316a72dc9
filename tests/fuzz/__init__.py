"""Byte-mutation fuzzing of everything that reads bytes from outside.

    python -m tests.fuzz [json avro protobuf arrow rows] [--seconds 60] [--seed 1]

A format is a module with ``target()``. Values that a target answers in a new way are kept and
mutated further. A failure prints the value as base64 with the seed, and ``--value`` runs one value
again. Each format runs in a process of its own, so a crash is a failure like any other. With
``NUMBA_BOUNDSCHECK=1`` the compiled kernels check every index as well.
"""
