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
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.codecs import translate
from gateway.codecs.translate import CanonicalRequest, CanonicalResponse, Dialect
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, ratios, table

SIZES = {"600 KB picture": (1, 224, 224, 3), "1 MB": (256, 1024), "16 MB": (4096, 1024)}
"""float32; the first is the usual classifier's input."""

BINARY = (Dialect.TFS_GRPC, Dialect.V2_GRPC)
CACHE_BYTES = 64 << 20
"""More than the last cache level of common servers holds for one core."""

GOAL_RATIO = 2.0
"""Times one copy, for tensors of a MB or more over gRPC."""

SECONDS = 0.05
"""Of each case in a round."""

Work = Callable[[], object]
Case = tuple[str, str, str]
"""The caller's dialect, the replica's, and which way."""
COPY: Case = ("", "", "copy")


def measure(settings: Settings) -> Outcome:
    """Run all rounds of all tensors."""
    rows = [row for label, shape in SIZES.items() for row in _rows(label, shape, settings)]
    worst = max((row for row in rows if row["judged"]), key=lambda row: row["ratio"])
    line = Line(
        "translation over gRPC, tensors ≥ 1 MB: the worst pair",
        "× one copy",
        Spread.of(worst["ratio_rounds"]),
        GOAL_RATIO,
        note=f"{worst['tensor']}, {worst['caller']} → {worst['replica']}, {worst['way']}",
    )
    facts = {"measure": "one copy of the tensor's bytes into new memory, same thread, same run"}
    return Outcome("translation", [line], rows, facts)


def _rows(label: str, shape: tuple[int, ...], settings: Settings) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(3)
    array = rng.standard_normal(shape, dtype=np.float32)
    copied = itertools.cycle(_spread(array.tobytes()))
    works: dict[Case, Work] = {COPY: lambda: bytes(memoryview(next(copied)))}
    for caller, replica in itertools.permutations(list(Dialect), 2):
        ask, answer = _pair(caller, replica, array)
        works[caller, replica, "request"] = ask
        works[caller, replica, "answer"] = answer
    took: dict[Case, list[float]] = {case: [] for case in works}
    seconds = max(0.005, SECONDS * settings.scale)
    times = {case: _repeats(work, seconds) for case, work in works.items()}
    title, cases = f"translation ({label})", list(works)
    for _, case in settings.interleaved(title, cases, " ".join, warm_up=False):
        took[case].append(_cpu_s(works[case], times[case]))
    copy = took.pop(COPY)
    for (caller, replica, way), rounds in took.items():
        ratio = ratios(rounds, copy)
        over_grpc = caller in BINARY and replica in BINARY
        yield {
            "tensor": label,
            "bytes": array.nbytes,
            "caller": str(caller),
            "replica": str(replica),
            "way": way,
            "mb_per_s": array.nbytes / 1e6 / Spread.of(rounds).median,
            "copy_mb_per_s": array.nbytes / 1e6 / Spread.of(copy).median,
            "ratio": ratio.median,
            "ratio_rounds": [one / other for one, other in zip(rounds, copy, strict=True)],
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


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("tensor", "caller", "replica", "way", "MB/s", "copy MB/s", "× one copy")
    return table(
        header,
        (
            (
                *(str(row[k]) for k in ("tensor", "caller", "replica", "way")),
                *(f"{row[k]:.0f}" for k in ("mb_per_s", "copy_mb_per_s")),
                f"{row['ratio']:.2f}",
            )
            for row in outcome.rows
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    return run_alone(parser, argv, measure, show, ())


if __name__ == "__main__":
    sys.exit(main())
