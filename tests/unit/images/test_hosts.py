from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.images import hosts


def parse(text: str, domain: str = "registry.example") -> tuple[hosts.Host, ...]:
    return hosts.parse(text.encode(), domain, "/etc/certs.d/x")


@pytest.mark.parametrize(
    ("domain", "base"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.example", "https://registry.example/v2"),
        ("registry.example:5000", "https://registry.example:5000/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("localhost", "https://localhost/v2"),
        ("127.0.0.1:443", "https://127.0.0.1:443/v2"),
    ],
)
def test_without_a_file_the_registry_itself_is_asked(domain: str, base: str) -> None:
    assert hosts.load((), domain) == (hosts.Host(base),)


def test_mirrors_come_in_the_order_of_the_file_and_the_server_last() -> None:
    found = parse(
        """
        server = "https://registry.example"
        [host."https://b.example"]
        capabilities = ["pull"]
        [host."http://a.example:8080/mirror"]
        [host."http://c.example/v2/path"]
        override_path = true
        """
    )
    assert [host.base for host in found] == [
        "https://b.example/v2",
        "http://a.example:8080/mirror/v2",
        "http://c.example/v2/path",
        "https://registry.example/v2",
    ]
    assert found[0].capabilities == {hosts.PULL}
    assert [host.namespace for host in found] == ["registry.example"] * 3 + [""]


def test_certificates_are_taken_from_the_directory_of_the_file() -> None:
    host, _ = parse(
        """
        [host."https://a.example"]
        ca = ["ca.pem", "/abs/ca.pem"]
        client = [["client.cert", "client.key"], "both.pem"]
        skip_verify = true
        [host."https://a.example".header]
        x-one = "1"
        x-two = ["2", "3"]
        """
    )
    assert host.tls == hosts.Tls(
        ("/etc/certs.d/x/ca.pem", "/abs/ca.pem"),
        (("/etc/certs.d/x/client.cert", "/etc/certs.d/x/client.key"), ("/etc/certs.d/x/both.pem", "")),
        True,
    )
    assert host.headers == (("x-one", "1"), ("x-two", "2"), ("x-two", "3"))


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        "server = 1",
        "host = 1",
        'host = {"https://a" = 1}',
        '[host."ftp://a"]',
        '[host."https://a"]\ncapabilities = ["fly"]',
        '[host."https://a"]\nca = 1',
        '[host."https://a"]\nclient = [["a", "b", "c"]]',
        '[host."https://a"]\nheader = 1',
    ],
)
def test_a_malformed_file_is_named(text: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"malformed /etc/certs\.d/x/hosts\.toml"):
        parse(text)


def test_the_first_directory_that_has_the_host_counts(tmp_path: Path) -> None:
    for root, name in (("a", "other"), ("b", "host_5000_"), ("b", "host:5000"), ("c", "_default")):
        directory = tmp_path / root / name
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "https://{root}-{name.strip("_").replace(":", "-")}"'
        )
    roots = tuple(str(tmp_path / root) for root in ("none", "a", "b", "c"))
    assert [host.base for host in hosts.load(roots, "host:5000")] == ["https://b-host_5000/v2"]
    assert [host.base for host in hosts.load(roots, "elsewhere")] == ["https://c-default/v2"]


def test_a_directory_without_file_has_certificates_as_docker_has_them(tmp_path: Path) -> None:
    directory = tmp_path / "registry.example"
    directory.mkdir()
    for name in ("a.crt", "b.cert", "b.key", "lonely.cert"):
        (directory / name).touch()
    (host,) = hosts.load((str(tmp_path),), "registry.example")
    assert host.tls.ca == (str(directory / "a.crt"),)
    assert host.tls.client == ((str(directory / "b.cert"), str(directory / "b.key")),)
