"""From a seccomp profile to the BPF program that an init child loads.

Compiling takes milliseconds, so programs are kept by what they are made from: the capabilities for our own
profile, the file's content and the capabilities for the administrator's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shim.errors import InvalidArgument, KernelError
from shim.kernel import capabilities, seccomp
from shim.kernel.seccomp import Comparison, Rule
from shim.runtime import seccomp_default as default
from shim.runtime import seccomp_newer, seccomp_profile
from shim.runtime.seccomp_profile import Process, Profile

_EQUAL: Final = seccomp.OPERATORS["SCMP_CMP_EQ"]
_LESS: Final = seccomp.OPERATORS["SCMP_CMP_LT"]
_MASKED: Final = seccomp.OPERATORS["SCMP_CMP_MASKED_EQ"]

_MACHINE: Final = os.uname().machine
_RELEASE: Final = os.uname().release

# All that the loop of a pod's init ever asks of the kernel, with what the interpreter does beside it.
_REAPER: Final = """
    brk execve execveat exit_group futex madvise mmap mprotect mremap munmap pause ppoll restart_syscall
    rt_sigaction rt_sigreturn
"""


@dataclass(frozen=True, slots=True)
class Program:
    """What seccomp(2) loads.

    Attributes:
        code: BPF instructions; empty for no filter.
        flags: of seccomp(2).
    """

    code: bytes = field(default=b"", repr=False)
    flags: int = 0


@functools.lru_cache(maxsize=64)
def runtime_default(mask: int, machine: str = _MACHINE) -> Program:
    """Return the program of the RuntimeDefault profile for a process with these capabilities.

    Args:
        mask: bit N is capability N.
        machine: as uname(2) names it.

    Raises:
        Unavailable: libseccomp is not installed.
    """
    action = seccomp.ACT_ERRNO | default.DEFAULT_ERRNO
    architectures = default.ARCHITECTURES.get(machine, ())
    return _compile(Profile(action, tuple(plan_default(mask, machine)), architectures), machine)


@functools.cache
def reaper() -> bytes:
    """Return the program of a pod's init.

    Raises:
        Unavailable: libseccomp is not installed.
    """
    rules = [Rule(name, seccomp.ACT_ALLOW) for name in _REAPER.split()]
    return seccomp.compile_rules(seccomp.ACT_ERRNO | default.DEFAULT_ERRNO, rules)


@functools.lru_cache(maxsize=64)
def from_json(text: bytes, mask: int, machine: str = _MACHINE, release: str = _RELEASE) -> Program:
    """Return the program of a profile file, as docker, containerd and the OCI runtime specification have it.

    Args:
        text: the file.
        mask: capabilities of the process, for rules that include or exclude some.
        machine: as uname(2) names it.
        release: of the kernel, as uname(2) names it.

    Raises:
        InvalidArgument: it is no such profile. Unimplemented: it needs an agent.
        Unavailable: libseccomp is not installed.
    """
    profile = seccomp_profile.parse(text, Process(mask, machine, release))
    try:
        return _compile(profile, machine)
    except KernelError as error:
        raise InvalidArgument(f"a seccomp profile cannot be compiled: {error}") from None


def _compile(profile: Profile, machine: str) -> Program:
    code = seccomp.compile_rules(profile.default_action, profile.rules, profile.architectures)
    names = {rule.name for rule in profile.rules}
    plans = {}
    for architecture in (machine, *profile.architectures):
        known = seccomp.numbers(names, architecture)
        plan = seccomp_newer.plan(profile.default_action, profile.rules, known)
        if plan is not None:
            plans[architecture] = plan
    whole = seccomp_newer.encode(plans) + code
    instructions = len(whole) // seccomp.INSTRUCTION_BYTES
    if instructions > seccomp.MAX_INSTRUCTIONS:
        raise InvalidArgument(
            f"a seccomp profile makes {instructions} instructions;"
            f" the kernel takes {seccomp.MAX_INSTRUCTIONS}: write fewer rules"
        )
    return Program(whole, profile.flags)


def plan_default(mask: int, machine: str) -> Iterator[Rule]:
    """Yield the rules of the RuntimeDefault profile. Pure."""
    allow = seccomp.ACT_ALLOW
    has = {name for number, name in enumerate(capabilities.NAMES) if mask >> number & 1}
    names = dict.fromkeys((*default.ALLOWED, *default.TRACING, *default.ON_MACHINE.get(machine, ())))
    for capability, theirs in default.WITH_CAPABILITY.items():
        if capability in has:
            names.update(dict.fromkeys(theirs))
    yield from (Rule(name, allow) for name in names)
    for value in default.PERSONALITIES:
        yield Rule("personality", allow, (Comparison(0, _EQUAL, value),))
    # Nothing that is open upwards: a filter sees 64 bits of a family, of which the kernel then takes 32.
    yield Rule("socket", allow, (Comparison(0, _LESS, default.AF_ALG),))
    for family in range(default.AF_ALG + 1, default.AF_END):
        if family != default.AF_VSOCK:
            yield Rule("socket", allow, (Comparison(0, _EQUAL, family),))
    if "SYS_ADMIN" not in has:
        argument = default.CLONE_FLAGS_ARGUMENT.get(machine, 0)
        yield Rule("clone", allow, (Comparison(argument, _MASKED, default.NAMESPACE_FLAGS, 0),))
        yield Rule("clone3", seccomp.ACT_ERRNO | default.CLONE3_ERRNO)
