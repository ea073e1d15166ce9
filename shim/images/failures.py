"""How a host can fail, which failure a caller hears of, and how long to wait before the next try. Pure."""

from __future__ import annotations

import email.utils
import enum
import re
import secrets
import ssl
import time
from typing import Final

from shim.errors import ShimError
from shim.images.http import httpx

ATTEMPTS: Final = 4
_BACKOFF_S: Final = 0.25
_FACTOR: Final = 3
MAX_WAIT_S: Final = 60.0
_MAX_TEXT: Final = 300
# What sending and reading can raise: a TLS alert that comes with the first bytes is nothing that httpx maps.
NETWORK_ERRORS: Final = (httpx.HTTPError, ssl.SSLError)
_SSL_NOISE: Final = re.compile(r"^\[SSL[^]]*\]\s*|\s*\(_ssl\.c:\d+\)$")


class Kind(enum.IntEnum):
    """What went wrong; the greater one says more to the caller."""

    MISSING = 0
    REFUSED = 1  # an answer that is no success and that no second try would change
    LIED = 2  # what came is not what was asked for
    DENIED = 3
    BUSY = 4  # it asks for patience (429, 408)
    ERROR = 5  # 5xx
    BROKEN = 6  # the connection broke
    SILENT = 7  # no byte within the stall time-out
    UNREACHABLE = 8  # no connection


class HostFailed(Exception):
    """One host could not help.

    Attributes:
        kind: what went wrong.
        retry_after_s: how long the host wants to be left alone.
        error: what to raise where no other host helps, if that is more than the text.
    """

    def __init__(
        self, why: str, kind: Kind, *, retry_after_s: float = 0.0, error: ShimError | None = None
    ) -> None:
        super().__init__(why)
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.error = error

    @property
    def unavailable(self) -> bool:
        """Whether another try later may do better."""
        return self.kind >= Kind.BUSY


def worse(known: HostFailed | None, new: HostFailed) -> HostFailed:
    """Return what the caller should hear: silence before refusal before absence; the first of a kind."""
    return new if known is None or new.kind > known.kind else known


class Patience:
    """Decides whether to try again, and when. One for each document or blob."""

    def __init__(self, attempts: int = ATTEMPTS) -> None:
        self._attempts = attempts
        self._failed = 0

    def renew(self) -> None:
        """Forget failures: the transfer went on since."""
        self._failed = 0

    def wait_s(self, failure: HostFailed) -> float | None:
        """Return how many seconds to wait before the next try; None: give up."""
        self._failed += 2 if failure.kind is Kind.SILENT else 1  # a silence has cost its time-out already
        if not failure.unavailable or self._failed >= self._attempts or failure.retry_after_s > MAX_WAIT_S:
            return None
        spread = 0.8 + secrets.randbelow(400) / 1000  # many nodes begin at the same moment
        pause_s: float = _BACKOFF_S * _FACTOR ** (self._failed - 1) * spread
        return max(pause_s, failure.retry_after_s)


def parse_retry_after(text: str, now_s: float | None = None) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 for none or nonsense."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return max(0.0, until - (time.time() if now_s is None else now_s))


def kind_of(error: Exception) -> Kind:
    """Return what an error of the HTTP client means."""
    if isinstance(error, ssl.SSLError):
        return Kind.DENIED if _alert(error) else Kind.BROKEN
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Kind.UNREACHABLE
    return Kind.SILENT if isinstance(error, httpx.TimeoutException) else Kind.BROKEN


def say(error: Exception, timeout: httpx.Timeout) -> str:
    """Return what went wrong, for a message."""
    if isinstance(error, ssl.SSLError) and (alert := _alert(error)):
        return f"it ends the TLS connection: {alert} (does it want a client certificate?)"
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {timeout.connect:g} seconds"
    if isinstance(error, httpx.TimeoutException):
        return f"no byte within {timeout.read:g} seconds"
    if isinstance(error, httpx.ProxyError):
        return f"the proxy refuses: {clean(str(error))}"
    why = _SSL_NOISE.sub("", clean(_reason(error) or type(error).__name__))
    return f"cannot connect: {why}" if isinstance(error, httpx.ConnectError) else why


def _alert(error: ssl.SSLError) -> str:
    """Return the alert of TLS that the other side has sent, empty for other errors."""
    _, found, alert = (getattr(error, "reason", None) or "").rpartition("ALERT_")
    return alert.replace("_", " ").lower() if found else ""


def clean(text: str) -> str:
    """Return the start of a text from elsewhere, fit for a message of one line."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 2 * _MAX_TEXT])
    return " ".join(shown.split())[:_MAX_TEXT]


def _reason(error: BaseException) -> str:
    """Return the kernel's word where there is one: layers in between say that all attempts failed."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            break
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
