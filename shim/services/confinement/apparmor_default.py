"""The AppArmor profile of containers that name none, as text for apparmor_parser. Pure.

A second line behind namespaces, capabilities and seccomp: files of /proc and /sys by which the node could be
changed are not written, nothing is mounted, and only processes of the same profile are traced or signalled.
The effect is that of the profile which docker and containerd use.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

NAME: Final = "cri-shim-default"
# Below /etc/apparmor.d, from Debian's package apparmor and others'.
ABI: Final = "abi/3.0"
TUNABLES: Final = "tunables/global"
BASE: Final = "abstractions/base"
INCLUDES: Final = (ABI, TUNABLES, BASE)

# Patterns are apparmor.d(5)'s. Paths come with all links followed: /proc/self is a number there.
_RULES: Final = """\
  file,
  network,
  deny network alg,
  capability,
  umount,

  signal (receive) peer=unconfined,
  signal (receive) peer="{daemon}",
  signal (send, receive) peer="{name}",
  ptrace (read, readby, trace, tracedby) peer="{name}",

  deny mount,

  # Of /proc only processes' own directories, and of /proc/sys only the shared memory of System V.
  deny /proc/* w,
  deny /proc/[^0-9s/]*/** w,
  deny /proc/s[^y/]*/** w,
  deny /proc/sy[^s/]*/** w,
  deny /proc/sys?*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/ke[^r]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys only cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
"""


def text(has: AbstractSet[str], daemon: str) -> str:
    """Return the profile.

    Args:
        has: which of ``INCLUDES`` the node has: what its profiles share is shared by this one.
        daemon: the label of the daemon, which signals containers.
    """
    lines = []
    if ABI in has:
        lines.append("abi <abi/3.0>,")
    if TUNABLES in has:
        lines.append("include <tunables/global>")
    lines.append(f'profile "{NAME}" flags=(attach_disconnected, mediate_deleted) {{')
    if BASE in has:
        lines.append("  include <abstractions/base>")
    return "\n".join(lines) + "\n" + _RULES.format(name=NAME, daemon=daemon) + "}\n"
