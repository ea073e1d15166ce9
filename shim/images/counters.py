"""Numbers of pulls since the daemon started, for whoever shows them. Only the event loop writes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_MAX_HOSTS: Final = 100  # references come from whoever may make pods
OTHER: Final = "other"


@dataclass(slots=True)
class HostCounters:
    """What passed between us and one host.

    Attributes:
        requests: sent, each redirect and each token included.
        fetched_bytes: of manifests and blobs, those that were fetched twice included.
        wait_seconds: from a request to the head of its answer, summed up.
        tokens: that were got for it.
        retries: requests that were sent again after a failure.
        resumed: of these, those that asked for the rest of a blob.
        failures: kind (``failures.Kind``) -> how often.
    """

    requests: int = 0
    fetched_bytes: int = 0
    wait_seconds: float = 0.0
    tokens: int = 0
    retries: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Counters:
    """All of them.

    Attributes:
        pulls: that were begun; callers who share one count once.
        joined: callers who found theirs under way.
        unchanged: pulls whose image was here already.
        seconds: that pulls took which ended well.
        failed: class of the error -> pulls that ended with it; ``cancelled``: all callers had left.
        layers_fetched: that were not here, of pulls that ended well.
        hosts: host and port -> its own; beyond ``_MAX_HOSTS`` all others under ``OTHER``.
    """

    pulls: int = 0
    joined: int = 0
    unchanged: int = 0
    succeeded: int = 0
    seconds: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    layers_fetched: int = 0
    hosts: dict[str, HostCounters] = field(default_factory=dict)

    def host(self, netloc: str) -> HostCounters:
        """Return those of a host."""
        if netloc not in self.hosts and len(self.hosts) >= _MAX_HOSTS:
            netloc = OTHER
        return self.hosts.setdefault(netloc, HostCounters())

    @property
    def fetched_bytes(self) -> int:
        """Bytes of manifests and blobs from all hosts."""
        return sum(host.fetched_bytes for host in self.hosts.values())
