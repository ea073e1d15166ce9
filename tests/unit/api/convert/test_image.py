import pytest

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert import check
from shim.api.convert.image import decode_auth, decode_image_spec, encode_image, encode_image_spec
from shim.model.image import Image, ImageConfig, ImageSpec, Platform


def image(user: str) -> Image:
    return Image(
        id="sha256:1",
        repo_tags=("docker.io/library/a:latest",),
        repo_digests=("docker.io/library/a@sha256:2",),
        chain_ids=("sha256:3",),
        diff_ids=("sha256:3",),
        size_bytes=7,
        config=ImageConfig(user=user),
        platform=Platform("linux", "amd64"),
        pinned=True,
    )


@pytest.mark.parametrize(
    ("user", "uid", "name"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1000:1000", 1000, ""),
        ("www", None, "www"),
        ("www:data", None, "www"),
        ("99999999999", None, "99999999999"),
        ("²", None, "²"),
    ],
)
def test_the_user_is_a_number_or_a_name(user: str, uid: int | None, name: str) -> None:
    message = encode_image(image(user))
    assert (message.uid.value if message.HasField("uid") else None) == uid
    assert message.username == name


def test_an_image_has_all_its_names() -> None:
    message = encode_image(image(""))
    assert (message.id, message.size, message.pinned) == ("sha256:1", 7, True)
    assert list(message.repo_tags) == ["docker.io/library/a:latest"]
    assert list(message.repo_digests) == ["docker.io/library/a@sha256:2"]


def test_a_name_survives_the_wire() -> None:
    spec = ImageSpec("a", {"x": "y"}, "b", "c", "d")
    assert decode_image_spec(encode_image_spec(spec)) == spec


def test_credentials_are_not_shown() -> None:
    auth = decode_auth(cri.AuthConfig(username="u5er", password="p4ss", auth="b64", registry_token="t0ken"))
    assert (auth.username, auth.password) == ("u5er", "p4ss")
    assert not any(secret in repr(auth) for secret in ("u5er", "p4ss", "b64", "t0ken"))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"image\.image must not be empty"):
        check.given("", "image.image")
