"""Try random mistakes of streaming clients on the parsers for some minutes.

    hack/fuzz-streams [MINUTES] [FIRST-SEED]

Ends with an error at the first conversation that does what none should, and names it; `run_case` repeats it.
"""

import resource
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fuzz import streams


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    warnings.simplefilter("error")
    end, count, slowest = time.monotonic() + minutes * 60, 0, 0.0
    while time.monotonic() < end:
        for case, (_, check) in enumerate(streams.CASES):
            began = time.monotonic()
            try:
                streams.run_case(case, seed)
            except BaseException:
                print(f"failed: run_case({case}, {seed})  # {check.__name__}", file=sys.stderr)
                raise
            slowest = max(slowest, time.monotonic() - began)
        count, seed = count + 1, seed + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{count * len(streams.CASES)} conversations, the slowest took {slowest:.2f} s, {peak} MiB at most")


if __name__ == "__main__":
    main()
