"""ports.ReplicaControl over real gRPC, against a small ModelService."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from aiohttp import web

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_status import status_proto
from gateway.domain.errors import UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint, Told
from gateway.upstream.replica_control import (
    ControlSettings,
    ReplicaControlClient,
    merge,
    parse_progress,
)

TOLD = Told("m", "s3://models/m", (1, 2))


class ModelService:
    """Answers as told; loads only when `loaded` is set."""

    def __init__(self) -> None:
        self.statuses: list[VersionStatus] = []
        self.reloads: list[tfs_pb2.ReloadConfigRequest] = []
        self.loaded = asyncio.Event()
        self.refuse = False

    async def status(self, request, context):
        if not self.statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model m")
        return status_proto(self.statuses)

    async def reload(self, request, context):
        self.reloads.append(request)
        if self.refuse:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such platform")
        await self.loaded.wait()
        return tfs_pb2.ReloadConfigResponse()


@pytest.fixture
async def service():
    return ModelService()


@pytest.fixture
async def endpoint(service):
    server = grpc.aio.server()
    handlers = {
        "GetModelStatus": grpc.unary_unary_rpc_method_handler(
            service.status,
            tfs_pb2.GetModelStatusRequest.FromString,
            tfs_pb2.GetModelStatusResponse.SerializeToString,
        ),
        "HandleReloadConfigRequest": grpc.unary_unary_rpc_method_handler(
            service.reload,
            tfs_pb2.ReloadConfigRequest.FromString,
            tfs_pb2.ReloadConfigResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", handlers),)
    )
    at = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield Endpoint(http="", grpc=at, control=at)
    service.loaded.set()
    await server.stop(None)


@pytest.fixture
async def control():
    control = ReplicaControlClient(ControlSettings(connect_s=20.0, report_s=20.0, refusal_s=1.5))
    yield control
    await control.aclose()


async def test_telling_does_not_wait_for_loading(control, endpoint, service):
    async with asyncio.timeout(30):
        await control.tell(endpoint, TOLD)
    (request,) = service.reloads
    (config,) = request.config.model_config_list.config
    assert (config.name, config.base_path) == ("m", "s3://models/m")
    assert list(config.model_version_policy.specific.versions) == [1, 2]


async def test_a_refused_configuration_is_an_error(control, endpoint, service):
    service.refuse = True
    with pytest.raises(UpstreamFailed, match="INVALID_ARGUMENT no such platform"):
        await control.tell(endpoint, TOLD)


async def test_a_replica_that_is_not_there_is_an_error_to_tell_and_no_error_to_ask(control):
    nowhere = Endpoint("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1")
    with pytest.raises(UpstreamFailed) as caught:
        await control.tell(nowhere, TOLD)
    assert not caught.value.sent
    assert not (await control.report(nowhere, "m")).answered


async def test_a_replica_that_holds_nothing_answers_so(control, endpoint):
    report = await control.report(endpoint, "m")
    assert report.answered
    assert report.versions == {}


async def test_states_and_reasons_are_reported(control, endpoint, service):
    service.statuses = [
        VersionStatus(2, VersionState.FAILED, "no model.onnx", 3),
        VersionStatus(1, VersionState.READY),
    ]
    report = await control.report(endpoint, "m")
    assert report.versions == {s.version: s for s in service.statuses}


async def test_progress_is_added_where_the_replica_offers_it(control, endpoint, service):
    service.statuses = [VersionStatus(1, VersionState.NEW)]

    async def progress(_):
        entry = {"version": 1, "state": "fetching", "phase": "fetching"}
        more = {"fetched_bytes": 5, "total_bytes": 10, "reason": "", "error_code": 0}
        return web.json_response({"models": {"m": {"versions": [entry | more]}}})

    app = web.Application()
    app.router.add_get("/replica/status", progress)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    report = await control.report(replace(endpoint, status_http=f"{host}:{port}"), "m")
    await runner.cleanup()
    one = report.versions[1]
    assert (one.state, one.fetched_bytes, one.total_bytes) == (VersionState.FETCHING, 5, 10)


async def test_a_progress_that_does_not_answer_changes_nothing(control, endpoint, service):
    service.statuses = [VersionStatus(1, VersionState.READY)]
    report = await control.report(replace(endpoint, status_http="127.0.0.1:1"), "m")
    assert report.versions[1].state is VersionState.READY


def test_only_model_service_makes_a_version_ready():
    stated = {1: VersionStatus(1, VersionState.LOADING)}
    more = {v: VersionStatus(v, VersionState.READY) for v in (1, 2)}
    assert merge(stated, more) == stated


@pytest.mark.parametrize("raw", [[], {}, {"models": {"m": {"versions": [{"version": 1}]}}}, 3])
def test_a_progress_of_another_shape_is_refused(raw):
    with pytest.raises(ValueError, match="not a replica's status"):
        parse_progress(json.loads(json.dumps(raw)), "m")
