"""The image commands against a daemon that is only its sockets."""

import contextlib
import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from shim._proto import api_pb2 as cri
from shim._proto import images_pb2 as own
from shim.cli.main import cli

IMAGE = cri.Image(id="sha256:" + "ab" * 32, repo_tags=["docker.io/library/a:1"], size=1234567, pinned=True)


class Daemon:
    """Answers as the real one would; ``seen`` keeps what was asked."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def pull(self, request: own.PullRequest, context: grpc.ServicerContext) -> Iterator[own.Progress]:
        self.seen["pull"] = request
        if request.reference == "nowhere/a":
            context.abort(grpc.StatusCode.UNKNOWN, "RegistryUnavailable: nowhere: no answer")
        blob = "sha256:" + "cd" * 32
        yield own.Progress(item=blob, phase="fetching", done_bytes=1, total_bytes=2000)
        yield own.Progress(item=blob, phase="fetching", done_bytes=2000, total_bytes=2000)
        yield own.Progress(item=blob, phase="unpacking", done_bytes=1, total_bytes=2000)
        yield own.Progress(phase="done", image=own.LoadedImage(id=IMAGE.id, repo_tags=IMAGE.repo_tags))

    def load(self, chunks: Iterator[own.LoadChunk], _context: grpc.ServicerContext) -> own.LoadResponse:
        received = list(chunks)
        self.seen["load"] = (received[0].name, b"".join(chunk.data for chunk in received))
        self.seen["pinned"] = received[0].pinned
        return own.LoadResponse(images=[own.LoadedImage(id=IMAGE.id, repo_tags=IMAGE.repo_tags)])

    def save(self, request: own.SaveRequest, context: grpc.ServicerContext) -> Iterator[own.SaveChunk]:
        yield own.SaveChunk(data=b"one ")
        if "broken" in request.names:
            context.abort(grpc.StatusCode.NOT_FOUND, "image 'broken' not found")
        yield own.SaveChunk(data=b"two")

    def verify(self, request: own.VerifyRequest, _context: Any) -> Iterator[own.LayerVerdict]:
        self.seen["verify"] = request
        yield own.LayerVerdict(diff_id="sha256:" + "01" * 32, images=["a:1"])
        yield own.LayerVerdict(
            diff_id="sha256:" + "02" * 32,
            images=["a:1"],
            containers=["c" * 64],
            problems=["'etc/passwd': its mode is 666 instead of 644"],
            mended=request.repair,
            reason="" if request.repair else "not asked for",
        )

    def list_images(self, _request: Any, _context: Any) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=[IMAGE, cri.Image(id="sha256:" + "ef" * 32, size=5)])

    def image_status(self, request: cri.ImageStatusRequest, _context: Any) -> cri.ImageStatusResponse:
        if request.image.image != "a":
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(image=IMAGE, info={"info": '{"chainID": "x"}'})

    def remove_image(self, request: cri.RemoveImageRequest, _context: Any) -> cri.RemoveImageResponse:
        self.seen.setdefault("remove", []).append(request.image.image)
        return cri.RemoveImageResponse()


def handlers(daemon: Daemon) -> Iterator[grpc.GenericRpcHandler]:
    unary = grpc.unary_unary_rpc_method_handler
    encode = lambda message: message.SerializeToString()  # noqa: E731
    yield grpc.method_handlers_generic_handler(
        "runtime.v1.ImageService",
        {
            "ListImages": unary(daemon.list_images, cri.ListImagesRequest.FromString, encode),
            "ImageStatus": unary(daemon.image_status, cri.ImageStatusRequest.FromString, encode),
            "RemoveImage": unary(daemon.remove_image, cri.RemoveImageRequest.FromString, encode),
        },
    )
    yield grpc.method_handlers_generic_handler(
        "cri_shim.v1.Images",
        {
            "Pull": grpc.unary_stream_rpc_method_handler(daemon.pull, own.PullRequest.FromString, encode),
            "Load": grpc.stream_unary_rpc_method_handler(daemon.load, own.LoadChunk.FromString, encode),
            "Save": grpc.unary_stream_rpc_method_handler(daemon.save, own.SaveRequest.FromString, encode),
            "Verify": grpc.unary_stream_rpc_method_handler(
                daemon.verify, own.VerifyRequest.FromString, encode
            ),
        },
    )


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    made = Daemon()
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=tuple(handlers(made)))
        server.add_insecure_port(f"unix:{tmp_path}/s")
        server.start()
        monkeypatch.setenv("CRI_SHIM_SOCKET", f"{tmp_path}/s")
        yield made
        server.stop(None).wait()


def run(*arguments: str, stdin: str | bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["image", *arguments], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_pull_prints_each_phase_once_and_then_the_id(daemon: Daemon) -> None:
    code, out, err = run("pull", "a")
    assert (code, out) == (0, IMAGE.id + "\n")
    assert err == "cdcdcdcdcdcd: fetching (2.0 kB)\ncdcdcdcdcdcd: unpacking (2.0 kB)\n"
    assert daemon.seen["pull"].username == ""


def test_pull_takes_the_password_from_standard_input(daemon: Daemon) -> None:
    assert run("pull", "--username", "u", "--password-stdin", "a", stdin="p4ss\n")[0] == 0
    assert (daemon.seen["pull"].username, daemon.seen["pull"].password) == ("u", "p4ss")


def test_pull_with_half_of_the_credentials_is_a_usage_error(daemon: Daemon) -> None:
    assert run("pull", "--username", "u", "a")[0] == 2


def test_what_the_daemon_refuses_is_one_line(daemon: Daemon) -> None:
    code, out, err = run("pull", "nowhere/a")
    assert (code, out) == (1, "")
    assert err == "Error: RegistryUnavailable: nowhere: no answer\n"


def test_load_sends_the_file(daemon: Daemon, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(os.urandom(3 << 20))
    code, out, _ = run("load", "-i", str(archive), "--name", "b:2")
    assert (code, out) == (0, "abababababab docker.io/library/a:1\n")
    assert daemon.seen["load"] == ("b:2", archive.read_bytes())


def test_load_pins(daemon: Daemon) -> None:
    assert run("load", "--pin", stdin=b"bytes")[0] == 0
    assert daemon.seen["pinned"]


def test_verify_says_what_is_damaged_and_who_uses_it(daemon: Daemon) -> None:
    code, out, _ = run("verify", "a:1")
    assert code == 1
    assert out.splitlines() == [
        "020202020202 damaged: a:1",
        "  'etc/passwd': its mode is 666 instead of 644",
        "  not mended: not asked for",
        "  containers that use it, to be started again: cccccccccccc",
        "2 layers checked, 1 damaged, 0 mended",
    ]
    assert list(daemon.seen["verify"].names) == ["a:1"]


def test_verify_mends_with_credentials(daemon: Daemon) -> None:
    code, out, _ = run("verify", "--repair", "--username", "u", "--password-stdin", stdin="p4ss\n")
    assert (code, out.splitlines()[-1]) == (0, "2 layers checked, 0 damaged, 1 mended")
    assert (daemon.seen["verify"].repair, daemon.seen["verify"].password) == (True, "p4ss")


def test_load_reads_standard_input(daemon: Daemon) -> None:
    assert run("load", stdin=b"bytes")[0] == 0
    assert daemon.seen["load"] == ("", b"bytes")


def test_save_writes_the_file(daemon: Daemon, tmp_path: Path) -> None:
    assert run("save", "-o", str(tmp_path / "out.tar"), "a")[0] == 0
    assert (tmp_path / "out.tar").read_bytes() == b"one two"


def test_save_leaves_no_half_of_a_file(daemon: Daemon, tmp_path: Path) -> None:
    code, _, err = run("save", "-o", str(tmp_path / "out.tar"), "broken")
    assert (code, err) == (1, "Error: image 'broken' not found\n")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_list_is_a_table_or_ids(daemon: Daemon) -> None:
    assert run("list")[1].splitlines() == [
        "IMAGE                   ID             SIZE",
        "<none>                  efefefefefef   5 B",
        "docker.io/library/a:1   abababababab   1.2 MB   pinned",
    ]
    assert run("list", "-q")[1].splitlines() == [IMAGE.id, "sha256:" + "ef" * 32]


def test_inspect_is_json(daemon: Daemon) -> None:
    code, out, _ = run("inspect", "a")
    assert code == 0
    assert '"chainID": "x"' in out


def test_inspect_of_what_is_not_here_fails(daemon: Daemon) -> None:
    assert run("inspect", "b") == (1, "", "Error: image 'b' not found\n")


def test_remove_removes_each(daemon: Daemon) -> None:
    assert run("remove", "a", "b")[0] == 0
    assert daemon.seen["remove"] == ["a", "b"]


def test_no_daemon_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shim.cli.client.CONNECT_TIMEOUT_S", 0.05)
    code, _, err = run("list", "--socket", str(tmp_path / "none"))
    assert code == 1
    assert err.startswith(f"Error: no daemon answers at {tmp_path}/none: start one with 'cri-shim serve'")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(tmp_path / "none")
