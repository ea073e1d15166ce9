"""Where everything lies on disk: every path is named here, once.

<root>   /var/lib/cri-shim      survives a reboot
  lock                          held by the one daemon
  sandboxes/<id>/               spec.json status.json hostname hosts resolv.conf
  containers/<id>/              spec.json status.json
  profiles/<sha256>             seccomp profiles of the node, as containers were made with them
  images/                       see shim.images
  network/                      see shim.network
  quarantine/                   records that could not be read
  journal/                      what has happened, see shim.store.journal
<state>  /run/cri-shim          void after a reboot
  supervisor/                   sockets, mode 0700
  exits/<id>.json               ends of processes, written by the supervisor
  pins/<sandbox id>/<kind>      namespaces, bind-mounted
  shm/<sandbox id>              the pod's /dev/shm
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """The two directories that everything lies in, both absolute."""

    root: str
    state: str

    def make(self) -> None:
        """Make the directories that are always there; nobody else may look into them."""
        for path in (self.sandboxes, self.containers, self.quarantine, self.exits, self.supervisor):
            os.makedirs(path, 0o700, exist_ok=True)

    @property
    def lock(self) -> str:
        """The file that the one daemon of this root has locked."""
        return os.path.join(self.root, "lock")

    @property
    def sandboxes(self) -> str:
        """Records of sandboxes, a directory for each."""
        return os.path.join(self.root, "sandboxes")

    @property
    def containers(self) -> str:
        """Records of containers, a directory for each."""
        return os.path.join(self.root, "containers")

    @property
    def profiles(self) -> str:
        """Seccomp profiles by the digest of their text."""
        return os.path.join(self.root, "profiles")

    @property
    def images(self) -> str:
        """The image store."""
        return os.path.join(self.root, "images")

    @property
    def network(self) -> str:
        """Addresses and host ports that are given away."""
        return os.path.join(self.root, "network")

    @property
    def quarantine(self) -> str:
        """Records that could not be read."""
        return os.path.join(self.root, "quarantine")

    @property
    def journal(self) -> str:
        """What has happened, for a person who asks why."""
        return os.path.join(self.root, "journal")

    @property
    def supervisor(self) -> str:
        """Sockets of supervisor and logger."""
        return os.path.join(self.state, "supervisor")

    @property
    def exits(self) -> str:
        """Records of ends, by the supervisor."""
        return os.path.join(self.state, "exits")

    def sandbox(self, id_: str) -> str:
        """The directory of one sandbox."""
        return os.path.join(self.sandboxes, id_)

    def container(self, id_: str) -> str:
        """The directory of one container."""
        return os.path.join(self.containers, id_)

    def pins(self, sandbox_id: str) -> str:
        """The directory of a sandbox's pinned namespaces."""
        return os.path.join(self.state, "pins", sandbox_id)

    def shm(self, sandbox_id: str) -> str:
        """The mount point of a sandbox's shared memory."""
        return os.path.join(self.state, "shm", sandbox_id)
