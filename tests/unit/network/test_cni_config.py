"""CNI configurations: which file counts, what is refused and why."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import cni_config
from shim.network.cni_config import Configuration

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}


def test_a_single_configuration_is_a_list_of_one() -> None:
    single = {"cniVersion": "0.3.1", "name": "net", "type": "bridge"}
    assert cni_config.parse(json.dumps(single), "/c") == Configuration(
        "net", "0.3.1", (single,), ("0.3.1",), "/c"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (b'{"name":"\xff"}', "not text in UTF-8"),
        ('{"name":"net","type":"x","n":NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "its name must be letters"),
        ('{"type":"bridge"}', "its name must be letters"),
        ('{"name":"../etc","type":"bridge"}', "not '../etc'"),
        ('{"name":"net"}', "names no plugins"),
        ('{"name":"net","plugins":[]}', "names no plugins"),
        ('{"name":"net","plugins":{}}', "must be a list"),
        ('{"name":"net","loadOnlyInlinedPlugins":true}', "loadOnlyInlinedPlugins is true"),
        ('{"name":"net","plugins":["bridge"]}', "not None"),
        ('{"name":"net","type":"../../bin/sh"}', "must be the name of a program"),
        ('{"name":"net","type":".."}', "must be the name of a program"),
        ('{"name":"net","type":"x","capabilities":["dns"]}', "must be an object"),
        ('{"name":"net","type":"x","disableGC":"perhaps"}', "disableGC must be true or false"),
        ('{"name":"net","type":"x","cniVersion":1}', "cniVersion must be a text"),
        ('{"name":"net","type":"x","cniVersions":[1]}', "list of texts"),
        ('{"name":"net","type":"x","cniVersion":"2.0.0"}', "of CNI version '2.0.0', this program speaks"),
        ('{"name":"net","type":"x","half":"\\ud800"}', "cannot be passed on"),
    ],
)
def test_what_is_no_configuration_says_why(text: str | bytes, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        cni_config.parse(text)


@pytest.mark.parametrize(
    ("fields", "chosen", "versions"),
    [
        ({}, "0.1.0", ("0.1.0",)),
        ({"cniVersion": "0.4.0"}, "0.4.0", ("0.4.0",)),
        ({"cniVersions": ["0.3.1", "1.1.0", "9.0.0"]}, "1.1.0", ("1.1.0", "0.3.1")),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.4.0"]}, "1.0.0", ("1.0.0", "0.4.0")),
    ],
)
def test_the_highest_version_that_is_known_counts(
    fields: dict[str, Any], chosen: str, versions: tuple[str, ...]
) -> None:
    found = cni_config.parse(json.dumps({"name": "net", "type": "x"} | fields))
    assert (found.cni_version, found.versions) == (chosen, versions)


def test_flags_may_be_texts_as_others_take_them() -> None:
    found = cni_config.parse(json.dumps(LIST | {"disableCheck": True, "disableGC": "TRUE"}))
    assert (found.disable_check, found.disable_gc) == (True, True)


def test_of_a_key_that_is_there_twice_the_last_counts_and_it_is_said() -> None:
    notes: list[str] = []
    found = cni_config.parse('{"name":"old","type":"x","name":"net"}', notes=notes)
    assert found.name == "net"
    assert notes == ["key 'name' is there more than once: the last one counts"]


def test_plugins_in_a_directory_of_the_network_s_name_are_added(tmp_path: Path) -> None:
    (tmp_path / "10-net.conflist").write_text(json.dumps(LIST))
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "20-b.conf").write_text('{"type":"tuning"}')
    (tmp_path / "net" / "10-a.conf").write_text('{"type":"sbr"}')
    found = cni_config.find([str(tmp_path)])
    assert [plugin["type"] for plugin in found.plugins] == ["bridge", "portmap", "sbr", "tuning"]
    (tmp_path / "net" / "10-a.conf").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"net/10-a\.conf: it is not JSON"):
        cni_config.find([str(tmp_path)])
    (tmp_path / "10-net.conflist").write_text(json.dumps(LIST | {"loadOnlyInlinedPlugins": True}))
    assert len(cni_config.find([str(tmp_path)]).plugins) == 2


def test_plugins_may_all_lie_there(tmp_path: Path) -> None:
    (tmp_path / "10-net.conflist").write_text('{"cniVersion":"1.0.0","name":"net"}')
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "10-a.conf").write_text('{"type":"bridge"}')
    assert [plugin["type"] for plugin in cni_config.find([str(tmp_path)]).plugins] == ["bridge"]


def test_the_first_that_can_be_used_counts_and_the_refused_are_named(tmp_path: Path) -> None:
    (tmp_path / "05-broken.conf").write_text("{")
    os.mkfifo(tmp_path / "06-pipe.conf")
    (tmp_path / "07-large.conf").write_text(" " * (cni_config.MAX_BYTES + 1))
    (tmp_path / "08-dangling.conf").symlink_to("nowhere")
    (tmp_path / "09-directory.conf").mkdir()
    (tmp_path / "10-net.conflist").write_text(json.dumps(LIST))
    (tmp_path / "20-other.conflist").write_text(json.dumps(LIST | {"name": "other"}))
    (tmp_path / "00-notes.txt").write_text("")
    found = cni_config.look([str(tmp_path / "missing"), str(tmp_path)])
    assert found.configuration is not None
    assert found.configuration.path == str(tmp_path / "10-net.conflist")
    assert [text.removeprefix(str(tmp_path)) for text in found.refused] == [
        "/05-broken.conf: it is not JSON: Expecting property name enclosed in double quotes:"
        " line 1 column 2 (char 1)",
        "/06-pipe.conf: it is no regular file",
        "/07-large.conf: it is larger than 1048576 bytes",
        "/08-dangling.conf: No such file or directory",
    ]


def test_names_go_by_their_characters_and_directories_by_their_order(tmp_path: Path) -> None:
    for directory, name in (("b", "10-x.conf"), ("b", "1-x.json"), ("a", "99.conflist"), ("b", "Z.conf")):
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / name).write_text("")
    found = cni_config.candidates([str(tmp_path / "b"), str(tmp_path / "a")])
    assert [path.removeprefix(f"{tmp_path}/") for path in found] == [
        "b/1-x.json",
        "b/10-x.conf",
        "b/Z.conf",
        "a/99.conflist",
    ]


def test_without_one_it_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="a network add-on puts it there"):
        cni_config.find([str(tmp_path)])
    (tmp_path / "05-broken.conf").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"can be used: .*/05-broken\.conf: it is not JSON"):
        cni_config.find([str(tmp_path)])
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="file: cannot be read: Not a directory"):
        cni_config.find([str(tmp_path / "file")])
