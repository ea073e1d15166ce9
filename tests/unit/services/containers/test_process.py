import pytest

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig, ContainerMetadata, EnvVar
from shim.model.image import ImageConfig, ImageSpec
from shim.services.containers import process


def config(
    command: tuple[str, ...] = (),
    args: tuple[str, ...] = (),
    envs: tuple[EnvVar, ...] = (),
    working_dir: str = "",
    tty: bool = False,
) -> ContainerConfig:
    return ContainerConfig(
        ContainerMetadata("c"),
        ImageSpec("i"),
        command=command,
        args=args,
        envs=envs,
        working_dir=working_dir,
        tty=tty,
    )


IMAGE = ImageConfig(entrypoint=("/entry",), cmd=("arg",), env=("A=image", "PATH=/bin"), working_dir="/srv")


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [
        ((), (), ("/entry", "arg")),
        ((), ("x",), ("/entry", "x")),
        (("run",), (), ("run",)),
        (("run",), ("x",), ("run", "x")),
    ],
)
def test_command_and_arguments_follow_the_oci_rules(
    command: tuple[str, ...], args: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    assert process.resolve_argv(config(command, args), IMAGE) == argv


def test_an_empty_entrypoint_is_none() -> None:
    assert process.resolve_argv(config(), ImageConfig(entrypoint=("",), cmd=("sh",))) == ("sh",)


def test_no_program_at_all_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command"):
        process.resolve_argv(config(), ImageConfig())


def test_the_environment_of_the_request_wins_and_need_not_be_text() -> None:
    env = process.resolve_env(config(envs=(EnvVar("A", b"\xff"),)), IMAGE, "web")
    assert set(env) == {b"A=\xff", b"PATH=/bin", b"HOSTNAME=web"}


def test_defaults_of_the_environment() -> None:
    env = process.resolve_env(config(tty=True), ImageConfig(env=("nonsense",)), "web")
    assert env == (process.DEFAULT_PATH, b"HOSTNAME=web", b"TERM=xterm")
    assert process.add_home(env, "/root")[-1] == b"HOME=/root"
    assert process.add_home((b"HOME=/a",), "/root") == (b"HOME=/a",)


def test_the_working_directory_is_absolute() -> None:
    assert process.resolve_cwd(config(), IMAGE) == "/srv"
    assert process.resolve_cwd(config(working_dir="/x"), IMAGE) == "/x"
    assert process.resolve_cwd(config(), ImageConfig(working_dir="app")) == "/app"
    assert process.resolve_cwd(config(), ImageConfig()) == "/"


def test_further_variables_go_before_those_that_are_there() -> None:
    assert process.add_env((b"A=1", b"B=2"), ["A=3", "C=\udcff"]) == (b"A=3", b"B=2", b"C=\xff")
