"""httpx, without the command line that it imports: rich and pygments would take 5 MiB of the daemon.

It reads 64 KiB at a time, and has no setting for that. With more, as much as the event loop has at once, a
large blob costs less than half of the processor time.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None: its import fails, as httpx expects

import httpcore._async.http11 as _http11  # noqa: E402 (after the line above, or it comes too late)
import httpx  # noqa: E402

_http11.AsyncHTTP11Connection.READ_NUM_BYTES = 1 << 20

__all__ = ["httpx"]
