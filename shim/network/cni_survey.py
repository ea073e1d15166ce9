"""What a person should know of CNI on this node, for the doctor. It asks no daemon."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shim.network import cni_config, cni_plugin
from shim.network.cni_records import CniRecord, Store
from shim.network.select import BUILTIN, KUBELET_FILES, SEEN, Mode

_GIVE_UP: Final = "it is tried again by itself; mend what the plugin complains of, or give it up: rm"


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look.

    Attributes:
        root: of the file system.
        mode: what the configuration says.
        conf_dirs, bin_dirs: of CNI.
        network: the daemon's directory for networks.
        sandboxes: the daemon's directory for records of sandboxes.
    """

    root: str
    mode: Mode
    conf_dirs: Sequence[str]
    bin_dirs: Sequence[str]
    network: str
    sandboxes: str

    def at(self, path: str) -> str:
        """Return where a path lies below the root."""
        return os.path.join(self.root, path.lstrip("/"))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and what to do; without ``stops_pods`` pods can be run all the same."""

    found: str
    remedy: str
    stops_pods: bool = False


def problems(places: Places) -> list[Problem]:
    """Return what is wrong with CNI here."""
    found = list(_waiting(places))
    if _is_used(places):
        found += [*_configuration(places), *_left_over(places)]
    return found


def _is_used(places: Places) -> bool:
    """Tell whether new pods get their network by CNI (``select.Networks.kind``)."""
    if places.mode is not Mode.AUTO:
        return places.mode is Mode.CNI
    signs = (os.path.join(places.network, SEEN), *KUBELET_FILES)
    there = any(os.path.exists(places.at(path)) for path in signs)
    return there or bool(cni_config.candidates(places.at(each) for each in places.conf_dirs))


def _configuration(places: Places) -> Iterator[Problem]:
    found = cni_config.look([places.at(each) for each in places.conf_dirs])
    configuration = found.configuration
    for text in found.refused:
        yield Problem(
            f"a CNI configuration cannot be used: {text}", "mend or remove it", configuration is None
        )
    if configuration is None:
        if not found.refused:
            yield Problem(
                f"pods get their network by CNI, there is no configuration in {', '.join(places.conf_dirs)}",
                'install a network add-on, or set network.mode = "builtin"',
            )
        return
    for note in found.notes:
        yield Problem(f"{configuration.path}: {note}", "write it once")
    directories = [places.at(each) for each in places.bin_dirs]
    for kind in dict.fromkeys(plugin["type"] for plugin in configuration.plugins):
        if not cni_plugin.find(kind, directories):
            yield Problem(
                f"CNI plugin {kind!r} of network {configuration.name!r} in {configuration.path} "
                f"is in none of {', '.join(places.bin_dirs)}",
                "install it",
                stops_pods=True,
            )


def _waiting(places: Places) -> Iterator[Problem]:
    store = Store(places.at(os.path.join(places.network, "cni")), "")
    for record in store.load_all():
        if record.failure is not None:
            yield Problem(_explain(record), f"{_GIVE_UP} {store.path(record.sandbox_id)}")


def _explain(record: CniRecord) -> str:
    failure = record.failure
    if failure is None:
        return ""
    since = datetime.datetime.fromtimestamp(failure.since_ns // 10**9, datetime.UTC).isoformat()
    times = "once" if failure.tries == 1 else f"{failure.tries} times"
    return (
        f"the CNI network {record.configuration.name!r} of sandbox {record.sandbox_id} is not taken back "
        f"since {since}, tried {times}, at last: {failure.error}"
    )


def _left_over(places: Places) -> Iterator[Problem]:
    pods = []
    try:
        ids = sorted(os.listdir(places.at(places.sandboxes)))
    except OSError:
        ids = []
    for id_ in ids:
        spec, status = (
            _read(places.at(f"{places.sandboxes}/{id_}/{name}.json")) for name in ("spec", "status")
        )
        if spec.get("network") == BUILTIN and not status.get("stopped_at_ns"):
            metadata = (spec.get("config") or {}).get("metadata") or {}
            pods.append(f"{metadata.get('namespace')}/{metadata.get('name')}")
    if pods:
        yield Problem(
            f"pods that the built-in network made before CNI was seen here still run: {', '.join(pods)}",
            "they cannot reach the pods of other nodes; delete them, so that they are made again",
        )


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
