"""What a worker needs of the machine, looked at before it starts."""

from __future__ import annotations

import resource

from pipeline.errors import ConfigurationError

__all__ = ["BASE_DESCRIPTORS", "ensure_descriptors"]

# A worker of one broker and 6 partitions held 35. The Kafka clients take some more for every
# broker, and whoever asks for metrics takes one.
BASE_DESCRIPTORS = 64


def ensure_descriptors(partitions: int) -> None:
    """Let the process open what a worker may that is given so many partitions, each a connection.

    Raises :class:`ConfigurationError` where the hard limit is lower. A worker that runs out of
    descriptors later tries again and again to connect, and does nothing else.
    """
    needed = BASE_DESCRIPTORS + partitions
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"this process may open {hard} files, and a worker of {partitions} partitions needs "
            f"{needed}: raise the limit (ulimit -n, LimitNOFILE=, --ulimit nofile= of a container)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
