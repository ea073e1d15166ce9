"""The ``info`` of verbose answers: JSON for people, under the keys that containerd's users know.

``runtimeSpec`` has the shape of an OCI runtime configuration (runtime-spec, config.md). It is a summary: no
such file is ever written, since nothing here runs an OCI runtime.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from shim.api.convert.container import encode_container_config
from shim.api.convert.sandbox import encode_sandbox_config
from shim.model.image import Image
from shim.model.mount import Propagation, Volume
from shim.model.resources import Resources
from shim.model.security import Confinement, NamespaceMode
from shim.services.views import ContainerView, SandboxDetails, SandboxView

OCI_VERSION: Final = "1.2.0"
RUNTIME_TYPE: Final = "io.cri-shim.v1"

_OCI_NAMES: Final = {"net": "network", "mnt": "mount"}
_PROPAGATION: Final = {
    Propagation.PRIVATE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}


def format_info(value: Mapping[str, Any]) -> dict[str, str]:
    """Return ``value`` as the map of a verbose answer."""
    return {"info": json.dumps(value, ensure_ascii=False)}


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    for variable in plain.get("envs", ()):
        value = base64.b64decode(variable.get("value", ""))
        variable["value"] = value.decode("utf-8", "backslashreplace")
    return plain


def sandbox_info(
    details: SandboxDetails, timeline: Sequence[Mapping[str, Any]] = (), network_check: str = ""
) -> dict[str, str]:
    """Return what PodSandboxStatus tells a person. There is no pause process whose pid could be told.

    Args:
        details: the sandbox.
        timeline: what has happened to it, as it is to be shown.
        network_check: whether its network is in order.
    """
    view = details.sandbox
    spec, status = view.spec, view.status
    network = status.network
    return format_info(
        {
            "sandboxID": spec.id,
            "pid": 0,
            "containers": [each.spec.id for each in details.containers],
            "netNamespaceClosed": not view.ips,
            "runtimeHandler": spec.handler,
            "runtimeType": RUNTIME_TYPE,
            "cgroupDriver": spec.cgroup_driver,
            "pending": list(status.pending),
            "timeline": list(timeline),
            "network": {
                "plugin": spec.network,
                "ips": list(network.ips) if network else [],
                "interface": network.interface if network else "",
                "hostInterface": network.host_interface if network else "",
                "mac": network.mac if network else "",
                "check": network_check,
            },
            # As they are now: UpdatePodSandboxResources changes them, the config is what was asked for.
            "overhead": None if status.overhead is None else _resources(status.overhead),
            "resources": None if status.resources is None else _resources(status.resources),
            "config": _plain(encode_sandbox_config(spec.config)),
            "runtimeSpec": {
                "ociVersion": OCI_VERSION,
                "hostname": spec.config.hostname,
                "annotations": dict(spec.config.annotations),
                "linux": {
                    "cgroupsPath": spec.cgroup_parent,
                    "sysctl": dict(spec.config.sysctls),
                    "namespaces": [
                        {"type": _OCI_NAMES.get(kind, kind), "path": path} for kind, path in spec.pins.items()
                    ],
                },
            },
        }
    )


def container_info(
    view: ContainerView, sandbox: SandboxView | None, timeline: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Return what ContainerStatus tells a person."""
    spec, status = view.spec, view.status
    process = status.process if not status.finished_at_ns else None
    return format_info(
        {
            "sandboxID": spec.sandbox_id,
            "pid": process.pid if process else 0,
            "removing": False,
            "snapshotKey": spec.id,
            "snapshotter": "overlayfs",
            "runtimeType": RUNTIME_TYPE,
            "image": spec.image_id,
            "stopSignal": spec.stop_signal,
            "timeline": list(timeline),
            "config": _plain(encode_container_config(spec.config)),
            "runtimeSpec": _runtime_spec(view, sandbox),
        }
    )


def _runtime_spec(view: ContainerView, sandbox: SandboxView | None) -> dict[str, Any]:
    spec, config = view.spec, view.spec.config
    security = config.security
    confinement = spec.confinement or Confinement()
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": config.tty,
            "user": {
                "uid": spec.user.uid,
                "gid": spec.user.gid,
                "additionalGids": list(spec.user.groups),
            },
            "args": list(spec.argv),
            "env": [entry.decode("utf-8", "backslashreplace") for entry in spec.env],
            "cwd": spec.cwd,
            "noNewPrivileges": security.no_new_privs,
            "oomScoreAdj": config.resources.oom_score_adj,
            "apparmorProfile": confinement.apparmor,
            "selinuxLabel": confinement.process_label,
        },
        "root": {"path": spec.rootfs.upper, "readonly": security.readonly_rootfs},
        "hostname": sandbox.spec.config.hostname if sandbox else "",
        "mounts": [_mount(volume) for volume in (*config.volumes, *spec.edits.volumes)],
        "annotations": dict(config.annotations),
        "linux": {
            "cgroupsPath": spec.cgroup,
            "resources": _resources(view.status.resources),
            "namespaces": _namespaces(view, sandbox),
            "mountLabel": confinement.mount_label,
            "seccomp": {"profile": confinement.seccomp.name, "sha256": confinement.seccomp_digest},
            "maskedPaths": list(security.masked_paths),
            "readonlyPaths": list(security.readonly_paths),
            "devices": [
                *({"path": device.container_path} for device in config.devices),
                *({"path": node.path} for node in spec.edits.devices),
            ],
        },
    }


def _mount(volume: Volume) -> dict[str, Any]:
    mode = "rro" if volume.recursive_read_only else "ro" if volume.readonly else "rw"
    return {
        "destination": volume.container_path,
        "type": "bind",
        "source": volume.image.image if volume.image else volume.host_path,
        "options": ["rbind", _PROPAGATION[volume.propagation], mode, *volume.mount_options],
    }


def _resources(value: Resources) -> dict[str, Any]:
    cpu = {
        "shares": value.cpu_shares,
        "quota": value.cpu_quota_us,
        "period": value.cpu_period_us,
        "cpus": value.cpuset_cpus,
        "mems": value.cpuset_mems,
    }
    memory = {"limit": value.memory_limit_bytes, "swap": value.memory_swap_limit_bytes}
    return {
        "cpu": {key: number for key, number in cpu.items() if number},
        "memory": {key: number for key, number in memory.items() if number},
        "hugepageLimits": [
            {"pageSize": each.page_size, "limit": each.limit} for each in value.hugepage_limits
        ],
        "unified": dict(value.unified),
    }


def _namespaces(view: ContainerView, sandbox: SandboxView | None) -> list[dict[str, str]]:
    """List the namespaces a container does not share with the node; a path where it shares the pod's."""
    pins = dict(sandbox.spec.pins) if sandbox else {}
    options = view.spec.config.security.namespaces
    own_pid = options is None or options.pid in (NamespaceMode.CONTAINER, NamespaceMode.TARGET)
    if own_pid:
        pins.pop("pid", None)
    shared = [{"type": _OCI_NAMES.get(kind, kind), "path": path} for kind, path in pins.items()]
    own = [{"type": "mount"}, {"type": "cgroup"}] + ([{"type": "pid"}] if own_pid else [])
    return shared + own


def image_info(image: Image) -> dict[str, str]:
    """Return what ImageStatus tells a person: the configuration, and the chain of layers."""
    config = image.config
    return format_info(
        {
            "chainID": image.chain_ids[-1] if image.chain_ids else "",
            "imageSpec": {
                "created": image.created,
                "architecture": image.platform.architecture,
                "variant": image.platform.variant,
                "os": image.platform.os,
                "config": {
                    "User": config.user,
                    "Env": list(config.env),
                    "Entrypoint": list(config.entrypoint),
                    "Cmd": list(config.cmd),
                    "WorkingDir": config.working_dir,
                    "Volumes": {path: {} for path in config.volumes},
                    "Labels": dict(config.labels),
                    "StopSignal": config.stop_signal,
                },
                "rootfs": {"type": "layers", "diff_ids": list(image.diff_ids)},
            },
        }
    )
