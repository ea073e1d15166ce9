"""Sockets in networks of pods, opened ahead of the connections that need them.

A socket keeps the network namespace that it was made in. So there are some only while a client is expected or
connected, or was until just now, and none once the pod is being stopped, before its network is taken down.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

EXPECTED_S: Final = 2.0  # a kubelet connects at once; who comes later waits for his socket

Sockets = list[socket.socket]


@dataclass(slots=True)
class _Pod:
    """What is kept for one pod.

    Attributes:
        sockets: each one of each family, there or on their way.
        sessions: of clients.
        expected: until when one more is expected.
    """

    sockets: deque[asyncio.Future[Sockets]] = field(default_factory=deque)
    sessions: int = 0
    expected: asyncio.TimerHandle | None = None


class SocketStock:
    """Sockets by sandbox."""

    def __init__(self) -> None:
        self._pods: dict[str, _Pod] = {}

    def expect(self, id_: str) -> None:
        """Keep sockets for a client who is about to come, for a short time."""
        pod = self._pods.setdefault(id_, _Pod())
        if pod.expected is not None:
            pod.expected.cancel()
        pod.expected = asyncio.get_running_loop().call_later(EXPECTED_S, self._gave_up, id_)

    @contextmanager
    def session(self, id_: str) -> Iterator[None]:
        """Keep sockets within, for the client who was expected, and for the next one a short time longer."""
        pod = self._pods.setdefault(id_, _Pod())
        pod.sessions += 1
        if pod.expected is not None:
            pod.expected.cancel()
            pod.expected = None
        try:
            yield
        finally:
            pod.sessions -= 1
            if self._pods.get(id_) is pod and not pod.sessions:
                self.expect(id_)

    def lacks(self, id_: str, count: int) -> int:
        """Return how many are missing to so many; 0 where none are to be kept."""
        pod = self._pods.get(id_)
        return 0 if pod is None else max(count - len(pod.sockets), 0)

    def put(self, id_: str, sockets: asyncio.Future[Sockets]) -> None:
        """Keep sockets that are there or on their way, where ``lacks`` has told that some are missing."""
        kept = self._pods[id_].sockets
        kept.append(sockets)
        sockets.add_done_callback(lambda done: self._came(kept, done))

    def take(self, id_: str) -> asyncio.Future[Sockets] | None:
        """Return some, which belong to the caller then; None: there are none, not even on their way."""
        pod = self._pods.get(id_)
        return pod.sockets.popleft() if pod is not None and pod.sockets else None

    def drop(self, id_: str) -> None:
        """Close those of a pod; keep no more for those who are with it now. Idempotent."""
        pod = self._pods.pop(id_, None)
        if pod is None:
            return
        if pod.expected is not None:
            pod.expected.cancel()
        for future in pod.sockets:
            if not future.done():
                future.cancel()  # whoever opens them sees that nobody wants them, and closes them
            elif not future.cancelled() and future.exception() is None:
                close(future.result())
        pod.sockets.clear()

    def close(self) -> None:
        """Close all."""
        for id_ in list(self._pods):
            self.drop(id_)

    def _gave_up(self, id_: str) -> None:
        pod = self._pods[id_]
        pod.expected = None
        if not pod.sessions:
            self.drop(id_)

    @staticmethod
    def _came(kept: deque[asyncio.Future[Sockets]], future: asyncio.Future[Sockets]) -> None:
        """Forget what could not be opened; whoever has taken it hears of that."""
        if (future.cancelled() or future.exception() is not None) and future in kept:
            kept.remove(future)


def close(sockets: Sockets) -> None:
    """Close some sockets."""
    for sock in sockets:
        sock.close()
