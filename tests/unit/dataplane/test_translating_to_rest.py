"""V2 REST servers that do not know the binary tensor extension are spoken to in JSON."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.core.dialect import Dialect
from gateway.core.route import RoutingTable
from gateway.dataplane.translating import Translation
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from tests.parts.scripted_upstream import ScriptedUpstream

ENDPOINT = Endpoint("h:1", "h:2", "h:2")
SPEC = {"datatype": "FP32", "shape": [-1, 2]}
JSON = (("content-type", "application/json"),)


class V2Rest:
    """ports.Upstream over a server that doubles, with these extensions."""

    def __init__(self, extensions: list[str]) -> None:
        self.extensions = extensions
        self.targets: list[str] = []
        self.bodies: list[UpstreamRequest] = []

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        self.targets.append(request.target)
        if request.target == "GET /v2":
            return self._json({"name": "s", "version": "1", "extensions": self.extensions})
        if request.target.startswith("GET"):
            tensors = {"inputs": [{"name": "x", **SPEC}], "outputs": [{"name": "y", **SPEC}]}
            return self._json({"name": "m", "platform": "", **tensors})
        self.bodies.append(request)
        output = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}
        return self._json({"model_name": "m", "model_version": "1", "outputs": [output]})

    def _json(self, what: object) -> UpstreamAnswer:
        return UpstreamAnswer(200, json.dumps(what).encode(), JSON)

    def keep(self, endpoints) -> None:
        return None

    async def aclose(self) -> None:
        return None


async def _predict(server: V2Rest) -> tuple[Translation, UpstreamAnswer]:
    grpc = ScriptedUpstream(lambda address: None)
    translation = Translation(server, grpc, max_body_bytes=1 << 20)
    upstream = translation.upstream(Dialect.TFS_GRPC, ("v2-rest",))
    ask = tfs_pb2.PredictRequest()
    ask.model_spec.name = "m"
    ask.model_spec.version.value = 1
    ask.inputs["x"].dtype = tfs_pb2.DT_FLOAT
    for size in (1, 2):
        ask.inputs["x"].tensor_shape.dim.add().size = size
    ask.inputs["x"].float_val.extend([1.0, 2.0])
    request = UpstreamRequest(Method.PREDICT.path, ask.SerializeToString())
    deadline_at = asyncio.get_running_loop().time() + 10
    answer = None
    for _ in range(2):
        answer = await upstream.call(ENDPOINT, request, deadline_at)
    assert answer is not None
    return translation, answer


@pytest.mark.parametrize(("extensions", "binary"), [([], False), (["binary_tensor_data"], True)])
async def test_tensors_go_as_what_the_server_metadata_offer(extensions, binary):
    server = V2Rest(extensions)
    translation, answer = await _predict(server)
    try:
        assert answer.status == 0
        made = tfs_pb2.PredictResponse.FromString(answer.body)
        assert made.outputs["y"].tensor_shape.dim[1].size == 2
        sent = {name for name, _ in server.bodies[0].headers}
        assert ("inference-header-content-length" in sent) is binary
        if not binary:
            assert json.loads(server.bodies[0].body)["inputs"][0]["data"] == [1.0, 2.0]
        assert server.targets.count("GET /v2") == 1, "asked once for each replica"
        translation.keep(RoutingTable(1))
        assert translation.takes_binary == {}
    finally:
        translation.close()
