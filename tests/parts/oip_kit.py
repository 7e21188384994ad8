"""A model server of the kit with a model `m` on a fake runtime, asked over V2."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from gateway.codecs.oip_errors import Flavour
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from servers.kit.settings import LoadSettings, ServerSettings
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import Kit, kit

LENGTH = "Inference-Header-Content-Length"
X = np.float32([[1, 2], [3, 4]])
QUICK = LoadSettings(first_retry_s=0.05, poll_s=0.05)


def body(**more: object) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": X.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


def binary(**parameters: object) -> tuple[dict[str, str], bytes]:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": X.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return {LENGTH: str(len(head))}, head + X.tobytes()


def message(name: str = "m", **fields: object) -> oip_pb2.ModelInferRequest:
    request = oip_pb2.ModelInferRequest(model_name=name, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    request.raw_input_contents.append(X.tobytes())
    return request


@asynccontextmanager
async def serving(
    tmp_path: Path, flavour: Flavour = Flavour.TRITON, **more: object
) -> AsyncIterator[tuple[Kit, FakeRuntime]]:
    write(tmp_path / "m", 1)
    runtime = FakeRuntime()
    settings = ServerSettings(v2_flavour=flavour, load=QUICK, **more)
    async with kit(runtime, settings, m=str(tmp_path / "m")) as server:
        yield server, runtime


async def ask(server: Kit, method: str, path: str, data: bytes | None = None, **headers: str):
    url = f"http://{server.running.http}{path}"
    async with server.session.request(
        method, url, data=data, headers=headers, skip_auto_headers=["Accept-Encoding"]
    ) as answer:
        return answer.status, answer.headers, await answer.read()


async def call(server: Kit, method: OipMethod, request, timeout_s: float = 20):
    made = server.channel.unary_unary(method.path)
    answer = await made(request.SerializeToString(), timeout=timeout_s)
    return getattr(oip_pb2, method.response_name).FromString(answer)
