"""Steady traffic over HTTP and gRPC at once, each answer kept with its times and version.

Arrivals follow a schedule and do not wait for answers (an open loop), and latency is counted from
the scheduled arrival, so that a stall is charged to every request that it would have hit
(no coordinated omission). Outstanding requests are bounded; an arrival beyond that is a failure.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import grpc

from loadtests.summary import percentile

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: monotonic seconds, and what came of it."""

    protocol: str
    """`http` or `grpc`."""
    due_s: float
    """When it was to be sent; latency counts from here."""
    started_s: float
    ended_s: float
    version: int | None
    """The version that answered, read from the answer; None if it failed."""
    error: str = ""

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


@dataclass(frozen=True, slots=True)
class Shot:
    """What to send, and how to read the version out of the answer."""

    model: str
    http_body: bytes
    grpc_body: bytes
    http_version: Callable[[bytes, Mapping[str, str]], int]
    grpc_version: Callable[[bytes], int]


@dataclass(slots=True)
class Traffic:
    """`rate_per_s` requests a second on each protocol, until `stop` is set."""

    http: str
    """`host:port` of the HTTP front."""
    grpc: str
    shot: Shot
    rate_per_s: float = 50.0
    timeout_s: float = 10.0
    max_outstanding: int = 512
    samples: list[Sample] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    outstanding: int = 0
    """Sent, and not answered yet."""

    async def run(self) -> None:
        """Send until `stop`; returns when the last answer is in."""
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            grpc.aio.insecure_channel(self.grpc) as channel,
            asyncio.TaskGroup() as group,
        ):
            call = channel.unary_unary(PREDICT)
            group.create_task(self._arrivals("http", lambda due: self._http(session, due)))
            group.create_task(self._arrivals("grpc", lambda due: self._grpc(call, due)))

    async def _arrivals(
        self, protocol: str, fire: Callable[[float], Coroutine[None, None, None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            while not self.stop.is_set():
                due += 1.0 / self.rate_per_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                if self.outstanding >= self.max_outstanding:
                    self._keep(protocol, due, loop.time(), None, "too many outstanding")
                    continue
                self.outstanding += 1
                group.create_task(fire(due))

    def _keep(
        self, protocol: str, due: float, started: float, version: int | None, error: str
    ) -> None:
        ended = asyncio.get_running_loop().time()
        self.samples.append(Sample(protocol, due, started, ended, version, error))

    async def _http(self, session: aiohttp.ClientSession, due: float) -> None:
        started = asyncio.get_running_loop().time()
        version, error = None, ""
        try:
            url = f"http://{self.http}/v1/models/{self.shot.model}:predict"
            async with session.post(url, data=self.shot.http_body) as answer:
                body = await answer.read()
                if answer.status == 200:
                    version = self.shot.http_version(body, answer.headers)
                else:
                    error = f"HTTP {answer.status}: {body[:200]!r}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        finally:
            self.outstanding -= 1
        self._keep("http", due, started, version, error)

    async def _grpc(self, call: grpc.aio.UnaryUnaryMultiCallable, due: float) -> None:
        started = asyncio.get_running_loop().time()
        version, error = None, ""
        try:
            answer = await call(self.shot.grpc_body, timeout=self.timeout_s)
            version = self.shot.grpc_version(answer)
        except grpc.aio.AioRpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        except ValueError as failure:
            error = f"bad answer: {failure}"
        finally:
            self.outstanding -= 1
        self._keep("grpc", due, started, version, error)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a set of samples amounts to."""

    requests: int
    failed: int
    p50_s: float
    p99_s: float
    max_s: float
    errors: tuple[str, ...] = ()


def summarize(samples: Sequence[Sample]) -> Summary:
    """Counts, latency percentiles of the good ones, and the distinct errors."""
    good = [s.latency_s for s in samples if not s.error]
    errors = sorted({s.error for s in samples if s.error})
    return Summary(
        requests=len(samples),
        failed=len(samples) - len(good),
        p50_s=percentile(good, 0.50),
        p99_s=percentile(good, 0.99),
        max_s=max(good, default=math.nan),
        errors=tuple(errors[:5]),
    )


def wrong_versions(
    samples: Sequence[Sample], published: Sequence[tuple[int, float]], overlap_s: float = 0.0
) -> list[str]:
    """Answers from a version that was not live while their request was under way.

    Versions go live in growing order. So an answer may not come from a version older than one that
    an earlier request had been answered by before this one was sent, nor from one that was not
    published (`(version, when publishing began)`) by the time the answer came. Several workers take
    a new table one after the other; `overlap_s` is how long two versions may be live together.
    """
    wrong = []
    begun = dict(published)
    done = sorted((s for s in samples if s.version is not None), key=lambda s: s.ended_s)
    newest_by_end: list[tuple[float, int]] = []
    newest = -1
    for sample in done:
        assert sample.version is not None
        newest = max(newest, sample.version)
        newest_by_end.append((sample.ended_s, newest))
    ends = [end for end, _ in newest_by_end]
    for sample in done:
        assert sample.version is not None
        before = _last_at_or_before(ends, sample.started_s - overlap_s)
        floor = newest_by_end[before][1] if before >= 0 else -1
        if sample.version < floor:
            wrong.append(f"{sample.protocol}: answered by {sample.version}, {floor} was live")
        if begun.get(sample.version, math.inf) > sample.ended_s:
            wrong.append(f"{sample.protocol}: answered by {sample.version}, not yet published")
    return wrong


def _last_at_or_before(ordered: Sequence[float], value: float) -> int:
    return bisect_right(ordered, value) - 1
