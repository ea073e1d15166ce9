"""Whether a ContainerConfig can be carried out at all."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Final

from shim.errors import InvalidArgument
from shim.kernel import capabilities
from shim.model.container import ContainerConfig, Device
from shim.model.image import ImageSpec
from shim.model.mount import Propagation, Volume
from shim.model.security import ContainerSecurity, ProfileType
from shim.runtime.plan_volumes import MOUNT_OPTIONS
from shim.services.cdi import names
from shim.services.confinement import apparmor, seccomp, selinux
from shim.services.validate import userns, values

MAX_ARGUMENT_BYTES: Final = 128 * 1024  # MAX_ARG_STRLEN of Linux: one argument or variable
MAX_ARGUMENTS_BYTES: Final = 2 * 1024 * 1024  # what execve takes in all under the default stack limit


def check(config: ContainerConfig) -> None:
    """Check everything that can be told without looking at the node or the image.

    Raises:
        InvalidArgument: names the first field that is wrong, and why.
    """
    values.name("metadata.name", config.metadata.name)
    values.name("image.image", config.image.image, longest=values.MAX_PATH)
    values.map_size("labels", config.labels, values.MAX_LABELS_BYTES)
    values.map_size("annotations", config.annotations, values.MAX_ANNOTATIONS_BYTES)
    values.path("log_path", config.log_path, absolute=False)
    values.path("working_dir", config.working_dir, absolute=True)
    check_argv("command", (*config.command, *config.args))
    _environment(config)
    for volume in config.volumes:
        _volume(volume)
    for device in config.devices:
        _device(device)
    names.requested(config)
    values.resources("linux.resources", config.resources)
    _security(config.security)


def check_argv(field: str, argv: tuple[str, ...]) -> None:
    """Check arguments: no NUL, none longer than the kernel takes.

    Raises:
        InvalidArgument: what is wrong.
    """
    for argument in argv:
        values.text(field, argument)
        if len(argument) >= MAX_ARGUMENT_BYTES:
            raise InvalidArgument(f"an argument of {field} has {len(argument)} characters; 128 KiB is most")
    if sum(len(argument) + 1 for argument in argv) > MAX_ARGUMENTS_BYTES:
        raise InvalidArgument(f"{field} is longer than {MAX_ARGUMENTS_BYTES} bytes in all")


def _environment(config: ContainerConfig) -> None:
    total = 0
    for variable in config.envs:
        if not variable.key or "=" in variable.key or "\0" in variable.key:
            raise InvalidArgument(f"{variable.key!r} is not the name of an environment variable")
        if b"\0" in variable.value:
            raise InvalidArgument(f"the value of environment variable {variable.key!r} contains a NUL byte")
        if len(variable.value) + len(variable.key) + 2 > MAX_ARGUMENT_BYTES:
            raise InvalidArgument(f"environment variable {variable.key!r} is longer than 128 KiB")
        total += len(variable.key) + len(variable.value) + 2
    if total > MAX_ARGUMENTS_BYTES:
        raise InvalidArgument(f"the environment takes {total} bytes; execve takes {MAX_ARGUMENTS_BYTES}")


def _volume(volume: Volume) -> None:
    if not volume.container_path:
        raise InvalidArgument("a mount has no container_path")
    values.text("container_path", volume.container_path)
    if len(volume.container_path) > values.MAX_PATH:
        raise InvalidArgument("a mount's container_path is longer than a path may be")
    if posixpath.normpath("/" + volume.container_path.lstrip("/")) == "/":
        raise InvalidArgument(f"a mount on {volume.container_path!r} would hide the whole image")
    values.text("host_path", volume.host_path)
    if volume.image is None and not volume.host_path:
        raise InvalidArgument(f"the mount on {volume.container_path!r} has neither host_path nor image")
    if volume.image is not None and volume.host_path:
        raise InvalidArgument(f"the mount on {volume.container_path!r} has both host_path and image")
    if volume.image is None and not volume.host_path.startswith("/"):
        raise InvalidArgument(f"host_path {volume.host_path!r} is not an absolute path")
    if volume.recursive_read_only and not volume.readonly:
        raise InvalidArgument(f"{volume.container_path!r}: recursive_read_only needs readonly")
    if volume.recursive_read_only and volume.propagation is not Propagation.PRIVATE:
        raise InvalidArgument(f"{volume.container_path!r}: recursive_read_only needs private propagation")
    if volume.image is None and volume.image_sub_path:
        raise InvalidArgument(f"the mount on {volume.container_path!r} has image_sub_path, but no image")
    userns.check_volume(volume)
    for option in volume.mount_options:
        if option not in MOUNT_OPTIONS:
            raise InvalidArgument(
                f"the mount on {volume.container_path!r}: mount_options has {option!r}, which is none of"
                f" {', '.join(MOUNT_OPTIONS)}"
            )
    if volume.image is not None:
        _image_volume(volume, volume.image)


def _image_volume(volume: Volume, image: ImageSpec) -> None:
    where = f"ImageVolumeMountFailed: the mount on {volume.container_path!r}"
    if not image.image:
        raise InvalidArgument(f"{where} names no image")
    if not volume.readonly:
        raise InvalidArgument(f"{where} is not readonly: an image cannot be written")
    if volume.propagation is Propagation.BIDIRECTIONAL:
        raise InvalidArgument(f"{where}: nothing can propagate out of an image")
    sub_path = volume.image_sub_path
    try:
        values.path("image_sub_path", sub_path, absolute=sub_path.startswith("/"))
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from None


def _device(device: Device) -> None:
    for field, path in (("host_path", device.host_path), ("container_path", device.container_path)):
        if not path:
            raise InvalidArgument(f"a device has no {field}")
        values.path(f"device {field}", path, absolute=True)
        if posixpath.normpath(path).lstrip("/") == "":
            raise InvalidArgument(f"device {field} {path!r} is the root directory")
    if set(device.permissions) - set("rwm"):
        raise InvalidArgument(f"device permissions {device.permissions!r} are not some of r, w, m")


def _security(security: ContainerSecurity) -> None:
    values.name("run_as_username", security.run_as_username, required=False)
    if security.run_as_user is not None and security.run_as_username:
        raise InvalidArgument("run_as_user and run_as_username are both given: only one of them counts")
    values.identity(
        security.run_as_user,
        security.run_as_group,
        security.supplemental_groups,
        named=bool(security.run_as_username),
    )
    asked = security.capabilities
    _capabilities("add_capabilities", asked.add)
    _capabilities("drop_capabilities", asked.drop)
    _capabilities("add_ambient_capabilities", asked.add_ambient, every=False)
    seccomp.asked(security, ProfileType.UNCONFINED)
    apparmor.asked(security)
    selinux.check(security.selinux)
    for path in security.masked_paths:
        _covered("masked_paths", path)
    for path in security.readonly_paths:
        _covered("readonly_paths", path)


def _capabilities(field: str, wanted: Iterable[str], *, every: bool = True) -> None:
    for name in wanted:
        if every and name.upper() == "ALL":
            continue
        try:
            capabilities.parse(name)
        except InvalidArgument as error:
            raise InvalidArgument(f"{field}: {error}") from None


def _covered(field: str, path: str) -> None:
    if not path:
        raise InvalidArgument(f"{field} has an empty path")
    values.path(field, path, absolute=True)
    if posixpath.normpath(path).lstrip("/") == "":
        raise InvalidArgument(f"{field} has {path!r}, which is the whole container")
