"""Schemas by the ids that messages name, from a schema registry with Confluent's API.

A schema never changes under its id, so what was found is kept. An id that the registry does not
know is asked for a few times (a follower may lag behind), then its records are refused. A
registry that does not answer is another matter: the batch waits.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pipeline.contracts.avroschema import Schema, read_schema
from pipeline.errors import (
    ConfigurationError,
    DefinitionError,
    MissingExtraError,
    RegistryUnavailableError,
)

__all__ = ["AvroSchemas", "ConfluentRegistry", "Registered", "SchemaSource", "UnknownSchemaError"]

log = logging.getLogger(__name__)

ASK_TIMES = 3
ASK_PAUSE_S = 0.2
UNKNOWN_FOR_S = 60.0  # an id may be registered later, by a producer that was mended
REST_S = 1.0  # after the registry did not answer, before it is asked again
TIMEOUT_S = 5.0
MAX_REFERENCES = 64
MAX_SCHEMA_CHARACTERS = 1 << 20
_REFUSED = {401, 403}


class UnknownSchemaError(LookupError):
    """The registry answered: there is no such schema."""


class Registered(Protocol):
    """A schema as the registry has it: its type and text, and what it refers to."""

    schema_type: str | None
    schema_str: str | None
    references: Sequence[Any] | None


class SchemaSource(Protocol):
    """Where schemas come from.

    Raises :class:`UnknownSchemaError`, or :class:`RegistryUnavailableError`.
    """

    def by_id(self, number: int) -> Registered:
        """The schema with that id."""
        ...

    def by_version(self, subject: str, version: int) -> Registered:
        """A schema that another one refers to."""
        ...


class ConfluentRegistry:
    """A registry reached by HTTP through confluent-kafka's client.

    ``address`` is its URL, or the configuration of ``SchemaRegistryClient`` (``url``,
    ``basic.auth.user.info``, ``ssl.ca.location``, ...).

    Raises :class:`MissingExtraError` without the extra ``registry``.
    """

    def __init__(self, address: str | Mapping[str, Any]) -> None:
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
            from confluent_kafka.schema_registry.error import SchemaRegistryError
        except ImportError as error:
            raise MissingExtraError(str(error.name or "confluent-kafka"), "registry") from error
        given = {"url": address} if isinstance(address, str) else dict(address)
        settings = {"timeout": TIMEOUT_S, "max.retries": 0, **given}
        self._refusal = SchemaRegistryError
        # What its HTTP client raises, and what a body raises that is not the registry's
        self._silence: tuple[type[Exception], ...] = (
            *_http_errors(),
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        )
        try:
            self._client = SchemaRegistryClient(settings)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"schema registry: {error}") from error
        self.url = str(given.get("url", ""))

    def by_id(self, number: int) -> Registered:
        """The schema with that id."""
        return self._ask(f"schema id {number}", lambda: self._client.get_schema(number))

    def by_version(self, subject: str, version: int) -> Registered:
        """A schema that another one refers to."""
        return self._ask(
            f"version {version} of {subject}",
            lambda: self._client.get_version(subject, version).schema,
        )

    def _ask(self, what: str, ask: Callable[[], Any]) -> Registered:
        try:
            found: Registered = ask()
        except self._refusal as error:
            status = error.http_status_code
            if status == 404:
                raise UnknownSchemaError(what) from error
            if status in _REFUSED:
                raise ConfigurationError(
                    f"schema registry {self.url}: refuses our credentials (HTTP {status})"
                ) from error
            raise RegistryUnavailableError(f"{self.url}: {what}: HTTP {status}") from error
        except self._silence as error:
            raise RegistryUnavailableError(f"{self.url}: {what}: {error}") from error
        return found


def _http_errors() -> tuple[type[Exception], ...]:
    """The root exceptions of the HTTP client that confluent-kafka uses: it changed once."""
    found = []
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)


class AvroSchemas:
    """Avro schemas by id, read once.

    ``source`` is asked, at most ``ASK_TIMES`` for an id that it does not know, then not again for
    ``UNKNOWN_FOR_S``; and not at all for ``REST_S`` after it was unavailable. ``monotonic`` and
    ``sleep`` are in seconds.
    """

    def __init__(
        self,
        source: SchemaSource,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._source = source
        self._monotonic = monotonic
        self._sleep = sleep
        self._unknown: dict[int, float] = {}
        self._resting_until = float("-inf")
        self._last = ""

    def find(self, numbers: Sequence[int]) -> dict[int, Schema | None]:
        """The schemas with these ids; None where there is none, or not one of Avro.

        Raises :class:`RegistryUnavailableError`.
        """
        now = self._monotonic()
        found: dict[int, Schema | None] = {
            n: None for n in numbers if self._unknown.get(n, float("-inf")) > now
        }
        wanted = [n for n in numbers if n not in found]
        if wanted and now < self._resting_until:
            raise RegistryUnavailableError(self._last)
        for attempt in range(ASK_TIMES):
            if attempt and wanted:
                self._sleep(ASK_PAUSE_S)
            for number in list(wanted):
                try:
                    found[number] = self._read(number)
                    wanted.remove(number)
                except UnknownSchemaError:
                    continue
                except RegistryUnavailableError as error:
                    self._resting_until = self._monotonic() + REST_S
                    self._last = str(error)
                    raise
        for number in wanted:
            log.warning("schema id %d is not in the registry: its records are refused", number)
            self._unknown[number] = self._monotonic() + UNKNOWN_FOR_S
            found[number] = None
        return found

    def _read(self, number: int) -> Schema | None:
        registered = self._source.by_id(number)
        try:
            return _avro(registered, self._source, {}, set())
        except DefinitionError as error:
            log.warning("schema id %d cannot be read, its records are refused: %s", number, error)
            return None


def _avro(
    registered: Registered, source: SchemaSource, named: dict[str, Schema], seen: set[Any]
) -> Schema:
    kind, text = registered.schema_type or "AVRO", registered.schema_str or ""
    if kind != "AVRO":
        raise DefinitionError("schema", f"is of type {kind}, not AVRO")
    if len(text) > MAX_SCHEMA_CHARACTERS or len(seen) > MAX_REFERENCES:
        raise DefinitionError("schema", "is too large")
    for reference in registered.references or ():
        other = reference.subject, reference.version
        if other not in seen:
            seen.add(other)
            _avro(source.by_version(*other), source, named, seen)
    try:
        document = json.loads(text) if text.lstrip()[:1] in {"{", "[", '"'} else text.strip()
    except (json.JSONDecodeError, RecursionError) as error:
        raise DefinitionError("schema", f"is not JSON: {error}") from error
    return read_schema(document, "schema", named)
