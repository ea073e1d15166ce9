import tomllib
from pathlib import Path

import pytest

from shim.daemon import config_files
from shim.daemon.config import Config, HandlerConfig
from shim.daemon.config_text import format_config
from shim.errors import InvalidArgument


def write(folder: Path, text: str, name: str = "config.toml") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def complaint(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(InvalidArgument) as caught:
        config_files.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert config_files.load(write(tmp_path, "")).config == Config()


def test_drop_ins_win_over_the_file_by_name_and_flags_over_all(tmp_path: Path) -> None:
    main = write(tmp_path, 'root = "/a"\nstate = "/b"\n[log]\nlevel = "error"\n')
    write(tmp_path, 'state = "/one"\n[log]\nformat = "json"\n', "conf.d/10-one.toml")
    two = write(tmp_path, 'state = "/two"\n', "conf.d/20-two.toml")
    loaded = config_files.load(main, {"log.level": "debug"})
    assert (loaded.config.root, loaded.config.state) == ("/a", "/two")
    assert (loaded.config.log.level, loaded.config.log.format) == ("debug", "json")
    assert loaded.origins["state"] == two
    assert loaded.origins["log.level"] == config_files.FLAG


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[network]\nbrigde = 'x'", "unknown key 'network.brigde'; did you mean 'network.bridge'?"),
        ("[netwrok]\nbridge = 'x'", "unknown key 'netwrok.bridge'; did you mean 'network.bridge'?"),
        ("socekt = '/x'", "unknown key 'socekt'; did you mean 'socket'?"),
        ("[handlers.a]\ndescripton = 'x'", "did you mean 'handlers.*.description'?"),
        ("bridge = 'x'", "unknown key 'bridge'; did you mean 'network.bridge'?"),
        ("network = 3", "network is 3; it must be a table, [network]"),
        ("[handlers]\na = 3", "handlers.a is 3; it must be a table, [handlers.a]"),
        ("[network]\nmtu = '9'", "network.mtu is '9'; it must be a whole number"),
        ("[network]\nmtu = true", "network.mtu is True; it must be a whole number"),
        ("[network]\nsubnet = '10.0.0.1/8'", "network.subnet is '10.0.0.1/8': it is not an address range"),
        (
            "[network]\nsubnet = '10.1.0.0/16,'",
            "network.subnet is '10.1.0.0/16,': it is not an address range",
        ),
        ("[network]\nsubnet = '10.1.0.0/16,10.2.0.0/16'", "names two ranges of the same IP version"),
        ("[network]\nsubnet = '10.1.0.0/30'", "is too small: a prefix of at most 29 bits"),
        ("[network]\nsubnet = 'fd00::/126'", "is too small: a prefix of at most 125 bits"),
        ("[network]\nip_pref = 'v6'", "must be one of ipv4, ipv6, cni"),
        ("[registry]\nconfig_path = ['a']", "must be an absolute path"),
        ("[cgroup]\ndriver = 'systemmd'", "it must be one of auto, systemd, cgroupfs"),
        ("version = 2", "version is 2: it must be 1"),
        ("root = '/run/cri-shim/root'", "which a reboot empties"),
        ("default_handler = 'b'\n[handlers.a]", "default_handler is 'b', which handlers does not have"),
        ("[handlers.A_B]", "the name of handler 'A_B' must be"),
        ("root = ", "not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no such configuration file"):
        config_files.load(str(tmp_path / "none.toml"))


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"command line: unknown key 'log.lvl'"):
        config_files.load(write(tmp_path, ""), {"log.lvl": "info"})


def test_handlers_keep_the_default_first(tmp_path: Path) -> None:
    config = config_files.load(write(tmp_path, "[handlers.fast]\ndescription = 'x'\n")).config
    assert config.handlers == {"fast": HandlerConfig("x")}
    assert config.handler_names == ("cri-shim", "fast")


def test_the_socket_lies_in_the_state_directory_unless_told_otherwise() -> None:
    assert Config(state="/s").socket_path == "/s/cri-shim.sock"
    assert Config(state="/s", socket="/x.sock").socket_path == "/x.sock"


@pytest.mark.parametrize("origins", [None, {"root": "/a/b.toml"}])
def test_what_is_printed_reads_back_as_the_same(tmp_path: Path, origins: dict[str, str] | None) -> None:
    config = Config(root="/ä", handlers={"a": HandlerConfig('quote " here')})
    text = format_config(config, origins)
    assert tomllib.loads(text)["root"] == "/ä"
    assert config_files.load(write(tmp_path, text)).config == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b=3", ("a.b", 3)), ("a=x y", ("a", "x y")), ("a=['x']", ("a", ["x"])), ("a=true", ("a", True))],
)
def test_flags_are_toml_values_or_texts(text: str, expected: object) -> None:
    assert config_files.parse_flag(text) == expected
