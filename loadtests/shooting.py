"""Steady open-loop load from a process of its own (openloop/, in Go), every request kept.

A load tool in Python would take as much CPU as what it measures, and its own stalls would show. All
times are of the monotonic clock, which is one and the same in all processes of a machine.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loadtests.golang import program
from loadtests.traffic import PREDICT, Sample, Shot

_FAILED = "failed: "
_LAST_ANSWERS_S = 60.0
"""Longer than openloop waits for them."""


@dataclass(slots=True)
class Shooting:
    """Load on both protocols, until the end of the block; then `samples`."""

    shot: Shot
    files: dict[str, Path]
    samples: list[Sample] = field(default_factory=list)


@contextmanager
def shooting(
    http: str, grpc: str, shot: Shot, rate_per_s: float, root: Path, *, seed: int = 1
) -> Iterator[Shooting]:
    """`rate_per_s` requests a second, half of them on each protocol, Poisson arrivals.

    Raises:
        SystemExit: a load tool did not do what it was to do.
    """
    root.mkdir(parents=True, exist_ok=True)
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    found = Shooting(shot, {name: root / f"{name}.kept" for name in ("http", "grpc")})
    try:
        for n, protocol in enumerate(found.files):
            command = _command(protocol, http if protocol == "http" else grpc, shot, root)
            command += ["--rate", str(rate_per_s / 2), "--seed", str(2 * seed + n)]
            running.append((protocol, subprocess.Popen(command, stdout=subprocess.DEVNULL)))
        yield found
        for protocol, process in running:
            if process.poll() is not None:
                raise SystemExit(f"the load over {protocol} ended early: {process.returncode}")
            process.send_signal(signal.SIGTERM)
        for protocol, process in running:
            process.wait(_LAST_ANSWERS_S)
            found.samples += kept(found.files[protocol], protocol, shot)
    finally:
        for _, process in running:
            process.kill()
            process.wait(10)


def _command(protocol: str, address: str, shot: Shot, root: Path) -> list[str]:
    body = root / f"{protocol}.body"
    message = shot.grpc_body
    path = f"/v1/models/{shot.model}:predict"
    if protocol == "grpc":
        path = PREDICT
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    else:
        body.write_bytes(shot.http_body)
    return [
        *(str(program("openloop")), "--protocol", protocol, "--address", address),
        *("--path", path, "--body", str(body), "--record", str(root / f"{protocol}.kept")),
        # It is told when to stop.
        *("--seconds", "86400", "--warmup", "1", "--connections", "16"),
    ]


def kept(path: Path, protocol: str, shot: Shot) -> list[Sample]:
    """What openloop has written: `due sent ended answer` for each request, and the answers."""
    rows = np.fromfile(path, dtype="<f8").reshape(-1, 4)
    answers = [base64.b64decode(text) for text in json.loads(Path(f"{path}.json").read_text())]
    told = [_read(answer, protocol, shot) for answer in answers]
    return [
        Sample(protocol, due, sent, ended, *told[int(number)])
        for due, sent, ended, number in rows.tolist()
    ]


def _read(answer: bytes, protocol: str, shot: Shot) -> tuple[int | None, str]:
    """The version that answered, or what went wrong."""
    if answer.startswith(_FAILED.encode()):
        return None, answer.decode(errors="replace")
    try:
        if protocol == "grpc":
            return shot.grpc_version(answer[5:]), ""
        named, _, body = answer.partition(b"\n")
        return shot.http_version(body, {"x-gateway-version": named.decode()}), ""
    except (ValueError, KeyError, IndexError) as error:
        return None, f"bad answer: {error}: {answer[:200]!r}"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time on the monotonic clock."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.begin_s

    def before(self, times: int) -> Window:
        """As long a span, so many lengths earlier."""
        by_s = times * self.length_s
        return Window(self.begin_s - by_s, self.end_s - by_s)


@dataclass(frozen=True, slots=True)
class Compared:
    """Latencies in some windows beside those in windows before, and what that comparison says where
    nothing happened: the noise floor."""

    windows: int
    seconds: float
    requests: int
    p50_s: float
    p99_s: float
    p999_s: float
    max_s: float
    quiet_windows: int
    """Of the same length, before each."""
    before_p50_s: float
    """Of all that came in quiet windows."""
    before_p99_s: float
    p50_ratio: float
    p99_ratio: float
    floor_ratios: tuple[float, ...]
    """The same ratio of each place of quiet windows to all others, from the same run (A/A): as long
    as what it is compared with, so this is how far chance and other work move the ratio."""
    own_ratios: tuple[float, ...]
    """p99 of each window by itself to the median p99 of the quiet ones before it. Few requests
    each; but a bad second that hits one of them does not decide about all."""
    own_floor_ratios: tuple[float, ...]
    """The same of every quiet window."""


Values = np.ndarray[tuple[int], np.dtype[np.float64]]


def compare(samples: Sequence[Sample], windows: Sequence[Window], quiet: int) -> Compared:
    """Pool what came in `windows`; and the same of as many windows of the same lengths just before
    each of them, `quiet` times."""
    due = np.array([s.due_s for s in samples])
    took = np.array([s.latency_s for s in samples])
    order = np.argsort(due, kind="stable")
    due, took = due[order], took[order]

    def within(span: Window) -> Values:
        return took[np.searchsorted(due, span.begin_s) : np.searchsorted(due, span.end_s)]

    # By place and window: the windows themselves, then those before them.
    parts = [[within(w.before(times)) for w in windows] for times in range(quiet + 1)]
    during, *backs = [np.concatenate(place) for place in parts]
    own = np.array([[_quantile(part, 0.99) for part in place] for place in parts])
    usual = np.median(own[1:], axis=0)
    before = np.concatenate(backs)
    others = [np.concatenate([*backs[:k], *backs[k + 1 :]]) for k in range(quiet)]
    return Compared(
        windows=len(windows),
        seconds=sum(w.length_s for w in windows),
        requests=len(during),
        p50_s=_quantile(during, 0.5),
        p99_s=_quantile(during, 0.99),
        p999_s=_quantile(during, 0.999),
        max_s=float(during.max()),
        quiet_windows=quiet,
        before_p50_s=_quantile(before, 0.5),
        before_p99_s=_quantile(before, 0.99),
        p50_ratio=_quantile(during, 0.5) / _quantile(before, 0.5),
        p99_ratio=_quantile(during, 0.99) / _quantile(before, 0.99),
        floor_ratios=tuple(
            _quantile(back, 0.99) / _quantile(other, 0.99)
            for back, other in zip(backs, others, strict=True)
        ),
        own_ratios=tuple((own[0] / usual).tolist()),
        own_floor_ratios=tuple((own[1:] / usual).ravel().tolist()),
    )


def _quantile(values: Values, share: float) -> float:
    return float(np.quantile(values, share, method="higher"))
