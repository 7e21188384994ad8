"""One prediction of a small model in each of the four protocols."""

from __future__ import annotations

import json

import aiohttp
import grpc
import numpy as np

from gateway.codecs import tfs_tensors
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method

TFS_JSON = json.dumps({"inputs": {"x": [[1.0, 2.0]]}})
V2_JSON = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
)


def tfs_message() -> bytes:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tfs_tensors.to_proto(np.float32([[1, 2]])))
    return request.SerializeToString()


def v2_message() -> bytes:
    request = oip_pb2.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    return request.SerializeToString()


class Calls:
    """One prediction in each of the four protocols; returns status (or code), body, and what came
    beside it."""

    def __init__(self, gateway, session: aiohttp.ClientSession) -> None:
        self.gateway, self.session = gateway, session

    async def http(self, path: str, body: str, headers=None):
        url = f"http://{self.gateway.http}{path}"
        async with self.session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers

    async def rpc(self, path: str, message: bytes, metadata=(), timeout_s=10.0):
        call = self.gateway.channel.unary_unary(path)(message, metadata=metadata, timeout=timeout_s)
        try:
            body = await call
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details(), dict(error.trailing_metadata() or ())
        return grpc.StatusCode.OK, body, dict(await call.trailing_metadata())

    async def ask(self, protocol: str, **beside: str):
        metadata = tuple(beside.items())
        match protocol:
            case "tfs-rest":
                return await self.http("/v1/models/m:predict", TFS_JSON, beside)
            case "v2-rest":
                return await self.http("/v2/models/m/infer", V2_JSON, beside)
            case "tfs-grpc":
                return await self.rpc(Method.PREDICT.path, tfs_message(), metadata)
            case _:
                return await self.rpc(OipMethod.MODEL_INFER.path, v2_message(), metadata)


PROTOCOLS = ("tfs-rest", "v2-rest", "tfs-grpc", "v2-grpc")
