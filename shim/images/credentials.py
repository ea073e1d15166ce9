"""Whose credentials a host gets: those of the request, or else those of this node.

The node's come from a docker ``config.json`` and the programs that it names (``docker-credential-*``). It is
read again when it has changed. Nothing of it is ever in a message: keys and names of programs are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition
from shim.images import auth as authentication
from shim.images import docker_config
from shim.images.auth import Credential
from shim.images.docker_config import DockerConfig, Helper
from shim.model.image import Auth
from shim.threads import Pool

log = logging.getLogger(__name__)

_HELPER_DEADLINE_S: Final = 30.0
_MAX_CONFIG_BYTES: Final = 4 << 20
_MAX_ANSWER_BYTES: Final = 1 << 20
_NOT_FOUND: Final = b"credentials not found in native keychain"


@dataclass(frozen=True, slots=True)
class Found:
    """Credentials and, for people, where they are from."""

    credential: Credential | None
    source: str


class Keychain:
    """Finds credentials.

    Args:
        path: of docker's config.json; empty: there is none.
        threads: where files are read.
        deadline_s: a helper that takes longer is killed.
    """

    def __init__(self, path: str, threads: Pool, deadline_s: float = _HELPER_DEADLINE_S) -> None:
        self._path = path
        self._threads = threads
        self._deadline_s = deadline_s
        self._helpers = Pool("credentials", 2)  # one that hangs keeps no other work from a thread
        self._known: tuple[tuple[int, ...], DockerConfig] = ((), DockerConfig())

    async def find(self, auth: Auth | None, netloc: str, repository: str) -> Found:
        """Return what a host gets that asks for credentials.

        Args:
            auth: of the request.
            netloc: the host.
            repository: path of the image.

        Raises:
            InvalidArgument: ``auth`` is malformed.
            FailedPrecondition: the file or the helper's answer is.
        """
        of_request = authentication.credential_for(auth, netloc)
        if of_request is not None:
            return Found(of_request, f"of the request ({kinds(of_request)})")
        config = await self._threads.run(self._load)
        helper = config.find_helper(netloc)
        if helper is not None:
            credential = await self._helpers.run(ask, helper, self._deadline_s)
            if credential is not None:
                return Found(credential, f"of {helper.program} ({kinds(credential)})")
        found = config.find(netloc, repository)
        if found is None:
            return Found(None, "none")
        key, credential = found
        return Found(credential, f"of {self._path}, {key!r} ({kinds(credential)})")

    async def tell(self, auth: Auth | None, netloc: str, repository: str) -> str:
        """Return where ``find`` would look, for people, without asking a helper."""
        of_request = authentication.credential_for(auth, netloc)
        if of_request is not None:
            return f"of the request ({kinds(of_request)})"
        config = await self._threads.run(self._load)
        told: list[str] = []
        if (helper := config.find_helper(netloc)) is not None:
            told.append(f"of {helper.program}, asked for {helper.server}")
        if (found := config.find(netloc, repository)) is not None:
            told.append(f"of {self._path}, {found[0]!r} ({kinds(found[1])})")
        return ", or else ".join(told) or "none but those of a request"

    def close(self) -> None:
        """End the threads."""
        self._helpers.close()

    def _load(self) -> DockerConfig:
        if not self._path:
            return DockerConfig()
        try:
            with open(self._path, "rb") as file:
                info = os.fstat(file.fileno())
                stamp = info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
                if stamp != self._known[0]:
                    if info.st_size > _MAX_CONFIG_BYTES:
                        raise FailedPrecondition(f"malformed {self._path}: {info.st_size} bytes are too many")
                    self._known = stamp, docker_config.parse(file.read(), self._path)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot read {self._path} (registry.docker_config): {error.strerror}"
            ) from error
        return self._known[1]


def kinds(credential: Credential) -> str:
    """Return which kinds of secrets a credential has, and the user's name: nothing that is secret."""
    told = [f"user {credential.username!r}"] if credential.username else []
    told += ["identity token"] if credential.identity_token else []
    told += ["registry token"] if credential.registry_token else []
    return ", ".join(told)


def ask(helper: Helper, deadline_s: float) -> Credential | None:
    """Return what a helper knows of its server; None if nothing. Blocking.

    Raises:
        FailedPrecondition: it is not there, takes too long, or fails; what it printed is never told.
    """
    where = f"credential helper {helper.program} (registry.docker_config), asked for {helper.server},"
    remedy = f"try: echo {helper.server} | {helper.program} get"
    try:
        process = subprocess.Popen(
            [helper.program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise FailedPrecondition(f"{where} cannot be started: {error.strerror}") from None
    with process:
        try:
            answer, _ = process.communicate(helper.server.encode(), timeout=deadline_s)
        except subprocess.TimeoutExpired:
            # Its children, too: they would hold the pipe open. It is not reaped yet, so the number is its.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise FailedPrecondition(f"{where} took more than {deadline_s:g} seconds; {remedy}") from None
    if process.returncode:
        if _NOT_FOUND in answer:
            return None
        raise FailedPrecondition(f"{where} failed with exit code {process.returncode}; {remedy}")
    if len(answer) > _MAX_ANSWER_BYTES:
        raise FailedPrecondition(f"{where} printed {len(answer)} bytes")
    return docker_config.parse_answer(answer, where)
