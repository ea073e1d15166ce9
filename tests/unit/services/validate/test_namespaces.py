import dataclasses

import pytest

from shim.errors import InvalidArgument
from shim.model.security import NamespaceMode, NamespaceOptions
from shim.services.validate import namespaces

POD, CONTAINER, NODE, TARGET = NamespaceMode
OWN = NamespaceOptions(pid=CONTAINER)
NODES = NamespaceOptions(network=NODE, pid=NODE, ipc=NODE)


@pytest.mark.parametrize(
    ("asked", "pods"),
    [
        (None, NODES),
        (NamespaceOptions(), NODES),
        (NODES, NODES),
        (OWN, NODES),
        (OWN, NamespaceOptions()),
        (NamespaceOptions(), OWN),
        (NamespaceOptions(pid=TARGET, target_id="x"), OWN),
    ],
)
def test_a_container_is_where_its_pod_is(asked: NamespaceOptions | None, pods: NamespaceOptions) -> None:
    namespaces.check_container(asked, pods)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": NODE}, "namespace_options.network of the container is NODE"),
        ({"network": CONTAINER}, "namespace_options.network of the container is CONTAINER"),
        ({"ipc": NODE}, "namespace_options.ipc of the container is NODE"),
        ({"ipc": TARGET, "target_id": "x"}, "namespace_options.ipc of the container is TARGET"),
        ({"pid": NODE}, "namespace_options.pid of the container is NODE"),
        ({"pid": TARGET}, "target_id names no container"),
        ({"target_id": "x"}, "namespace_options.target_id is 'x', but pid is CONTAINER"),
    ],
)
def test_a_container_elsewhere_is_refused(change: dict[str, NamespaceMode], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        namespaces.check_container(dataclasses.replace(OWN, **change), OWN)  # type: ignore[arg-type]
