"""Every answer says where its time went, also those that no replica gave; a no says why."""

from __future__ import annotations

import re

import aiohttp
import pytest

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.core.route import RoutingTable
from tests.parts.fake_replica import fake_replica, running_gateway, table

PARTS = re.compile(r"queue;dur=([0-9.]+), upstream;dur=([0-9.]+), gateway;dur=[0-9.]+")
SOON = {"x-request-timeout-ms": "50"}

OVER_HTTP = [
    ("POST", "/v1/models/none:predict", {}, 404),
    ("POST", "/v1/models/m/labels/none:predict", {}, 400),
    ("POST", "/v1/models/m:predict", {"x-request-timeout-ms": "x"}, 400),
    ("POST", "/v1/models/m:predict", {"x-request-timeout-ms": "0"}, 504),
    ("POST", "/v1/models/m:predict", SOON, 504),
    ("GET", "/v1/models/m", {}, 200),
    ("GET", "/v1/models/none", {}, 404),
    ("GET", "/nothing", {}, 404),
    ("POST", "/v2/models/none/infer", {}, 404),
    ("POST", "/v2/models/m/infer", SOON, 504),
    ("GET", "/v2/models/m/ready", {}, 200),
    ("GET", "/v2/models/m/infer", {}, 405),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), OVER_HTTP)
async def test_answers_over_http_that_no_replica_gave_are_timed(method, path, headers, status):
    async with fake_replica("a", delay_s=30) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, f"http://{gw.http}{path}", headers=headers) as answer,
        ):
            assert answer.status == status
            said = PARTS.fullmatch(answer.headers["server-timing"])
    assert said, answer.headers["server-timing"]
    # Only what was asked for spent its time upstream: its whole deadline.
    assert float(said[2]) >= 40 if headers is SOON else float(said[2]) == 0


SPEC = tfs_pb2.ModelSpec
OVER_GRPC = [
    (Method.PREDICT, tfs_pb2.PredictRequest(model_spec=SPEC(name="none")), "NOT_FOUND"),
    (Method.PREDICT, tfs_pb2.PredictRequest(), "INVALID_ARGUMENT"),
    (Method.GET_MODEL_STATUS, tfs_pb2.GetModelStatusRequest(model_spec=SPEC(name="m")), "OK"),
    (OipMethod.MODEL_INFER, oip_pb2.ModelInferRequest(model_name="none"), "NOT_FOUND"),
    (OipMethod.SERVER_READY, oip_pb2.ServerReadyRequest(), "OK"),
    (OipMethod.MODEL_STATISTICS, oip_pb2.ModelStatisticsRequest(name="none"), "NOT_FOUND"),
    (OipMethod.REPOSITORY_MODEL_UNLOAD, oip_pb2.RepositoryModelUnloadRequest(), "UNAVAILABLE"),
]


@pytest.mark.parametrize(("method", "message", "code"), OVER_GRPC)
async def test_answers_over_grpc_that_no_replica_gave_are_timed(method, message, code):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        call = gw.channel.unary_unary(method.path)(message.SerializeToString(), timeout=20)
        assert (await call.code()).name == code
        trailers = dict(await call.trailing_metadata())
    said = PARTS.fullmatch(trailers["server-timing"])
    assert said, trailers
    assert float(said[2]) == 0


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v2/models/none/ready", "model_unknown"),
        ("/v2/models/m/versions/9/ready", "version_unknown"),
        ("/v2/health/ready", "starting"),
        ("/v2/models/m/ready", None),
        ("/v2/health/live", None),
    ],
)
async def test_what_is_not_ready_says_why_in_the_header(path, reason):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(RoutingTable() if reason == "starting" else table(a))
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://{gw.http}{path}") as answer,
        ):
            assert answer.status == (400 if reason else 200)
            assert answer.headers.get("x-gateway-reason") == reason
