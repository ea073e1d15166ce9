"""Drive CRI sockets through the same cycles in turn, and print what each call took. Run by ``hack/bench``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
from bench_costs import cpu_ms, pss_mib
from bench_pods import CALLS, GROUPS, Pod, Runtime

EXECS = 3
WARM_UP = 2
CPU_EXECS = 60
Results = dict[str, dict[str, dict[str, float]]]


def percentile(values: list[float], part: float) -> float:
    """Return the value below which ``part`` (0 to 1) of the values lie, between its two neighbours."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * part
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarize(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return percentiles in ms by call, and by group of calls."""
    rows = dict(times)
    for name, calls in GROUPS.items():
        if all(call in times for call in calls):
            rows[name] = [sum(parts) for parts in zip(*(times[call] for call in calls), strict=False)]
    return {
        name: {
            "p50": percentile(values, 0.5),
            "p95": percentile(values, 0.95),
            "p99": percentile(values, 0.99),
        }
        for name, values in rows.items()
    }


def ratio(ours: float, theirs: float) -> str:
    """Return ``ours`` as a part of ``theirs``, as people say it."""
    return f"1/{theirs / ours:.1f}" if 0 < ours < theirs else f"{ours / theirs:.2f}" if theirs else "-"


def print_table(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """Print rows of {column: value} for each runtime, with the ratio of the first columns."""
    print(f"\n{title}")
    width = max(len(row) for row in rows)
    for row, cells in rows.items():
        parts = []
        for cell in cells:
            parts.append(" ".join(f"{name} {value:8.2f}" for name, value in cell.items()))
        first = [next(iter(cell.values())) for cell in cells]
        ratios = "  ".join(ratio(first[0], other) for other in first[1:])
        print(
            f"  {row:<{width}}  " + "   |   ".join(parts) + (f"   => {ratios}" if ratios else ""), flush=True
        )


def sequential(runtimes: list[Runtime], cycles: int) -> Results:
    """One cycle on each endpoint in turn, so that what slows the machine slows all."""
    for runtime in runtimes:
        runtime.times.clear()
        for _ in range(WARM_UP):
            runtime.cycle(1, keep=False)
    for _ in range(cycles):
        for runtime in runtimes:
            runtime.cycle(EXECS)
    return {runtime.endpoint: summarize(runtime.times) for runtime in runtimes}


def parallel(runtimes: list[Runtime], rounds: int, width: int) -> Results:
    """Rounds of ``width`` cycles at once, on each endpoint in turn."""
    for runtime in runtimes:
        runtime.times.clear()
    with ThreadPoolExecutor(width) as pool:
        for _ in range(rounds):
            for runtime in runtimes:
                for done in [pool.submit(runtime.cycle, 1) for _ in range(width)]:
                    done.result()
    return {runtime.endpoint: summarize(runtime.times) for runtime in runtimes}


def exec_cpu(runtimes: list[Runtime]) -> dict[str, float]:
    """Return the runtimes' processor time for each ExecSync in ms, the program's own included."""
    spent = {}
    for runtime in runtimes:
        pod = runtime.start()
        runtime.execute(pod)
        before = cpu_ms(runtime.path)
        for _ in range(CPU_EXECS):
            runtime.execute(pod)
        time.sleep(0.5)
        spent[runtime.endpoint] = (cpu_ms(runtime.path) - before) / CPU_EXECS
        runtime.end(pod)
    return spent


def memory(runtime: Runtime, counts: list[int]) -> dict[str, float]:
    """Return MiB of the runtime's processes when idle and at so many pods, and KiB for each pod between."""
    pods: list[Pod] = []
    seen = {"idle MiB": pss_mib(runtime.path)}
    try:
        for count in counts:
            while len(pods) < count:
                pods.append(runtime.start())
            time.sleep(2)
            seen[f"at {count} pods MiB"] = pss_mib(runtime.path)
    finally:
        for pod in pods:
            runtime.end(pod)
    low, high = (seen[f"at {count} pods MiB"] for count in (counts[0], counts[-1]))
    if counts[-1] > counts[0]:
        seen["each pod MiB"] = (high - low) / (counts[-1] - counts[0])
    return seen


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/bench", description=__doc__)
    parser.add_argument(
        "endpoints", nargs="+", metavar="ENDPOINT", help="socket; ratios are the first's to the others'"
    )
    parser.add_argument(
        "--image", default="docker.io/library/busybox:latest", help="with sleep and true in it"
    )
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="of --width cycles at once")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--pods", default="20,100", help="numbers of pods at which memory is read")
    parser.add_argument(
        "--shared-pid", action="store_true", help="containers of a pod share their PID namespace"
    )
    parser.add_argument("--only", choices=("sequential", "parallel", "cpu", "memory"))
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, runtimes: list[Runtime]) -> dict[str, object]:
    figures: dict[str, object] = {}
    wanted = {options.only} if options.only else {"sequential", "parallel", "cpu", "memory"}
    order = (*CALLS, *GROUPS)
    for name, work in (
        ("sequential", lambda: sequential(runtimes, options.cycles)),
        ("parallel", lambda: parallel(runtimes, options.rounds, options.width)),
    ):
        if name in wanted:
            results = figures[name] = work()
            rows = {row: [results[r.endpoint][row] for r in runtimes] for row in order}
            title = "one after the other" if name == "sequential" else f"{options.width} at once"
            print_table(f"{title}, ms", rows)
    if "cpu" in wanted:
        spent = figures["cpu"] = exec_cpu(runtimes)
        rows = {"ExecSync": [{"cpu": spent[r.endpoint]} for r in runtimes]}
        print_table("processor time of the runtime's processes for each call, ms", rows)
    if "memory" in wanted:
        counts = [int(part) for part in options.pods.split(",")]
        seen = {r.endpoint: memory(r, counts) for r in runtimes}
        figures["memory"] = seen
        names = next(iter(seen.values()))
        rows = {name: [{"pss": seen[r.endpoint][name]} for r in runtimes] for name in names}
        print_table("memory of the runtime's processes", rows)
    return figures


def main() -> int:
    options = parse()
    runtimes: list[Runtime] = []
    try:
        for endpoint in options.endpoints:
            runtimes.append(Runtime(endpoint, options.image, options.shared_pid))
        print("   |   ".join(f"{r.name} at {r.path}" for r in runtimes))
        figures = run(options, runtimes)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1))
    except grpc.RpcError as error:
        print(f"a call failed: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for runtime in runtimes:
            runtime.remove_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
