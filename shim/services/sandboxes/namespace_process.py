"""The processes behind a pod's namespaces: one that makes and pins them and ends, and one that stays.

Only a pod whose containers share their PID namespace keeps a process, its init: a PID namespace lives only as long
as its first process. It is in a cgroup of its own beside the containers', named by the sandbox's id.
"""

from __future__ import annotations

import asyncio
from typing import Final

from shim.model.resources import Resources
from shim.model.sandbox import SandboxSpec
from shim.services.node import Node
from shim.services.sandboxes import host_files, namespaces
from shim.supervisor.protocol import INIT, NAMESPACES

_INIT_OOM_SCORE_ADJ: Final = -998  # what the kubelet's own pods infrastructure has always been given
