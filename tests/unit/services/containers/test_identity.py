import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.model.security import ContainerSecurity, SupplementalGroupsPolicy, User
from shim.services.containers.identity import resolve, with_groups

PASSWD = b"""# comment
root:x:0:0:root:/root:/bin/sh
broken
evil:x:99999999999:0::/:
app:x:1000:1001:App:/home/app:/bin/sh
"""
GROUP = b"root:x:0:\napp:x:1001:\nextra:x:2000:other,app\nmore:x:2001:app\n"


@pytest.mark.parametrize(
    ("security", "image_user", "user", "home"),
    [
        (ContainerSecurity(), "", User(0, 0, (0,)), "/root"),
        (ContainerSecurity(), "app", User(1000, 1001, (1001, 2000, 2001)), "/home/app"),
        (ContainerSecurity(), "1000", User(1000, 1001, (1001, 2000, 2001)), "/home/app"),
        (ContainerSecurity(), "app:extra", User(1000, 2000, (2000, 2001)), "/home/app"),
        (ContainerSecurity(), "77:88", User(77, 88, (88,)), ""),
        (ContainerSecurity(), "77:extra", User(77, 2000, (2000,)), ""),
        (ContainerSecurity(), "1000:0", User(1000, 0, (0, 2000, 2001)), "/home/app"),
        (ContainerSecurity(), "app:", User(1000, 1001, (1001, 2000, 2001)), "/home/app"),
        (ContainerSecurity(), ":extra", User(0, 2000, (2000,)), "/root"),
        (ContainerSecurity(), "0001000", User(1000, 1001, (1001, 2000, 2001)), "/home/app"),
        (ContainerSecurity(), str(2**32 - 2), User(2**32 - 2, 0, (0,)), ""),
        (ContainerSecurity(run_as_user=0), "app", User(0, 0, (0,)), "/root"),
        (ContainerSecurity(run_as_user=77), "app:extra", User(77, 0, (0,)), ""),
        (
            ContainerSecurity(run_as_user=1000, run_as_group=5),
            "",
            User(1000, 5, (5, 2000, 2001)),
            "/home/app",
        ),
        (
            ContainerSecurity(run_as_username="app", supplemental_groups=(7, 1001)),
            "",
            User(1000, 1001, (1001, 7, 2000, 2001)),
            "/home/app",
        ),
        (
            ContainerSecurity(
                run_as_username="app",
                supplemental_groups=(7,),
                supplemental_groups_policy=SupplementalGroupsPolicy.STRICT,
            ),
            "",
            User(1000, 1001, (1001, 7)),
            "/home/app",
        ),
    ],
)
def test_the_request_counts_before_the_image(
    security: ContainerSecurity, image_user: str, user: User, home: str
) -> None:
    assert resolve(security, image_user, PASSWD, GROUP) == (user, home)


@pytest.mark.parametrize(
    "image_user",
    [
        *("nobody", "app:nogroup", "evil", "4294967295", "0:4294967295", "4294967296", "-1", "+0", "0x0"),
        *(
            "18446744073709551616",
            "0:18446744073709551616",
            "9" * 5000,
            "1" * 100_000 + ":0",
            "0:0:0",
            "\u0661",
        ),
    ],
)
def test_names_and_ids_that_do_not_exist_are_refused(image_user: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve(ContainerSecurity(), image_user, PASSWD, GROUP)
    assert len(str(caught.value)) < 200


def test_numbers_in_the_images_files_that_are_none_are_passed_over() -> None:
    passwd = b"a:x:" + b"9" * 5000 + b":0::/:\nb:x:0:" + b"9" * 5000 + b"::/:\nc:x:-1:0::/:\n"
    group = b"g:x:" + b"9" * 5000 + b":c\nh:x:4294967295:c\nroot:x:0:\n"
    for name in "abc":
        with pytest.raises(InvalidArgument):
            resolve(ContainerSecurity(), name, passwd, group)
    with pytest.raises(InvalidArgument):
        resolve(ContainerSecurity(), "0:g", passwd, group)


def test_an_image_without_files_still_runs_numbers() -> None:
    assert resolve(ContainerSecurity(), "", b"", b"") == (User(0, 0, (0,)), "")


@given(st.binary(), st.binary())
def test_hostile_files_are_no_more_than_useless(passwd: bytes, group: bytes) -> None:
    user, _ = resolve(ContainerSecurity(run_as_user=5), "", passwd, group)
    assert user.uid == 5


def test_further_groups_come_last_and_once() -> None:
    assert with_groups(User(1, 2, (2, 3)), (3, 44, 44)) == User(1, 2, (2, 3, 44))
