"""Many events through three clients, one of which does not read, with daemons that are killed in between.

    hack/flood-events [EVENTS]        10,000 unless it is said; needs root

Checks that the clients that keep up hear every event once and in order, and that the third is ended.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.integration.socket import conftest, event_load


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    batches = [count * 6 // 10, count * 2 // 10, count * 2 // 10]
    with conftest.running(conftest.scratch_directory()) as daemon:
        began = time.monotonic()
        report = event_load.run_load(daemon, batches)
        took_s = time.monotonic() - began
    print(
        f"{report.events} events to each of two clients in {took_s:.0f} s, all of them, in order, none twice, over "
        f"{report.restarts} killed daemons; the client that did not read was told {report.stalled[0]}, then ended "
        f"with {report.stalled[1]}"
    )


if __name__ == "__main__":
    main()
