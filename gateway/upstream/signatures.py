"""Ask a replica for the signatures of a version that it holds, in whatever it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from urllib.parse import quote

from google.protobuf.message import DecodeError

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_signature import signatures_from_json, signatures_from_proto
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_metadata import signatures_from_metadata, signatures_from_rest
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import GatewayError, Unavailable, UpstreamFailed
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint
from gateway.domain.tensors import Signature
from gateway.ports import Observed, Upstream, UpstreamRequest

ASK_S = 5.0
"""For one replica's answer, which it has at hand; longer than the stalls of one that is loading."""


class ReplicaSignatures:
    """ports.Signatures over the data plane's own kind of connections."""

    def __init__(self, observed: Observed, http: Upstream, grpc: Upstream) -> None:
        self._observed = observed
        self._http = http
        self._grpc = grpc

    def __repr__(self) -> str:
        return f"ReplicaSignatures({self._http!r}, {self._grpc!r})"

    async def of(
        self, model: str, version: Version, speaks: Collection[str]
    ) -> Mapping[str, Signature]:
        """See ports.Signatures. Replicas are asked one after the other until one answers."""
        view = self._observed.view(model)
        last: Exception | None = None
        for one in view.replicas if view else ():
            endpoint = one.replica.endpoint
            if endpoint is None or version not in one.versions:
                continue
            try:
                return await self._ask(endpoint, model, version, endpoint.speaks or speaks)
            except (GatewayError, DecodeError) as error:
                last = error
            finally:
                # Asked once in a while: no connection is worth keeping, nor watching replicas go.
                self._http.keep(())
                self._grpc.keep(())
        raise Unavailable(
            f"No replica of {model} could say what version {version} takes"
            + (f": {last}" if last else ""),
            reason="no_selectable_replica",
            retry_after_s=1.0,
        ) from last

    async def _ask(
        self, endpoint: Endpoint, model: str, version: Version, speaks: Collection[str]
    ) -> Mapping[str, Signature]:
        """TensorFlow Serving's metadata where it is spoken: it knows more than one signature."""
        if "tfs-grpc" in speaks:
            request = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
            request.model_spec.name = model
            request.model_spec.version.value = version
            body = await self._over_grpc(endpoint, Method.GET_MODEL_METADATA.path, request)
            return signatures_from_metadata(tfs_pb2.GetModelMetadataResponse.FromString(body))
        if "v2-grpc" in speaks:
            named = oip_pb2.ModelMetadataRequest(name=model, version=str(version))
            body = await self._over_grpc(endpoint, OipMethod.MODEL_METADATA.path, named)
            return signatures_from_proto(body)
        path = f"/models/{quote(model, safe='')}/versions/{version}"
        if "v2-rest" in speaks:
            return signatures_from_json(await self._over_http(endpoint, f"GET /v2{path}"))
        return signatures_from_rest(await self._over_http(endpoint, f"GET /v1{path}/metadata"))

    async def _over_grpc(
        self,
        endpoint: Endpoint,
        path: str,
        request: tfs_pb2.GetModelMetadataRequest | oip_pb2.ModelMetadataRequest,
    ) -> bytes:
        deadline_at = asyncio.get_running_loop().time() + ASK_S
        sent = UpstreamRequest(path, request.SerializeToString())
        answer = await self._grpc.call(endpoint, sent, deadline_at)
        if answer.status != 0:
            raise _refused(endpoint.grpc, answer.message or f"gRPC status {answer.status}")
        return answer.body

    async def _over_http(self, endpoint: Endpoint, target: str) -> bytes:
        deadline_at = asyncio.get_running_loop().time() + ASK_S
        answer = await self._http.call(endpoint, UpstreamRequest(target, b""), deadline_at)
        if answer.status != 200:
            raise _refused(endpoint.http, f"HTTP {answer.status}")
        return answer.body


def _refused(address: str, why: str) -> UpstreamFailed:
    return UpstreamFailed(f"Replica at {address}: {why}", reason="no_metadata", sent=True)
