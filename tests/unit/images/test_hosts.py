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
    (host,) = hosts.load((), domain)
    assert host.base == base
    assert host.may_speak_tls == base.startswith("http:")
    assert host == hosts.Host(base, may_speak_tls=host.may_speak_tls)


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
        '[host."https://a"]\nclient = [["only one"]]',
        '[host."https://a"]\nheader = 1',
        '[host."https://a"]\nskip_verify = "yes"',
        '[host."https://a"]\noverride_path = 1',
        '[host."https://a"]\ndial_timeout = "5"',
        '[host."https://a"]\ndial_timeout = 5',
        '[host."https://a"]\ndial_timeout = "-1s"',
        '[host."https://a"]\ndial_timeout = "5s later"',
        '[host."https://me:secret@a"]',
        '[host."https://a:port"]',
        '[host."https://a/?b=c"]',
        "a = [" * 3000,
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
    assert host.tls.client == (
        (str(directory / "b.cert"), str(directory / "b.key")),
        (str(directory / "lonely.cert"), ""),  # it may have the key inside
    )
    (directory / "hosts.toml").touch()
    assert hosts.load((str(tmp_path),), "registry.example") == (host,)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("1m30s", 90.0), ("1.5h", 5400.0), ("", 0.0)]
)
def test_a_dial_timeout_is_written_as_go_writes_durations(text: str, seconds: float) -> None:
    mirror, own = parse(f'dial_timeout = "{text}"\n[host."a"]\ndial_timeout = "{text}"')
    assert mirror.dial_timeout_s == own.dial_timeout_s == pytest.approx(seconds)


def test_urls_are_read_as_containerd_reads_them() -> None:
    found = parse(
        """
        [host."a.example"]
        capabilities = []
        [host."localhost:5000"]
        capabilities = ["Pull"]
        [host."http://b.example//x/../y/"]
        [host."https://c.example/"]
        override_path = true
        """
    )
    assert [host.base for host in found[:-1]] == [
        "https://a.example/v2",
        "https://localhost:5000/v2",
        "http://b.example/y/v2",
        "https://c.example",
    ]
    assert {hosts.PULL, hosts.RESOLVE} < found[0].capabilities
    assert found[1].capabilities == {hosts.PULL}


def test_certificates_for_a_host_of_http_mean_that_it_may_speak_tls() -> None:
    first, second, _ = parse('[host."http://a"]\nca = "x"\n[host."http://b"]')
    assert first.may_speak_tls
    assert not second.may_speak_tls


def test_a_word_that_means_nothing_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "_default"
    directory.mkdir()
    (directory / "hosts.toml").write_text('sever = "x"\n[host."https://a"]\nskip-verify = true\n')
    found = hosts.look_up((str(tmp_path / "none"), str(tmp_path)), "registry.example")
    assert found.source == str(directory / "hosts.toml")
    assert found.tried == (
        *(str(tmp_path / "none" / name) for name in ("registry.example", "_default")),
        str(tmp_path / "registry.example"),
    )
    assert len(found.warnings) == 2
    assert "unknown key 'sever'" in found.warnings[0]
    assert "skip-verify" in found.warnings[1]
