"""Runs of h2load, the load tool of nghttp2: cheap, and the same for HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.summary import percentile

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is sent again and again."""

    path: str
    body: Path
    """The whole body; of gRPC with its five bytes of length."""
    is_grpc: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    answer_bytes: int = 0
    """What each answer's body must be long, so that an error does not pass for an answer; 0 where
    it is not known."""
    answer_slack: float = 0.0
    """By how much of it answers may differ on average: numbers written as text, when servers that
    join rows to batches get other last digits."""


@dataclass(frozen=True, slots=True)
class Run:
    """What h2load told."""

    requests: int
    wall_s: float
    p50_s: float
    p99_s: float
    answer_bytes: float

    @property
    def per_s(self) -> float:
        return self.requests / self.wall_s


class WrongAnswers(SystemExit):
    """Some answers were not what they had to be, so figures would mean nothing."""


def command(
    address: str,
    request: Request,
    connections: int,
    streams: int,
    *,
    requests: int = 0,
    seconds: float = 0.0,
    log: Path | None = None,
) -> list[str]:
    """The command line, for so many requests or, if there are none, so many seconds. `streams` is
    how many calls a connection has under way (gRPC)."""
    much = ["-n", str(requests)] if requests else ["-D", f"{seconds:g}"]
    line = ["h2load", *much, "-c", str(connections), "-t", "1", "-d", str(request.body)]
    if log is not None:
        line += ["--log-file", str(log)]
    headers = {"content-type": "application/json"} | dict(request.headers)
    if request.is_grpc:
        headers = {"content-type": "application/grpc", "te": "trailers"} | dict(request.headers)
        line += ["-m", str(streams)]
    else:
        line.append("--h1")
    for name, value in headers.items():
        line += ["-H", f"{name}: {value}"]
    return [*line, f"http://{address}{request.path}"]


def run(
    address: str, request: Request, requests: int, connections: int = 4, streams: int = 4
) -> Run:
    """Send `requests` and wait for all answers.

    Raises:
        WrongAnswers: an answer was no 200, or had another length than it must have.
    """
    log = request.body.with_suffix(".log")
    log.unlink(missing_ok=True)
    line = command(address, request, connections, streams, requests=requests, log=log)
    told = _told(line)
    latencies = latencies_of(log.read_text(), requests, told)
    size = data_bytes(told) / requests
    check_length(request, size, request.answer_slack)
    wall_s = seconds_of(told)
    return Run(requests, wall_s, percentile(latencies, 0.5), percentile(latencies, 0.99), size)


def rate_for(
    address: str, request: Request, seconds: float, connections: int, streams: int
) -> float:
    """Requests answered per second, every connection kept busy for so long. Where connections are
    not equally fast (several workers), `run` would wait for the slowest of them instead.

    Raises:
        WrongAnswers: as of `run`; the length is compared on average, as the last are cut off.
    """
    told = _told(command(address, request, connections, streams, seconds=seconds))
    found = re.search(r"^status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx$", told, re.MULTILINE)
    if found is None or not int(found[1]):
        raise WrongAnswers(f"h2load got no good answers:\n{told[-800:]}")
    check_length(request, data_bytes(told) / int(found[1]), 0.1)
    return int(found[1]) / seconds


def check_length(request: Request, size: float, slack: float) -> None:
    """Raises WrongAnswers where answers were so long on average, and should not be."""
    wanted = request.answer_bytes
    if wanted and abs(size - wanted) > slack * wanted:
        raise WrongAnswers(f"{request.path}: answers of {size:.1f} bytes on average, not {wanted}")


def latencies_of(log: str, requests: int, told: str = "") -> list[float]:
    """Seconds of each request, from h2load's log file.

    Raises:
        WrongAnswers: one is missing or was not answered by 200.
    """
    latencies = []
    for line in log.splitlines():
        _, status, micros = line.split("\t")[:3]
        if status != "200":
            raise WrongAnswers(f"answered {status}:\n{told}")
        latencies.append(int(micros) / 1e6)
    if len(latencies) != requests:
        raise WrongAnswers(f"{len(latencies)} answers to {requests} requests:\n{told}")
    return latencies


def data_bytes(told: str) -> float:
    """Bytes of all answers' bodies, from h2load's `traffic:` line."""
    found = re.search(r"^traffic:.*\((\d+)\) data$", told, re.MULTILINE)
    if found is None:
        raise WrongAnswers(f"h2load told no traffic:\n{told}")
    return float(found[1])


_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def seconds_of(told: str) -> float:
    """From the first connection to the last answer, from h2load's `finished in` line."""
    found = re.search(r"^finished in ([\d.]+)(us|ms|s),", told, re.MULTILINE)
    if found is None:
        raise WrongAnswers(f"h2load told no time:\n{told}")
    return float(found[1]) * _UNITS_S[found[2]]


def _told(line: Sequence[str]) -> str:
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise WrongAnswers(f"no answer to some requests within {TIMEOUT_S:g} s: {line}") from None
    if done.returncode:
        raise WrongAnswers(f"h2load failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    return done.stdout
