"""CNI: the network is what the node's plugins make (CNI specification 1.1).

    setup        record on disk -> ADD of each plugin -> its result into the record
    teardown     DEL of each plugin in reverse, of all of them even if one fails -> record away
    hand_over    what teardown could not do is tried again here, whatever becomes of the sandbox
    reconcile    at start: plugins of an earlier daemon killed, DEL for what has no sandbox, GC

No two plugins run for the same sandbox at once, and none while GC runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

from shim.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, ShimError
from shim.kernel import files
from shim.model.network import NetworkResult
from shim.network import cni_input, cni_orphans, cni_plugin, cni_result, cni_versions
from shim.network.cni_config import Configuration
from shim.network.cni_gate import Gate
from shim.network.cni_plugin import Call, PluginFailed, Plugins
from shim.network.cni_readiness import Readiness
from shim.network.cni_records import CniRecord, Failure, Store
from shim.network.cni_retries import Retries
from shim.network.plugin import POD_INTERFACE, NetworkCondition, SetupRequest
from shim.network.settings import CniSettings
from shim.store.records import UnreadableRecord
from shim.threads import Pool

log = logging.getLogger(__name__)

T = TypeVar("T")

_ANY_NAMESPACE: Final = "/proc/self/ns/net"
_TEARDOWN_PATIENCE_S: Final = 20.0
_UNDO_PATIENCE_S: Final = 10.0
_START_PATIENCE_S: Final = 5.0
_CLOSE_PATIENCE_S: Final = 10.0
_GC_S: Final = 10.0  # no pod gets a network meanwhile
_CHECK_S: Final = 5.0


class CniNetwork:
    """CNI as a ``plugin.Network``."""

    def __init__(self, settings: CniSettings) -> None:
        self._settings = settings
        self._files = Pool("cni", 2)
        self._store = Store(settings.directory, settings.quarantine)
        self._plugins = Plugins(settings.bin_dirs, settings.timeout_s, settings.directory)
        self._readiness = Readiness(settings, self._plugins, self._files)
        self._retries = Retries(self._delete)
        self._gate = Gate()
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deletes: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, CniRecord] = {}
        self._collected: set[str] = set()
        self._tidied: asyncio.Task[None] | None = None

    async def setup(self, request: SetupRequest) -> NetworkResult:
        """Call ADD of each plugin in turn (``plugin.Network.setup``)."""
        return await asyncio.shield(self._start(self._setup(request)))

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        """Call DEL of each plugin in reverse. Idempotent: without a record nothing is left to do.

        Raises:
            DeadlineExceeded: it still goes on.
            ShimError, OSError: of the first plugin that failed; the others were called all the same.
        """
        await self._wait_for_delete(sandbox_id, netns_path, _TEARDOWN_PATIENCE_S)

    def hand_over(self, sandbox_id: str) -> None:
        """Go on with what a teardown could not do, now that the sandbox is to be forgotten."""
        record = self._waiting.get(sandbox_id)
        tries = record.failure.tries if record is not None and record.failure is not None else 1
        self._retries.start(sandbox_id, tries)

    async def status(self) -> NetworkCondition:
        """Tell whether a configuration loads, its plugins are installed and say that they are ready."""
        condition = await self._readiness.condition()
        chosen = self._readiness.chosen
        if condition.ready and chosen is not None and chosen.name not in self._collected:
            _ = self._start(self._collect(chosen))
        return condition

    async def check(self, sandbox_id: str) -> str:
        """Ask each plugin whether a pod's network is as ADD made it.

        Returns:
            ``ok``, or why nobody was asked.

        Raises:
            FailedPrecondition: it is not, and what the plugin says.
        """
        async with self._exclusively(sandbox_id):
            record = await self._files.run(self._store.load, sandbox_id)
            if record is None or record.ended or record.result is None:
                return "not asked: the sandbox has no network"
            configuration = record.configuration
            if configuration.disable_check:
                return f"not asked: {configuration.path} sets disableCheck"
            if not cni_versions.has_check(configuration.cni_version):
                return f"not asked: CNI version {configuration.cni_version} has no CHECK"
            for plugin in configuration.plugins:
                await self._plugins.run(_call(record, "CHECK", plugin, record.result), _CHECK_S)
        return "ok"

    async def reconcile(self, live: set[str]) -> None:
        """Call DEL for what belongs to no live sandbox, then GC; what takes long goes on by itself."""
        await self._tidy()
        await self._files.run(files.remove_temporaries, self._store.directory)
        recorded = await self._files.run(self._store.load_all)
        self._waiting |= {each.sandbox_id: each for each in recorded if each.failure is not None}
        dead = [id_ for id_ in await self._files.run(self._store.ids) if id_ not in live]
        for sandbox_id in dead:
            self._retries.start(sandbox_id)
        await self._retries.first_tries(dead, _START_PATIENCE_S)
        await asyncio.wait([self._start(self._collect_now())], timeout=_START_PATIENCE_S)

    async def update_pod_cidr(self, cidr: str) -> None:
        """Take note of what plugins that declare ``ipRanges`` are told."""
        await self._files.run(self._store.save_cidrs, cni_input.parse_cidrs(cidr))

    def details(self) -> dict[str, Any]:
        """Return what a person wants to know; from memory alone."""
        found, chosen = self._readiness.found, self._readiness.chosen
        configuration = chosen or found.configuration
        return {
            "configuration": {
                "file": configuration.path,
                "network": configuration.name,
                "cniVersion": configuration.cni_version,
                "plugins": [plugin["type"] for plugin in configuration.plugins],
            }
            if configuration
            else None,
            "refused": list(found.refused),
            "notes": list(found.notes),
            "waiting": [self._waiting_details(record) for record in self._waiting.values()],
        }

    async def close(self) -> None:
        """Finish what is under way, for a while; pods keep their networks, the next daemon goes on."""
        await self._retries.close()
        await self._readiness.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_PATIENCE_S)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._files.close()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that goes on when the caller leaves: a plugin must not be stopped half-way."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; where nobody does, it is in the record

    async def _tidy(self) -> None:
        """Once, before the first plugin that matters: end those of an earlier daemon."""
        if self._tidied is None:
            self._tidied = asyncio.create_task(self._files.run(self._kill_orphans))
        await asyncio.shield(self._tidied)

    @asynccontextmanager
    async def _exclusively(self, sandbox_id: str) -> AsyncIterator[None]:
        """Keep other plugins away from a sandbox; those of an earlier daemon are gone by then."""
        await self._tidy()
        lock = self._locks.setdefault(sandbox_id, asyncio.Lock())
        self._users[sandbox_id] += 1
        try:
            async with lock, self._gate.together():
                yield
        finally:
            self._users[sandbox_id] -= 1
            if not self._users[sandbox_id]:
                del self._users[sandbox_id], self._locks[sandbox_id]

    async def _setup(self, request: SetupRequest) -> NetworkResult:
        configuration = await self._readiness.usable()
        record = await self._files.run(self._begin, request, configuration)
        try:
            async with self._exclusively(request.sandbox_id):
                record = await self._add(record)
                await self._files.run(self._store.save, record)
            return cni_result.parse(record.result or {})
        except (ShimError, OSError):
            with contextlib.suppress(ShimError, OSError):  # it is recorded, and the caller tears down too
                await self._wait_for_delete(request.sandbox_id, request.netns_path, _UNDO_PATIENCE_S)
            raise

    async def _add(self, record: CniRecord) -> CniRecord:
        for plugin in record.configuration.plugins:
            if record.partial is not None:
                await self._files.run(self._store.save, record)
            call = _call(record, "ADD", plugin, record.partial)
            answer = cni_plugin.parse_answer(call, await self._plugins.run(call))
            try:
                cni_result.check(answer)
                result = cni_result.convert(answer, record.configuration.cni_version)
            except FailedPrecondition as error:
                raise FailedPrecondition(f"{call}: {error}") from None
            record = replace(record, partial=result)
        return replace(record, result=record.partial, partial=None)

    async def _wait_for_delete(self, sandbox_id: str, netns: str, patience_s: float) -> None:
        task = self._deletes.get(sandbox_id)
        if task is None:
            task = self._start(self._delete(sandbox_id, netns))
            self._deletes[sandbox_id] = task
            task.add_done_callback(lambda _: self._deletes.pop(sandbox_id, None))
        done, _ = await asyncio.wait([task], timeout=patience_s)
        if not done:
            raise DeadlineExceeded(
                f"CNI DEL of sandbox {sandbox_id} still runs after {patience_s:g} s; it goes on"
            )
        await task

    async def _delete(self, sandbox_id: str, netns: str = "") -> None:
        """Call DEL of every plugin; keep in the record what failed.

        Raises:
            ShimError, OSError: of the first that failed.
        """
        async with self._exclusively(sandbox_id):
            record = await self._load(sandbox_id)
            if record is None:
                self._waiting.pop(sandbox_id, None)
                return
            record = replace(record, ended=True)
            await self._note(record)
            inside = await self._files.run(_if_namespace, netns or record.netns)
            failures = await self._delete_each(replace(record, netns=inside))
            if not failures:
                await self._files.run(self._store.drop, sandbox_id)
                self._waiting.pop(sandbox_id, None)
                return
            record = replace(record, failure=_failure(record.failure, failures))
            self._waiting[sandbox_id] = record
            await self._note(record)
            raise failures[0]

    async def _note(self, record: CniRecord) -> None:
        """Write how far a DEL has come, which a full disk must not hold up."""
        try:
            await self._files.run(self._store.save, record)
        except OSError as error:
            log.warning("how far DEL of sandbox %s has come is not written: %s", record.sandbox_id, error)

    async def _delete_each(self, record: CniRecord) -> list[ShimError | OSError]:
        passed = cni_versions.passes_result_to_del(record.configuration.cni_version)
        result = (record.result or record.partial) if passed else None
        failures: list[ShimError | OSError] = []
        for plugin in reversed(record.configuration.plugins):
            try:
                await self._plugins.run(_call(record, "DEL", plugin, result))
            except (ShimError, OSError) as error:
                if not (isinstance(error, PluginFailed) and error.code == cni_plugin.UNKNOWN_CONTAINER):
                    failures.append(error)
        return failures

    async def _load(self, sandbox_id: str) -> CniRecord | None:
        """Return what ADD was called with; where that cannot be read, what it would be called with now."""
        try:
            return await self._files.run(self._store.load, sandbox_id)
        except UnreadableRecord as error:
            log.warning("network of sandbox %s is taken back by today's configuration: %s", sandbox_id, error)
        record = CniRecord(sandbox_id, await self._readiness.usable(), "", "IgnoreUnknown=1", ended=True)
        await self._files.run(self._store.put_in_place, record)
        return record

    async def _collect_now(self) -> None:
        with contextlib.suppress(ShimError):  # the first Status that finds a configuration does it instead
            await self._collect(await self._readiness.usable())

    async def _collect(self, configuration: Configuration) -> None:
        """Call GC, once in the life of a daemon for a network (CNI specification, section 2)."""
        if configuration.name in self._collected:
            return
        self._collected.add(configuration.name)
        if configuration.disable_gc or not cni_versions.has_status_and_gc(configuration.cni_version):
            return
        async with self._gate.alone():
            kept = await self._files.run(self._store.load_all)
            valid = [
                (record.sandbox_id, POD_INTERFACE)
                for record in kept
                if record.configuration.name == configuration.name and not record.ended
            ]
            for plugin in configuration.plugins:
                stdin = cni_input.format_gc(configuration, plugin, valid)
                call = Call(plugin["type"], "GC", configuration.name, configuration.path, stdin)
                try:
                    await self._plugins.run(call, min(_GC_S, self._plugins.timeout_s))
                except (ShimError, OSError) as error:
                    log.warning("%s", error)

    def _waiting_details(self, record: CniRecord) -> dict[str, Any]:
        failure = record.failure or Failure(0, 0, 0, "")
        return {
            "sandboxID": record.sandbox_id,
            "network": record.configuration.name,
            "file": record.configuration.path,
            "sinceNanoseconds": failure.since_ns,
            "lastTryNanoseconds": failure.last_ns,
            "nextTryNanoseconds": self._retries.next_ns.get(record.sandbox_id, 0),
            "tries": failure.tries,
            "lastError": failure.error,
        }

    # From here on: in a thread.

    def _kill_orphans(self) -> None:
        if os.path.isdir(self._settings.directory):
            kept = self._store.load_all()
            complete = {each.sandbox_id for each in kept if each.result is not None and not each.ended}
            cni_orphans.kill(self._settings.directory, complete)

    def _begin(self, request: SetupRequest, configuration: Configuration) -> CniRecord:
        if self._store.exists(request.sandbox_id):
            raise AlreadyExists(f"sandbox {request.sandbox_id!r} has a network already")
        wanted = {key for plugin in configuration.plugins for key in cni_input.declared(plugin)}
        record = CniRecord(
            sandbox_id=request.sandbox_id,
            configuration=configuration,
            netns=request.netns_path,
            args=cni_input.format_args(request),
            capabilities=cni_input.plan_capabilities(request, self._store.load_cidrs(), wanted),
        )
        self._store.save(record)
        return record


def _call(
    record: CniRecord, command: str, plugin: Mapping[str, Any], previous: Mapping[str, Any] | None
) -> Call:
    configuration = record.configuration
    return Call(
        kind=plugin["type"],
        command=command,
        network=configuration.name,
        path=configuration.path,
        stdin=cni_input.format_input(configuration, plugin, record.capabilities, previous),
        variables={
            "CNI_CONTAINERID": record.sandbox_id,
            "CNI_NETNS": record.netns,
            "CNI_IFNAME": POD_INTERFACE,
            "CNI_ARGS": record.args,
        },
    )


def _failure(before: Failure | None, errors: list[ShimError | OSError]) -> Failure:
    now_ns = time.time_ns()
    text = "; ".join(str(error) for error in errors)
    return Failure(before.since_ns if before else now_ns, now_ns, before.tries + 1 if before else 1, text)


def _if_namespace(path: str) -> str:
    """Return the path if a namespace is pinned there, else nothing: plugins then clean up without it."""
    try:
        return path if path and os.stat(path).st_dev == os.stat(_ANY_NAMESPACE).st_dev else ""
    except OSError:
        return ""
