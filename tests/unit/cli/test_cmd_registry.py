"""What ``cri-shim registry explain`` prints; the commands run in tests/integration/socket."""

from click.testing import CliRunner

from shim._proto import images_pb2 as own
from shim.cli import cmd_registry
from shim.cli.main import cli


def test_hosts_are_numbered_with_all_that_is_known_of_them() -> None:
    host = own.RegistryHost(
        url="https://mirror/v2",
        capabilities=["pull", "resolve"],
        reason="mirror 1 for docker.io",
        credentials="of the request (user 'me')",
        tls="verified by the system's certificates",
        state="down, asked last: no answer",
    )
    found = own.Explanation(
        reference="docker.io/library/a:1",
        source="/c/hosts.toml",
        warnings=["odd"],
        hosts=[host, host],
        offline=True,
    )
    assert cmd_registry.describe(found)[:10] == [
        "warning: odd",
        "nobody is asked: this node is offline (registry.offline = true)",
        "by /c/hosts.toml",
        "1. https://mirror/v2",
        "     why:         mirror 1 for docker.io",
        "     for:         pull, resolve",
        "     credentials: of the request (user 'me')",
        "     tls:         verified by the system's certificates",
        "     proxy:       none",
        "     state:       down, asked last: no answer",
    ]


def test_without_a_file_the_places_are_told_that_were_looked_at() -> None:
    assert cmd_registry.describe(own.Explanation(reference="a", tried=["/x", "/y"])) == [
        "no file says which hosts to ask; looked for:",
        "  /x",
        "  /y",
    ]


def test_a_name_wants_a_password() -> None:
    for verb in ("explain", "test"):
        result = CliRunner().invoke(cli, ["registry", verb, "--socket", "/none", "--username", "me", "a"])
        assert result.exit_code != 0
