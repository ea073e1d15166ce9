"""Stand-ins that answer as the real ones do; ``tests/contracts`` holds them to it."""

from __future__ import annotations

import errno
from collections.abc import Container, Sequence
from typing import Any

from shim.cgroups import names
from shim.errors import KernelError
from shim.model.cgroup import CgroupJoin, DeviceRule, Place
from shim.model.image import Image
from shim.model.mount import ImageTree, Rootfs
from shim.model.resources import Resources
from shim.model.security import UserNamespace
from shim.model.stats import (
    CgroupDetails,
    CgroupUsage,
    CpuStats,
    FilesystemUsage,
    InterfaceStats,
    MemoryStats,
    NetworkStats,
)


class FakeSnapshots:
    def __init__(self) -> None:
        self.ids: set[str] = set()

    def prepare(
        self,
        container_id: str,
        image: Image,
        mounted: Sequence[Image] = (),
        userns: UserNamespace | None = None,
    ) -> Rootfs:
        self.ids.add(container_id)
        return Rootfs(image.chain_ids, f"/s/{container_id}/fs", f"/s/{container_id}/work")

    def image_tree(self, container_id: str, number: int, image: Image) -> ImageTree:
        return ImageTree((f"/s/{container_id}/images/{number}", *image.chain_ids), image.id)

    def volume(self, container_id: str, number: int) -> str:
        return f"/s/{container_id}/volumes/{number}"

    def remove(self, container_id: str) -> None:
        self.ids.discard(container_id)

    def usage(self, container_id: str) -> FilesystemUsage | None:
        return None

    def list(self) -> list[str]:
        return list(self.ids)


class FakeCgroups:
    driver = "cgroupfs"

    def __init__(self) -> None:
        self.limits: dict[str, Resources] = {}
        self.devices: dict[str, tuple[DeviceRule, ...]] = {}
        self.kill_hook: object = None
        self.world: Any = None

    def parent(self, asked: str) -> str:
        return names.resolve_parent(asked, "/cri-shim")

    def path(self, parent: str, id_: str) -> str:
        return names.of(parent, id_)

    def check(self, resources: Resources) -> None:
        return None

    def create(self, path: str, resources: Resources, devices: Sequence[DeviceRule] = ()) -> Place:
        self.limits[path] = resources
        self.devices[path] = tuple(devices)
        return Place(path, CgroupJoin(), "")

    def update(self, path: str, resources: Resources) -> None:
        self.limits[path] = resources

    def create_exec(self, path: str, number: int) -> Place:
        return self.create(f"{path}/exec-{number}.mount", Resources())

    def remove_exec(self, path: str, number: int) -> bool:
        self.limits.pop(f"{path}/exec-{number}.mount", None)
        return True

    def kill(self, path: str) -> None:
        assert self.world is not None
        self.world.kill_cgroup(path)

    def remove(self, path: str) -> None:
        self.limits.pop(path, None)

    def remove_unknown(self, known: frozenset[str]) -> None:
        for path in list(self.limits):
            if path.rpartition("/")[2] not in known:
                del self.limits[path]

    def settle(self, path: str) -> None:
        self.settled = path

    def oom_watch(self, path: str) -> dict[str, int]:
        return {}

    def cpu(self, path: str) -> CpuStats:
        self._there(path)
        return CpuStats(1, 2)

    def usage(self, path: str) -> CgroupUsage:
        return CgroupUsage(self.cpu(path), MemoryStats(1, 2, 3, 4, 5, 6, 7), None)

    def details(self, path: str) -> CgroupDetails:
        return CgroupDetails(self.usage(path), tasks=1)

    def processes(self, path: str) -> list[int]:
        return [1] if path in self.limits else []

    def keep_open(self, paths: Container[str]) -> None:
        self.kept_open = paths

    def _there(self, path: str) -> None:
        if path not in self.limits:
            raise KernelError("read", errno.ENOENT, path)


class FakeTraffic:
    def __init__(self) -> None:
        self.there: set[str] = set()

    def read(self, netns_path: str, default: str) -> NetworkStats:
        if netns_path not in self.there:
            raise KernelError("open", errno.ENOENT, netns_path)
        return NetworkStats(1, InterfaceStats(default, 2, 3, tx_bytes=4, tx_packets=5))

    def close(self) -> None:
        return None
