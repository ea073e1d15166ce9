import base64
import json
from typing import Any

import pytest

from shim.errors import FailedPrecondition
from shim.images import docker_config
from shim.images.auth import Credential
from shim.images.docker_config import Helper


def parse(**document: Any) -> docker_config.DockerConfig:
    return docker_config.parse(json.dumps(document).encode(), "config.json")


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("key", "netloc", "fits"),
    [
        ("registry.example", "registry.example", True),
        ("https://registry.example", "registry.example", True),
        ("https://registry.example/v1/", "registry.example", True),
        ("https://registry.example/v2/", "registry.example", True),
        ("registry.example:5000", "registry.example:5000", True),
        ("registry.example", "registry.example:5000", False),
        ("registry.example", "evil-registry.example", False),
        ("registry.example", "eu.registry.example", False),
        ("*.registry.example", "eu.registry.example", True),
        ("*.registry.example", "a.eu.registry.example", False),
        ("*.registry.example:5000", "eu.registry.example:5000", True),
        ("*.registry.example", "eu.registry.example:5000", False),
        ("https://index.docker.io/v1/", "registry-1.docker.io", True),
        ("docker.io", "registry-1.docker.io", True),
        ("registry.example/team", "registry.example", True),
        ("registry.example/other", "registry.example", False),
        ("registry.example/te", "registry.example", False),
    ],
)
def test_keys_are_hosts_urls_paths_and_patterns(key: str, netloc: str, fits: bool) -> None:
    found = parse(auths={key: entry("me:p:w")}).find(netloc, "team/app")
    assert (found is not None) == fits
    if found is not None:
        assert found[0] == key
        assert (found[1].username, found[1].password) == ("me", "p:w")


def test_the_longest_path_counts_and_a_name_before_a_pattern() -> None:
    config = parse(
        auths={
            "registry.example": entry("host:x"),
            "registry.example/team": entry("team:x"),
            "registry.example/team/app": entry("app:x"),
            "*.example/team/app/deep": entry("pattern:x"),
        }
    )
    for repository, user in (
        ("a", "host"),
        ("team/b", "team"),
        ("team/app", "app"),
        ("team/app/deep", "app"),
    ):
        found = config.find("registry.example", repository)
        assert found is not None
        assert found[1].username == user


def test_an_entry_has_a_name_or_tokens_or_nothing() -> None:
    config = parse(
        auths={
            "a": {"username": "me", "password": "pw"},
            "b": {**entry("00000000:"), "identitytoken": "identity"},
            "c": {"registrytoken": "registry"},
            "d": {},
            "e": {"email": "x"},
        }
    )
    found = [config.find(key, "x") for key in "abcde"]
    assert [entry and entry[1] for entry in found] == [
        Credential("me", "pw"),
        Credential("00000000", "", "identity"),
        Credential(registry_token="registry"),
        None,
        None,
    ]
    assert "pw" not in repr(config)


def test_a_helper_for_the_host_comes_before_the_one_for_all() -> None:
    config = parse(credHelpers={"registry.example": "ecr-login"}, credsStore="pass")
    assert config.find_helper("registry.example") == Helper("ecr-login", "registry.example")
    assert config.find_helper("registry-1.docker.io") == Helper("pass", "https://index.docker.io/v1/")
    assert parse().find_helper("registry.example") is None
    assert Helper("pass", "x").program == "docker-credential-pass"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"auths": [1]}',
        '{"auths": {"a": 1}}',
        '{"auths": {"a": {"auth": 1}}}',
        '{"auths": {"a": {"auth": "s3cret!"}}}',
        '{"auths": {"a": {"auth": "czNjcmV0"}}}',
        '{"credHelpers": {"a": "../evil"}}',
        '{"credHelpers": {"a": 1}}',
        '{"credsStore": "a b"}',
        '{"credsStore": ["a"]}',
    ],
)
def test_a_malformed_file_is_named_and_no_secret_told(text: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"config\.json") as caught:
        docker_config.parse(text.encode(), "config.json")
    assert "s3cret" not in str(caught.value)
    assert "czNjcmV0" not in str(caught.value)


def test_what_a_helper_prints() -> None:
    found = docker_config.parse_answer(b'{"ServerURL": "x", "Username": "me", "Secret": "pw"}', "helper")
    assert found is not None
    assert (found.username, found.password) == ("me", "pw")
    token = docker_config.parse_answer(b'{"Username": "<token>", "Secret": "identity"}', "helper")
    assert token is not None
    assert (token.username, token.identity_token) == ("", "identity")
    assert docker_config.parse_answer(b'{"Username": "", "Secret": ""}', "helper") is None
    for text in (b"", b"[]", b"1", b'{"Username": "me"}', b'{"Username": 1, "Secret": "pw"}'):
        with pytest.raises(FailedPrecondition, match="helper did not print"):
            docker_config.parse_answer(text, "helper")
