"""Servers on loopback for tests of registries: one that gives tokens, one that says what a test wants, and
one that stands before a real registry and delays, cuts, throttles and lies.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


class Request:
    """What a client sent. ``path`` without query; ``nth``: how often this method and path came before."""

    def __init__(self, handler: http.server.BaseHTTPRequestHandler, nth: int) -> None:
        split = urllib.parse.urlsplit(handler.path)
        self.method = handler.command
        self.target = handler.path
        self.path = split.path
        self.query = urllib.parse.parse_qs(split.query)
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        length = int(self.headers.get("content-length", 0))
        self.body = handler.rfile.read(length)
        self.nth = nth


@dataclass
class Answer:
    """How to answer.

    Attributes:
        headers: None removes one; without Content-Length the end of the connection is the end of the body.
        cut: bytes of the body after which the connection ends.
        hang: bytes after which nothing comes any more until ``release``.
        piece, pause_s: the body in pieces, with pauses.
        endless: after the body, more of the same until the client leaves.
    """

    code: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    hang: int | None = None
    release: threading.Event | None = None
    piece: int = 1 << 16
    pause_s: float = 0.0
    endless: bool = False


class Site:
    """A server whose ``answer`` says all. ``requests``: (method, target, headers), in order."""

    wrap: ssl.SSLContext | None = None

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            site_: ClassVar[Site] = site

            def log_message(self, *_: Any) -> None:
                pass

            def serve(self) -> None:
                with contextlib.suppress(ConnectionError, ssl.SSLError):  # who asked may have heard enough
                    site._serve(self)

        for method in ("GET", "HEAD", "POST", "CONNECT"):
            setattr(Handler, f"do_{method}", Handler.serve)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                pass  # a client that does not trust us, or left

            def finish_request(self, request: Any, client_address: Any) -> None:
                if site.wrap is not None:
                    with site.wrap.wrap_socket(request, server_side=True) as wrapped:
                        super().finish_request(wrapped, client_address)
                    return
                super().finish_request(request, client_address)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def asked(self, part: str, method: str = "GET") -> list[dict[str, str]]:
        """Return the headers of each request whose target has ``part``."""
        return [headers for verb, target, headers in self.requests if verb == method and part in target]

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        key = handler.command, urllib.parse.urlsplit(handler.path).path
        with self._lock:
            nth = self._counts[key] = self._counts.get(key, -1) + 1
            request = Request(handler, nth)
            self.requests.append((handler.command, handler.path, request.headers))
        if handler.command == "CONNECT":
            _tunnel(handler)
            return
        answer = self.answer(request)
        handler.send_response(answer.code)
        given = {name.lower(): value for name, value in answer.headers.items()}
        headers = {"content-length": str(len(answer.body)), **given}
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, value)
        if headers["content-length"] is None or answer.cut is not None or answer.endless:
            handler.close_connection = True
        handler.end_headers()
        if handler.command != "HEAD":
            _send(handler, answer)


def _send(handler: http.server.BaseHTTPRequestHandler, answer: Answer) -> None:
    body = answer.body if answer.cut is None else answer.body[: answer.cut]
    sent = 0
    while sent < len(body):
        end = sent + answer.piece
        if answer.hang is not None and sent <= answer.hang < end:
            end = max(answer.hang, 0)
            handler.wfile.write(body[sent:end])
            assert answer.release is not None
            answer.release.wait(30)
            return
        handler.wfile.write(body[sent:end])
        sent = end
        if answer.pause_s:
            time.sleep(answer.pause_s)
    while answer.endless:
        handler.wfile.write(body)


def _tunnel(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Join a client of a forward proxy to where it wants to go: always loopback here, by its port."""
    port = int(handler.path.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as upstream:
        handler.send_response(200)
        handler.end_headers()
        client = handler.connection

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=copy, args=(upstream, client))
        back.start()
        copy(client, upstream)
        back.join()
        handler.close_connection = True


@contextlib.contextmanager
def running(site: Site) -> Iterator[None]:
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        site.server.shutdown()
        site.server.server_close()
        thread.join()


class Fake(Site):
    """A registry that does what a test wants. ``answers``: path suffix -> answer, or what makes one."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Answer | Callable[[Request], Answer]] = {}

    def answer(self, request: Request) -> Answer:
        for suffix, answer in self.answers.items():
            if request.path.endswith(suffix):
                return answer(request) if callable(answer) else answer
        return Answer(404)

    def offer(self, built: Any, *, tag: str = "v1") -> None:
        for name in (tag, built.digest):
            self.answers[f"/manifests/{name}"] = Answer(
                headers={"Content-Type": built.media_type}, body=built.manifest
            )
        for kind, data in built.others:
            name = built.digest_of(data)
            self.answers[f"/manifests/{name}"] = Answer(headers={"Content-Type": kind}, body=data)
        for digest, data in built.blobs.items():
            self.answers[f"/blobs/{digest}"] = Answer(body=data)


class Gateway(Site):
    """Stands before a registry.

    ``spoil`` makes of a request and the registry's answer what the client gets. ``ranges``: whether the
    registry hears of them.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = upstream
        self.ranges = True
        self.spoil: Callable[[Request, Answer], Answer] = lambda _, answer: answer

    def answer(self, request: Request) -> Answer:
        kept = {"authorization", "accept", *(("range",) if self.ranges else ())}
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        target = urllib.parse.urlsplit(request.target)
        path = target.path + (f"?{target.query}" if target.query else "")
        try:
            connection.request(
                request.method,
                path,
                headers={name: value for name, value in request.headers.items() if name in kept},
            )
            response = connection.getresponse()
            headers = {
                name.lower(): value
                for name, value in response.getheaders()
                if name.lower() not in ("transfer-encoding", "connection", "date", "server")
            }
            if request.method != "HEAD":
                headers.pop("content-length", None)  # that of the body counts, however it is spoilt
            return self.spoil(request, Answer(response.status, headers, response.read()))
        finally:
            connection.close()


class TokenServer(Site):
    """Gives tokens that docker-registry accepts to whoever knows the password, or has an identity token.

    ``asked``: (query or form, Authorization) of each request. ``life_s``: what it says of its tokens.
    """

    identity_token = "identity-of-alice"  # noqa: S105 (nobody's)

    def __init__(self, identity: Path) -> None:
        super().__init__()
        self.given: list[tuple[dict[str, list[str]], str]] = []
        self.life_s = 300
        self._identity = identity
        chain = (identity / "cert.pem").read_text().split("-----")[2].replace("\n", "")
        self._header = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        self.url = f"http://{self.host}/token"

    def answer(self, request: Request) -> Answer:
        asked = request.query
        authorization = request.headers.get("authorization", "")
        known = authorization == "Basic " + base64.b64encode(b"alice:s3cret").decode()
        if request.method == "POST":
            asked = urllib.parse.parse_qs(request.body.decode())
            known = asked["refresh_token"] == [self.identity_token]
        self.given.append((asked, authorization))
        if not known and (authorization or request.method == "POST"):
            return Answer(401, body=b'{"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}')
        access = [
            {"type": "repository", "name": scope.split(":")[1], "actions": ["pull"] if known else []}
            for text in asked["scope"]
            for scope in text.split()
        ]
        token = self.sign(asked["service"][0], access)
        return Answer(body=json.dumps({"token": token, "expires_in": self.life_s}).encode())

    def sign(self, service: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        claims = {
            "iss": "test",
            "aud": service,
            "exp": now + 300,
            "nbf": now - 10,
            "access": access,
            "jti": f"{time.time_ns()}",
        }
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (self._header, claims))
        signature = openssl("dgst", "-sha256", "-sign", str(self._identity / "key.pem"), data=signed)
        return (signed + b"." + _base64url(signature)).decode()

    def settings(self) -> dict[str, Any]:
        """Return what the registry must be told."""
        told = {"realm": self.url, "service": "our registry", "issuer": "test"}
        return {"token": {**told, "rootcertbundle": str(self._identity / "cert.pem")}}


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
