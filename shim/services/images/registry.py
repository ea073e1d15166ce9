"""What registries a pull asks, and a try: for people, through the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shim.images.explain import Explanation
from shim.images.probe import Step
from shim.model.image import Auth
from shim.services.node import Node


async def explain_pull(node: Node, reference: str, auth: Auth | None) -> Explanation:
    """Return which hosts a pull would ask, and why. Asks none.

    Raises:
        InvalidArgument: the reference is malformed.
        FailedPrecondition: a file of the configuration is.
    """
    return await node.images.explain(reference, auth)


def try_pull(node: Node, reference: str, auth: Auth | None) -> AsyncIterator[Step]:
    """Try a pull at each host and yield how long its steps take; nothing is kept.

    Raises:
        InvalidArgument: the reference is malformed.
        FailedPrecondition: a file of the configuration is, or this node is offline.
    """
    return node.images.probe(reference, auth)
