"""A small real server that speaks the Open Inference Protocol V2 and nothing else.

One model that doubles FP32 `x` into `y`, its versions given or found as folders. It checks inputs
as a server would, so that errors travel too. As a program it stands for a custom image:
`python -m tests.parts.v2_only_server --http-port N --grpc-port N --model m --model-dir DIR`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from aiohttp import web

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.domain.replicas import Endpoint


@dataclass
class V2Only:
    """What it holds and how it behaves."""

    model: str = "m"
    versions: set[int] = field(default_factory=lambda: {1})
    folder: Path | None = None
    """Where its versions are, for explicit control."""
    unversioned: bool = False
    """Knows no versions, and finds none that is named to it."""
    has_index: bool = True
    explicit: bool = False
    """Takes load and unload; else it refuses them in Triton's words."""
    delay_s: float = 0.0
    delay_of: dict[str, float] = field(default_factory=dict)
    """By request id."""
    got: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    cancelled: int = 0
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("", "", ""))

    # ---- what both fronts share

    def resolve(self, name: str, version: str) -> str:
        if name != self.model or not self.versions:
            raise Refused(404, f"Request for unknown model: '{name}' is not found")
        if version and int(version) not in self.versions:
            raise Refused(
                404, f"Request for unknown model: '{name}' version {version} is not found"
            )
        if self.unversioned:
            if version:
                raise Refused(404, f"Model {name} with version {version} not found")
            return ""
        return version or str(max(self.versions))

    async def infer(self, request: oip_pb2.ModelInferRequest) -> oip_pb2.ModelInferResponse:
        version = self.resolve(request.model_name, request.model_version)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.delay_of.get(request.id, self.delay_s))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if [i.name for i in request.inputs] != ["x"]:
            raise Refused(400, f"unexpected inference input for model '{self.model}'")
        x = request.inputs[0]
        if x.datatype != "FP32":
            raise Refused(400, f"input 'x' is {x.datatype}, expected FP32")
        if request.raw_input_contents:
            raw = request.raw_input_contents[0]
            values = struct.unpack(f"<{len(raw) // 4}f", raw)
        else:
            values = tuple(x.contents.fp32_contents)
        answer = oip_pb2.ModelInferResponse(
            model_name=self.model, model_version=version, id=request.id
        )
        answer.outputs.add(name="y", datatype="FP32", shape=x.shape)
        doubled = [2 * v for v in values]
        answer.raw_output_contents.append(struct.pack(f"<{len(doubled)}f", *doubled))
        return answer

    def metadata(self, name: str, version: str) -> oip_pb2.ModelMetadataResponse:
        self.resolve(name, version)
        answer = oip_pb2.ModelMetadataResponse(name=self.model, platform="doubling")
        if not self.unversioned:
            answer.versions.extend(str(v) for v in sorted(self.versions))
        answer.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
        answer.outputs.add(name="y", datatype="FP32", shape=[-1, 2])
        return answer

    def ready(self, name: str, version: str) -> bool:
        try:
            self.resolve(name, version)
        except Refused:
            return False
        return True

    def index(self) -> list[dict[str, str]]:
        if not self.has_index:
            raise Refused(501, "no index here")
        return [
            {"name": self.model, "version": v, "state": "READY", "reason": ""}
            for v in ([""] if self.unversioned else map(str, sorted(self.versions)))
        ]

    def control(self, name: str, *, load: bool) -> None:
        if not self.explicit:
            raise Refused(503, "explicit model load / unload is not allowed if polling is enabled")
        self.loads.append(f"{'load' if load else 'unload'} {name}")
        found = folders(self.folder) if self.folder is not None else {1}
        self.versions = found if load else set()

    # ---- gRPC

    async def grpc(self, method: OipMethod, body: bytes, context) -> bytes:
        self.got.append(method.path)
        request = getattr(oip_pb2, method.request_name).FromString(body)
        try:
            answer = await self.answer(method, request)
        except Refused as error:
            await context.abort(CODES[error.status], str(error))
        return answer.SerializeToString()

    async def answer(self, method: OipMethod, request):
        match method:
            case OipMethod.MODEL_INFER:
                return await self.infer(request)
            case OipMethod.MODEL_METADATA:
                return self.metadata(request.name, request.version)
            case OipMethod.MODEL_READY:
                ready = self.ready(request.name, request.version)
                return oip_pb2.ModelReadyResponse(ready=ready)
            case OipMethod.REPOSITORY_INDEX:
                answer = oip_pb2.RepositoryIndexResponse()
                for entry in self.index():
                    answer.models.add(**entry)
                return answer
            case OipMethod.REPOSITORY_MODEL_LOAD:
                self.control(request.model_name, load=True)
                return oip_pb2.RepositoryModelLoadResponse()
            case OipMethod.REPOSITORY_MODEL_UNLOAD:
                self.control(request.model_name, load=False)
                return oip_pb2.RepositoryModelUnloadResponse()
            case OipMethod.MODEL_STATISTICS:
                self.resolve(request.name, request.version)
                answer = oip_pb2.ModelStatisticsResponse()
                for v in sorted(self.versions):
                    one = answer.model_stats.add(name=self.model, version=str(v))
                    one.inference_count = 2**53 + 1
                    one.inference_stats.success.count = 7
                return answer
            case _:
                raise Refused(501, f"{method.path} is not offered")

    # ---- REST

    async def http(self, request: web.BaseRequest) -> web.StreamResponse:
        self.got.append(f"{request.method} {request.raw_path}")
        body = await request.read()
        parts = request.path.split("/")
        try:
            return web.Response(
                body=await self.rest(parts, body, request.headers), content_type="application/json"
            )
        except Refused as error:
            return web.json_response({"error": str(error)}, status=error.status)

    async def rest(self, parts: list[str], body: bytes, headers) -> bytes:
        match parts[1:]:
            case ["v2", "repository", "index"]:
                return json.dumps(self.index()).encode()
            case ["v2", "repository", "models", name, "load" | "unload" as done]:
                self.control(name, load=done == "load")
                return b""
            case ["v2", "models", name, *rest]:
                version = ""
                if rest[:1] == ["versions"]:
                    version, rest = rest[1], rest[2:]
                return await self.rest_model(name, version, rest, body, headers)
            case _:
                raise Refused(404, "Not Found")

    async def rest_model(self, name, version, rest, body, headers) -> bytes:
        if rest == ["ready"]:
            if not self.ready(name, version):
                raise Refused(400, "Model version not ready")
            return b""
        if not rest:
            told = self.metadata(name, version)
            return json.dumps(
                {
                    "name": told.name,
                    "versions": list(told.versions),
                    "platform": told.platform,
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
                }
            ).encode()
        if rest != ["infer"]:
            raise Refused(404, "Not Found")
        length = headers.get("Inference-Header-Content-Length")
        document = json.loads(body[: int(length)] if length else body)
        asked = oip_pb2.ModelInferRequest(model_name=name, model_version=version)
        asked.id = document.get("id", "")
        for one in document["inputs"]:
            asked.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
            if length:
                asked.raw_input_contents.append(body[int(length) :])
            else:
                asked.inputs[-1].contents.fp32_contents.extend(flat(one["data"]))
        told = await self.infer(asked)
        raw = told.raw_output_contents[0]
        values = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        y = {"name": "y", "datatype": "FP32", "shape": list(told.outputs[0].shape), "data": values}
        return json.dumps(
            {
                "model_name": name,
                "model_version": told.model_version,
                "id": told.id,
                "outputs": [y],
            }
        ).encode()


class Refused(Exception):
    """An error with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


def flat(values) -> list[float]:
    """Nested lists, row-major."""
    if not isinstance(values, list):
        return [values]
    return [v for part in values for v in flat(part)]


def folders(path: Path) -> set[int]:
    """The versions in a model's folder."""
    return {int(p.name) for p in path.iterdir() if p.name.isdigit()}


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, server: V2Only) -> None:
        self._server = server

    def service(self, details):
        method = next((m for m in OipMethod if m.path == details.method), None)
        if method is None or method.is_streaming:
            return None

        async def handle(body, context):
            return await self._server.grpc(method, body, context)

        return grpc.unary_unary_rpc_method_handler(handle)


@asynccontextmanager
async def v2_only_server(
    server: V2Only | None = None,
    *,
    speaks: tuple[str, ...] = ("v2-grpc",),
    ports: tuple[int, int] = (0, 0),
) -> AsyncIterator[V2Only]:
    """Running on the HTTP and gRPC ports; a transport that it does not speak has no port."""
    server = server or V2Only()
    http_at = grpc_at = ""
    rpc = listener = http = None
    if "v2-rest" in speaks:
        loop = asyncio.get_running_loop()
        http = web.Server(server.http, handler_cancellation=True, access_log=None)
        listener = await loop.create_server(http, "127.0.0.1", ports[0])
        http_at = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    if "v2-grpc" in speaks:
        # Never a port that another server has; gRPC would share it without a word.
        options = [("grpc.so_reuseport", 0)]
        rpc = grpc.aio.server(handlers=(_Handlers(server),), options=options)
        grpc_at = f"127.0.0.1:{rpc.add_insecure_port(f'127.0.0.1:{ports[1]}')}"
        await rpc.start()
    server.endpoint = Endpoint(http_at, grpc_at, grpc_at, speaks=speaks)
    try:
        yield server
    finally:
        if listener is not None and http is not None:
            listener.close()
            await http.shutdown(0.1)
        if rpc is not None:
            await rpc.stop(0)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--explicit", action="store_true")
    parser.add_argument("--unversioned", action="store_true")
    args = parser.parse_args()
    held = set() if args.explicit else folders(args.model_dir)
    server = V2Only(
        args.model, held, args.model_dir, explicit=args.explicit, unversioned=args.unversioned
    )
    ports = (args.http_port, args.grpc_port)
    async with v2_only_server(server, speaks=("v2-rest", "v2-grpc"), ports=ports):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
