"""Which AppArmor profile a container gets, on nodes of each kind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.security import ContainerSecurity, ProfileType, SecurityProfile
from shim.services.confinement import apparmor
from shim.services.confinement.apparmor import DEFAULT, Host

NOTHING, BARE = Host(), Host(enabled=True)
FULL = Host(enabled=True, loaded=frozenset((DEFAULT, "mine", "my other")))
RUNTIME_DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
UNCONFINED = SecurityProfile(ProfileType.UNCONFINED)


def localhost(name: str) -> SecurityProfile:
    return SecurityProfile(ProfileType.LOCALHOST, name)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({}, DEFAULT),
        ({"apparmor": RUNTIME_DEFAULT}, DEFAULT),
        ({"apparmor_profile": "runtime/default"}, DEFAULT),
        ({"apparmor": UNCONFINED}, ""),
        ({"apparmor_profile": "unconfined"}, ""),
        ({"apparmor": localhost("mine")}, "mine"),
        ({"apparmor": localhost("localhost/mine")}, "mine"),
        ({"apparmor": localhost("my other")}, "my other"),
        ({"apparmor_profile": "localhost/mine"}, "mine"),
        ({"apparmor": localhost("mine"), "apparmor_profile": "localhost/gone"}, "mine"),
        ({"apparmor": UNCONFINED, "apparmor_profile": "localhost/mine"}, ""),
        ({"privileged": True}, ""),
        ({"privileged": True, "apparmor": RUNTIME_DEFAULT}, ""),
        ({"privileged": True, "apparmor": localhost("mine")}, "mine"),
    ],
)
def test_what_is_asked_for_is_what_it_gets(request_: dict[str, Any], name: str) -> None:
    assert apparmor.plan(ContainerSecurity(**request_), FULL) == name


@pytest.mark.parametrize(
    "request_", [{}, {"apparmor": RUNTIME_DEFAULT}, {"apparmor": UNCONFINED}, {"privileged": True}]
)
def test_a_node_without_apparmor_runs_what_names_no_profile(request_: dict[str, Any]) -> None:
    assert apparmor.plan(ContainerSecurity(**request_), NOTHING) == ""


@pytest.mark.parametrize(
    ("request_", "host", "word"),
    [
        ({"apparmor": localhost("mine")}, NOTHING, "'mine'"),
        ({"apparmor_profile": "localhost/mine"}, NOTHING, "'mine'"),
        ({"apparmor": localhost("gone")}, FULL, "'gone' is not loaded"),
        ({"apparmor": localhost("min")}, FULL, "'min' is not loaded"),
        ({"apparmor_profile": "localhost/gone"}, FULL, "'gone' is not loaded"),
        ({"apparmor": localhost("gone"), "privileged": True}, FULL, "'gone' is not loaded"),
        ({"apparmor": RUNTIME_DEFAULT}, BARE, "apparmor_parser"),
    ],
)
def test_a_profile_that_is_not_loaded_is_refused(request_: dict[str, Any], host: Host, word: str) -> None:
    with pytest.raises(FailedPrecondition, match=word):
        apparmor.plan(ContainerSecurity(**request_), host)


def test_who_asks_for_nothing_runs_where_ours_could_not_be_loaded() -> None:
    assert apparmor.plan(ContainerSecurity(), BARE) == ""


@pytest.mark.parametrize(
    "request_",
    [
        {"apparmor": localhost("")},
        {"apparmor": localhost("localhost/")},
        {"apparmor": localhost("a\nb")},
        {"apparmor": localhost("a\0")},
        {"apparmor": localhost("a" * 5000)},
        {"apparmor": SecurityProfile(ProfileType.RUNTIME_DEFAULT, "mine")},
        {"apparmor_profile": "mine"},
        {"apparmor_profile": "localhost/"},
        {"apparmor_profile": "secret/mine"},
    ],
)
def test_what_names_no_profile_is_refused_everywhere(request_: dict[str, Any]) -> None:
    for host in (NOTHING, BARE, FULL):
        with pytest.raises(InvalidArgument, match=r"apparmor|AppArmor"):
            apparmor.plan(ContainerSecurity(**request_), host)


def node(root: Path, **files: str) -> Path:
    for path, text in files.items():
        file = root / {"enabled": apparmor.ENABLED, "loaded": apparmor.LOADED}[path]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_what_a_node_has(tmp_path: Path) -> None:
    assert apparmor.look(str(tmp_path)) == NOTHING
    assert apparmor.look(str(node(tmp_path, enabled="N\n"))) == NOTHING
    assert apparmor.look(str(node(tmp_path, enabled="Y\n"))) == Host(enabled=True, readable=False)
    assert apparmor.look(str(node(tmp_path, loaded=""))) == BARE
    text = f"mine (enforce)\n/usr/bin/x (unconfined)\nmy other (complain)\n{DEFAULT} (enforce)\n"
    found = apparmor.look(str(node(tmp_path, loaded=text)))
    assert found.loaded == {"mine", "/usr/bin/x", "my other", DEFAULT}


def test_nothing_is_loaded_where_there_is_no_apparmor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    apparmor.load_default(str(tmp_path), str(node(tmp_path, enabled="N\n")))
    assert not caplog.records


def test_a_missing_parser_is_said_once_a_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    apparmor.load_default(str(tmp_path), str(node(tmp_path, enabled="Y\n", loaded="")))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "apparmor_parser" in caplog.text


def program(root: Path, script: str) -> None:
    file = root / apparmor.PARSERS[0]
    file.parent.mkdir(parents=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_ours_is_loaded_once_for_each_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = node(tmp_path, enabled="Y\n", loaded="")
    program(root, f'echo "$@" >> {tmp_path}/calls; cat > {tmp_path}/text')
    apparmor.load_default(str(tmp_path), str(root))
    assert f'profile "{DEFAULT}"' in (tmp_path / "text").read_text()
    node(tmp_path, loaded=f"{DEFAULT} (enforce)\n")
    apparmor.load_default(str(tmp_path), str(root))
    assert (tmp_path / "calls").read_text() == "--replace --skip-cache\n"
    (tmp_path / "apparmor").write_text("that of an older release")
    apparmor.load_default(str(tmp_path), str(root))
    assert (tmp_path / "calls").read_text().count("\n") == 2
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_parser_that_fails_is_a_warning_with_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = node(tmp_path, enabled="Y\n", loaded="")
    program(root, "echo what it did not like >&2; exit 1")
    apparmor.load_default(str(tmp_path), str(root))
    assert "what it did not like" in caplog.text
    assert not (tmp_path / "apparmor").exists()
