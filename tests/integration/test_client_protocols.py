"""The SDK, `gateway predict` and a model's OpenAPI document against a gateway with real models, in
all four protocols."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import jsonschema
import numpy as np
import onnx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.client import AsyncClient, Client
from gateway.domain import errors
from gateway.domain.tensors import DType
from tests.parts import tiny_onnx
from tests.parts.gateway_process import GatewayProcess, gateway_process

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
PROTOCOLS = ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc")
TYPES = {
    "half": onnx.TensorProto.FLOAT16,
    "string": onnx.TensorProto.STRING,
    "bool": onnx.TensorProto.BOOL,
    "int64": onnx.TensorProto.INT64,
}
X = np.array([[0.1, -0.0, 3e37], [1e-45, 2.5, -7.0]], dtype=np.float32)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    models = tmp_path_factory.mktemp("models")
    for version in (3, 4):
        tiny_onnx.affine(models / "affine" / str(version), version, width=3)
    tiny_onnx.two_in_two_out(models / "two" / "1")
    for name, dtype in TYPES.items():
        tiny_onnx.identity(models / name / "1", dtype)
    state = tmp_path_factory.mktemp("gateway") / "state"
    with gateway_process(state, "--poll-s", "0.5", "--settle-s", "0") as running:
        names = sorted(p.name for p in models.iterdir())
        for wait in ("--no-wait", "--timeout=100"):
            for name in names:
                source = str(models / name)
                running.cli("deploy", "model", name, "--source", source, "--versions=all", wait)
        yield running


def connect(gateway: GatewayProcess, protocol: str) -> Client:
    grpc = protocol.endswith("grpc")
    return Client(gateway.grpc if grpc else f"http://{gateway.http}", protocol=protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_are_equal_in_every_protocol(gateway: GatewayProcess, protocol: str) -> None:
    with connect(gateway, protocol) as client:
        np.testing.assert_array_equal(client.predict("affine", X)["y"], X * np.float32(2) + 4)
        y = client.predict("affine", {"x": X.tolist()}, version=3, timeout_s=5.0)["y"]
        np.testing.assert_array_equal(y, X * np.float32(2) + 3)
        two = {"a": X[:, :2], "b": X[:, 1:]}
        assert sorted(client.predict("two", two)) == ["difference", "sum"]
        assert list(client.predict("two", two, outputs=["sum"])) == ["sum"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_signatures_are_equal_in_every_protocol(gateway: GatewayProcess, protocol: str) -> None:
    with connect(gateway, protocol) as client:
        found = client.signature("affine")
        assert (found.inputs["x"].dtype, found.inputs["x"].shape) == (DType.FLOAT, (-1, 3))
        assert client.signature("half").inputs["x"].dtype is DType.HALF


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", TYPES)
def test_types_go_bit_by_bit(gateway: GatewayProcess, protocol: str, name: str) -> None:
    values = {
        "half": np.array([[0.1, -0.0], [np.nan, 6e-8]], np.float16),
        "string": np.array([[b"a\0b", "é".encode()], [b"", b"{}"]], object),
        "bool": np.array([[True, False]]),
        "int64": np.array([[-(2**63), 2**63 - 1]]),
    }[name]
    with connect(gateway, protocol) as client:
        if (protocol, name) == ("tfs-rest", "half"):
            with pytest.raises(errors.Unimplemented):
                client.predict(name, values)
            return
        y = client.predict(name, {"x": values})["y"]
    assert y.dtype == values.dtype
    if name == "string":
        assert y.tolist() == values.tolist()
    else:
        assert y.tobytes() == values.tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusals_have_a_type_in_every_protocol(gateway: GatewayProcess, protocol: str) -> None:
    with connect(gateway, protocol) as client:
        with pytest.raises(errors.NotFound):
            client.predict("nobody", {"x": X})
        with pytest.raises(errors.NotFound):
            client.predict("affine", {"x": X}, version=99)
        with pytest.raises(errors.InvalidRequest):
            client.predict("affine", {"z": X})
        with pytest.raises(errors.InvalidRequest):
            client.predict("affine", {"x": X[:, :2]})
        with pytest.raises(errors.NotFound):
            client.signature("nobody")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_awaiting_client_does_the_same(gateway: GatewayProcess, protocol: str) -> None:
    address = gateway.grpc if protocol.endswith("grpc") else gateway.http
    async with AsyncClient(address, protocol=protocol) as client, asyncio.TaskGroup() as tasks:
        rows = [np.full((1, 3), n, np.float32) for n in range(8)]
        asked = [tasks.create_task(client.predict("affine", x)) for x in rows]
    for x, one in zip(rows, asked, strict=True):
        np.testing.assert_array_equal(one.result()["y"], x * np.float32(2) + 4)


def test_the_command_prints_equal_numbers_in_every_protocol(gateway: GatewayProcess) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [0.1, 2, 3]}
    rows, columns, v2 = [[0.1, 2, 3]], {"inputs": [[0.1, 2, 3]]}, {"inputs": [tensor]}
    for protocol in PROTOCOLS:
        for data in (rows, columns, v2):
            ran = gateway.cli(
                "predict", "affine", f"--protocol={protocol}", "--data", json.dumps(data)
            )
            told = json.loads(ran.stdout)
            if data is v2:
                assert (told["model_name"], told["outputs"][0]["datatype"]) == ("affine", "FP32")
                assert told["outputs"][0]["data"] == [4.2, 8.0, 10.0]
            else:
                assert told == {"predictions" if data is rows else "outputs": [[4.2, 8.0, 10.0]]}


def test_a_models_document_describes_what_it_answers(gateway: GatewayProcess) -> None:
    def get(path: str) -> dict:
        with urllib.request.urlopen(f"{gateway.url}/api/v1/models/{path}", timeout=10) as answer:
            return json.load(answer)

    made = get("affine/openapi.json")
    OpenAPIV31SpecValidator(made).validate()
    assert made["info"]["version"] == "4"
    asked = 0
    for path, operations in made["paths"].items():
        if "{" in path:
            continue
        for method, operation in operations.items():
            examples = [None]
            if method == "post":
                content = operation["requestBody"]["content"]["application/json"]
                examples = [e["value"] for e in content["examples"].values()]
            for example in examples:
                body = None if example is None else json.dumps(example).encode()
                url = made["servers"][0]["url"] + path
                with urllib.request.urlopen(url, body, timeout=10) as answer:
                    text = answer.read()
                fine = operation["responses"]["200"]
                assert bool(text) is ("content" in fine)  # Triton's /ready has no body
                if text:
                    shape = fine["content"]["application/json"]["schema"]
                    jsonschema.validate(json.loads(text), shape)
                asked += 1
    assert asked >= 6
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get("nobody/openapi.json")
