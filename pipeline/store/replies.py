"""Error replies of Redis, as the errors of this package. None of them is ever skipped."""

from __future__ import annotations

from pipeline.errors import PipelineError, StoreFullError, StoreUnavailableError
from pipeline.store.wire import ServerError

__all__ = ["error_of", "root_cause"]

_ADVICE = {
    "READONLY": "it is a read-only replica: connect to the primary",
    "LOADING": "it is loading its data: wait, then try again",
    "MASTERDOWN": "it is a replica that lost its primary: connect to the primary",
    "CLUSTERDOWN": "the cluster does not serve all slots: see CLUSTER INFO",
    "MOVED": "the slot lives on another node, which is looked for when the partition is opened "
    "again; the address of a cluster begins with redis-cluster://",
    "ASK": "the slot is being moved to another node: wait, then try again",
    "TRYAGAIN": "the slot is being moved to another node: wait, then try again",
    "CROSSSLOT": "keys of one partition must share a slot: is a proxy between?",
    "BUSY": "a script has been running for long: wait, or SCRIPT KILL",
    "MISCONF": "it cannot save to disk: free space there, or see its log",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write): bring them back",
    "NOAUTH": "it wants a password: put it into the address, redis://:password@host",
    "WRONGPASS": "user or password in the address is wrong or missing",
    "NOPERM": "the user may not run this command: see ACL GETUSER",
    "WRONGTYPE": "a key of this application was written by something else",
}
_BECAUSE = "because of: "


def root_cause(aborted: ServerError, queued: ServerError | None) -> ServerError:
    """What made a transaction fail: the first refused command, or what EXECABORT names."""
    if queued is not None:
        return queued
    _, found, cause = aborted.text.partition(_BECAUSE)
    return ServerError(cause) if found else aborted


def error_of(error: ServerError, address: str) -> PipelineError:
    """The exception to raise for an error reply of the server at ``address``."""
    if error.code == "OOM" or "command not allowed when used memory" in error.text:
        return StoreFullError(
            f"the store at {address} is out of memory ({error.text}): raise maxmemory or add "
            "memory; nothing was written, and the commit may be tried again"
        )
    advice = _ADVICE.get(error.code, "see the server's log")
    return StoreUnavailableError(f"the store at {address} refused: {error.text}; {advice}")
