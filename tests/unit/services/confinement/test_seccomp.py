"""Which profile is asked for, and what is kept of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.kernel import seccomp as kernel
from shim.model.security import Confinement, ContainerSecurity, ProfileType, SecurityProfile
from shim.services.confinement import seccomp

DEFAULT, UNCONFINED, LOCALHOST = (
    ProfileType.RUNTIME_DEFAULT,
    ProfileType.UNCONFINED,
    ProfileType.LOCALHOST,
)
OPEN = b'{"defaultAction": "SCMP_ACT_ALLOW"}'


@pytest.mark.parametrize(
    ("request_", "default", "expected"),
    [
        ({}, UNCONFINED, SecurityProfile(UNCONFINED)),
        ({}, DEFAULT, SecurityProfile(DEFAULT)),
        ({"privileged": True}, DEFAULT, SecurityProfile(UNCONFINED)),
        ({"seccomp_profile_path": "unconfined"}, DEFAULT, SecurityProfile(UNCONFINED)),
        ({"seccomp_profile_path": "runtime/default"}, UNCONFINED, SecurityProfile(DEFAULT)),
        ({"seccomp_profile_path": "docker/default"}, UNCONFINED, SecurityProfile(DEFAULT)),
        ({"seccomp_profile_path": "localhost//p.json"}, UNCONFINED, SecurityProfile(LOCALHOST, "/p.json")),
        (
            {"seccomp": SecurityProfile(LOCALHOST, "/p.json")},
            UNCONFINED,
            SecurityProfile(LOCALHOST, "/p.json"),
        ),
        (
            {"seccomp": SecurityProfile(LOCALHOST, "localhost//p.json")},
            UNCONFINED,
            SecurityProfile(LOCALHOST, "/p.json"),
        ),
        (
            {"seccomp": SecurityProfile(UNCONFINED), "seccomp_profile_path": "runtime/default"},
            DEFAULT,
            SecurityProfile(UNCONFINED),
        ),
        (
            {"seccomp": SecurityProfile(LOCALHOST, "/p.json"), "privileged": True},
            DEFAULT,
            SecurityProfile(UNCONFINED),
        ),
    ],
)
def test_which_profile_is_asked_for(
    request_: dict[str, Any], default: ProfileType, expected: SecurityProfile
) -> None:
    assert seccomp.asked(ContainerSecurity(**request_), default) == expected


@pytest.mark.parametrize(
    "request_",
    [
        {"seccomp_profile_path": "secret/profile"},
        {"seccomp_profile_path": "/p.json"},
        {"seccomp_profile_path": "localhost/"},
        {"seccomp_profile_path": "localhost/p.json"},
        {"seccomp": SecurityProfile(LOCALHOST)},
        {"seccomp": SecurityProfile(LOCALHOST, "p.json")},
        {"seccomp": SecurityProfile(LOCALHOST, "/a/../p.json")},
        {"seccomp": SecurityProfile(LOCALHOST, "/a\0")},
        {"seccomp": SecurityProfile(DEFAULT, "/p.json")},
        {"seccomp": SecurityProfile(UNCONFINED, "/p.json")},
    ],
)
def test_what_names_no_profile_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="seccomp"):
        seccomp.asked(ContainerSecurity(**request_), UNCONFINED)


def test_a_profile_is_kept_as_it_was(tmp_path: Path) -> None:
    file, kept = tmp_path / "p.json", str(tmp_path / "kept")
    file.write_bytes(OPEN)
    digest = seccomp.keep(kept, str(file), 0)
    assert seccomp.keep(kept, str(file), 0) == digest
    file.write_bytes(b"something else")
    confinement = Confinement(LOCALHOST, digest)
    assert seccomp.program(kept, confinement, 0).code
    assert seccomp.program(kept, confinement, 0).code is seccomp.program(kept, confinement, 0).code
    assert os.listdir(kept) == [digest]
    seccomp.forget(kept, {digest})
    assert os.listdir(kept) == [digest]
    seccomp.forget(kept, {""})
    assert os.listdir(kept) == []
    seccomp.forget(str(tmp_path / "nowhere"), set())


def test_a_file_that_cannot_be_a_profile_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "long").write_bytes(b" " * ((1 << 20) + 1))
    for name, error in (
        ("fifo", InvalidArgument),
        ("long", InvalidArgument),
        ("missing", FailedPrecondition),
        (".", FailedPrecondition),
        ("text", InvalidArgument),
    ):
        with pytest.raises(error, match="seccomp profile" if name == "text" else name):
            seccomp.keep(str(tmp_path / "kept"), str(tmp_path / name), 0)
    assert not (tmp_path / "kept").exists()


def test_denials_are_logged_where_that_is_asked_for() -> None:
    default = Confinement(DEFAULT)
    quiet, loud = (seccomp.program("", default, 0, log=log) for log in (False, True))
    assert quiet.code is loud.code
    assert loud.flags == quiet.flags | kernel.FLAG_LOG
    assert not seccomp.program("", Confinement(), 0, log=True).code
