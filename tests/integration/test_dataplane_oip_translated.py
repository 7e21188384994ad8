"""Callers of one protocol, replicas of another: every pair of dialects, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.core.route import RoutingTable, Target
from gateway.dataplane import DataplaneSettings
from gateway.domain.replicas import Endpoint
from tests.parts.fake_replica import fake_replica, running_gateway, table, until
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import kit
from tests.parts.v2_only_server import V2Only, v2_only_server

DIALECTS = ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc")


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


class Failed(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code} {message}")
        self.code, self.message = code, message


async def rpc(gw, path: str, message) -> bytes:
    try:
        return await gw.channel.unary_unary(path)(message.SerializeToString())
    except grpc.aio.AioRpcError as error:
        raise Failed(error.code().name, error.details()) from error


async def post(client, url: str, body) -> dict:
    async with client.post(url, json=body) as answer:
        said = json.loads(await answer.read())
        if answer.status != 200:
            assert list(said) == ["error"]
            raise Failed(answer.status, said["error"])
        return said


async def predict(
    gw, client, dialect: str, values: list[float], model="m", version=None, name="x"
) -> tuple[list[float], int | None]:
    """Doubled rows of two, and the version that the answer itself names."""
    pinned = "" if version is None else f"/versions/{version}"
    rows = len(values) // 2
    raw = struct.pack(f"<{len(values)}f", *values)
    match dialect:
        case "tfs-rest":
            pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
            url = f"http://{gw.http}/v1/models/{model}{pinned}:predict"
            said = await post(client, url, {"instances": [{name: pair} for pair in pairs]})
            return [v for row in said["predictions"] for v in row], None
        case "tfs-grpc":
            request = tfs_pb2.PredictRequest()
            request.model_spec.name = model
            if version is not None:
                request.model_spec.version.value = version
            x = request.inputs[name]
            x.dtype, x.tensor_content = 1, raw
            for size in (rows, 2):
                x.tensor_shape.dim.add(size=size)
            answer = tfs_pb2.PredictResponse.FromString(await rpc(gw, Method.PREDICT.path, request))
            y = answer.outputs["y"]
            return (
                list(struct.unpack(f"<{rows * 2}f", y.tensor_content)),
                answer.model_spec.version.value,
            )
        case "v2-rest":
            x = {"name": name, "datatype": "FP32", "shape": [rows, 2], "data": values}
            url = f"http://{gw.http}/v2/models/{model}{pinned}/infer"
            said = await post(client, url, {"id": "7", "inputs": [x]})
            assert said["id"] == "7"
            return said["outputs"][0]["data"], int(said["model_version"] or 0) or None
        case _:
            asked = oip_pb2.ModelInferRequest(model_name=model, id="7")
            asked.model_version = "" if version is None else str(version)
            asked.inputs.add(name=name, datatype="FP32", shape=[rows, 2])
            asked.raw_input_contents.append(raw)
            told = oip_pb2.ModelInferResponse.FromString(
                await rpc(gw, OipMethod.MODEL_INFER.path, asked)
            )
            assert told.id == "7"
            return (
                list(struct.unpack(f"<{rows * 2}f", told.raw_output_contents[0])),
                int(told.model_version or 0) or None,
            )


def kit_table(server, speaks: tuple[str, ...], version=1, **fields) -> RoutingTable:
    at = server.running
    endpoint = Endpoint(at.http, at.grpc, at.grpc, speaks=speaks)
    return table(Target("a", endpoint), versions=(version,), **fields)


def versioned(path: Path, *versions: int) -> str:
    for version in versions:
        write(path, version)
    return str(path)


@pytest.mark.parametrize("replica", DIALECTS)
async def test_every_caller_is_answered_by_a_replica_of_one_dialect(tmp_path, client, replica):
    async with (
        kit(FakeRuntime(), m=versioned(tmp_path, 3)) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(kit_table(server, (replica,), version=3))
        for caller in DIALECTS:
            for size in (2, 40_000):  # on the event loop, and on a thread
                values = [float(i % 1000) for i in range(size)]
                doubled, version = await predict(gw, client, caller, values)
                assert doubled == [2 * v + 3 for v in values], caller
                assert version in (3, None)
        assert len(gw.plane.translation.signatures) == 1


@pytest.mark.parametrize("replica", DIALECTS)
async def test_a_replicas_refusal_comes_in_the_callers_form(tmp_path, client, replica):
    async with (
        kit(FakeRuntime(), m=versioned(tmp_path, 3)) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(kit_table(server, (replica,), version=3))
        for caller in DIALECTS:
            with pytest.raises(Failed) as caught:
                await predict(gw, client, caller, [1.0, 2.0], name="wrong")
            assert caught.value.code in (400, "INVALID_ARGUMENT"), (caller, caught.value)
            assert "wrong" in caught.value.message or " x " in caught.value.message


@pytest.mark.parametrize("speaks", [("v2-grpc",), ("v2-rest",), ("v2-rest", "v2-grpc")])
async def test_tensorflow_servings_callers_reach_a_server_that_speaks_only_v2(client, speaks):
    async with (
        v2_only_server(V2Only(versions={4}), speaks=speaks) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(Target("a", server.endpoint), versions=(4,)))
        for caller in DIALECTS:
            doubled, version = await predict(gw, client, caller, [1.5, -2.0])
            assert doubled == [3.0, -4.0]
            assert version in (4, None)
        metadata = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        metadata.model_spec.name = "m"
        told = await rpc(gw, Method.GET_MODEL_METADATA.path, metadata)
        assert tfs_pb2.GetModelMetadataResponse.FromString(told).model_spec.version.value == 4
        async with client.get(f"http://{gw.http}/v1/models/m/metadata") as answer:
            said = await answer.json()
            signature = said["metadata"]["signature_def"]["signature_def"]["serving_default"]
            assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
        async with client.get(f"http://{gw.http}/v1/models/m") as answer:
            assert (await answer.json())["model_version_status"][0]["state"] == "AVAILABLE"
        classify = tfs_pb2.ClassificationRequest()
        classify.model_spec.name = "m"
        with pytest.raises(Failed) as caught:
            await rpc(gw, Method.CLASSIFY.path, classify)
        assert caught.value.code == "UNIMPLEMENTED"
        async with client.post(f"http://{gw.http}/v1/models/m:classify", data=b"{}") as answer:
            assert answer.status == 501
            assert answer.headers["x-gateway-reason"] == "not_in_dialect"


@pytest.mark.parametrize("speaks", [("tfs-grpc",), ("tfs-rest",)])
async def test_v2_questions_about_a_server_that_speaks_only_tensorflow_serving(
    tmp_path, client, speaks
):
    async with (
        kit(FakeRuntime(), m=versioned(tmp_path, 3)) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(kit_table(server, speaks, version=3))
        async with client.get(f"http://{gw.http}/v2/models/m") as answer:
            said = await answer.json()
            assert said["versions"] == ["3"]
            assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        told = oip_pb2.ModelMetadataResponse.FromString(
            await rpc(gw, OipMethod.MODEL_METADATA.path, oip_pb2.ModelMetadataRequest(name="m"))
        )
        assert told.outputs[0].datatype == "FP32"
        async with client.get(f"http://{gw.http}/v2/models/m/config") as answer:
            assert (await answer.json())["input"][0]["data_type"] == "TYPE_FP32"
        config = oip_pb2.ModelConfigResponse.FromString(
            await rpc(gw, OipMethod.MODEL_CONFIG.path, oip_pb2.ModelConfigRequest(name="m"))
        )
        assert config.config.name == "m"
        async with client.get(f"http://{gw.http}/v2/models/m/stats") as answer:
            assert answer.status == 501
        async with client.get(f"http://{gw.http}/v2/models/stats") as answer:
            assert await answer.json() == {"model_stats": []}


async def test_v2s_own_answers_keep_their_numbers_between_its_transports(client):
    async with v2_only_server(V2Only(versions={4})) as server, running_gateway() as gw:
        gw.plane.publish(table(Target("a", server.endpoint), versions=(4,)))
        async with client.get(f"http://{gw.http}/v2/models/m") as answer:
            said = await answer.json()
            assert said["platform"] == "doubling"
            assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        async with client.get(f"http://{gw.http}/v2/models/m/stats") as answer:
            (one,) = (await answer.json())["model_stats"]
            assert one["inference_count"] == 2**53 + 1
            assert one["inference_stats"]["success"] == {"count": 7, "ns": 0}
        async with client.get(f"http://{gw.http}/v2/models/m/config") as answer:
            assert answer.status == 501


async def test_binary_tensors_are_translated_both_ways(tmp_path, client):
    async with (
        kit(FakeRuntime(), m=versioned(tmp_path, 3)) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(kit_table(server, ("tfs-grpc",), version=3))
        raw = struct.pack("<4f", 1, 2, 3, 4)
        x = {
            "name": "x",
            "datatype": "FP32",
            "shape": [2, 2],
            "parameters": {"binary_data_size": 16},
        }
        head = json.dumps({"inputs": [x], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        url = f"http://{gw.http}/v2/models/m/infer"
        for encoding, body in [
            (None, head + raw),
            ("gzip", gzip.compress(head + raw)),
            ("deflate", zlib.compress(head + raw)),
        ]:
            more = {} if encoding is None else {"Content-Encoding": encoding}
            async with client.post(url, data=body, headers=headers | more) as answer:
                assert answer.status == 200, await answer.text()
                length = int(answer.headers["Inference-Header-Content-Length"])
                said = await answer.read()
                assert struct.unpack("<4f", said[length:]) == (5, 7, 9, 11)
                assert answer.headers["x-gateway-version"] == "3"
        async with client.post(
            url, data=head + raw, headers={"Inference-Header-Content-Length": "9999"}
        ) as answer:
            assert answer.status == 400
            assert "inference header size should be in range" in (await answer.json())["error"]


async def test_a_compressed_body_is_bounded_after_decompression(tmp_path, client):
    settings = DataplaneSettings(max_body_bytes=64 * 1024, drain_s=0.2)
    async with (
        kit(FakeRuntime(), m=versioned(tmp_path, 3)) as server,
        running_gateway(settings) as gw,
    ):
        gw.plane.publish(kit_table(server, ("tfs-grpc",), version=3))
        url = f"http://{gw.http}/v2/models/m/infer"
        for body, status, reason in [
            (gzip.compress(b" " * 10_000_000), 413, "too_large"),
            (gzip.compress(b"{}" * 100)[:-9], 400, "bad_encoding"),
            (b"not gzip", 400, "bad_encoding"),
        ]:
            headers = {"Content-Encoding": "gzip"}
            async with client.post(url, data=body, headers=headers) as answer:
                assert answer.status == status
                assert answer.headers["x-gateway-reason"] == reason


async def test_callers_metadata_goes_along(client):
    async with fake_replica("a") as a, running_gateway() as gw:
        endpoint = replace(a.endpoint, speaks=("tfs-grpc",))
        gw.plane.publish(table(Target("a", endpoint)))
        url = f"http://{gw.http}/v2/models/m"
        headers = {"traceparent": "00-1", "accept": "x/y", "x-mine": "1"}
        async with client.get(url, headers=headers) as answer:
            # Not the metadata that it should be: the replica's fault, said as such.
            assert answer.status == 502
            assert answer.headers["x-gateway-reason"] == "bad_answer"


async def test_unavailable_replicas_and_dead_ones_are_asked_elsewhere(client):
    script = {"grpc_status": grpc.StatusCode.UNAVAILABLE, "grpc_message": "not now"}
    async with (
        v2_only_server(V2Only()) as good,
        fake_replica("bad", **script) as bad,
        running_gateway() as gw,
    ):
        refusing = Target("bad", replace(bad.endpoint, speaks=("tfs-grpc",)))
        dead = Target("dead", Endpoint("127.0.0.1:1", "127.0.0.1:1", "", speaks=("v2-rest",)))
        gw.plane.publish(table(Target("a", good.endpoint), refusing, dead))
        for caller in DIALECTS:
            for _ in range(5):
                assert (await predict(gw, client, caller, [1.0, 2.0]))[0] == [2.0, 4.0]


async def test_deadlines_and_leaving_callers_reach_the_replica(client):
    async with v2_only_server(V2Only(delay_s=30)) as server, running_gateway() as gw:
        gw.plane.publish(table(Target("a", server.endpoint)))
        url = f"http://{gw.http}/v1/models/m:predict"
        body = {"instances": [[1.0, 2.0]]}
        async with client.post(url, json=body, headers={"x-request-timeout-ms": "200"}) as answer:
            assert answer.status == 504
        await until(lambda: server.cancelled == 1)
        with pytest.raises(asyncio.TimeoutError):
            await client.post(url, json=body, timeout=aiohttp.ClientTimeout(total=0.3))
        await until(lambda: server.cancelled == 2 and not gw.plane.in_flight.by_model)


async def test_signatures_are_forgotten_with_their_version(client):
    async with v2_only_server(V2Only(versions={1, 2})) as server, running_gateway() as gw:
        one = Target("a", server.endpoint)
        gw.plane.publish(table(one, versions=(1, 2)))
        for version in (1, 2):
            await predict(gw, client, "tfs-grpc", [1.0, 2.0], version=version)
        assert len(gw.plane.translation.signatures) == 2
        asked = [g for g in server.got if g.endswith("ModelMetadata")]
        assert len(asked) == 2
        gw.plane.publish(table(one, versions=(2,), generation=2))
        assert len(gw.plane.translation.signatures) == 1


async def test_the_spec_says_what_a_silent_replica_speaks(client):
    async with v2_only_server(V2Only()) as server, running_gateway() as gw:
        silent = Target("a", replace(server.endpoint, speaks=()))
        gw.plane.publish(table(silent, speaks=("v2-grpc",)))
        assert (await predict(gw, client, "tfs-rest", [1.0, 2.0]))[0] == [2.0, 4.0]
        gw.plane.publish(table(silent, speaks=(), generation=2))
        async with client.post(f"http://{gw.http}/v2/models/m/infer", json={}) as answer:
            assert answer.status == 501
            assert answer.headers["x-gateway-reason"] == "no_dialect"


@pytest.mark.parametrize("speaks", [("v2-grpc",), ("v2-rest",)])
async def test_a_server_that_knows_no_versions_is_asked_without_one(client, speaks):
    async with v2_only_server(V2Only(unversioned=True), speaks=speaks) as server:
        plain = Target("a", server.endpoint)
        flagged = Target("a", replace(server.endpoint, unversioned=True))
        async with running_gateway() as gw:
            for caller in DIALECTS:
                if caller not in speaks:
                    gw.plane.publish(table(plain, versions=(4,)))
                    with pytest.raises(Failed):
                        await predict(gw, client, caller, [1.0, 2.0])
                gw.plane.publish(table(flagged, versions=(4,)))
                doubled, version = await predict(gw, client, caller, [1.0, 2.0])
                assert doubled == [2.0, 4.0]
                # V2's own answer passes through and names none; elsewhere it is what was routed to.
                assert version in ((None,) if caller in speaks else (None, 4))


async def test_a_translated_stream(tmp_path):
    async with (
        kit(FakeRuntime(), m=versioned(tmp_path, 3)) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(kit_table(server, ("tfs-rest",), version=3))

        async def send():
            for i in range(10):
                request = oip_pb2.ModelInferRequest(model_name="m", id=str(i))
                request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
                request.raw_input_contents.append(struct.pack("<2f", i, i))
                yield request.SerializeToString()

        call = gw.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)(send())
        answers = [oip_pb2.ModelStreamInferResponse.FromString(body) async for body in call]
        assert [a.infer_response.id for a in answers] == [str(i) for i in range(10)]
        last = answers[-1].infer_response
        assert struct.unpack("<2f", last.raw_output_contents[0]) == (21.0, 21.0)


def test_numpy_is_not_imported_before_the_first_translation():
    code = (
        "import sys, gateway.app, gateway.dataplane.worker, gateway.dataplane.translating;"
        "print(sorted({'numpy', 'gateway.codecs.translate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
