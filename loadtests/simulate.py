"""Compare ways to choose a replica, in virtual time: the real decisions, simulated replicas.

    python -m loadtests.simulate uneven

Latencies are from a request's arrival to its answer, retries included, over all gateways. The same
seeds give every policy the same arrivals, and the same numbers again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from loadtests.machine import machine
from loadtests.simulator.policies import POLICIES
from loadtests.simulator.setups import SETUPS, Setup
from loadtests.simulator.world import Outcome, simulate

_QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))


def compared(setup: Setup, seeds: list[int], policies: tuple[str, ...]) -> list[dict[str, object]]:
    """One row for each policy, all seeds together."""
    rows: list[dict[str, object]] = []
    for policy in policies:
        outcome = Outcome()
        for seed in seeds:
            one = simulate(setup, policy, seed)
            outcome.latencies_s += one.latencies_s
            outcome.failed += one.failed
            outcome.retries += one.retries
            for replica_id, calls in one.calls.items():
                outcome.calls[replica_id] = outcome.calls.get(replica_id, 0) + calls
        row: dict[str, object] = {"policy": policy, "answered": len(outcome.latencies_s)}
        row |= {name: outcome.quantile_s(share) for name, share in _QUANTILES}
        row |= {"failed": outcome.failed, "retries": outcome.retries, "calls": outcome.calls}
        rows.append(row)
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("setup", choices=sorted(SETUPS))
    parser.add_argument("--seeds", type=int, default=3, help="runs, with seeds 1, 2, …")
    parser.add_argument("--duration", type=float, help="virtual seconds of each run")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    setup = SETUPS[args.setup]
    if args.duration:
        setup = replace(setup, duration_s=args.duration)
    seeds = list(range(1, args.seeds + 1))
    print(
        f"{args.setup}: {setup.rate_per_s():.0f} requests/s, {len(seeds)} x {setup.duration_s:g} s"
    )
    print(f"{'':18}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>10}{'failed':>8}{'retries':>9}")
    rows = []
    for policy in POLICIES:
        (row,) = compared(setup, seeds, (policy,))
        rows.append(row)
        p50, p99, p999 = (float(str(row[name])) * 1e3 for name, _ in _QUANTILES)
        print(f"{policy:18}{p50:9.0f}{p99:9.0f}{p999:10.0f}{row['failed']:8}{row['retries']:9}")
    if args.json:
        said = {"scenario": f"simulate {args.setup}", "machine": machine(), "rows": rows}
        args.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
