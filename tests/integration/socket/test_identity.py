"""Who a container runs as, and what it may do, as a kubelet asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import capabilities
from shim.runtime import privileges
from tests.integration.socket.conftest import make_image

pytestmark = pytest.mark.root

Code = grpc.StatusCode
AVAILABLE = capabilities.bounding_set()
USUAL = sum(1 << capabilities.parse(name) for name in privileges.DEFAULT) & AVAILABLE


def mask(*names: str) -> int:
    return sum(1 << capabilities.parse(name) for name in names)


def image_of(daemon: Any, user: str) -> str:
    """Load an image whose configuration names a user."""
    name = f"example.com/test/user:{abs(hash(user))}"
    path = daemon.scratch / "user.tar"
    make_image(path, name, User=user)
    daemon.command("image", "load", "-i", str(path))
    return name


def ids(daemon: Any, id_: str) -> tuple[int, int, list[int]]:
    """Return what the kernel says of the first process."""
    fields = status(daemon, id_)
    groups = [int(each) for each in fields["Groups"].split()]
    return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0]), groups


def status(daemon: Any, id_: str, pid: str = "1") -> dict[str, str]:
    lines = daemon.exec(id_, "cat", f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def told(daemon: Any, id_: str) -> tuple[int, int, list[int]]:
    user = daemon.status(id_).user.linux
    return user.uid, user.gid, list(user.supplemental_groups)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, [0])),
        ("app", (1000, 1000, [1000, 2000])),
        ("1000", (1000, 1000, [1000, 2000])),
        ("77", (77, 0, [0])),
        ("app:extra", (1000, 2000, [2000])),
        ("77:88", (77, 88, [88])),
        ("app:88", (1000, 88, [88, 2000])),
        ("77:extra", (77, 2000, [2000])),
    ],
)
def test_users_of_an_image(daemon: Any, user: str, expected: tuple[int, int, list[int]]) -> None:
    config = daemon.container_config()
    config.image.image = image_of(daemon, user)
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert ids(daemon, id_) == told(daemon, id_) == expected
    assert daemon.exec(id_, "id", "-u").strip() == str(expected[0])


@pytest.mark.parametrize(
    "user", ["4294967296", "4294967295", "0:4294967296", "18446744073709551616", "-1", "nobody", "app:none"]
)
def test_users_that_an_image_cannot_have(daemon: Any, user: str) -> None:
    config = daemon.container_config()
    config.image.image = image_of(daemon, user)
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, config)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert user.rpartition(":")[2] in caught.value.details()


def ask(daemon: Any, change: Callable[[Any], object]) -> cri.ContainerConfig:
    config = daemon.container_config()
    change(config.linux.security_context)
    return config


def identity(
    user: int | str | None = None, group: int | None = None, *groups: int, strict: bool = False
) -> Any:
    def change(context: Any) -> None:
        if isinstance(user, str):
            context.run_as_username = user
        elif user is not None:
            context.run_as_user.value = user
        if group is not None:
            context.run_as_group.value = group
        context.supplemental_groups.extend(groups)
        context.supplemental_groups_policy = cri.Strict if strict else cri.Merge

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (identity(), (0, 0, [0])),
        (identity(1000), (1000, 1000, [1000, 2000])),
        (identity(0, 0), (0, 0, [0])),
        (identity("app"), (1000, 1000, [1000, 2000])),
        (identity("app", 5), (1000, 5, [5, 2000])),
        (identity(1000, 5, 7, 8), (1000, 5, [5, 7, 8, 2000])),
        (identity(1000, 5, 7, 8, strict=True), (1000, 5, [5, 7, 8])),
        (identity("app", strict=True), (1000, 1000, [1000])),
        (identity(77, None, 7, 7, 2000), (77, 0, [0, 7, 2000])),
    ],
)
def test_users_and_groups_of_a_request(
    daemon: Any, change: Any, expected: tuple[int, int, list[int]]
) -> None:
    id_ = daemon.run(daemon.run_pod(), config=ask(daemon, change))
    kernel = ids(daemon, id_)
    assert told(daemon, id_) == expected
    assert (*kernel[:2], sorted(kernel[2])) == (*expected[:2], sorted(expected[2]))
    assert sorted(map(int, daemon.exec(id_, "id", "-G").split())) == sorted({*expected[2], expected[1]})


def many_groups(context: Any) -> None:
    context.supplemental_groups.extend(range(65537))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (identity(-1), "-1"),
        (identity(2**32), str(2**32)),
        (identity(2**32 - 1), str(2**32 - 1)),
        (identity(1, 2**32), str(2**32)),
        (identity(1, None, 2**32), str(2**32)),
        (identity(1, None, -1), "-1"),
        (identity(None, 5), "run_as_group"),
        (identity("nobody-here"), "nobody-here"),
        (identity("a\nb"), "run_as_username"),
        (identity("x" * 300), "run_as_username"),
        (many_groups, "supplemental_groups"),
        (lambda context: (identity(1)(context), identity("app")(context)), "both"),
        (lambda context: setattr(context, "supplemental_groups_policy", 7), "supplemental_groups_policy"),
    ],
)
def test_users_and_groups_that_cannot_be(daemon: Any, change: Any, word: str) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, ask(daemon, change))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert word in caught.value.details()


def test_the_policy_is_a_feature() -> None:
    assert cri.RuntimeFeatures(supplemental_groups_policy=True)


def test_status_tells_of_the_policy(daemon: Any) -> None:
    assert daemon.runtime.Status(cri.StatusRequest()).features.supplemental_groups_policy


def caps(add: tuple[str, ...] = (), drop: tuple[str, ...] = (), ambient: tuple[str, ...] = ()) -> Any:
    def change(context: Any) -> None:
        context.capabilities.add_capabilities.extend(add)
        context.capabilities.drop_capabilities.extend(drop)
        context.capabilities.add_ambient_capabilities.extend(ambient)

    return change


@pytest.mark.parametrize(
    ("change", "effective"),
    [
        (caps(), USUAL),
        (
            caps(add=("sys_time", "CAP_NET_ADMIN", "Sys_Nice")),
            USUAL | mask("SYS_TIME", "NET_ADMIN", "SYS_NICE"),
        ),
        (caps(drop=("NET_RAW", "cap_chown")), USUAL & ~mask("NET_RAW", "CHOWN")),
        (caps(add=("ALL",)), AVAILABLE),
        (caps(add=("all",), drop=("SYS_ADMIN",)), AVAILABLE & ~mask("SYS_ADMIN")),
        (caps(drop=("ALL",)), 0),
        (caps(add=("NET_BIND_SERVICE",), drop=("all",)), mask("NET_BIND_SERVICE")),
        (caps(add=("ALL", "KILL"), drop=("ALL",)), mask("KILL")),
        (caps(add=("KILL",), drop=("KILL",)), USUAL & ~mask("KILL")),
    ],
)
def test_capabilities(daemon: Any, change: Any, effective: int) -> None:
    config = ask(daemon, change)
    config.image.image = image_of(daemon, "")
    id_ = daemon.run(daemon.run_pod(), config=config)
    for pid in ("1", "self"):
        fields = status(daemon, id_, pid)
        assert [int(fields[f"Cap{name}"], 16) for name in ("Prm", "Eff", "Bnd")] == [
            effective & AVAILABLE
        ] * 3
        assert [int(fields[f"Cap{name}"], 16) for name in ("Inh", "Amb")] == [0, 0]


def test_a_user_has_ambient_capabilities_only(daemon: Any) -> None:
    def change(context: Any) -> None:
        context.run_as_user.value = 1000
        caps(add=("SYS_TIME",), ambient=("NET_BIND_SERVICE",))(context)

    id_ = daemon.run(daemon.run_pod(), config=ask(daemon, change))
    for pid in ("1", "self"):
        fields = status(daemon, id_, pid)
        for name in ("Prm", "Eff", "Inh", "Amb"):
            assert int(fields[f"Cap{name}"], 16) == mask("NET_BIND_SERVICE")


@pytest.mark.parametrize("where", ["add_capabilities", "drop_capabilities", "add_ambient_capabilities"])
def test_a_capability_that_nobody_knows(daemon: Any, where: str) -> None:
    pod = daemon.run_pod()
    config = ask(daemon, lambda context: getattr(context.capabilities, where).append("FLY"))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, config)
    assert (caught.value.code(), "'FLY'" in caught.value.details()) == (Code.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("no_new_privs", [False, True])
def test_no_new_privileges(daemon: Any, user: int, *, no_new_privs: bool) -> None:
    def change(context: Any) -> None:
        context.no_new_privs = no_new_privs
        context.run_as_user.value = user

    id_ = daemon.run(daemon.run_pod(), config=ask(daemon, change))
    for pid in ("1", "self"):
        assert status(daemon, id_, pid)["NoNewPrivs"] == str(int(no_new_privs))


def test_limits_and_the_like_are_the_specs_own(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod())
    lines = daemon.exec(id_, "cat", "/proc/1/limits").splitlines()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert limits["Max open files"][0] == "1024"
    assert limits["Max nice priority"] == ["0", "0"]
    assert limits["Max realtime priority"] == ["0", "0"]
    assert limits["Max msgqueue size"] == ["819200", "819200"]
    assert status(daemon, id_)["Umask"] == "0022"
