"""IPv6 on this node: whether pods can have it, and the kernel's switches that forwarding needs.

Where it cannot be had pods get IPv4 alone, and one sentence says why.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from shim.errors import FailedPrecondition
from shim.network.switches import PROC_SYS, get, set_switch

log = logging.getLogger(__name__)

MIN_MTU: Final = 1280  # RFC 8200, section 5
_CONF: Final = "net/ipv6/conf"


def in_kernel(proc_sys: str = PROC_SYS) -> bool:
    """Tell whether the kernel has IPv6 at all."""
    return os.path.isdir(os.path.join(proc_sys, _CONF))


def find_lack(mtu: int, proc_sys: str = PROC_SYS) -> str:
    """Return why pods cannot have IPv6 on this node; empty where they can.

    Args:
        mtu: of pods' links.
        proc_sys: where the kernel's switches are.
    """
    if not in_kernel(proc_sys):
        return "the kernel has no IPv6 (ipv6.disable=1, or built without it)"
    for which in ("all", "default"):
        if get(f"{_CONF}/{which}/disable_ipv6", proc_sys) == "1":
            return f"IPv6 is off on this node: net.ipv6.conf.{which}.disable_ipv6 is 1"
    if mtu < MIN_MTU:
        return f"links of pods have an MTU of {mtu}, and IPv6 needs {MIN_MTU}"
    return ""


def close_to_routers(link: str, proc_sys: str = PROC_SYS) -> None:
    """Have the node take no router advertisement over a link: a pod could send one (CVE-2020-10749).

    Raises:
        FailedPrecondition: it cannot be written.
    """
    set_switch(f"{_CONF}/{link}/accept_ra", "0", proc_sys)


def forward(proc_sys: str = PROC_SYS) -> None:
    """Have the node forward packets. Links that took router advertisements before go on taking them.

    With forwarding the kernel stops listening to routers, unless it is told 2: the node would lose its own
    default route some minutes later (ip-sysctl.rst, accept_ra).

    Raises:
        FailedPrecondition: it cannot be written.
    """
    if get(f"{_CONF}/all/forwarding", proc_sys) == "1":
        return
    for link in sorted(os.listdir(os.path.join(proc_sys, _CONF))):
        if link != "all" and get(f"{_CONF}/{link}/accept_ra", proc_sys) == "1":
            try:
                set_switch(f"{_CONF}/{link}/accept_ra", "2", proc_sys)
            except FailedPrecondition as error:
                log.warning("link %s may lose routes that it learnt from a router: %s", link, error)
    set_switch(f"{_CONF}/all/forwarding", "1", proc_sys)
