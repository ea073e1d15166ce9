"""Why something is as it is: its timeline, what is still tried, and what follows from both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shim.errors import InvalidArgument, NotFound
from shim.model.timeline import Entry
from shim.services.node import Node
from shim.services.timeline import image_keys
from shim.services.views import ContainerView, SandboxView

_PREFIX: Final = re.compile(r"(sha256:)?[0-9a-f]{4,64}")
_ID: Final = re.compile(r"(sha256:)?[0-9a-f]{64}")
# What says nothing about the cause of a state.
_PUTTING_AWAY: Final = ("Stop", "Remove", "Update")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one object.

    Attributes:
        title: what it is, and its state.
        entries: what has happened, the oldest first.
        waiting: what is still being tried.
        conclusion: the cause of its state, in one line.
    """

    title: str
    entries: tuple[Entry, ...]
    waiting: tuple[str, ...]
    conclusion: str


def why(node: Node, subject: str) -> Explanation:
    """Return what is known of a pod, a container or an image, from memory.

    Args:
        node: where.
        subject: an id, a prefix of one of at least four digits, or a name.

    Raises:
        InvalidArgument: nothing is asked for.
        NotFound: nothing is known of it.
    """
    if not subject:
        raise InvalidArgument("subject is empty: it must name a pod, a container or an image")
    titles, ids = _objects(node, subject)
    entries = node.timeline.find(node.timeline.matching(lambda key: is_meant(key, subject)) | ids)
    if not entries and not titles:
        raise NotFound("pod, container or image", subject)
    title = "; ".join(titles) or f"{subject}: not here any more"
    concerned = ids | {key for entry in entries for key in entry.keys if is_meant(key, subject)}
    waiting = tuple(
        f"{what}: failed {each.failures} times, tried again every {each.delay_s:.0f} s: {each.error}"
        for what, each in node.background.waiting().items()
        if any(key in what for key in concerned)
    )
    return Explanation(title, tuple(entries), waiting, conclude(entries, waiting, title))


def is_meant(key: str, subject: str) -> bool:
    """Tell whether an id or name of an entry is what a person asks for. Pure."""
    if key == subject or key.endswith(f"/{subject}"):
        return True
    if _PREFIX.fullmatch(subject):
        return _ID.fullmatch(key) is not None and key.removeprefix("sha256:").startswith(
            subject.removeprefix("sha256:")
        )
    return key in image_keys(subject)


def conclude(entries: Sequence[Entry], waiting: Sequence[str], title: str) -> str:
    """Return the cause in one line: the last thing that went wrong and was not mended since. Pure."""
    mended: set[tuple[str, str]] = set()
    for entry in reversed(entries):
        steps = {(entry.what, key) for key in entry.keys}
        if entry.ok:
            mended |= steps
        elif not steps & mended:
            return _sentence(entry)
    if waiting:
        return f"still being tried: {waiting[-1]}"
    for entry in reversed(entries):
        if not entry.what.startswith(_PUTTING_AWAY):
            return f"nothing went wrong: {_sentence(entry)}"
    return f"nothing went wrong: {title}"


def _sentence(entry: Entry) -> str:
    where = f" at stage {entry.stage!r}" if entry.stage else ""
    failed = " failed" if not entry.ok and entry.what not in ("exit", "denial") else ""
    times = f" ({entry.times} times)" if entry.times > 1 else ""
    return f"{entry.what}{failed}{where}{times}" + (f": {entry.text}" if entry.text else "")


def _objects(node: Node, subject: str) -> tuple[list[str], set[str]]:
    """Return a title for each object that is here, and their ids."""
    titles, ids = [], set()
    for sandbox in node.records.sandboxes():
        metadata = sandbox.spec.config.metadata
        if is_meant(sandbox.spec.id, subject) or is_meant(f"{metadata.namespace}/{metadata.name}", subject):
            titles.append(_sandbox_title(sandbox))
            ids.add(sandbox.spec.id)
    for container in node.records.containers():
        parent = node.records.find_sandbox(container.spec.sandbox_id)
        pod = parent.spec.config.metadata if parent is not None else None
        name = f"{pod.namespace}/{pod.name}/{container.spec.config.metadata.name}" if pod is not None else ""
        if is_meant(container.spec.id, subject) or (name and is_meant(name, subject)):
            titles.append(_container_title(container, name))
            ids.add(container.spec.id)
    for image in node.images.list():
        if any(is_meant(name, subject) for name in (image.id, *image.repo_tags, *image.repo_digests)):
            titles.append(f"image {', '.join(image.repo_tags) or image.id}: here, {image.size_bytes} bytes")
            ids.add(image.id)
    return titles, ids


def _sandbox_title(view: SandboxView) -> str:
    metadata = view.spec.config.metadata
    state = view.state.name
    if view.status.pending:
        state += f", still to be taken down: {', '.join(view.status.pending)}"
    return f"pod {metadata.namespace}/{metadata.name} ({view.spec.id[:13]}): {state}"


def _container_title(view: ContainerView, name: str) -> str:
    status = view.status
    state = view.state.name
    if status.finished_at_ns:
        state += f", exit code {status.exit_code}, {status.reason}"
    return f"container {name or view.spec.config.metadata.name} ({view.spec.id[:13]}): {state}"
