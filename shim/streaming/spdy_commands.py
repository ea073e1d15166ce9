"""Exec, attach and port-forward over SPDY/3.1."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Final

from shim.streaming import port_forward, remote_command, subprotocols
from shim.streaming.collaborators import Channel, Streams
from shim.streaming.http import Request
from shim.streaming.jobs import Agreed, Command, Exec, Job, PortForward, Refusal, open_session
from shim.streaming.limits import Limits
from shim.streaming.race import until_either
from shim.streaming.spdy_channels import SpdyChannel, SpdyChannels
from shim.streaming.wire import Tcp, Wire

log = logging.getLogger(__name__)

_HEADER: Final = "X-Stream-Protocol-Version"
_LEAST_FOR_RESIZE: Final = 3


def agree(request: Request, job: Job) -> Agreed | Refusal:
    """Return how a request with ``Upgrade: SPDY/3.1`` is answered."""
    known = (
        (subprotocols.PORT_FORWARD,) if isinstance(job, PortForward) else tuple(subprotocols.SPDY_COMMANDS)
    )
    offered = request.values(_HEADER.lower())
    name = subprotocols.choose(offered, known) if offered else known[-1]
    if name is None:
        return Refusal(
            403,
            f"cannot speak any of {', '.join(offered)}",
            tuple(("X-Accepted-Stream-Protocol-Versions", each) for each in known),
        )
    headers = (("Upgrade", "SPDY/3.1"), (_HEADER, name))
    if isinstance(job, PortForward):
        return Agreed(headers, functools.partial(serve_ports, job))
    return Agreed(headers, functools.partial(_serve_command, job, subprotocols.SPDY_COMMANDS[name]))


async def serve_ports(job: PortForward, wire: Wire, streams: Streams, limits: Limits) -> None:
    """Forward what the client opens channels for, until it is gone."""
    pairs = port_forward.Pairs(functools.partial(streams.dial, job.sandbox_id), limits.streams_s)
    try:
        with streams.forwarding(job.sandbox_id):
            await SpdyChannels(wire, limits, pairs.opened, pairs.stands_still).run()
    finally:
        await pairs.close()


async def _serve_command(job: Command, version: int, tcp: Tcp, streams: Streams, limits: Limits) -> None:
    gathered = _Gathered(job, version)
    channels = SpdyChannels(tcp, limits, gathered.opened)

    async def work() -> None:
        try:
            async with asyncio.timeout(limits.streams_s):
                await gathered.complete.wait()
        except TimeoutError:
            await gathered.give_up(limits.streams_s)
        else:
            await remote_command.serve(gathered.command(), functools.partial(open_session, job, streams))
        channels.ignore()
        channels.go_away()

    await until_either(work(), channels.run())


class _Gathered:
    """The channels of a command, as the client opens them."""

    def __init__(self, job: Command, version: int) -> None:
        options = job.options
        self._job, self._version = job, version
        asked = {
            "error": True,
            "stdin": options.stdin,
            "stdout": options.stdout,
            "stderr": options.stderr and not options.tty,
            "resize": options.tty and version >= _LEAST_FOR_RESIZE,
        }
        self._wanted = {name for name, wanted in asked.items() if wanted}
        self._found: dict[str, Channel] = {}
        self.complete = asyncio.Event()

    def opened(self, channel: SpdyChannel) -> None:
        """Take a channel in; one that nobody asked for, or a second of a kind, is broken off."""
        kind = channel.headers.get("streamtype", "")
        if kind not in self._wanted or kind in self._found:
            channel.refuse()
            return
        self._found[kind] = channel
        if not self._wanted - self._found.keys():
            self.complete.set()

    async def give_up(self, after_s: float) -> None:
        """Tell the client what it did not open, if it can be told."""
        missing = ", ".join(sorted(self._wanted - self._found.keys()))
        message = f"the client did not open its streams within {after_s:g} s: {missing}"
        log.info("a streaming connection ends: %s", message)
        if (error := self._found.get("error")) is not None:
            await error.write(subprotocols.failure_status(self._version, message))
            await error.finish()

    def command(self) -> remote_command.Command:
        """Return the channels; they are complete."""
        find = self._found.get
        return remote_command.Command(
            self._version,
            self._found["error"],
            find("stdin"),
            find("stdout"),
            find("stderr"),
            find("resize"),
            tells_code=isinstance(self._job, Exec),
        )
