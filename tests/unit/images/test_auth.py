import base64

import pytest

from shim.errors import InvalidArgument
from shim.images import auth
from shim.model.image import Auth

URL = "https://registry.example/v2"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_credentials_come_from_either_form() -> None:
    for given in (Auth(username="me", password="a:b"), Auth(auth=basic("me:a:b"))):
        found = auth.credential_for(given, "registry.example")
        assert found is not None
        assert found.basic() == "Basic " + basic("me:a:b")
        assert "a:b" not in repr(found)
    assert auth.credential_for(None, "registry.example") is None
    assert auth.credential_for(Auth(), "registry.example") is None


@pytest.mark.parametrize(
    ("address", "netloc", "fits"),
    [
        ("registry.example", "registry.example", True),
        ("https://registry.example/v1/", "registry.example", True),
        ("registry.example:5000", "registry.example", False),
        ("evil.example", "registry.example", False),
        ("https://index.docker.io/v1/", "registry-1.docker.io", True),
    ],
)
def test_credentials_are_for_the_host_they_name(address: str, netloc: str, fits: bool) -> None:
    given = Auth(username="me", password="x", server_address=address)
    assert (auth.credential_for(given, netloc) is not None) == fits


@pytest.mark.parametrize("text", ["!!", basic("no colon"), "/w=="])
def test_a_malformed_auth_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        auth.credential_for(Auth(auth=text), "registry.example")
    assert text not in str(caught.value)


def test_challenges_are_read_bearer_first() -> None:
    found = auth.parse_challenges(
        ['Basic realm="a, b", Bearer realm="https://t/token",service="s \\"q\\"",scope=x', "Negotiate"]
    )
    assert [challenge.scheme for challenge in found] == ["bearer", "basic", "negotiate"]
    assert found[0].get("service") == 's "q"'
    assert found[0].get("scope") == "x"
    assert found[1].get("realm") == "a, b"
    assert found[0].get("nothing") == ""
    assert auth.parse_challenges([]) == []


def challenge(realm: str) -> auth.Challenge:
    return auth.Challenge("bearer", (("realm", realm), ("service", "s")))


def test_a_token_is_asked_for_by_get_or_with_an_identity_token_by_post() -> None:
    asked = auth.token_request(challenge("https://t/token"), "scope", auth.Credential("me", "pw"), URL)
    assert (asked.method, asked.url) == ("GET", "https://t/token")
    assert asked.parameters == (("service", "s"), ("scope", "scope"), ("account", "me"))
    assert asked.authorization == "Basic " + basic("me:pw")
    anonymous = auth.token_request(challenge("https://t/token"), "scope", None, URL)
    assert anonymous.authorization == ""
    refresh = auth.Credential(identity_token="refresh")
    posted = auth.token_request(challenge("https://t/token"), "scope", refresh, URL)
    assert posted.method == "POST"
    assert ("refresh_token", "refresh") in posted.parameters
    assert "refresh" not in repr(posted).replace("refresh_token", "")


def test_what_the_registry_names_as_scope_is_asked_for_too() -> None:
    asks = auth.Challenge(
        "bearer", (("realm", "https://t/token"), ("scope", "own repository:proxy/app:pull"))
    )
    anonymous = auth.token_request(asks, "own", None, URL)
    assert anonymous.parameters == (("scope", "own"), ("scope", "repository:proxy/app:pull"))
    posted = auth.token_request(asks, "own", auth.Credential(identity_token="x"), URL)
    assert ("scope", "own repository:proxy/app:pull") in posted.parameters
    many = auth.Challenge("bearer", (*asks.parameters[:1], ("scope", " ".join(map(str, range(1000))))))
    assert len(auth.token_request(many, "own", None, URL).parameters) == 11


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "https://", "http://t/token"])
def test_a_place_where_secrets_must_not_go_is_refused(realm: str) -> None:
    with pytest.raises(auth.Unauthorized):
        auth.token_request(challenge(realm), "scope", auth.Credential("me", "pw"), URL)


def test_a_token_is_good_for_a_while() -> None:
    token = auth.parse_token(b'{"access_token": "t", "expires_in": 300}', 1000.0, "here")
    assert (token.value, token.expires_at_s) == ("t", 1290.0)
    assert auth.parse_token(b'{"token": "t"}', 1000.0, "here").expires_at_s == 1050.0
    for body in (b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "t", "expires_in": "x"}'):
        with pytest.raises(auth.Unauthorized, match="here"):
            auth.parse_token(body, 0.0, "here")
