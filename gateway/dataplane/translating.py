"""To replicas that do not speak their caller's protocol.

A translating upstream is an Upstream: it takes a request in the caller's dialect and gives the
answer, errors too, in the caller's dialect. So admission, routing, balancing, retries and both
fronts know nothing of it, and whoever speaks the replica's dialect pays nothing for it.

The codecs that hold tensors need numpy. They are imported with the first translated request, on a
thread, as is the work on bodies too large for the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

from gateway.codecs.oip_headers import HEADER_LENGTH, header_length
from gateway.core.dialect import Dialect, choose_dialect
from gateway.core.route import RoutingTable
from gateway.dataplane import translated_admin
from gateway.dataplane.compressed import decompressed
from gateway.dataplane.signatures import SignatureCache, Signatures
from gateway.dataplane.translated_calls import (
    Asked,
    Kind,
    answered,
    asked,
    carried,
    infer_target,
    is_ok,
    refused,
)
from gateway.dataplane.unversioned import UnversionedUpstream
from gateway.domain.errors import Unimplemented, UpstreamFailed
from gateway.domain.replicas import Endpoint
from gateway.ports import Upstream, UpstreamAnswer, UpstreamRequest

T = TypeVar("T")

_INLINE_BYTES = 64 * 1024
"""Smaller bodies are translated on the event loop: a hop to a thread and back costs more (about
0.1 ms), and they take less than a millisecond."""

_THREADS = 2
"""Numpy and protobuf let go of the interpreter's lock in long copies only, so more would wait for
one another."""

_HEADER_LENGTH = HEADER_LENGTH.lower()


class Translation:
    """The translating upstreams of one plane, with what they share."""

    def __init__(self, http: Upstream, grpc: Upstream, *, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.signatures = SignatureCache()
        self.takes_binary: dict[str, bool] = {}
        """By HTTP address of a V2 replica: whether it knows the binary tensor extension."""
        self.codec: Any = None
        """codecs.translate, once it was needed."""
        self._to: dict[tuple[bool, bool], Upstream] = {
            (False, False): http,
            (True, False): grpc,
            (False, True): UnversionedUpstream(http),
            (True, True): UnversionedUpstream(grpc),
        }
        """By gRPC and by unversioned."""
        self._upstreams: dict[tuple[Dialect, Dialect, bool], TranslatingUpstream] = {}
        self._threads: ThreadPoolExecutor | None = None

    def between(
        self, caller: Dialect, endpoint: Endpoint, asked: tuple[str, ...]
    ) -> Upstream | None:
        """Who speaks to a replica that does not speak its caller's dialect; None where it does.
        `asked` is what the operator says that it speaks (`--speaks`), which restricts what it says
        of itself.

        Raises:
            Unimplemented: it speaks nothing that we know (`no_dialect`).
        """
        said, unversioned = endpoint.speaks, endpoint.unversioned
        if caller in asked and (not said or caller in said) and not unversioned:
            return None
        speaks = tuple([p for p in said if p in asked]) or said or asked
        if caller in speaks and not unversioned:
            return None
        return self.upstream(caller, speaks, unversioned=unversioned)

    def upstream(
        self, caller: Dialect, speaks: Collection[str], *, unversioned: bool = False
    ) -> Upstream:
        """To a replica that `speaks` these and not `caller`, or that knows no versions.

        Raises:
            Unimplemented: it speaks nothing that we know (`no_dialect`).
        """
        replica = choose_dialect(caller, speaks)
        if replica is None:
            raise Unimplemented(
                f"The model's replicas speak {', '.join(speaks) or 'nothing'}, which cannot be "
                "translated; say what they speak with --speaks",
                reason="no_dialect",
            )
        to = self._to[replica.is_grpc, unversioned and replica.is_v2]
        if replica is caller:
            return to
        key = (caller, replica, unversioned)
        upstream = self._upstreams.get(key)
        if upstream is None:
            upstream = self._upstreams[key] = TranslatingUpstream(self, to, caller, replica)
        return upstream

    def keep(self, table: RoutingTable) -> None:
        """Forget what was learned of versions and replicas that have left the table."""
        self.signatures.keep(table)
        if self.takes_binary:
            named = {
                target.endpoint.http
                for model in table.models.values()
                for _, target in model.held()
            }
            self.takes_binary = {h: b for h, b in self.takes_binary.items() if h in named}

    def close(self) -> None:
        """End the threads when they are done."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def work(self, size: int, task: Callable[[], T]) -> T:
        """Run `task`, which handles `size` bytes: here when they are few, else on a thread."""
        if size <= _INLINE_BYTES and self.codec is not None:
            return task()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="translate")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._loaded, task)

    def _loaded(self, task: Callable[[], T]) -> T:
        if self.codec is None:
            self.codec = import_module("gateway.codecs.translate")
        return task()


class TranslatingUpstream:
    """ports.Upstream from one dialect to another."""

    def __init__(
        self, shared: Translation, to: Upstream, caller: Dialect, replica: Dialect
    ) -> None:
        self._shared = shared
        self._upstream = to
        self._caller = caller
        self._replica = replica

    def __repr__(self) -> str:
        return f"TranslatingUpstream({self._caller} to {self._replica})"

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """As the upstream of the replica's transport, in the caller's dialect.

        Raises:
            InvalidRequest, Unimplemented: the request makes no sense, or the replica's dialect
                cannot express it; nothing was sent.
            UpstreamFailed, DeadlineExceeded: as that upstream.
        """
        ask = asked(self._caller, request)
        if ask.kind is Kind.INFER:
            return await self._infer(endpoint, request, ask, deadline_at)
        if self._caller.is_v2 and self._replica.is_v2 and ask.kind is not Kind.OTHER:
            other = translated_admin.retold(self._replica, ask, carried(request, self._replica))
            answer = await self._upstream.call(endpoint, other, deadline_at)
            if not is_ok(self._replica, answer):
                return refused(self._caller, self._replica, answer)
            try:
                return translated_admin.rendered(self._caller, ask.kind, answer)
            except ValueError as error:
                raise UpstreamFailed(
                    f"The replica at {endpoint.http} answered {ask.kind} with something else: "
                    f"{error}",
                    reason="bad_answer",
                    sent=True,
                ) from error
        if ask.kind in (Kind.METADATA, Kind.CONFIG):
            translated_admin.check(self._caller, ask, request)
            signatures = await self._signatures(endpoint, ask, deadline_at)
            if isinstance(signatures, UpstreamAnswer):
                return signatures
            return translated_admin.from_signatures(self._caller, ask, signatures)
        raise Unimplemented(
            f"{ask.words} of model {ask.model} cannot be answered: its replicas speak "
            f"{self._replica}, which has nothing like it",
            reason="not_in_dialect",
        )

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Nothing: the connections are those of the upstreams that this one uses."""

    async def aclose(self) -> None:
        """Nothing, as `keep`."""

    async def _infer(
        self, endpoint: Endpoint, request: UpstreamRequest, ask: Asked, deadline_at: float
    ) -> UpstreamAnswer:
        signatures = await self._signatures(endpoint, ask, deadline_at)
        if isinstance(signatures, UpstreamAnswer):
            return signatures
        shared, caller, replica = self._shared, self._caller, self._replica
        binary = replica is not Dialect.V2_REST or await self._takes_binary(endpoint, deadline_at)

        def forth() -> tuple[Any, Any]:
            codec = shared.codec
            encoding = _header(request.headers, "content-encoding")
            body = decompressed(request.body, encoding, shared.max_body_bytes)
            length = header_length(_header(request.headers, _HEADER_LENGTH), len(body))
            decoded = codec.decode_request(
                codec.Dialect(caller), body, signatures, header_length=length
            )
            return decoded, codec.encode_request(
                codec.Dialect(replica),
                decoded,
                model=ask.model,
                version=ask.version,
                binary=binary,
            )

        decoded, encoded = await shared.work(len(request.body), forth)
        headers = carried(request, replica)
        headers += tuple((name.lower(), value) for name, value in encoded.headers.items())
        target = infer_target(replica, ask.model, ask.version)
        answer = await self._upstream.call(
            endpoint, UpstreamRequest(target, encoded.body, headers), deadline_at
        )
        if not is_ok(replica, answer):
            return refused(caller, replica, answer)

        def back() -> Any:
            codec = shared.codec
            length = header_length(_header(answer.headers, _HEADER_LENGTH), len(answer.body))
            response = codec.decode_response(
                codec.Dialect(replica), answer.body, signatures, decoded, header_length=length
            )
            return codec.encode_response(
                codec.Dialect(caller),
                decoded,
                response,
                signatures,
                model=ask.model,
                version=ask.version,
            )

        said = await shared.work(len(answer.body), back)
        return answered(caller, said.body, said.headers)

    async def _takes_binary(self, endpoint: Endpoint, deadline_at: float) -> bool:
        """Whether the replica's server metadata name the binary tensor extension. JSON every V2
        server takes; MLServer, for one, takes nothing else."""
        known = self._shared.takes_binary.get(endpoint.http)
        if known is None:
            metadata = UpstreamRequest("GET /v2", b"")
            answer = await self._upstream.call(endpoint, metadata, deadline_at)
            known = answer.status == 200 and b'"binary_tensor_data"' in answer.body
            self._shared.takes_binary[endpoint.http] = known
        return known

    async def _signatures(
        self, endpoint: Endpoint, ask: Asked, deadline_at: float
    ) -> Signatures | UpstreamAnswer:
        """The signatures, or the replica's refusal as the caller's answer."""
        found = await self._shared.signatures.get(
            self._upstream, endpoint, self._replica, ask.model, ask.version, deadline_at
        )
        if isinstance(found, UpstreamAnswer):
            return refused(self._caller, self._replica, found)
        return found


def _header(headers: Collection[tuple[str, Any]], name: str) -> str | None:
    return next((value for key, value in headers if key == name), None)
