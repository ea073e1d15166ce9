"""Can a pod get a network by CNI now: which configuration, in which version, and what its plugins say.

The configuration is read each time. What plugins say is kept: versions as long as the program is the same
file, STATUS for some seconds. Nobody waits long for a plugin that does not answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import FailedPrecondition, ShimError
from shim.network import cni_config, cni_input, cni_plugin, cni_versions
from shim.network.cni_config import Configuration, Found
from shim.network.cni_plugin import Call, Plugins
from shim.network.plugin import NetworkCondition
from shim.network.settings import CniSettings
from shim.threads import Pool

log = logging.getLogger(__name__)

NOT_READY: Final = "NetworkPluginNotReady"
_PATIENCE_S: Final = 2.0  # of a call of Status
_PROBE_S: Final = 10.0  # for VERSION and STATUS
_READY_COUNTS_S: Final = 10.0
_NOT_READY_COUNTS_S: Final = 3.0
_LAST_COUNTS_S: Final = 30.0
_SILENCE_COUNTS_S: Final = 60.0

_OLD: Final = {"CNI_CONTAINERID": "dummy", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy"}  # old plugins insist


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, when it was had (monotonic seconds), and of whom."""

    condition: NetworkCondition
    configuration: Configuration | None
    at_s: float


class Readiness:
    """What is known of the node's CNI configuration and plugins."""

    def __init__(self, settings: CniSettings, plugins: Plugins, files: Pool) -> None:
        self._settings = settings
        self._plugins = plugins
        self._files = files
        self._versions: dict[tuple[object, ...], tuple[frozenset[str] | None, float]] = {}
        self._task: asyncio.Task[Verdict] | None = None
        self._last: Verdict | None = None
        self._status: Verdict | None = None
        self.found = Found(None)
        self.chosen: Configuration | None = None

    async def condition(self) -> NetworkCondition:
        """Tell whether pods can have a network, within seconds whatever plugins do."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._judge())
        done, _ = await asyncio.wait([self._task], timeout=_PATIENCE_S)
        if done:
            self._last = self._task.result()
            return self._last.condition
        last = self._last
        if last is not None and time.monotonic() - last.at_s < _LAST_COUNTS_S and self._is_of_now(last):
            return last.condition
        chosen = self.chosen or self.found.configuration
        of = f" of network {chosen.name!r} in {chosen.path}" if chosen else ""
        return NetworkCondition(
            ready=False,
            reason=NOT_READY,
            message=f"the CNI plugins{of} have not answered STATUS or VERSION for {_PATIENCE_S:g} s",
        )

    async def usable(self) -> Configuration:
        """Return the configuration for a new pod, with the version that all its plugins speak.

        Raises:
            FailedPrecondition: there is none.
        """
        found = await self._files.run(cni_config.look, self._settings.conf_dirs)
        self._tell(found)
        configuration = found.configuration
        if configuration is None:
            raise FailedPrecondition(cni_config.explain(found, self._settings.conf_dirs))
        kinds = dict.fromkeys(plugin["type"] for plugin in configuration.plugins)
        supported = dict(
            zip(kinds, await asyncio.gather(*(self._ask(configuration, kind) for kind in kinds)), strict=True)
        )
        self.chosen = choose_version(configuration, supported)
        return self.chosen

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _is_of_now(self, verdict: Verdict) -> bool:
        """Tell whether an answer is about the configuration that was read last."""
        then, now = verdict.configuration, self.found.configuration
        return (
            then is not None
            and now is not None
            and dataclasses.replace(then, cni_version="") == (dataclasses.replace(now, cni_version=""))
        )

    async def _judge(self) -> Verdict:
        try:
            configuration = await self.usable()
        except (ShimError, OSError) as error:
            self.chosen = None
            return Verdict(NetworkCondition(False, NOT_READY, str(error)), None, time.monotonic())
        if not cni_versions.has_status_and_gc(configuration.cni_version):
            return Verdict(NetworkCondition(True), configuration, time.monotonic())
        kept = self._status
        if kept is None or kept.configuration != configuration or not _counts(kept):
            kept = self._status = await self._ask_status(configuration)
        return kept

    async def _ask_status(self, configuration: Configuration) -> Verdict:
        condition = NetworkCondition(True)
        for plugin in configuration.plugins:
            stdin = cni_input.format_status(configuration, plugin)
            call = Call(plugin["type"], "STATUS", configuration.name, configuration.path, stdin)
            try:
                await self._plugins.run(call, min(_PROBE_S, self._plugins.timeout_s))
            except (ShimError, OSError) as error:
                condition = NetworkCondition(False, NOT_READY, str(error))
                break
        return Verdict(condition, configuration, time.monotonic())

    async def _ask(self, configuration: Configuration, kind: str) -> frozenset[str] | None:
        """Return the versions that a plugin speaks; None: it does not say.

        Raises:
            FailedPrecondition: it is not installed.
        """
        identity = await self._files.run(self._identity, kind)
        call = Call(
            kind, "VERSION", configuration.name, configuration.path, cni_input.format_version_request(), _OLD
        )
        if not identity:
            raise FailedPrecondition(
                f"CNI plugin {kind!r} of network {configuration.name!r} in {configuration.path} "
                f"is in none of {', '.join(self._settings.bin_dirs)}: install it"
            )
        known = self._versions.get(identity)
        if known is not None and (known[0] is not None or time.monotonic() - known[1] < _SILENCE_COUNTS_S):
            return known[0]
        supported: frozenset[str] | None = None
        try:
            out = await self._plugins.run(call, min(_PROBE_S, self._plugins.timeout_s))
            supported = parse_versions(cni_plugin.parse_answer(call, out))
        except (ShimError, OSError) as error:
            log.info("its versions are not known, so it is taken to speak all: %s", error)
        self._versions[identity] = supported, time.monotonic()
        return supported

    def _identity(self, kind: str) -> tuple[object, ...]:
        """Return what tells one program from another; empty: there is none."""
        path = cni_plugin.find(kind, self._settings.bin_dirs)
        try:
            status = os.stat(path) if path else None
        except OSError:
            status = None
        if status is None:
            return ()
        return path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _tell(self, found: Found) -> None:
        """Log what is new about the files, once."""
        before, self.found = self.found, found
        for text in set(found.refused) - set(before.refused):
            log.warning("CNI configuration is passed over: %s", text)
        now, then = found.configuration, before.configuration
        if now is None or now == then:
            return
        kinds = ", ".join(plugin["type"] for plugin in now.plugins)
        log.info("CNI network %r is configured by %s: %s", now.name, now.path, kinds)
        for note in found.notes:
            log.warning("%s: %s", now.path, note)


def _counts(verdict: Verdict) -> bool:
    limit_s = _READY_COUNTS_S if verdict.condition.ready else _NOT_READY_COUNTS_S
    return time.monotonic() - verdict.at_s < limit_s


def parse_versions(answer: Mapping[str, Any]) -> frozenset[str] | None:
    """Return what a plugin's answer to VERSION says it speaks; None: it says nothing of use. Pure."""
    supported = answer.get("supportedVersions")
    if not isinstance(supported, list) or not all(isinstance(each, str) for each in supported):
        return None
    return frozenset(supported) & frozenset(cni_versions.KNOWN) or None


def choose_version(
    configuration: Configuration, supported: Mapping[str, frozenset[str] | None]
) -> Configuration:
    """Return the configuration in the highest version that the file offers and all plugins speak. Pure.

    Raises:
        FailedPrecondition: there is none; names the plugin that knows none of them.
    """
    version = cni_versions.choose(configuration.versions, supported)
    if version:
        return dataclasses.replace(configuration, cni_version=version)
    offered = ", ".join(configuration.versions)
    spoken = "; ".join(
        f"{kind!r} speaks up to {cni_versions.known(versions)[0]}"
        for kind, versions in supported.items()
        if versions is not None and not versions & {configuration.versions[0]}
    )
    raise FailedPrecondition(
        f"network {configuration.name!r} in {configuration.path} is written for CNI version {offered}, "
        f"which not all its plugins speak ({spoken}): install newer ones, or name an older version in "
        "cniVersions"
    )
