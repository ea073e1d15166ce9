"""CNI: the network is what the node's plugins make (CNI specification 1.1).

    <directory>/<sandbox id>.json      what a pod's ADD was called with, and its result

The record is written before the first plugin runs, so that DEL is called with the very same configuration
after a restart, and after the configuration has changed; it goes when every DEL has succeeded.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from shim.errors import AlreadyExists, FailedPrecondition, ShimError
from shim.model.network import NetworkResult
from shim.network import cni_config, cni_plugin
from shim.network.cni_config import Configuration
from shim.network.plugin import POD_INTERFACE, NetworkCondition, SetupRequest
from shim.network.settings import CniSettings
from shim.store import records
from shim.threads import Pool

log = logging.getLogger(__name__)

T = TypeVar("T")

_SUFFIX: Final = ".json"
_ANY_NAMESPACE: Final = "/proc/self/ns/net"


@dataclass(frozen=True, slots=True)
class CniRecord:
    """A pod's network.

    Attributes:
        netns: path of its network namespace.
        args: CNI_ARGS.
        result: of the last plugin; None while ADD is not through.
    """

    sandbox_id: str
    configuration: Configuration
    netns: str
    args: str
    capabilities: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    version: int = 1


class CniNetwork:
    """CNI as a ``plugin.Network``."""

    def __init__(self, settings: CniSettings) -> None:
        self._settings = settings
        self._files = Pool("cni", 2)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def setup(self, request: SetupRequest) -> NetworkResult:
        """Call ADD of each plugin in turn (``plugin.Network.setup``)."""
        return await self._finish(self._setup(request))

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        """Call DEL of each plugin in reverse. Idempotent: without a record nothing is left to do."""
        await self._finish(self._teardown(sandbox_id, netns_path))

    async def status(self) -> NetworkCondition:
        """Tell whether a configuration loads and its plugins are installed."""
        try:
            await self._files.run(self._check)
        except ShimError as error:
            return NetworkCondition(ready=False, reason="NetworkPluginNotReady", message=str(error))
        return NetworkCondition(ready=True)

    async def reconcile(self, live: set[str]) -> None:
        """Call DEL for what belongs to no live sandbox."""
        for sandbox_id in await self._files.run(self._recorded):
            if sandbox_id in live:
                continue
            try:
                await self.teardown(sandbox_id, "")
            except (ShimError, OSError) as error:
                log.warning("network of sandbox %s stays for the next start: %s", sandbox_id, error)

    async def update_pod_cidr(self, cidr: str) -> None:
        """Do nothing: the add-on that brought the configuration knows the node's range."""

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._files.close()

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on when the caller leaves: a plugin must not be stopped half-way."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _setup(self, request: SetupRequest) -> NetworkResult:
        record = await self._files.run(self._begin, request)
        previous: dict[str, Any] | None = None
        try:
            for plugin in record.configuration.plugins:
                previous = await self._run(record, "ADD", plugin, previous)
            record = replace(record, result=previous)
            await self._files.run(self._save, record)
            return cni_config.parse_result(previous or {})
        except (ShimError, OSError):
            await self._delete_after_failure(record)
            raise

    async def _delete_after_failure(self, record: CniRecord) -> None:
        try:
            await self._delete(record, record.netns)
        except (ShimError, OSError) as error:
            log.warning("sandbox %s: undoing a failed CNI ADD: %s", record.sandbox_id, error)

    async def _teardown(self, sandbox_id: str, netns_path: str) -> None:
        record = await self._files.run(self._load, sandbox_id)
        if record is not None:
            await self._delete(record, netns_path or record.netns)

    async def _delete(self, record: CniRecord, netns: str) -> None:
        record = replace(record, netns=await self._files.run(_if_namespace, netns))
        passed = cni_config.passes_result_to_del(record.configuration.cni_version)
        for plugin in reversed(record.configuration.plugins):
            await self._run(record, "DEL", plugin, record.result if passed else None)
        await self._files.run(self._drop, record.sandbox_id)

    async def _run(
        self, record: CniRecord, command: str, plugin: Any, previous: dict[str, Any] | None
    ) -> dict[str, Any]:
        variables = {
            "CNI_CONTAINERID": record.sandbox_id,
            "CNI_NETNS": record.netns,
            "CNI_IFNAME": POD_INTERFACE,
            "CNI_ARGS": record.args,
        }
        return await cni_plugin.run(
            plugin["type"],
            command,
            variables,
            cni_config.format_input(record.configuration, plugin, record.capabilities, previous),
            bin_dirs=self._settings.bin_dirs,
            timeout_s=self._settings.timeout_s,
        )

    # From here on: in a thread.

    def _check(self) -> None:
        for plugin in cni_config.find(self._settings.conf_dirs).plugins:
            cni_plugin.find(plugin["type"], self._settings.bin_dirs)

    def _begin(self, request: SetupRequest) -> CniRecord:
        configuration = cni_config.find(self._settings.conf_dirs)
        if os.path.exists(self._path(request.sandbox_id)):
            raise AlreadyExists(f"sandbox {request.sandbox_id!r} has a network already")
        record = CniRecord(
            sandbox_id=request.sandbox_id,
            configuration=configuration,
            netns=request.netns_path,
            args=cni_config.format_args(request),
            capabilities=cni_config.plan_capabilities(request),
        )
        self._save(record)
        return record

    def _recorded(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._settings.directory))
        except FileNotFoundError:
            return []
        return [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and name[0] != "."]

    def _load(self, sandbox_id: str) -> CniRecord | None:
        path = self._path(sandbox_id)
        if not os.path.exists(path):
            return None
        try:
            return records.load(path, CniRecord)
        except records.UnreadableRecord as error:
            os.makedirs(self._settings.quarantine, 0o700, exist_ok=True)
            os.replace(path, os.path.join(self._settings.quarantine, f"cni-{sandbox_id}{_SUFFIX}"))
            raise FailedPrecondition(
                f"the network of sandbox {sandbox_id} stays as it is: {error}"
            ) from error

    def _save(self, record: CniRecord) -> None:
        os.makedirs(self._settings.directory, 0o700, exist_ok=True)
        records.save(self._path(record.sandbox_id), record)

    def _drop(self, sandbox_id: str) -> None:
        if os.path.exists(path := self._path(sandbox_id)):
            os.unlink(path)

    def _path(self, sandbox_id: str) -> str:
        return os.path.join(self._settings.directory, sandbox_id + _SUFFIX)


def _if_namespace(path: str) -> str:
    """Return the path if a namespace is pinned there, else nothing: plugins then clean up without it."""
    try:
        return path if path and os.stat(path).st_dev == os.stat(_ANY_NAMESPACE).st_dev else ""
    except OSError:
        return ""
