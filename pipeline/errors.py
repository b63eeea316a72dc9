"""Every exception of the package, grouped by what the caller does about it.

    PipelineError
    |-- ConfigurationError        fix the configuration, then start again (exit code 2)
    |   |-- DefinitionError       a view, stream, trigger or contract is wrong; names the field
    |   |-- UnknownNameError      no such view, feature, topic or application
    |   |-- MissingExtraError     an optional package is not installed; names the extra
    |   `-- UnsafeStoreError      the store would lose or evict state
    |-- UnavailableError          retry after a pause; nothing was lost
    |   |-- BrokerUnavailableError
    |   |-- RegistryUnavailableError
    |   |-- StoreUnavailableError
    |   `-- StoreFullError        the store is out of memory: back-pressure, never a dead letter
    |-- FencedError               another worker owns the partition: drop state, rejoin
    |-- ViewVersionError          a version of a view cannot be activated, retired or begun now
    |-- CorruptRowError           a stored row cannot be trusted: quarantined, never decoded
    |-- ModelError                a model or its manifest is refused
    |-- NativeLaneError           librdkafka is not the one the native lane knows: use the portable
    `-- LogTruncatedError         the log no longer holds what the marker needs: stop, ask a person

A record that cannot be applied is not an exception but a value: see
:class:`pipeline.ingest.batch.Rejects`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BrokerUnavailableError",
    "ConfigurationError",
    "CorruptRowError",
    "DefinitionError",
    "FencedError",
    "LogTruncatedError",
    "MissingExtraError",
    "ModelError",
    "NativeLaneError",
    "PipelineError",
    "RegistryUnavailableError",
    "StoreFullError",
    "StoreUnavailableError",
    "UnavailableError",
    "UnknownNameError",
    "UnsafeStoreError",
    "ViewVersionError",
]


class PipelineError(Exception):
    """Root of the tree. ``exit_code`` is what the command line exits with."""

    exit_code = 1


class ConfigurationError(PipelineError):
    """The configuration is wrong and nothing was started."""

    exit_code = 2


@dataclass(eq=False)
class DefinitionError(ConfigurationError):
    """A definition is wrong.

    ``field`` is the dotted path of the offending value, such as
    ``household_activity.spend_7d.slide``; ``problem`` says what is wrong with
    it and what would be right.
    """

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class UnknownNameError(ConfigurationError):
    """A name was asked for that nobody registered."""


@dataclass(eq=False)
class MissingExtraError(ConfigurationError):
    """An optional package is needed for what was asked."""

    package: str
    extra: str

    def __str__(self) -> str:
        return f"{self.package} is not installed: pip install 'pipeline[{self.extra}]'"


class UnsafeStoreError(ConfigurationError):
    """The store's own settings would lose state (eviction, read-only replica)."""


class UnavailableError(PipelineError):
    """A server did not answer; trying again later is right."""

    exit_code = 2


class BrokerUnavailableError(UnavailableError):
    """No Kafka broker answered."""


class RegistryUnavailableError(UnavailableError):
    """The schema registry did not answer, or answered that it cannot serve now."""


class StoreUnavailableError(UnavailableError):
    """The feature store did not answer, or answered that it cannot serve now."""


class StoreFullError(UnavailableError):
    """The store refused a write for lack of memory."""


class FencedError(PipelineError):
    """The partition's lease is no longer ours: the commit was not applied."""


class CorruptRowError(PipelineError):
    """A stored row failed its checksum, version or layout hash."""


class ViewVersionError(PipelineError):
    """A version of a view is not in the state that was asked for: it is what readers get, is not
    caught up, or is being erased."""


class ModelError(PipelineError):
    """A model file or manifest is refused."""

    exit_code = 2


class NativeLaneError(PipelineError):
    """librdkafka's version, functions or struct layout are not those of the native lane.

    Nothing is wrong with the configuration: the portable lane does the same work, slower.
    """


class LogTruncatedError(PipelineError):
    """The source log starts after the offset that the marker needs."""

    exit_code = 2
