"""The signatures that translation needs, as a replica's own metadata tells them.

Kept by replica, model and version: while a model is moved to another template, two replicas may
hold different files under one version number. Dropped when the routing table no longer names the
three together, and the least recently used beyond a bound.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import quote

from google.protobuf.message import DecodeError

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_signature import signatures_from_json, signatures_from_proto
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_metadata import signatures_from_metadata, signatures_from_rest
from gateway.codecs.tfs_methods import Method
from gateway.core.dialect import Dialect
from gateway.core.route import RoutingTable
from gateway.domain.errors import GatewayError, InvalidRequest, UpstreamFailed
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature
from gateway.ports import Upstream, UpstreamAnswer, UpstreamRequest

Signatures = Mapping[str, Signature]

_MAX_KEPT = 1024
"""A signature is a few kilobytes; a thousand servables on one gateway are many."""

_Key = tuple[str, str, Version]


class SignatureCache:
    """Signatures of replicas, asked for once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, Signatures] = OrderedDict()
        self._locks: dict[_Key, asyncio.Lock] = {}

    async def get(
        self,
        upstream: Upstream,
        endpoint: Endpoint,
        dialect: Dialect,
        model: str,
        version: Version,
        deadline_at: float,
    ) -> Signatures | UpstreamAnswer:
        """The signatures, asked for through `upstream` in the replica's `dialect`; or what it said
        instead of them.

        Raises:
            UpstreamFailed: it could not be reached, or its metadata make no sense (`bad_answer`).
            DeadlineExceeded: `call`.
        """
        key = (endpoint.http or endpoint.grpc, model, version)
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return found
        # One call for each replica and version, however many requests wait for it.
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if (found := self._kept.get(key)) is not None:
                    return found
                request = _request(dialect, model, version)
                answer = await upstream.call(endpoint, request, deadline_at)
                if answer.status != (0 if dialect.is_grpc else 200):
                    return answer
                signatures = _read(dialect, answer.body, endpoint)
                self._kept[key] = signatures
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
                return signatures
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

    def keep(self, table: RoutingTable) -> None:
        """Forget what the table does not name."""
        if not self._kept:
            return
        named = {
            (target.endpoint.http or target.endpoint.grpc, name, version)
            for name, model in table.models.items()
            for version, target in model.held()
        }
        for gone in [key for key in self._kept if key not in named]:
            del self._kept[gone]

    def __len__(self) -> int:
        return len(self._kept)


def default_signature(signatures: Signatures, model: str) -> Signature:
    """What the Open Inference Protocol, which knows one signature for each model, shows.

    Raises:
        InvalidRequest: there are several and none is `serving_default` (`unknown_signature`).
    """
    if DEFAULT_SIGNATURE in signatures:
        return signatures[DEFAULT_SIGNATURE]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise InvalidRequest(
        f"model '{model}' has several signatures and none is '{DEFAULT_SIGNATURE}'; use the "
        "TensorFlow Serving protocol, which can name one",
        reason="unknown_signature",
    )


def _request(dialect: Dialect, model: str, version: Version) -> UpstreamRequest:
    path = f"models/{quote(model, safe='')}/versions/{version}"
    match dialect:
        case Dialect.TFS_REST:
            return UpstreamRequest(f"GET /v1/{path}/metadata", b"")
        case Dialect.V2_REST:
            return UpstreamRequest(f"GET /v2/{path}", b"")
        case Dialect.TFS_GRPC:
            asked = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
            asked.model_spec.name = model
            asked.model_spec.version.value = version
            return UpstreamRequest(Method.GET_MODEL_METADATA.path, asked.SerializeToString())
        case Dialect.V2_GRPC:
            wanted = oip_pb2.ModelMetadataRequest(name=model, version=str(version))
            return UpstreamRequest(OipMethod.MODEL_METADATA.path, wanted.SerializeToString())


def _read(dialect: Dialect, body: bytes, endpoint: Endpoint) -> Signatures:
    try:
        match dialect:
            case Dialect.TFS_REST:
                return signatures_from_rest(body)
            case Dialect.TFS_GRPC:
                answer = tfs_pb2.GetModelMetadataResponse.FromString(body)
                return signatures_from_metadata(answer)
            case Dialect.V2_REST:
                return signatures_from_json(body)
            case Dialect.V2_GRPC:
                return signatures_from_proto(body)
    except (GatewayError, DecodeError) as error:
        raise UpstreamFailed(
            f"The metadata of the replica at {endpoint.http} cannot be read: {error}",
            reason="bad_answer",
            sent=True,
        ) from error
