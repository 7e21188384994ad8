"""What translating between two dialects costs, beside moving the same bytes once, in one run.

For each pair (caller's dialect → replica's) a request and its answer, one float32 tensor each, are
translated by `gateway.codecs.translate`, exactly as the gateway does it. The measure is one copy of
the tensor's bytes into new memory (`bytes(view)`), which whoever passes a message on must at least
do. Both go round over so many messages that they come from memory, not from the processor's cache,
as messages of many callers do. Rounds are interleaved and the medians count. CPU time of this one
thread, so MB/s is per core.

    python -m loadtests.translation --rounds 9
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.codecs import translate
from gateway.codecs.translate import CanonicalRequest, CanonicalResponse, Dialect
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from loadtests.bench import RESULTS, machine

ROOT = Path(__file__).parents[1]

SIZES = {"600 KB picture": (1, 224, 224, 3), "1 MB": (256, 1024), "16 MB": (4096, 1024)}
"""float32; the first is the usual classifier's input."""

BINARY = (Dialect.TFS_GRPC, Dialect.V2_GRPC)
CACHE_BYTES = 64 << 20
"""More than the last cache level of common servers holds for one core."""

GOAL_RATIO = 2.0
"""Times one copy, for tensors of a MB or more over gRPC."""

Work = Callable[[], object]


def main(argv: list[str] | None = None) -> int:
    """Run, print a table, write JSON; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each case in a round")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(argv)
    rows = [r for label, shape in SIZES.items() for r in _measure(label, shape, args)]
    judged = [r for r in rows if r["judged"]]
    worst = max(r["ratio"] for r in judged)
    result = {
        **machine(),
        "measure": "one copy of the tensor's bytes into new memory, same thread, same run",
        "goal_ratio": GOAL_RATIO,
        "worst_ratio_over_grpc": worst,
        "rows": rows,
    }
    out = args.out or RESULTS / f"translation-{result['commit']}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    _print(rows)
    verdict = "met" if worst <= GOAL_RATIO else "MISSED"
    print(f"worst over gRPC, ≥ 1 MB: {worst:.2f}× one copy (goal {GOAL_RATIO:g}×: {verdict})")
    print(f"written to {out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}")
    return 0 if worst <= GOAL_RATIO else 1


def _measure(
    label: str, shape: tuple[int, ...], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(3)
    array = rng.standard_normal(shape, dtype=np.float32)
    copied = itertools.cycle(_spread(array.tobytes()))
    cases: dict[tuple[str, str, str], Work] = {
        ("", "", "copy"): lambda: bytes(memoryview(next(copied)))
    }
    for caller in Dialect:
        for replica in Dialect:
            if caller is replica:
                continue
            ask, answer = _pair(caller, replica, array)
            cases[caller, replica, "request"] = ask
            cases[caller, replica, "answer"] = answer
    took: dict[tuple[str, str, str], list[float]] = {case: [] for case in cases}
    times = {case: _repeats(work, args.seconds) for case, work in cases.items()}
    for _ in range(args.rounds):
        for case, work in cases.items():
            took[case].append(_cpu_s(work, times[case]))
    mid = {case: statistics.median(values) for case, values in took.items()}
    copy_s = mid["", "", "copy"]
    for (caller, replica, way), seconds in mid.items():
        if way == "copy":
            continue
        over_grpc = caller in BINARY and replica in BINARY
        yield {
            "tensor": label,
            "bytes": array.nbytes,
            "caller": str(caller),
            "replica": str(replica),
            "way": way,
            "mb_per_s": array.nbytes / 1e6 / seconds,
            "copy_mb_per_s": array.nbytes / 1e6 / copy_s,
            "ratio": seconds / copy_s,
            "spread_ratio": [
                min(took[caller, replica, way]) / copy_s,
                max(took[caller, replica, way]) / copy_s,
            ],
            "judged": over_grpc and array.nbytes >= 1_000_000,
        }


def _pair(caller: Dialect, replica: Dialect, array: NDArray[np.float32]) -> tuple[Work, Work]:
    """The two ways of one prediction through the gateway, over messages that came in."""
    spec = TensorSpec("x", DType.FLOAT, (-1, *array.shape[1:]))
    signatures = {DEFAULT_SIGNATURE: Signature({"x": spec}, {"y": spec})}
    asked = CanonicalRequest({"x": array}, model="m", binary_output=True)
    from_caller = translate.encode_request(caller, asked, model="m", version=1)
    size = _header_length(from_caller.headers)
    asking = itertools.cycle(_spread(from_caller.body))

    def ask() -> object:
        request = translate.decode_request(caller, next(asking), signatures, header_length=size)
        return translate.encode_request(replica, request, model="m", version=1)

    request = translate.decode_request(caller, from_caller.body, signatures, header_length=size)
    answered = CanonicalResponse({"y": array}, model="m", version="1")
    from_replica = translate.encode_response(
        replica, request, answered, signatures, model="m", version=1
    )
    answer_size = _header_length(from_replica.headers)
    answering = itertools.cycle(_spread(from_replica.body))

    def answer() -> object:
        response = translate.decode_response(
            replica, next(answering), signatures, request, header_length=answer_size
        )
        return translate.encode_response(
            caller, request, response, signatures, model="m", version=1
        )

    return ask, answer


def _spread(message: bytes) -> list[bytes]:
    """The message so often, each in memory of its own, that no cache holds them all."""
    return [bytes(bytearray(message)) for _ in range(max(1, CACHE_BYTES // len(message)))]


def _header_length(headers: dict[str, str]) -> int | None:
    lower = {name.lower(): value for name, value in headers.items()}
    found = lower.get("inference-header-content-length")
    return None if found is None else int(found)


def _repeats(work: Work, seconds: float) -> int:
    """How often to do it in a round so that it takes about so long; also warms it up."""
    begun = time.perf_counter()
    work()
    once = max(1e-6, time.perf_counter() - begun)
    return max(1, min(10_000, round(seconds / once)))


def _cpu_s(work: Work, times: int) -> float:
    begun = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - begun) / times


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("tensor", "caller", "replica", "way", "MB/s", "copy MB/s", "ratio")
    print("{:15} {:9} {:9} {:8} {:>8} {:>10} {:>7}".format(*columns))
    for r in rows:
        print(
            f"{r['tensor']:15} {r['caller']:9} {r['replica']:9} {r['way']:8} {r['mb_per_s']:8.0f} "
            f"{r['copy_mb_per_s']:10.0f} {r['ratio']:7.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
