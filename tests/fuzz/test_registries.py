"""Whatever a registry or a file says: values, or an error of ours; never another exception."""

import contextlib
import json

from hypothesis import example, given
from hypothesis import strategies as st

from shim.errors import FailedPrecondition, InvalidArgument
from shim.images import auth, docker_config, failures, hosts, manifest, proxies, reference

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
WORDS = st.sampled_from(
    [
        "auths",
        "credHelpers",
        "credsStore",
        "auth",
        "username",
        "identitytoken",
        "token",
        "expires_in",
        "mediaType",
        "layers",
        "manifests",
        "config",
        "schemaVersion",
        "size",
        "digest",
        "platform",
    ]
)
DOCUMENTS = st.recursive(
    VALUES,
    lambda inner: st.dictionaries(WORDS, inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=20,
)
KEYS = st.sampled_from(
    (
        "server",
        "host",
        "capabilities",
        "ca",
        "client",
        "skip_verify",
        "header",
        "override_path",
        "dial_timeout",
    )
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key), ensure_ascii=True)} = {toml(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return '""' if value is None else json.dumps(value)


@given(st.text() | st.from_regex(r'(Basic|Bearer) (realm="[^"]*"(,| )?scope=.*)?'))
def test_challenges(text: str) -> None:
    for challenge in auth.parse_challenges([text]):
        with contextlib.suppress(auth.Unauthorized):
            auth.token_request(challenge, "scope", auth.Credential("a", "b"), "https://registry.example/v2")


@example(b'{"mediaType": 1}')
@given(st.binary() | DOCUMENTS.map(lambda value: json.dumps(value).encode()))
def test_documents(data: bytes) -> None:
    with contextlib.suppress(auth.Unauthorized):
        assert auth.parse_token(data, 0.0, "here").value
    with contextlib.suppress(FailedPrecondition):
        docker_config.parse(data, "here").find("registry.example", "app")
    with contextlib.suppress(FailedPrecondition):
        docker_config.parse_answer(data, "here")
    for parse in (manifest.parse_index, manifest.parse_manifest, manifest.parse_config):
        with contextlib.suppress(InvalidArgument):
            parse(data, "here")
    with contextlib.suppress(InvalidArgument):
        manifest.media_type(data, "", "here")


@given(
    st.binary()
    | st.dictionaries(KEYS, VALUES | st.dictionaries(st.text(max_size=20), VALUES, max_size=3)).map(
        lambda document: "\n".join(f"{key} = {toml(value)}" for key, value in document.items()).encode()
    )
)
def test_hosts_files(data: bytes) -> None:
    with contextlib.suppress(FailedPrecondition):
        for host in hosts.parse(data, "registry.example", "/etc"):
            assert host.netloc
        hosts.find_unknown(data, "here")


@given(st.text())
def test_texts(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        found = reference.parse(text)
        assert reference.parse(str(found)) == found
    assert failures.parse_retry_after(text) >= 0
    assert failures.clean(text).isprintable()
    with contextlib.suppress(FailedPrecondition):
        proxies.from_environment({"HTTP_PROXY": text, "NO_PROXY": text}).for_url("http://registry.example/")
