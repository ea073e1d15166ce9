"""How long tests wait for what must come true."""

import os

# An emulated processor is slow; one that shares a busy machine may be slower than anybody knows.
PATIENCE_S = float(os.environ.get("CRI_SHIM_PATIENCE_S") or (200 if "CRI_SHIM_VM" in os.environ else 60))
