"""httpx, without the command line that it imports: rich and pygments would take 5 MiB of the daemon."""

from __future__ import annotations

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None: its import fails, as httpx expects

import httpx  # noqa: E402 (after the line above, or it comes too late)

__all__ = ["httpx"]
