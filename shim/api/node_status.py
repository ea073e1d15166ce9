"""Status: can pods be run here, and what may they ask for."""

from __future__ import annotations

import json
import platform
import sys
import time
from typing import Any

import shim
from shim._proto import api_pb2 as cri
from shim.images.progress import PullState
from shim.network.plugin import NetworkCondition
from shim.services.node import Node


async def node_status(node: Node, *, verbose: bool) -> cri.StatusResponse:
    """Return conditions, handlers and features; with ``verbose`` what a person wants to know too."""
    network = await node.networks.status()
    return cri.StatusResponse(
        status=cri.RuntimeStatus(conditions=[_runtime_condition(node), _network_condition(network)]),
        runtime_handlers=_handlers(node),
        features=cri.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True),
        info=_info(node, network) if verbose else None,
    )


def _runtime_condition(node: Node) -> cri.RuntimeCondition:
    """The runtime is ready while it can fork: the daemon itself is, since it answers."""
    if node.supervisor.connected:
        return cri.RuntimeCondition(type="RuntimeReady", status=True)
    return cri.RuntimeCondition(
        type="RuntimeReady",
        status=False,
        reason="SupervisorDown",
        message="the supervisor does not answer; it is being started again",
    )


def _network_condition(network: NetworkCondition) -> cri.RuntimeCondition:
    return cri.RuntimeCondition(
        type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
    )


def _handlers(node: Node) -> list[cri.RuntimeHandler]:
    """List every handler by name, and the default one a second time under the empty name."""
    settings = node.settings
    named = [("", settings.handlers[settings.default_handler]), *settings.handlers.items()]
    return [
        cri.RuntimeHandler(
            name=name,
            features=cri.RuntimeHandlerFeatures(
                recursive_read_only_mounts=features.recursive_read_only_mounts,
                user_namespaces=features.user_namespaces,
            ),
        )
        for name, features in named
    ]


def _pull(state: PullState) -> dict[str, Any]:
    """Return how far a pull is; bytes are compressed ones."""
    return {
        "image": state.reference,
        "seconds": round((time.time_ns() - state.started_at_ns) / 1e9, 1),
        "callers": state.callers,
        "fetchedBytes": state.fetched_bytes,
        "unpackedBytes": state.unpacked_bytes,
        "totalBytes": state.total_bytes,
        "layersDone": state.layers_done,
        "layers": state.layers,
    }


def _info(node: Node, network: NetworkCondition) -> dict[str, str]:
    settings = node.settings
    texts: dict[str, Any] = {
        "config": {
            "root": node.layout.root,
            "state": node.layout.state,
            "rootDir": node.layout.root,  # containerd's names: critest looks at what file system this is
            "stateDir": node.layout.state,
            "cgroupDriver": node.cgroups.driver,
            "defaultRuntimeHandler": settings.default_handler,
            "runtimeHandlers": list(settings.handlers),
        },
        "version": {
            "runtime": shim.__version__,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "executable": sys.executable,
        },
        "network": {
            "ready": network.ready,
            "reason": network.reason,
            "message": network.message,
            "notes": list(network.notes),
            **node.networks.details(),
        },
        "archives": {"failed": dict(node.images.failed_archives())},
        "pulls": [_pull(state) for state in node.images.pulls()],
        "counts": {
            "sandboxes": len(list(node.records.sandboxes())),
            "containers": len(list(node.records.containers())),
            "images": len(node.images.list()),
        },
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in texts.items()}
