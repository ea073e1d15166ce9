"""Names of CDI devices, ``vendor.com/class=name``, and where a request has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig

ANNOTATION_PREFIX: Final = "cdi.k8s.io/"

_KIND: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")


def requested(config: ContainerConfig) -> tuple[str, ...]:
    """Return the devices that a container asks for, each once: those of the field first.

    Device plugins of older kubelets ask by annotations ``cdi.k8s.io/<any>`` with names between commas.

    Raises:
        InvalidArgument: a name has not the form.
    """
    names = tuple(dict.fromkeys((*config.cdi_devices, *_annotated(config))))
    for name in names:
        if not is_name(name):
            raise InvalidArgument(f"{name[:200]!r} is not the name of a CDI device: vendor.com/class=name is")
    return names


def is_kind(text: str) -> bool:
    """Tell whether a text is ``vendor/class``."""
    return _KIND.fullmatch(text) is not None


def is_device(text: str) -> bool:
    """Tell whether a text can name a device within its kind."""
    return _NAME.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Tell whether a text is a whole name, ``vendor/class=device``."""
    kind, _, device = text.partition("=")
    return is_kind(kind) and is_device(device)


def _annotated(config: ContainerConfig) -> Iterator[str]:
    for key, value in sorted(config.annotations.items()):
        if key.startswith(ANNOTATION_PREFIX):
            yield from value.split(",")
