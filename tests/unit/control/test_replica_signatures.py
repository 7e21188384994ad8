"""ports.Signatures over replicas: whatever they speak, whichever of them answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from gateway.codecs import oip_admin, tfs_metadata
from gateway.domain.errors import Unavailable, UpstreamFailed
from gateway.domain.models import PROTOCOLS, VersionState
from gateway.domain.observed import ReplicaView
from gateway.domain.replicas import Endpoint, ReplicaState
from gateway.domain.tensors import DType, Signature, TensorSpec
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.upstream.signatures import ReplicaSignatures
from tests.parts.fakes_control import FakeObserved, replica, view

SIGNATURES = {
    "serving_default": Signature(
        {"x": TensorSpec("x", DType.FLOAT, (-1, 2), "x:0")},
        {"y": TensorSpec("y", DType.STRING, (-1,), "y:0")},
    )
}
ONE = SIGNATURES["serving_default"]
ANSWERS = {
    "/tensorflow.serving.PredictionService/GetModelMetadata": tfs_metadata.metadata_proto(
        "m", 3, SIGNATURES
    ).SerializeToString(),
    "/inference.GRPCInferenceService/ModelMetadata": oip_admin.model_metadata_proto(
        "m", [3], "p", ONE
    ).SerializeToString(),
    "GET /v2/models/m/versions/3": oip_admin.model_metadata_json("m", [3], "p", ONE),
    "GET /v1/models/m/versions/3/metadata": tfs_metadata.metadata_json("m", 3, SIGNATURES),
}


@dataclass
class Replicas:
    """ports.Upstream whose replicas answer with their metadata, or fail by address."""

    ok: int
    down: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    garbage: bool = False

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        self.asked.append(request.target)
        if endpoint.http in self.down:
            raise UpstreamFailed("gone", reason="connect_refused", sent=False)
        return UpstreamAnswer(self.ok, b"\xff" if self.garbage else ANSWERS[request.target])

    def keep(self, endpoints) -> None:
        assert not list(endpoints)

    async def aclose(self) -> None:
        return


def observed(*endpoints: Endpoint) -> FakeObserved:
    fake = FakeObserved()
    one = view("m", live=3, versions={3: VersionState.READY})
    replicas = tuple(
        ReplicaView(replace(replica(f"m-{n}"), endpoint=e), ReplicaState.READY, versions=(3,))
        for n, e in enumerate(endpoints)
    )
    fake.show(replace(one, replicas=replicas))
    return fake


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_any_protocol_says_the_same(protocol: str) -> None:
    http, grpc = Replicas(200), Replicas(0)
    port = ReplicaSignatures(observed(Endpoint("a", "a", "a")), http, grpc)
    found = (await port.of("m", 3, (protocol,)))["serving_default"]
    assert [(s.dtype, s.shape) for s in found.inputs.values()] == [(DType.FLOAT, (-1, 2))]
    assert [(s.dtype, s.shape) for s in found.outputs.values()] == [(DType.STRING, (-1,))]
    assert len(http.asked + grpc.asked) == 1


async def test_what_a_replica_says_of_itself_counts_more() -> None:
    http, grpc = Replicas(200), Replicas(0)
    port = ReplicaSignatures(observed(Endpoint("a", "a", "a", speaks=("v2-rest",))), http, grpc)
    await port.of("m", 3, PROTOCOLS)
    assert http.asked == ["GET /v2/models/m/versions/3"]


async def test_another_replica_is_asked_where_one_does_not_answer() -> None:
    grpc = Replicas(0, down={"a"})
    port = ReplicaSignatures(
        observed(Endpoint("a", "a", "a"), Endpoint("b", "b", "b")), Replicas(200), grpc
    )
    assert await port.of("m", 3, PROTOCOLS)
    assert len(grpc.asked) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nobody_could_say(protocol: str) -> None:
    for http, grpc in (
        (Replicas(404), Replicas(5)),
        (Replicas(200, down={"a"}), Replicas(0, down={"a"})),
        (Replicas(200, garbage=True), Replicas(0, garbage=True)),
    ):
        port = ReplicaSignatures(observed(Endpoint("a", "a", "a")), http, grpc)
        with pytest.raises(Unavailable) as caught:
            await port.of("m", 3, (protocol,))
        assert caught.value.reason == "no_selectable_replica"
        with pytest.raises(Unavailable):
            await port.of("m", 4, (protocol,))
        with pytest.raises(Unavailable):
            await port.of("other", 3, (protocol,))
