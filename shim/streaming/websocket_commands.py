"""Exec, attach and port-forward over WebSocket."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from wsproto.utilities import generate_accept_token

from shim.streaming import port_forward, remote_command, spdy_commands, subprotocols
from shim.streaming.collaborators import Streams
from shim.streaming.http import Request
from shim.streaming.jobs import Agreed, Command, Exec, Job, PortForward, Refusal, open_session
from shim.streaming.limits import Limits
from shim.streaming.race import until_either
from shim.streaming.subprotocols import Framing
from shim.streaming.websocket_channels import WebSocketChannels
from shim.streaming.wire import Tcp, Tunnel, WebSocket


def agree(request: Request, job: Job) -> Agreed | Refusal:
    """Return how a request with ``Upgrade: websocket`` is answered (RFC 6455, section 4.2).

    The ``Origin`` is not looked at: a token that only the CRI's socket hands out is in the path, which no
    browser has.
    """
    keys = request.values("sec-websocket-key")
    if request.method != "GET" or len(keys) != 1:
        return Refusal(400, "a WebSocket is asked for by GET with one Sec-WebSocket-Key")
    if request.values("sec-websocket-version") != ["13"]:
        return Refusal(426, "version 13 of WebSocket is spoken here", (("Sec-WebSocket-Version", "13"),))
    known = _known(job)
    offered = request.values("sec-websocket-protocol")
    name = subprotocols.choose(offered, known) if offered else ""
    if name is None:
        return Refusal(403, f"cannot speak any of {', '.join(offered)}; there are: {', '.join(known)}")
    headers = [("Upgrade", "websocket"), ("Sec-WebSocket-Accept", _accept_token(keys[0]))]
    if name:
        headers.append(("Sec-WebSocket-Protocol", name))
    return Agreed(tuple(headers), _serving(name, job))


def _accept_token(key: str) -> str:
    return generate_accept_token(key.encode()).decode()


def _known(job: Job) -> tuple[str, ...]:
    if isinstance(job, PortForward):
        by_channel = tuple(subprotocols.WEBSOCKET_PORTS) if job.ports else ()
        return (subprotocols.TUNNEL, *by_channel)
    return tuple(subprotocols.WEBSOCKET_COMMANDS)


def _serving(name: str, job: Job) -> Callable[[Tcp, Streams, Limits], Awaitable[None]]:
    if not isinstance(job, PortForward):
        framing = subprotocols.WEBSOCKET_COMMANDS.get(name, Framing(1))
        return functools.partial(_serve_command, job, framing)
    if name == subprotocols.TUNNEL:
        return functools.partial(_serve_tunnel, job)
    return functools.partial(_serve_ports, job, subprotocols.WEBSOCKET_PORTS.get(name, Framing(4)))


async def _serve_tunnel(job: PortForward, tcp: Tcp, streams: Streams, limits: Limits) -> None:
    socket = WebSocket(tcp, limits.message_bytes)
    try:
        await spdy_commands.serve_ports(job, Tunnel(socket), streams, limits)
    finally:
        socket.close()


async def _serve_ports(
    job: PortForward, framing: Framing, tcp: Tcp, streams: Streams, limits: Limits
) -> None:
    """Channels 2n and 2n + 1 are data and error of the n-th port; each begins with the port's number."""
    socket = WebSocket(tcp, limits.message_bytes)
    mux = WebSocketChannels(socket, framing, range(2 * len(job.ports)))
    dial = functools.partial(streams.dial, job.sandbox_id)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            for n, port in enumerate(job.ports):
                data, error = mux.channels[2 * n], mux.channels[2 * n + 1]
                for channel in (data, error):
                    await channel.write(port.to_bytes(2, "little"))
                tasks.create_task(port_forward.forward(dial, port, data, error, halves=False))

    with streams.forwarding(job.sandbox_id):
        await until_either(work(), mux.run())
    socket.close()


async def _serve_command(job: Command, framing: Framing, tcp: Tcp, streams: Streams, limits: Limits) -> None:
    socket, options = WebSocket(tcp, limits.message_bytes), job.options
    mux = WebSocketChannels(socket, framing, range(subprotocols.RESIZE + 1))
    channels = mux.channels
    command = remote_command.Command(
        framing.version,
        channels[subprotocols.ERROR],
        channels[subprotocols.STDIN] if options.stdin else None,
        channels[subprotocols.STDOUT] if options.stdout else None,
        channels[subprotocols.STDERR] if options.stderr and not options.tty else None,
        channels[subprotocols.RESIZE] if options.tty else None,
        tells_code=isinstance(job, Exec),
    )
    for number, there in ((subprotocols.STDIN, command.stdin), (subprotocols.RESIZE, command.resize)):
        if there is None:
            channels[number].inbox.ignore()

    async def work() -> None:
        # An empty message tells clients that wait for one that they are connected.
        await (command.stdout or command.stderr or command.error).write(b"")
        await remote_command.serve(command, functools.partial(open_session, job, streams))
        mux.ignore()

    await until_either(work(), mux.run())
    socket.close()
