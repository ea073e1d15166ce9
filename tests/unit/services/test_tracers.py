"""Which containers can look into others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from shim.model.security import Capabilities, ContainerSecurity
from shim.services.tracers import has_tracer

ALL = (1 << 41) - 1


def spec(*, userns: object = None, **security: Any) -> Any:
    config = SimpleNamespace(security=ContainerSecurity(**security))
    return cast("Any", SimpleNamespace(config=config, userns=userns))


@pytest.mark.parametrize("add", [("SYS_PTRACE",), ("cap_sys_ptrace",), ("ALL",)])
def test_who_has_the_capability(add: tuple[str, ...]) -> None:
    tracer = spec(capabilities=Capabilities(add=add))
    assert has_tracer((spec(), tracer), ALL)
    assert not has_tracer((tracer,), ALL & ~(1 << 19)), "this node cannot give it"
    assert not has_tracer((changed(tracer, userns=object()),), ALL)


def changed(of: Any, **fields: Any) -> Any:
    return SimpleNamespace(**{**vars(of), **fields})


def test_others_have_not() -> None:
    dropped = spec(capabilities=Capabilities(add=("ALL",), drop=("SYS_PTRACE",)))
    assert not has_tracer((spec(), dropped, spec(privileged=True)), ALL)
