"""What can be configured: frozen dataclasses whose fields carry their own help and check.

``config_files`` reads them from TOML, ``config_text`` writes them as TOML.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Returns what is wrong with a value, or an empty text.
Check = Callable[[Any], str]

DEFAULT_HANDLER: Final = "cri-shim"
MAX_SOCKET_PATH: Final = 107  # sun_path of unix(7), less its NUL
MAX_INTERFACE_NAME: Final = 15  # IFNAMSIZ, less its NUL
LONGEST_SUBNET: Final = {4: 29, 6: 125}


def _no_check(_value: Any) -> str:
    return ""


def setting(default: Any, help_text: str, check: Check = _no_check) -> Any:
    """Return a field with a default, a help text for people, and a check of its value."""
    return field(default=default, metadata={"help": help_text, "check": check})


def _one_of(*choices: str) -> Check:
    return lambda value: "" if value in choices else f"must be one of {', '.join(choices)}"


def _absolute(value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/") or "\0" in value:
        return "must be an absolute path without '..'"
    return ""


def _directory(value: str) -> str:
    return _absolute(value) or ("must not be the root directory" if value.strip("/") == "" else "")


def _socket(value: str) -> str:
    if not value:
        return ""
    if len(value.encode()) > MAX_SOCKET_PATH:
        return f"is too long for a unix socket: at most {MAX_SOCKET_PATH} bytes"
    return _absolute(value)


def _all_absolute(values: tuple[str, ...]) -> str:
    return next((wrong for value in values if (wrong := _absolute(value))), "")


def _file(value: str) -> str:
    return _absolute(value) if value else ""


def _at_least(least: int) -> Check:
    return lambda value: "" if value >= least else f"must be {least} or more"


def _between(least: int, most: int) -> Check:
    return lambda value: "" if least <= value <= most else f"must be from {least} to {most}"


def _ip_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "is not an IP address"
    return ""


def _metrics(value: str) -> str:
    if not value or value.startswith("/"):
        return _socket(value)
    host, _, port = value.rpartition(":")
    try:
        address, number = ipaddress.ip_address(host.strip("[]")), int(port)
    except ValueError:
        return "must be an address and a port, such as 127.0.0.1:9494, or an absolute path"
    if not address.is_loopback:
        return "must be a loopback address: nobody who asks for metrics is asked who he is"
    return "" if 0 <= number <= 65535 else "must have a port from 0 to 65535"


def _endpoint(value: str) -> str:
    return (
        ""
        if not value or re.fullmatch(r"https?://[^/\s]+/?", value)
        else "must be http:// or https://, host and port"
    )


def _subnet(value: str) -> str:
    if not value:
        return ""
    versions = []
    for part in value.split(","):
        try:
            network = ipaddress.ip_network(part.strip())
        except ValueError as error:
            return f"is not an address range: {error}"
        longest = LONGEST_SUBNET[network.version]
        if network.prefixlen > longest:
            return f"is too small: a prefix of at most {longest} bits leaves room for pods"
        versions.append(network.version)
    return "names two ranges of the same IP version" if len(set(versions)) < len(versions) else ""


def _interface(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", value) or len(value) > MAX_INTERFACE_NAME:
        return f"is not a name for a link: letters, digits, '-', '_', '.', at most {MAX_INTERFACE_NAME}"
    return ""


def check_handler_name(value: str) -> str:
    """Return what is wrong with the name of a handler, or an empty text."""
    good = re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value)
    return "" if good else "must be lower case letters, digits and '-', at most 63"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The daemon's own log, on standard error."""

    level: str = setting(
        "info", "debug, info, warning or error", _one_of("debug", "info", "warning", "error")
    )
    format: str = setting("text", "text, or json: one object a line", _one_of("text", "json"))
    journal_bytes: int = setting(
        8 << 20, "what 'cri-shim why' answers from takes no more on disk", _between(1 << 16, 1 << 30)
    )


@dataclass(frozen=True, slots=True)
class CgroupConfig:
    """Where and by whom cgroups are made."""

    driver: str = setting(
        "auto",
        "auto (systemd where it runs), systemd or cgroupfs; must be the kubelet's cgroupDriver",
        _one_of("auto", "systemd", "cgroupfs"),
    )
    parent: str = setting(
        "/cri-shim",
        "parent of pods that come without a cgroup_parent; with systemd the slice of that name",
        _directory,
    )


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Who gives pods their addresses."""

    mode: str = setting(
        "auto",
        "builtin, cni, or auto: builtin until a CNI configuration or a cluster's kubelet has been seen here",
        _one_of("auto", "builtin", "cni"),
    )
    bridge: str = setting("cri-shim0", "bridge of the built-in network", _interface)
    subnet: str = setting(
        "",
        "ranges for pods of the built-in network: of IPv4, of IPv6, or one of each with a comma between;"
        " empty: 10.88.0.0/16 and a random one of fd00::/8, or others that collide with no route of the node,"
        " chosen once",
        _subnet,
    )
    ip_pref: str = setting(
        "ipv4",
        "which of its addresses is a pod's primary one: ipv4, ipv6, or cni: the first that its network names",
        _one_of("ipv4", "ipv6", "cni"),
    )
    isolated: bool = setting(
        False, "pods of the built-in network reach each other only by host ports, not by their addresses"
    )
    mtu: int = setting(
        0, "of links of the built-in network; 0: that of the default route", _between(0, 65535)
    )
    netns_dir: str = setting("/run/netns", "where network namespaces are pinned", _directory)
    cni_conf_dirs: tuple[str, ...] = setting(
        ("/etc/cni/net.d",), "where CNI configurations lie, the first hit counts", _all_absolute
    )
    cni_bin_dirs: tuple[str, ...] = setting(
        ("/opt/cni/bin", "/usr/lib/cni"), "where CNI plugins lie, the first hit counts", _all_absolute
    )
    cni_timeout_s: int = setting(
        60, "of one run of a CNI plugin; then it is killed, with all that it started", _at_least(1)
    )


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Where images come from."""

    config_path: tuple[str, ...] = setting(
        ("/etc/cri-shim/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"),
        "directories with <host>/hosts.toml as containerd reads them, the first hit counts",
        _all_absolute,
    )
    docker_config: str = setting(
        "",
        "file with this node's credentials, as docker login writes it (such as /root/.docker/config.json);"
        " used where a pull brings none for a host; empty: none",
        _file,
    )
    offline: bool = setting(
        False, "use no network: a pull returns what is here, or fails; images come by load or watched files"
    )
    max_downloads: int = setting(4, "blobs fetched at once, over all pulls", _between(1, 64))
    connect_timeout_s: int = setting(
        10, "a registry that takes no connection in time is not there", _at_least(1)
    )
    stall_timeout_s: int = setting(
        60, "a pull without a byte fetched or unpacked in so many seconds fails", _at_least(1)
    )


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What happens to images."""

    pinned: tuple[str, ...] = setting(
        (), "patterns of references that the kubelet must not collect, such as docker.io/library/*"
    )
    watch_dir: str = setting(
        "", "directory whose image archives are loaded at the start and when they appear; empty: none", _file
    )
    max_layer_bytes: int = setting(
        256 << 30, "of a layer or archive when unpacked; a bomb stops there", _at_least(1 << 20)
    )
    max_layer_entries: int = setting(2_000_000, "files of a layer; a bomb stops there", _at_least(1000))


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """What containers get unless their spec says otherwise."""

    log_line_bytes: int = setting(
        16384, "longer lines are split in the log (CRI tag P)", _between(256, 1 << 20)
    )
    exec_output_bytes: int = setting(
        8 << 20, "output that ExecSync keeps, stdout and stderr together", _between(1024, 15 << 20)
    )
    cdi_spec_dirs: tuple[str, ...] = setting(
        ("/etc/cdi", "/var/run/cdi"), "where CDI files describe devices, the last hit counts", _all_absolute
    )
    volume_timeout_s: int = setting(
        60, "a volume that takes longer to open fails the start, as on a dead file server", _at_least(1)
    )


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    """The server of exec, attach and port-forward."""

    address: str = setting("127.0.0.1", "IP address of this node to listen on", _ip_address)
    port: int = setting(0, "port to listen on; 0: any free one", _between(0, 65535))
    idle_timeout_s: int = setting(
        4 * 3600, "a connection on which nothing moves for so many seconds is closed", _at_least(1)
    )
    max_connections: int = setting(1024, "at once, whoever they are from", _between(1, 65535))
    max_streams: int = setting(
        1024, "at once in a connection over SPDY; a forwarded connection takes two", _between(5, 65535)
    )
    max_request_bytes: int = setting(16384, "of an HTTP request", _between(1024, 1 << 20))
    max_frame_bytes: int = setting(
        65536, "of a SPDY control frame, and of its expanded headers", _between(1024, 1 << 20)
    )
    max_message_bytes: int = setting(1 << 20, "of a WebSocket message", _between(1 << 16, 1 << 26))
    tls_cert: str = setting("", "certificate file, for https; empty: http", _file)
    tls_key: str = setting("", "file of the certificate's key", _file)


@dataclass(frozen=True, slots=True)
class SeccompConfig:
    """Filters of system calls."""

    default: str = setting(
        "unconfined",
        "profile of containers whose request names none: unconfined or runtime_default",
        _one_of("unconfined", "runtime_default"),
    )
    log_denials: bool = setting(
        False, "have the kernel log each call that a profile does not allow (audit records of type 1326)"
    )


@dataclass(frozen=True, slots=True)
class SelinuxConfig:
    """Labels of SELinux."""

    enabled: str = setting(
        "auto",
        "auto (where the kernel has it and the policy has labels for containers), on or off",
        _one_of("auto", "on", "off"),
    )


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """The daemon's own numbers, for Prometheus."""

    address: str = setting(
        "", "loopback address and port, such as 127.0.0.1:9494, or path of a socket; empty: none", _metrics
    )


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Traces of calls (OpenTelemetry)."""

    endpoint: str = setting(
        "",
        "collector that takes OTLP over gRPC, such as http://127.0.0.1:4317; empty: as the environment's"
        " OTEL_EXPORTER_OTLP_ENDPOINT says, else none",
        _endpoint,
    )


@dataclass(frozen=True, slots=True)
class HandlerConfig:
    """A runtime handler, as RuntimeClass names them."""

    description: str = setting("", "for people; shown by verbose Status")


@dataclass(frozen=True, slots=True)
class Config:
    """All of it. ``handlers`` maps names to handlers; the default one needs no entry."""

    version: int = setting(1, "format of this file", lambda value: "" if value == 1 else "must be 1")
    root: str = setting("/var/lib/cri-shim", "what is kept: images, records", _directory)
    state: str = setting("/run/cri-shim", "what a reboot voids: sockets, pins, exits", _directory)
    socket: str = setting("", "socket of the CRI; empty: cri-shim.sock in the state directory", _socket)
    default_handler: str = setting(
        DEFAULT_HANDLER, "runtime handler of pods that name none", check_handler_name
    )
    log: LogConfig = LogConfig()
    cgroup: CgroupConfig = CgroupConfig()
    network: NetworkConfig = NetworkConfig()
    registry: RegistryConfig = RegistryConfig()
    image: ImageConfig = ImageConfig()
    container: ContainerDefaults = ContainerDefaults()
    streaming: StreamingConfig = StreamingConfig()
    seccomp: SeccompConfig = SeccompConfig()
    selinux: SelinuxConfig = SelinuxConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    handlers: Mapping[str, HandlerConfig] = field(default_factory=dict)

    @property
    def handler_names(self) -> tuple[str, ...]:
        """Every handler, the default one first."""
        return (self.default_handler, *(name for name in self.handlers if name != self.default_handler))

    @property
    def socket_path(self) -> str:
        """The socket in force."""
        return self.socket or f"{self.state}/cri-shim.sock"
