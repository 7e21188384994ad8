"""What all scenarios share: their settings, the order of rounds, and how one is run by itself."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil

from loadtests.ending import nothing_left
from loadtests.machine import machine, need, write
from loadtests.precedence import precedence
from loadtests.progress import steps
from loadtests.summary import Outcome, as_json, verdicts
from tests.parts.gateway_process import Failed

BUSY_RATIO = 0.1
"""Of the machine, taken by others: from there on a run is said to be disturbed."""

Case = TypeVar("Case")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure, and where files may go while it lasts."""

    scratch: Path
    rounds: int = 5
    """Interleaved; the fewest from which a median and a spread say something."""
    scale: float = 1.0
    """Times the usual requests and seconds of each round; for a quick look, 0.1."""

    def scaled(self, requests: int) -> int:
        """So many requests in a round."""
        return max(16, round(requests * self.scale))

    def interleaved(
        self, title: str, cases: Sequence[Case], label: Callable[[Case], str], *, warm_up: bool
    ) -> Iterator[tuple[int, Case]]:
        """Every case once in each round; round 0 is for warming up, where one is wanted.

        Each second round goes backwards, so that no case always comes after the same other one.
        """
        rounds = range(0 if warm_up else 1, self.rounds + 1)
        with steps(title, len(rounds) * len(cases)) as progress:
            for round_ in rounds:
                part = f"round {round_} of {self.rounds}" if round_ else "warming up"
                for case in cases if round_ % 2 else reversed(cases):
                    progress.next(part, label(case))
                    yield round_, case


Measure = Callable[[Settings], Outcome]
Show = Callable[[Outcome], str]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--rounds, --scale, --out."""
    parser.add_argument("--rounds", type=_positive, default=5, help="interleaved (default 5)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times the usual requests (default 1.0)"
    )
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        help="run everything at this niceness; as root, -10 keeps the work of others out of it",
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="default: loadtests/results/NAME-COMMIT.json"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def measured(measure: Measure, args: argparse.Namespace) -> Outcome:
    """Run it; the outcome's facts also say how long it took and what others took of the machine.

    Raises:
        SystemExit: a part is missing, did not start, or answered wrongly; says which.
    """
    begun, ours, all_ = time.perf_counter(), _own_cpu_s(), _busy_cpu_s()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as scratch, precedence(args.nice):
        try:
            outcome = measure(Settings(Path(scratch), args.rounds, args.scale))
        except Failed as error:
            raise SystemExit(f"the gateway failed, so nothing was measured: {error}") from error
    took = time.perf_counter() - begun
    cores = psutil.cpu_count() or 1
    others = (_busy_cpu_s() - all_) - (_own_cpu_s() - ours)
    facts = {
        **outcome.facts,
        "rounds": args.rounds,
        "scale": args.scale,
        "nice": args.nice,
        "took_s": round(took, 1),
        "others_took_of_the_machine_ratio": round(min(1.0, max(0.0, others / took / cores)), 3),
    }
    return replace(outcome, facts=facts)


def disturbed(outcome: Outcome) -> str:
    """A warning where others used much of the machine; else nothing."""
    ratio = outcome.facts.get("others_took_of_the_machine_ratio", 0.0)
    if ratio <= BUSY_RATIO:
        return ""
    return f"Others used {ratio:.0%} of the machine meanwhile: mind the spreads, or run it again."


def _own_cpu_s() -> float:
    """This process, and all that it started and that has ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def _busy_cpu_s() -> float:
    """Of all processes and of the machine's host (steal), since the machine began."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def run_alone(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    measure: Measure,
    show: Show,
    programs: Sequence[str],
) -> int:
    """One scenario as a command: measure, print, write its JSON; 1 when a goal is missed."""
    add_options(parser)
    args = parser.parse_args(argv)
    need(*programs)
    facts = machine()
    with nothing_left():
        outcome = measured(measure, args)
    print(f"{show(outcome)}\n\n{verdicts([outcome])}\n{disturbed(outcome)}")
    write(outcome.name, {**facts, **as_json(outcome)}, args.out)
    return int(not all(line.is_met for line in outcome.lines))
