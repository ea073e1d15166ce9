import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.images import reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

NORMAL = {
    "busybox": "docker.io/library/busybox:latest",
    "busybox:1": "docker.io/library/busybox:1",
    "user/app": "docker.io/user/app:latest",
    "docker.io/busybox": "docker.io/library/busybox:latest",
    "index.docker.io/user/app:x": "docker.io/user/app:x",
    "localhost/app": "localhost/app:latest",
    "localhost:5000/app": "localhost:5000/app:latest",
    "host:5000/a/b/c:tag": "host:5000/a/b/c:tag",
    "UPPER/app": "UPPER/app:latest",  # capitals make it a host
    "registry.k8s.io/pause:3.9": "registry.k8s.io/pause:3.9",
    "[::1]:5000/app": "[::1]:5000/app:latest",
    "a--b/c__d/e.f_g": "docker.io/a--b/c__d/e.f_g:latest",
    f"busybox@{DIGEST}": f"docker.io/library/busybox@{DIGEST}",
    f"busybox:1@{DIGEST}": f"docker.io/library/busybox:1@{DIGEST}",
}


@pytest.mark.parametrize(("text", "normal"), NORMAL.items())
def test_defaults_are_filled_in_as_docker_does(text: str, normal: str) -> None:
    assert str(reference.parse(text)) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "/",
        "Upper",
        "user/Upper",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a:b:c",
        "a b",
        "a:-tag",
        "a:" + "t" * 129,
        "-a",
        "a-",
        "a..b",
        "a___b",
        "https://host/app",
        "app@sha256:12",
        f"app@{DIGEST.upper()}",
        f"app@{DIGEST}0",
        "app@sha384:" + "0" * 96,
        "app@other:" + "0" * 64,
        "0" * 64,
        "host.name/" + "a" * 250,
        "app\n",
        "app:tag\n",
        "ä",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference"):
        reference.parse(text)


def test_with_a_digest_the_tag_says_nothing_more() -> None:
    parsed = reference.parse(f"app:v1@{DIGEST}")
    assert (parsed.tag, parsed.object) == ("v1", DIGEST)
    assert str(parsed.canonical()) == f"docker.io/library/app@{DIGEST}"
    assert parsed.canonical() == reference.parse("app:v2").with_digest(DIGEST)


component = st.from_regex(r"[a-z0-9]+(?:(?:[._]|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
domain = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,2}(:[0-9]{1,5})?", fullmatch=True)
tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(domain, st.lists(component, min_size=1, max_size=4), tag, st.booleans())
def test_the_normal_form_means_itself(host: str, names: list[str], label: str, by_digest: bool) -> None:
    text = f"{host}/{'/'.join(names)}:{label}" + (f"@{DIGEST}" if by_digest else "")
    parsed = reference.parse(text)
    assert reference.parse(str(parsed)) == parsed
    assert (parsed.tag, parsed.digest) == (label, DIGEST if by_digest else "")


@given(st.text(alphabet=string.ascii_letters + string.digits + "/:@.-_[]\n ", max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except InvalidArgument:
        return
    assert reference.parse(str(parsed)) == parsed
    assert not set(str(parsed)) & set("\n ")
