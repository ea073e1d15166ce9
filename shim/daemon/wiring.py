"""Joins the parts of a node: what the verbs work with, from the configuration, opened and closed in order."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from shim.cgroups import hierarchy, select
from shim.daemon.config import Config
from shim.errors import FailedPrecondition
from shim.images import settings as image_settings
from shim.images.store import ImageStore
from shim.kernel import proc
from shim.model.container import ExitRecord, ProcessRef
from shim.model.security import ProfileType
from shim.network.select import Mode, Networks
from shim.network.settings import BridgeSettings, CniSettings
from shim.services import exits, sampler
from shim.services.cdi.library import Library
from shim.services.confinement import apparmor, seccomp, selinux
from shim.services.denials import Watcher
from shim.services.launcher import Launcher
from shim.services.node import HandlerFeatures, Node, Settings
from shim.services.pools import Pools
from shim.services.reconcile import reconcile
from shim.services.records import Records
from shim.services.timeline import Timeline
from shim.store.containers import ContainerStore
from shim.store.journal import Journal
from shim.store.layout import Layout
from shim.store.sandboxes import SandboxStore
from shim.streaming import server as streaming_server
from shim.streaming.limits import Limits
from shim.supervisor import exit_records
from shim.supervisor.client import SupervisorClient

log = logging.getLogger(__name__)

_MIN_HANG_S: Final = 30  # the journal of a slow disk may hold up whoever writes for that long


@asynccontextmanager
async def open_node(config: Config, layout: Layout) -> AsyncIterator[Node]:
    """Yield a node on which everything of an earlier daemon was found again.

    Raises:
        ShimError, OSError: a part cannot be opened, and why.
    """
    async with AsyncExitStack() as stack:
        pools = Pools()
        records = _records(layout, pools)
        await pools.plans.run(selinux.label_layers, layout.images, config.selinux.enabled)
        images = ImageStore(layout.images, _image_settings(config), layout.quarantine)
        await images.start()
        stack.push_async_callback(images.close)
        networks = _networks(config, layout)
        stack.push_async_callback(networks.close)
        exited: asyncio.Queue[ExitRecord] = asyncio.Queue()
        supervisor = SupervisorClient(layout.state, exited.put_nowait, config.container.volume_timeout_s)
        cgroups = await pools.cgroups.run(
            select.driver, config.cgroup.driver, hierarchy.detect(proc.mountinfo()), config.cgroup.parent
        )
        stack.callback(cgroups.close)
        settings, boot_id = _settings(config), proc.boot_id()
        launcher = Launcher(
            supervisor,
            layout,
            settings,
            cgroups,
            boot_id,
            functools.partial(_process_of, records),
            lambda sandbox_id: [view.spec for view in records.containers_of(sandbox_id)],
        )
        await pools.plans.run(launcher.prepare)
        await pools.plans.run(apparmor.load_default, layout.state)
        node = Node(
            settings=settings,
            layout=layout,
            boot_id=boot_id,
            records=records,
            images=images,
            networks=networks,
            cgroups=cgroups,
            supervisor=supervisor,
            launcher=launcher,
            pools=pools,
            cdi=Library(config.container.cdi_spec_dirs),
            timeline=Timeline(Journal(layout.journal, config.log.journal_bytes), pools.journal),
        )
        stack.push_async_callback(node.close)
        await node.timeline.load()
        await supervisor.open()
        node.settings = _with_userns(settings, await launcher.find_userns_lack(layout.images))
        stack.push_async_callback(_leave, node, supervisor, networks)
        await reconcile(node, exit_records.load_all(layout.exits))
        taking = asyncio.ensure_future(_take_in(node, exited))
        stack.callback(taking.cancel)
        watcher = Watcher(node)
        watcher.start()
        stack.callback(watcher.close)
        node.background.start("sampling of numbers", sampler.sample_forever(node))
        yield node


def _records(layout: Layout, pools: Pools) -> Records:
    """Return the records of an earlier daemon, without those that cannot be read."""
    sandboxes, containers = SandboxStore(layout), ContainerStore(layout)
    for set_aside in (*sandboxes.load_all(), *containers.load_all()):
        log.warning("a record cannot be read: %s", set_aside)
    _forget_profiles(layout, containers)
    return Records(sandboxes, containers, pools.records)


def _with_userns(settings: Settings, lack: str) -> Settings:
    """Return settings whose handlers say whether pods can have a user namespace."""
    if lack:
        log.info("pods cannot have a user namespace here: %s", lack)
    handlers = {
        name: dataclasses.replace(features, user_namespaces=not lack)
        for name, features in settings.handlers.items()
    }
    return dataclasses.replace(settings, handlers=handlers, userns_lack=lack)


def _forget_profiles(layout: Layout, containers: ContainerStore) -> None:
    """Remove the seccomp profiles that the last container made with them has left."""
    kept = (spec.confinement for spec, _ in containers.list())
    seccomp.forget(layout.profiles, {each.seccomp_digest for each in kept if each is not None})


def _process_of(records: Records, container_id: str) -> ProcessRef | None:
    view = records.find_container(container_id)
    return None if view is None or view.status.finished_at_ns else view.status.process


async def _take_in(node: Node, exited: asyncio.Queue[ExitRecord]) -> None:
    while True:
        exits.on_exit(node, await exited.get())


async def _leave(node: Node, supervisor: SupervisorClient, networks: Networks) -> None:
    """Where no sandbox is left, nothing of ours stays; else everything does, for the next daemon."""
    empty = not list(node.records.sandboxes())
    if empty:
        await networks.remove_if_unused()
    await supervisor.close(end_if_idle=empty)


def _settings(config: Config) -> Settings:
    return Settings(
        hostname=socket.gethostname(),
        netns_dir=config.network.netns_dir,
        ip_pref=config.network.ip_pref,
        handlers={name: HandlerFeatures() for name in config.handler_names},
        default_handler=config.default_handler,
        log_line_bytes=config.container.log_line_bytes,
        exec_output_bytes=config.container.exec_output_bytes,
        seccomp_default=ProfileType[config.seccomp.default.upper()],
        selinux=config.selinux.enabled,
        seccomp_log=config.seccomp.log_denials,
    )


def _image_settings(config: Config) -> image_settings.Settings:
    registry = config.registry
    return image_settings.Settings(
        config_paths=registry.config_path,
        docker_config=registry.docker_config,
        offline=registry.offline,
        max_downloads=registry.max_downloads,
        connect_timeout_s=registry.connect_timeout_s,
        stall_timeout_s=registry.stall_timeout_s,
        hang_timeout_s=max(registry.stall_timeout_s, _MIN_HANG_S),
        pinned=config.image.pinned,
        watch_dir=config.image.watch_dir,
        max_layer_bytes=config.image.max_layer_bytes,
        max_entries=config.image.max_layer_entries,
    )


def streaming_settings(config: Config) -> streaming_server.Settings:
    """Return what the streaming server needs of the configuration.

    Raises:
        FailedPrecondition: the certificate or its key cannot be used.
    """
    asked = config.streaming
    tls = None
    if asked.tls_cert or asked.tls_key:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            tls.load_cert_chain(asked.tls_cert, asked.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(
                f"cannot use streaming.tls_cert {asked.tls_cert!r} with tls_key {asked.tls_key!r}: {error}"
            ) from None
    limits = Limits(
        connections=asked.max_connections,
        streams=asked.max_streams,
        head_bytes=asked.max_request_bytes,
        frame_bytes=asked.max_frame_bytes,
        message_bytes=asked.max_message_bytes,
        idle_s=asked.idle_timeout_s,
    )
    return streaming_server.Settings(asked.address, asked.port, tls, limits)


def _networks(config: Config, layout: Layout) -> Networks:
    network = config.network
    bridge = BridgeSettings(
        directory=layout.network,
        quarantine=layout.quarantine,
        bridge=network.bridge,
        subnet=network.subnet,
        mtu=network.mtu,
        isolated=network.isolated,
    )
    cni = CniSettings(
        directory=os.path.join(layout.network, "cni"),
        quarantine=layout.quarantine,
        conf_dirs=network.cni_conf_dirs,
        bin_dirs=network.cni_bin_dirs,
        timeout_s=network.cni_timeout_s,
    )
    return Networks(bridge, cni, Mode(network.mode))
