"""A data plane whose stable version is answered by hand and whose canary gets copies, without
sockets: what both say is made by the codecs of the real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from gateway.codecs import oip_json, oip_proto, tfs_json, tfs_predict
from gateway.codecs.oip_headers import HEADER_LENGTH
from gateway.codecs.oip_infer import OipInfer
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_metadata import metadata_json
from gateway.core.route import Canary, Target
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.dataplane.front import GatewayFront
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import GatewayError
from gateway.domain.replicas import Endpoint
from gateway.domain.tensors import DType, Signature, TensorSpec
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.telemetry import Metrics
from gateway.wire.exchange import RequestHead, ResponseHead
from tests.parts.fake_replica import table, until
from tests.parts.scripted_exchange import ScriptedExchange

PROTOCOLS = ("tfs-rest", "tfs-rest-columns", "tfs-grpc", "v2-rest", "v2-rest-binary", "v2-grpc")
A, B = (Target(n, Endpoint(f"{n}:1", f"{n}:2", "")) for n in "ab")
SCORES = {"scores": np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)}
FLIPPED = {"scores": np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)}

Arrays = Mapping[str, Any]


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


_X = np.array([[1.0]], np.float32)
_REQUESTS: Mapping[str, tuple[str, bytes]] = {
    "tfs-rest": ("/v1/models/m:predict", b'{"instances":[[1.0]]}'),
    "tfs-rest-columns": ("/v1/models/m:predict", b'{"inputs":[[1.0]]}'),
    "v2-rest": (
        "/v2/models/m/infer",
        b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1.0]}]}',
    ),
    "v2-rest-binary": (
        "/v2/models/m/infer",
        b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1.0]}],'
        b'"parameters":{"binary_data_output":true}}',
    ),
    "tfs-grpc": (
        "/tensorflow.serving.PredictionService/Predict",
        framed(
            tfs_predict.encode_request(tfs_pb2.PredictRequest(model_spec={"name": "m"}), {"x": _X})
        ),
    ),
    "v2-grpc": (
        "/inference.GRPCInferenceService/ModelInfer",
        framed(oip_pb2.ModelInferRequest(model_name="m").SerializeToString()),
    ),
}


def answer(protocol: str, outputs: Arrays, version: int) -> UpstreamAnswer:
    """As a replica says it."""
    if protocol.startswith("tfs-rest"):
        body = tfs_json.encode_predict(dict(outputs), protocol == "tfs-rest")
        return UpstreamAnswer(200, body, (("content-type", "application/json"),))
    if protocol.startswith("v2-rest"):
        infer = OipInfer("", {}, (), binary_output=protocol == "v2-rest-binary")
        length, body = oip_json.encode_infer("m", version, "", dict(outputs), infer, {})
        headers = () if length is None else ((HEADER_LENGTH.lower(), str(length)),)
        return UpstreamAnswer(200, body, headers)
    if protocol == "tfs-grpc":
        rest = tfs_pb2.PredictResponse(model_spec={"name": "m"})
        return UpstreamAnswer(0, tfs_predict.encode_response(rest, dict(outputs)))
    return UpstreamAnswer(0, oip_proto.encode_infer_bytes("m", version, "", dict(outputs)))


def _spec(name: str, array: Any) -> TensorSpec:
    kind = DType.FLOAT if array.dtype == np.float32 else DType.INT64
    return TensorSpec(name, kind, (-1, *array.shape[1:]))


def _v2_metadata(outputs: Arrays) -> bytes:
    made = oip_pb2.ModelMetadataResponse(name="m", versions=["1", "2"])
    made.inputs.add(name="x", datatype="FP32", shape=[-1, 1])
    for name, array in outputs.items():
        made.outputs.add(name=name, datatype="FP32", shape=[-1, *array.shape[1:]])
    return made.SerializeToString()


class ShadowUpstream:
    """DirectUpstream: callers' calls wait in `calls`; copies are answered by `says`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Endpoint, str, Any]] = []
        self.copies: list[tuple[Endpoint, UpstreamRequest]] = []
        self.outputs: dict[int, Arrays] = {1: SCORES, 2: SCORES}
        self.says: UpstreamAnswer | GatewayError | asyncio.Event | None = None
        """Instead of the canary's outputs."""
        self.metadata: UpstreamAnswer | None = None
        """Instead of the signatures."""
        self.is_translated = False
        """The replicas speak V2 over gRPC, and the stable version is asked by `call`, too."""
        self.protocol = ""
        self.cancelled = 0

    def begin(self, endpoint, method, path, fields, body, timeout_s, sink, *, length=None):
        self.calls.append((endpoint, path, sink))
        return self

    is_congested = False

    def cancel(self) -> None:
        self.cancelled += 1

    def pause(self) -> None: ...

    def write(self, data) -> None: ...

    def end(self) -> None: ...

    async def call(self, endpoint, request, deadline_at) -> UpstreamAnswer:
        if request.target.endswith("/metadata"):
            if self.metadata is not None:
                return self.metadata
            version = int(request.target.rsplit("/", 2)[-2])
            outputs = {n: _spec(n, a) for n, a in self.outputs[version].items()}
            signature = Signature({"x": TensorSpec("x", DType.FLOAT, (-1, 1))}, outputs)
            return UpstreamAnswer(200, metadata_json("m", version, {"serving_default": signature}))
        if request.target.endswith("/ModelMetadata"):
            version = oip_pb2.ModelMetadataRequest.FromString(request.body).version
            return UpstreamAnswer(0, _v2_metadata(self.outputs[int(version)]))
        if self.is_translated:
            version = oip_pb2.ModelInferRequest.FromString(request.body).model_version
            if version == "1":
                return answer("v2-grpc", self.outputs[1], 1)
        self.copies.append((endpoint, request))
        if isinstance(self.says, asyncio.Event):
            await self.says.wait()
        elif isinstance(self.says, UpstreamAnswer):
            return self.says
        elif self.says is not None:
            raise self.says
        protocol = "v2-grpc" if self.is_translated else self.protocol
        return answer(protocol, self.outputs[2], 2)

    def keep(self, endpoints) -> None: ...

    async def aclose(self) -> None: ...


class Shadowed:
    """One gateway."""

    def __init__(self, settings: DataplaneSettings | None = None, **canary: Any) -> None:
        self.upstream = ShadowUpstream()
        self.plane = Dataplane(
            settings or DataplaneSettings(),
            http=self.upstream,
            grpc=self.upstream,
            metrics=Metrics(),
            rng=Random(3),
        )
        self.front = GatewayFront(self.plane)
        self.publish(**canary)

    def publish_sides(self) -> None:
        """Both sides have version 1: the stable one on A, the canary on B."""
        self.publish(version=1)
        model = self.plane.table.models["m"]
        stable, apart = model.targets[1]
        model = replace(model, targets={1: (stable,)}, side=(apart,))
        self.plane.publish(replace(self.plane.table, models={"m": model}))

    def publish(self, **canary: Any) -> None:
        fields = {"version": 2, "weight": 1e-9, "window": 1, "shadow": 1.0} | canary
        speaks = ("v2-grpc",) if self.upstream.is_translated else ()
        self.plane.publish(
            table(
                *(replace(t, endpoint=replace(t.endpoint, speaks=speaks)) for t in (A, B)),
                versions=(1, 2),
                live=1,
                canary=Canary(**fields),
                labels={"stable": 1, "canary": 2},
            )
        )

    def begun(self, protocol: str, *fields: tuple[str, str], path: str = "") -> ScriptedExchange:
        self.upstream.protocol = protocol
        usual, body = _REQUESTS[protocol]
        if "grpc" in protocol:
            fields = (("content-type", "application/grpc"), ("te", "trailers"), *fields)
        head = RequestHead("POST", path or usual, fields, content_length=len(body), is_h2=True)
        exchange = ScriptedExchange(head)
        self.front.begin(exchange, body)
        return exchange

    def answered(self, protocol: str, said: UpstreamAnswer | None = None) -> Endpoint:
        """The call under way gets the stable version's answer, or `said`."""
        said = said or answer(protocol, self.upstream.outputs[1], 1)
        endpoint, _, sink = self.upstream.calls.pop()
        if "grpc" in protocol:
            trailers = (("grpc-status", str(said.status)),)
            sink.on_whole(ResponseHead(200, ()), framed(said.body), trailers)
        else:
            sink.on_whole(ResponseHead(said.status, said.headers), said.body, ())
        return endpoint

    def ask(self, protocol: str) -> ScriptedExchange:
        exchange = self.begun(protocol)
        self.answered(protocol)
        return exchange

    @property
    def tally(self) -> AgreementTally:
        found = self.plane.agreement("m")
        assert found is not None
        return found

    async def settled(self) -> AgreementTally:
        """When no copy is under way any more."""
        await until(lambda: not self.plane.shadowing.under_way, 60)
        return self.tally
