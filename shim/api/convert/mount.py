"""Volumes (CRI message Mount)."""

from __future__ import annotations

from shim._proto import api_pb2 as cri
from shim.api.convert import check
from shim.api.convert.image import decode_image_spec, encode_image_spec
from shim.api.convert.security import decode_id_mappings, encode_id_mappings
from shim.model.mount import Propagation, Volume


def decode_volume(message: cri.Mount) -> Volume:
    """Return a volume."""
    return Volume(
        container_path=message.container_path,
        host_path=message.host_path,
        readonly=message.readonly,
        selinux_relabel=message.selinux_relabel,
        propagation=check.member(Propagation, message.propagation, "mount.propagation"),
        uid_mappings=decode_id_mappings(message.uidMappings),
        gid_mappings=decode_id_mappings(message.gidMappings),
        recursive_read_only=message.recursive_read_only,
        image=decode_image_spec(message.image) if message.HasField("image") else None,
        image_sub_path=message.image_sub_path,
        mount_options=tuple(message.mount_options),
    )


def encode_volume(value: Volume) -> cri.Mount:
    """Return a volume as the message it came from."""
    return cri.Mount(
        container_path=value.container_path,
        host_path=value.host_path,
        readonly=value.readonly,
        selinux_relabel=value.selinux_relabel,
        propagation=check.wire(value.propagation),
        uidMappings=encode_id_mappings(value.uid_mappings),
        gidMappings=encode_id_mappings(value.gid_mappings),
        recursive_read_only=value.recursive_read_only,
        image=None if value.image is None else encode_image_spec(value.image),
        image_sub_path=value.image_sub_path,
        mount_options=value.mount_options,
    )
