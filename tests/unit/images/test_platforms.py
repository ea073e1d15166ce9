import pytest

from shim.images import platforms
from shim.model.image import Descriptor, Platform


def entry(name: str, platform: Platform | None) -> Descriptor:
    return Descriptor("type", name, 1, platform)


AMD64 = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("have", "want", "rank"),
    [
        (AMD64, AMD64, 0),
        (Platform("linux", "x86_64"), AMD64, 0),
        (Platform("linux", "amd64", "v3"), AMD64, None),
        (Platform("windows", "amd64"), AMD64, None),
        (Platform("linux", "386"), AMD64, None),
        (Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7"), 1),
        (Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6"), None),
        (Platform("linux", "arm64"), Platform("linux", "arm64", "v8"), 0),
        (Platform("linux", "arm", "v7"), Platform("linux", "arm64", "v8"), 11),
    ],
)
def test_how_well_an_image_fits(have: Platform, want: Platform, rank: int | None) -> None:
    assert platforms.rank(have, want) == rank


def test_the_best_entry_comes_first_and_one_without_platform_last() -> None:
    want = Platform("linux", "arm", "v7")
    entries = [
        entry("any", None),
        entry("v5", Platform("linux", "arm", "v5")),
        entry("attestation", Platform("unknown", "unknown")),
        entry("other", AMD64),
        entry("v7", Platform("linux", "arm", "v7")),
    ]
    assert [found.digest for found in platforms.choose(entries, want)] == ["v7", "v5", "any"]


def test_this_machine_has_a_platform() -> None:
    assert platforms.host().os == "linux"
    assert platforms.rank(platforms.host(), platforms.host()) == 0
