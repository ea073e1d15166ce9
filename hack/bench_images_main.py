"""Pull the same images with several runtimes in turn; print times, ratios and memory. Run by ``hack/bench-images``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
import bench_images_made as made
from bench_costs import descendants, processes, pss_kib

from shim._proto import api_pb2 as cri
from shim.cli.client import Stub

GOALS = {"large": 0.5, "small files": 0.8}
MEMORY_GOAL_MIB = 150
SAMPLE_S = 0.02


class Runtime:
    """A runtime under test, behind its socket."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.enable_http_proxy", 0)])
        self.images = Stub(channel, cri, "ImageService")

    def pull(self, reference: str) -> float:
        """Return how long a pull took, in seconds."""
        start = time.perf_counter()
        self.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=reference)))
        return time.perf_counter() - start

    def remove(self, reference: str) -> None:
        """Remove the image, and let the disk come to rest."""
        self.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=reference)))
        os.sync()


@contextlib.contextmanager
def running(name: str, command: list[str], directory: Path, socket: Path) -> Iterator[Runtime]:
    """Start a daemon and wait until it answers; it ends with the context."""
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdout=log, stderr=log)
    try:
        for _ in range(300):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError, grpc.RpcError):
                runtime = Runtime(name, str(socket))
                if socket.exists():
                    runtime.images.ListImages(cri.ListImagesRequest())
                    break
            time.sleep(0.1)
        else:
            process.kill()
        if process.poll() is not None:
            sys.exit(f"{name} does not serve: {(directory / f'{name}.log').read_text()[-2000:]}")
        yield runtime
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def fresh_ext4() -> Iterator[str]:
    """Give a directory with a fresh ext4, so that what the machine's own had before does not count.

    An ext4 without a journal, for one, takes long to make files where many were removed in the last minute.
    """
    with tempfile.TemporaryDirectory(prefix="cri-shim-test-", dir="/var/tmp") as directory:
        file, place = f"{directory}/disk", f"{directory}/mounted"
        os.mkdir(place)
        with open(file, "wb") as disk:
            disk.truncate(16 << 30)
        options = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-E", options, file], check=True)
        subprocess.run(["mount", "-o", "loop", file, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


def ours(directory: Path) -> contextlib.AbstractContextManager[Runtime]:
    """Start this tree's daemon."""
    home = directory / "ours"
    home.mkdir()
    (home / "config.toml").write_text("version = 1\n")
    socket = home / "state/s.sock"
    command = [sys.executable, "-m", "shim", "serve", f"--config={home}/config.toml", f"--root={home}/root"]
    command += [f"--state={home}/state", f"--socket={socket}", f'--set=network.netns_dir="{home}/netns"']
    return running("cri-shim", command, directory, socket)


def containerd(directory: Path) -> contextlib.AbstractContextManager[Runtime]:
    """Start Debian's containerd, with nothing shared with another one of the machine."""
    home = directory / "containerd"
    home.mkdir()
    socket = home / "state/s.sock"
    (home / "config.toml").write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n[grpc]\naddress = "{socket}"\n'
    )
    return running("containerd", ["containerd", "--config", f"{home}/config.toml"], directory, socket)


@contextlib.contextmanager
def peak_mib(path: str) -> Iterator[list[float]]:
    """Give the highest memory of a runtime's processes and their children within the context, in MiB."""
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            pids = set(processes(path))
            peak[0] = max(peak[0], sum(map(pss_kib, pids | descendants(pids))) / 1024)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def measure(runtimes: list[Runtime], images: dict[str, str], runs: int) -> dict[str, dict[str, list[float]]]:
    """Pull each image so often with each runtime in turn, after one pull that does not count."""
    times: dict[str, dict[str, list[float]]] = {kind: {r.name: [] for r in runtimes} for kind in images}
    for kind, reference in images.items():
        for run in range(runs + 1):
            for runtime in runtimes:
                took = runtime.pull(reference)
                runtime.remove(reference)
                if run:
                    times[kind][runtime.name].append(took)
    return times


def memory(runtimes: list[Runtime], images: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return the peak memory of each runtime in a pull of each image, in MiB. Apart: sampling costs time."""
    peaks: dict[str, dict[str, float]] = {kind: {} for kind in images}
    for kind, reference in images.items():
        for runtime in runtimes:
            with peak_mib(runtime.path) as peak:
                runtime.pull(reference)
            peaks[kind][runtime.name] = peak[0]
            runtime.remove(reference)
    return peaks


def at_once(runtime: Runtime, registry: made.Registry, reference: str, callers: int) -> tuple[float, int]:
    """Return (seconds, blobs that the registry was asked for) of so many callers who want one image at once."""
    before = registry.blobs_fetched()
    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(runtime.pull, reference) for _ in range(callers)]:
            done.result()
    took = time.perf_counter() - start
    runtime.remove(reference)
    return took, registry.blobs_fetched() - before


def report(times: dict[str, dict[str, list[float]]], peaks: dict[str, dict[str, float]]) -> bool:
    """Print the tables; return whether all goals are held."""
    held = True
    for kind, by_runtime in times.items():
        first, *others = by_runtime
        print(f"\n{kind}, seconds")
        for name, values in by_runtime.items():
            each = " ".join(f"{value:.2f}" for value in values)
            print(
                f"  {name:<12} median {statistics.median(values):6.2f}   ({each})   peak {peaks[kind][name]:.0f} MiB"
            )
        for other in others:
            part = statistics.median(by_runtime[first]) / statistics.median(by_runtime[other])
            held &= part <= GOALS[kind]
            print(f"  {first} / {other}: {part:.2f} (goal: at most {GOALS[kind]})")
        held &= peaks[kind][first] < MEMORY_GOAL_MIB
    return held


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/bench-images", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each image with each runtime")
    parser.add_argument("--mib", type=int, default=500, help="of the large image, in 8 layers")
    parser.add_argument("--files", type=int, default=40_000, help="in the image of small files")
    parser.add_argument("--alone", action="store_true", help="without containerd")
    parser.add_argument(
        "--place",
        default="",
        help="directory to measure in; default: an ext4 of its own in a file in /var/tmp",
    )
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with contextlib.ExitStack() as stack:
        place = options.place or stack.enter_context(fresh_ext4())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cri-shim-test-", dir=place)))
        registry = stack.enter_context(made.registry(directory))
        images = {
            "large": registry.push("large", made.large(options.mib)),
            "small files": registry.push("small", made.small_files(options.files)),
        }
        runtimes = [stack.enter_context(ours(directory))]
        if not options.alone:
            runtimes.append(stack.enter_context(containerd(directory)))
        times = measure(runtimes, images, options.runs)
        peaks = memory(runtimes, images)
        held = report(times, peaks)
        took, fetched = at_once(runtimes[0], registry, images["large"], 10)
        print(f"\n10 callers at once for the large image: {took:.2f} s, {fetched} blobs fetched (it has 9)")
        if options.json:
            Path(options.json).write_text(json.dumps({"seconds": times, "peak_mib": peaks}, indent=1))
    return 0 if held and fetched == made.LARGE_LAYERS + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
