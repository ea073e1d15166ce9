import pytest

from shim.errors import FailedPrecondition
from shim.images import proxies

BOTH = {"HTTP_PROXY": "http://plain:3128", "https_proxy": "secure:3128"}


def test_the_proxy_goes_by_the_scheme_and_loopback_has_none() -> None:
    found = proxies.from_environment(BOTH)
    assert found.for_url("http://registry.example/v2/") == "http://plain:3128"
    assert found.for_url("https://registry.example/v2/") == "http://secure:3128"
    for host in ("localhost:5000", "127.0.0.1", "127.8.0.1:5000", "[::1]:5000"):
        assert found.for_url(f"http://{host}/v2/") == ""
    assert proxies.from_environment({}).for_url("https://registry.example/") == ""


@pytest.mark.parametrize(
    ("pattern", "host", "is_direct"),
    [
        ("registry.example", "registry.example", True),
        ("registry.example", "eu.registry.example:5000", True),
        ("registry.example", "myregistry.example", False),
        (".registry.example", "eu.registry.example", True),
        (".registry.example", "registry.example", False),
        ("*.registry.example", "eu.registry.example", True),
        ("REGISTRY.example", "registry.EXAMPLE", True),
        ("registry.example:5000", "registry.example:5000", True),
        ("registry.example:5000", "registry.example", False),
        ("registry.example:80", "registry.example", True),
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "registry.example", False),
        ("10.1.2.3", "10.1.2.3:5000", True),
        ("10.1.2.3:80", "10.1.2.3:5000", False),
        ("fd00::/8", "[fd00::1]:5000", True),
        ("fd00::1", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]:5000", True),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("*", "registry.example", True),
        (" , ", "registry.example", False),
    ],
)
def test_what_is_asked_directly_is_read_as_go_reads_it(pattern: str, host: str, is_direct: bool) -> None:
    found = proxies.from_environment({**BOTH, "NO_PROXY": f"else.example, {pattern}"})
    assert (found.for_url(f"http://{host}/v2/") == "") == is_direct


@pytest.mark.parametrize("value", ["http://", "ftp://proxy", "http://proxy:port", "://"])
def test_a_malformed_proxy_is_named_but_not_told(value: str) -> None:
    with pytest.raises(FailedPrecondition, match="HTTPS_PROXY") as caught:
        proxies.from_environment({"HTTPS_PROXY": value})
    assert value not in str(caught.value).replace("such as http://proxy:3128", "")


def test_a_password_is_not_shown() -> None:
    found = proxies.from_environment({"HTTP_PROXY": "http://me:s3cret@proxy:3128"})
    assert "s3cret" not in repr(found)
    assert proxies.show(found.http) == "http://proxy:3128"
