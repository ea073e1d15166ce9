import ssl

import httpx
import pytest

from shim.images import failures
from shim.images.failures import HostFailed, Kind, Patience

TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def failed(kind: Kind, retry_after_s: float = 0.0) -> HostFailed:
    return HostFailed("x", kind, retry_after_s=retry_after_s)


def test_what_passes_is_tried_again_with_longer_pauses_until_patience_ends() -> None:
    patience = Patience()
    pauses = [patience.wait_s(failed(Kind.ERROR)) for _ in range(4)]
    assert pauses[-1] is None
    waited = [pause for pause in pauses if pause is not None]
    assert waited == sorted(waited)
    assert len(waited) == 3
    patience.renew()
    assert patience.wait_s(failed(Kind.BROKEN)) is not None


@pytest.mark.parametrize("kind", [Kind.MISSING, Kind.REFUSED, Kind.LIED, Kind.DENIED])
def test_what_does_not_pass_is_not_tried_again(kind: Kind) -> None:
    assert Patience().wait_s(failed(kind)) is None
    assert not failed(kind).unavailable


def test_a_silence_counts_twice() -> None:
    patience = Patience()
    assert patience.wait_s(failed(Kind.SILENT)) is not None
    assert patience.wait_s(failed(Kind.SILENT)) is None


def test_a_host_may_say_when_to_come_back_but_not_too_late() -> None:
    assert Patience().wait_s(failed(Kind.BUSY, 30.0)) == 30.0
    assert Patience().wait_s(failed(Kind.BUSY, 3600.0)) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("9" * 400, 999_999_999.0),
        ("²", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float) -> None:
    assert failures.parse_retry_after(text, now_s=100.0) == seconds


def test_the_caller_hears_what_says_most() -> None:
    told: HostFailed | None = None
    for kind in (Kind.MISSING, Kind.UNREACHABLE, Kind.DENIED, Kind.UNREACHABLE):
        told = failures.worse(told, failed(kind))
    assert told is not None
    assert told.kind is Kind.UNREACHABLE


def test_errors_of_the_client_become_sentences() -> None:
    refused = httpx.ConnectError("All connection attempts failed")
    refused.__cause__ = ExceptionGroup("many", [ConnectionRefusedError(111, "Connection refused")])
    untrusted = httpx.ConnectError(
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: bad (_ssl.c:992)"
    )
    untrusted.__cause__ = ssl.SSLCertVerificationError("x")
    alert = ssl.SSLError(1, "x")
    alert.reason = "SSLV3_ALERT_BAD_CERTIFICATE"
    for error, kind, text in (
        (refused, Kind.UNREACHABLE, "cannot connect: Connection refused"),
        (untrusted, Kind.UNREACHABLE, "cannot connect: certificate verify failed: bad"),
        (httpx.ConnectTimeout(""), Kind.UNREACHABLE, "no connection within 10 seconds"),
        (httpx.ReadTimeout(""), Kind.SILENT, "no byte within 60 seconds"),
        (httpx.ProxyError("403 no"), Kind.UNREACHABLE, "the proxy refuses: 403 no"),
        (
            alert,
            Kind.DENIED,
            "it ends the TLS connection: bad certificate (does it want a client certificate?)",
        ),
        (ssl.SSLError(1, "[SSL] record layer failure (_ssl.c:1)"), Kind.BROKEN, "record layer failure"),
        (httpx.ReadError(""), Kind.BROKEN, "ReadError"),
        (httpx.RemoteProtocolError("peer\x1b[31m closed"), Kind.BROKEN, "peer [31m closed"),
    ):
        assert failures.kind_of(error) is kind
        assert failures.say(error, TIMEOUT) == text


def test_a_text_from_elsewhere_is_one_short_line() -> None:
    assert failures.clean("a\nb\tc\x00d\u202ee") == "a b c d e"
    assert len(failures.clean("x" * 10_000)) == 300
