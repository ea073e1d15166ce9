"""Ids and names of sandboxes and containers."""

from __future__ import annotations

import os
import re
from typing import Final

ID_LENGTH: Final = 64
_ID: Final = re.compile(r"[0-9a-f]{64}")


def new_id() -> str:
    """Return a random id: 64 hex digits, as containerd and CRI-O have them."""
    return os.urandom(ID_LENGTH // 2).hex()


def is_id(text: str) -> bool:
    """Tell whether ``text`` is a whole id (not a prefix)."""
    return _ID.fullmatch(text) is not None
