import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import shim
from shim.cli.main import COMMANDS, cli


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, arguments)
    return result.exit_code, result.output


def test_help_names_every_command() -> None:
    code, text = run("--help")
    assert code == 0
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    assert run(name, "--help")[0] == 0


def test_an_unknown_command_is_a_usage_error() -> None:
    code, text = run("srve")
    assert code == 2
    assert "srve" in text


def test_the_version_is_the_packages() -> None:
    assert run("--version") == (0, f"cri-shim {shim.__version__}\n")


def test_the_default_configuration_is_toml() -> None:
    code, text = run("config", "default")
    assert code == 0
    assert tomllib.loads(text)["root"] == "/var/lib/cri-shim"


def test_a_bad_configuration_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("rot = '/a'")
    code, text = run("config", "check", "--config", str(path))
    assert (code, text) == (1, f"Error: {path}: unknown key 'rot'; did you mean 'root'?\n")


def test_flags_show_in_the_configuration_in_force(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("root = '/a'")
    code, text = run("config", "show", "--config", str(path), "--state", "/b", "--set", "network.mtu=1400")
    assert code == 0
    shown = tomllib.loads(text)
    assert (shown["root"], shown["state"], shown["network"]["mtu"]) == ("/a", "/b", 1400)
    assert f"# {path}" in text
    assert "# command line" in text


def test_a_client_without_a_daemon_says_what_to_do(tmp_path: Path) -> None:
    assert run("version", "--socket", str(tmp_path / "s")) == (
        0,
        f"cri-shim {shim.__version__}\nno daemon at {tmp_path / 's'}\n",
    )


def test_starting_imports_neither_grpc_nor_rich() -> None:
    program = (
        "import sys; from shim.cli.main import cli; cli(['--help'], standalone_mode=False);"
        "print([m for m in ('grpc', 'google.protobuf', 'rich', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
