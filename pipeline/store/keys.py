"""Names of everything the store holds.

All keys of one partition share the hash tag ``{app:topic:partition}``, so one transaction can
name them on a single Redis and on a Redis Cluster alike. What follows the tag is free: Redis looks
at the first ``{`` and the first ``}`` after it only, so braces in an entity key move nothing.
"""

from __future__ import annotations

import re

from pipeline.errors import DefinitionError
from pipeline.ingest.batch import TopicPartition

__all__ = [
    "ALIASES",
    "lease_key",
    "marker_key",
    "partition_tag",
    "quarantine_key",
    "quarantine_prefix",
    "registry_key",
    "row_key",
    "row_prefix",
]

ALIASES = b"pipeline:views"
"""Hash of view name -> application and fingerprint that readers use."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_RESERVED = frozenset({"views", ".", ".."})


def partition_tag(app: str, source: TopicPartition) -> bytes:
    """``{app:topic:partition}``; raises DefinitionError for a name that could not be told apart."""
    _check("app", app)
    _check("topic", source.topic)
    if source.partition < 0:
        raise DefinitionError("partition", f"{source.partition} is negative")
    return b"{%s:%s:%d}" % (app.encode(), source.topic.encode(), source.partition)


def row_prefix(tag: bytes, fingerprint: int) -> bytes:
    """What every row key of one view and partition starts with; the entity key follows."""
    return b"%s:r:%016x:" % (tag, fingerprint)


def row_key(tag: bytes, fingerprint: int, entity: bytes) -> bytes:
    """Key of one row: ``<tag>:r:<fingerprint, 16 hex digits>:<entity key>``."""
    return row_prefix(tag, fingerprint) + entity


def quarantine_prefix(tag: bytes, fingerprint: int) -> bytes:
    """What the copy of every corrupt row of one view and partition starts with."""
    return b"%s:q:%016x:" % (tag, fingerprint)


def quarantine_key(tag: bytes, fingerprint: int, entity: bytes) -> bytes:
    """Key of such a copy: ``<tag>:q:<fingerprint, 16 hex digits>:<entity key>``."""
    return quarantine_prefix(tag, fingerprint) + entity


def lease_key(tag: bytes) -> bytes:
    """Key of a partition's lease: ``<tag>:lease``."""
    return tag + b":lease"


def marker_key(tag: bytes, fingerprint: int) -> bytes:
    """Key of a view's marker in a partition: ``<tag>:m:<fingerprint, 16 hex digits>``."""
    return b"%s:m:%016x" % (tag, fingerprint)


def registry_key(app: str) -> bytes:
    """Key of an application's registry, a hash: ``pipeline:<app>``."""
    _check("app", app)
    return b"pipeline:%s" % app.encode()


def _check(field: str, name: str) -> None:
    if not _NAME.fullmatch(name) or (field == "app" and name in _RESERVED):
        raise DefinitionError(
            field, f"{name!r} is not a name: 1 to 249 of a-z A-Z 0-9 . _ -, and not 'views'"
        )
