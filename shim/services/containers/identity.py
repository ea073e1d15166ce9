"""Who a container runs as: ids and names, looked up in the image's own passwd and group files. Pure.

The files are the image's, so anything may stand in them: what cannot be read is skipped, and no library of
the node looks names up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shim.errors import InvalidArgument
from shim.model.security import ContainerSecurity, SupplementalGroupsPolicy, User

MAX_ID: Final = 2**32 - 2  # (uid_t) -1 means "leave as it is" to the kernel
_MAX_DIGITS: Final = 10
_SHOWN: Final = 64


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def resolve(security: ContainerSecurity, image_user: str, passwd: bytes, group: bytes) -> tuple[User, str]:
    """Return the user to run as, and its home directory (empty if the image names none).

    The request's user counts before the image's (``user``, ``uid``, ``user:group``, ``uid:gid``). The
    primary group is the request's, else the image's, else that of passwd, else 0. Groups of the image's
    group file are added unless the policy is STRICT; those of the request always.

    Args:
        security: the request.
        image_user: ``User`` of the image's configuration; empty means root.
        passwd: content of the image's /etc/passwd, empty if it has none.
        group: content of the image's /etc/group.

    Raises:
        InvalidArgument: a name is not in the image's files, or an id is out of range.
    """
    user_text, group_text = _wanted(security, image_user)
    accounts = list(_accounts(passwd))
    account = _find_account(user_text, accounts)
    gid = account.gid if not group_text else _find_gid(group_text, group)
    groups = list(security.supplemental_groups)
    if security.supplemental_groups_policy is SupplementalGroupsPolicy.MERGE and account.name:
        groups += [number for _, number, members in _groups(group) if account.name in members]
    extra = tuple(dict.fromkeys(number for number in groups if number != gid))
    return User(account.uid, gid, (gid, *extra)), account.home


def with_groups(user: User, gids: tuple[int, ...]) -> User:
    """Return the user with further supplemental groups."""
    return dataclasses.replace(user, groups=tuple(dict.fromkeys((*user.groups, *gids))))


def _wanted(security: ContainerSecurity, image_user: str) -> tuple[str, str]:
    """Return user and group as texts: names or numbers, the group may be empty."""
    group = "" if security.run_as_group is None else str(security.run_as_group)
    if security.run_as_user is not None:
        return str(security.run_as_user), group
    if security.run_as_username:
        return security.run_as_username, group
    user, _, image_group = image_user.partition(":")
    return user or "0", image_group


def _find_account(text: str, accounts: list[_Account]) -> _Account:
    number = _number(text)
    for account in accounts:
        if account.name == text or (number is not None and account.uid == number):
            return account
    if number is None:
        raise InvalidArgument(f"the image's /etc/passwd has no user {text[:_SHOWN]!r}")
    return _Account("", _checked(text, number), 0, "")


def _find_gid(text: str, group: bytes) -> int:
    number = _number(text)
    if number is not None:
        return _checked(text, number)
    for name, gid, _ in _groups(group):
        if name == text:
            return gid
    raise InvalidArgument(f"the image's /etc/group has no group {text[:_SHOWN]!r}")


def _accounts(passwd: bytes) -> Iterator[_Account]:
    for fields in _lines(passwd):
        if len(fields) >= 6 and (uid := _id(fields[2])) is not None and (gid := _id(fields[3])) is not None:
            yield _Account(fields[0], uid, gid, fields[5])


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _lines(group):
        if len(fields) >= 4 and (gid := _id(fields[2])) is not None:
            yield fields[0], gid, fields[3].split(",")


def _lines(data: bytes) -> Iterator[list[str]]:
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip().split(":")


def _number(text: str) -> int | None:
    """Return the number that a text is, or one that no id can be, or None for what is no number."""
    if not text.isascii() or not text.isdecimal():
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else MAX_ID + 1


def _id(text: str) -> int | None:
    number = _number(text)
    return number if number is not None and number <= MAX_ID else None


def _checked(text: str, number: int) -> int:
    """Return an id; one that is out of range would come to mean another (CVE-2024-40635)."""
    if number > MAX_ID:
        raise InvalidArgument(f"{text[:_SHOWN]} is not a user or group id: {MAX_ID} is the highest")
    return number
