"""Many callers who come when they come: Poisson arrivals over HTTP and gRPC, each with a deadline.

An open loop: an arrival waits for nobody's answer, and latency counts from when it was due, so a
client that is late itself is charged for it (`began_s - due_s` says by how much).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import aiohttp
import grpc
import grpc.aio

from gateway.codecs.pb import tfs_pb2
from loadtests.traffic import PREDICT

_REFUSED_CODES = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_LATE_CODES = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_EXPIRED = "expired"
"""Let in, and refused when its turn came: counted as accepted and late."""


@dataclass(frozen=True, slots=True)
class Phase:
    """So many seconds of so many arrivals a second."""

    length_s: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Request:
    """What became of one. Times are seconds since the first arrival."""

    due_s: float
    began_s: float
    ended_s: float
    outcome: str
    """`in_time`, `late`, `left`, `refused:REASON` or `failed:WHY`."""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.due_s

    @property
    def is_in_time(self) -> bool:
        return self.outcome == "in_time"

    @property
    def is_refused(self) -> bool:
        return self.outcome.startswith("refused")

    @property
    def has_left(self) -> bool:
        return self.outcome == "left"

    @property
    def is_accepted(self) -> bool:
        return not (self.is_refused or self.has_left)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Where they go, and what they want."""

    http: str
    grpc: str
    model: str
    deadline_s: float
    leave_ratio: float
    seed: int
    connects_first: bool = True
    """Makes its connections before the first arrival, for their cost is not what is measured; that
    takes a few requests."""


def ask(crowd: Crowd, phases: Sequence[Phase]) -> list[Request]:
    """Let them come, and wait for the last."""
    return asyncio.run(_ask(crowd, phases))[1]


def ask_at(crowd: Crowd, phases: Sequence[Phase]) -> tuple[datetime, list[Request]]:
    """The same, and the moment that their times count from."""
    return asyncio.run(_ask(crowd, phases))


async def _ask(crowd: Crowd, phases: Sequence[Phase]) -> tuple[datetime, list[Request]]:
    rng, found = Random(crowd.seed), []
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
        grpc.aio.insecure_channel(crowd.grpc) as channel,
    ):
        callers = _Callers(crowd, session, channel, found)
        if crowd.connects_first:
            await asyncio.gather(*[callers.http_call() for _ in range(8)])  # noqa: TID251
            await callers.grpc_call()
        began_at = datetime.now(UTC)
        loop = asyncio.get_running_loop()
        start = callers.start = loop.time()
        end = start
        async with asyncio.TaskGroup() as tasks:
            for phase in phases:
                due, end = end, end + phase.length_s
                while (due := due + rng.expovariate(phase.per_s)) < end:
                    await asyncio.sleep(max(0.0, due - loop.time()))
                    leaves = rng.random() < crowd.leave_ratio
                    leaves_s = rng.uniform(0.0, crowd.deadline_s) if leaves else None
                    tasks.create_task(callers.one(due, rng.random() < 0.5, leaves_s))
    return began_at, found


class _Callers:
    def __init__(
        self,
        crowd: Crowd,
        session: aiohttp.ClientSession,
        channel: grpc.aio.Channel,
        found: list[Request],
    ) -> None:
        self.start = 0.0
        self._crowd = crowd
        self._session = session
        self._call = channel.unary_unary(PREDICT)
        self._found = found
        self._url = f"http://{crowd.http}/v1/models/{crowd.model}:predict"
        self._headers = {"x-request-timeout-ms": str(int(crowd.deadline_s * 1000))}
        request = tfs_pb2.PredictRequest()
        request.model_spec.name = crowd.model
        tensor = request.inputs["x"]
        tensor.dtype = tfs_pb2.DT_FLOAT
        for _ in range(2):
            tensor.tensor_shape.dim.add().size = 1
        tensor.float_val.append(1.0)
        self._message = request.SerializeToString()

    async def one(self, due: float, is_grpc: bool, leaves_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome = "left"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(leaves_s):
                outcome = await (self.grpc_call() if is_grpc else self.http_call())
        ended = loop.time()
        # A client that was late itself has taken from the time that there was.
        if outcome == "in_time" and ended - began > self._crowd.deadline_s:
            outcome = "late"
        zero = self.start
        self._found.append(Request(due - zero, began - zero, ended - zero, outcome))

    async def http_call(self) -> str:
        try:
            async with self._session.post(
                self._url, data=b'{"instances": [[1.0]]}', headers=self._headers
            ) as answer:
                await answer.read()
                if answer.status == 200:
                    return "in_time"
                reason = answer.headers.get("x-gateway-reason", str(answer.status))
                if answer.status in (429, 503) and reason != _EXPIRED:
                    return f"refused:{reason}"
                return "late" if answer.status in (504, 429) else f"failed:{answer.status}"
        except (aiohttp.ClientError, OSError) as error:
            return f"failed:{type(error).__name__}"

    async def grpc_call(self) -> str:
        try:
            await self._call(self._message, timeout=self._crowd.deadline_s)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            reason = dict(error.trailing_metadata() or ()).get("x-gateway-reason", code.name)
            if code in _REFUSED_CODES and reason != _EXPIRED:
                return f"refused:{reason}"
            is_late = code in _LATE_CODES or reason == _EXPIRED
            return "late" if is_late else f"failed:{code.name}"
        return "in_time"
