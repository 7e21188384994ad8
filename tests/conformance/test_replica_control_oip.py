"""ports.ReplicaControl for replicas without ModelService, over both transports of V2."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiohttp import web

from gateway.domain.errors import UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint, Told
from gateway.upstream.oip_control import IndexEntry, statuses_from_index
from gateway.upstream.replica_control import ControlSettings, ReplicaControlClient
from tests.parts.v2_only_server import V2Only, v2_only_server

BOTH = pytest.mark.parametrize("speaks", [("v2-grpc",), ("v2-rest",)])
READY = VersionState.READY


@pytest.fixture
async def control():
    control = ReplicaControlClient(ControlSettings(connect_s=20.0, report_s=20.0))
    yield control
    await control.aclose()


@BOTH
async def test_its_versions_are_what_its_index_says(control, speaks):
    async with v2_only_server(V2Only(versions={1, 3}), speaks=speaks) as server:
        report = await control.report(server.endpoint, "m")
        assert report.answered
        assert report.versions == {v: VersionStatus(v, READY) for v in (1, 3)}
        assert (await control.report(server.endpoint, "other")).versions == {}


@BOTH
async def test_without_an_index_its_metadata_and_readiness_say_it(control, speaks):
    async with v2_only_server(V2Only(versions={2}, has_index=False), speaks=speaks) as server:
        report = await control.report(server.endpoint, "m")
        assert report.versions == {2: VersionStatus(2, READY)}
        server.versions = set()
        report = await control.report(server.endpoint, "m")
        assert report.answered
        assert report.versions == {}


@BOTH
async def test_a_server_without_explicit_control_is_left_alone(control, speaks):
    async with v2_only_server(V2Only(), speaks=speaks) as server:
        await control.tell(server.endpoint, Told("m", "/models/m", (1,)))
        assert server.loads == []


@BOTH
async def test_a_server_with_explicit_control_is_asked_to_load_and_unload(control, speaks):
    server = V2Only(versions=set(), explicit=True)
    async with v2_only_server(server, speaks=speaks):
        await control.tell(server.endpoint, Told("m", "/models/m", (1,)))
        assert (await control.report(server.endpoint, "m")).versions[1].state is READY
        await control.tell(server.endpoint, Told("m", "/models/m", ()))
        assert (await control.report(server.endpoint, "m")).versions == {}
        assert server.loads == ["load m", "unload m"]


@BOTH
async def test_a_server_that_knows_no_versions_has_the_newest_it_was_told(control, speaks):
    async with v2_only_server(V2Only(unversioned=True), speaks=speaks) as server:
        assert (await control.report(server.endpoint, "m")).versions == {}
        await control.tell(server.endpoint, Told("m", "/models/m", (4, 5)))
        report = await control.report(server.endpoint, "m")
        assert report.versions == {5: VersionStatus(5, READY)}
        assert report.unversioned


@pytest.mark.parametrize("speaks", [("v2-grpc",), ("v2-rest",), ("tfs-rest",)])
async def test_a_server_that_is_not_there_is_no_error_to_ask(control, speaks):
    nowhere = Endpoint("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", speaks=speaks)
    assert not (await control.report(nowhere, "m")).answered
    if speaks != ("tfs-rest",):
        with pytest.raises(UpstreamFailed):
            await control.tell(nowhere, Told("m", "/models/m", (1,)))


async def test_rest_alone_of_tensorflow_serving_is_enough(control):
    async def status(_):
        entry = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK"}}
        return web.json_response({"model_version_status": [entry]})

    app = web.Application()
    app.router.add_get("/v1/models/m", status)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    endpoint = Endpoint(f"{host}:{port}", "", "", speaks=("tfs-rest",))
    report = await control.report(endpoint, "m")
    missing = await control.report(endpoint, "other")
    await runner.cleanup()
    assert report.versions == {7: VersionStatus(7, READY)}
    assert missing.answered
    assert missing.versions == {}


async def test_what_an_endpoint_did_not_say_means_model_service(control):
    async with v2_only_server(V2Only()) as server:
        silent = replace(server.endpoint, speaks=())
        assert not (await control.report(silent, "m")).answered


def test_an_index_line_is_a_status():
    entries = [
        IndexEntry("m", "1", "UNAVAILABLE", "unloaded"),
        IndexEntry("m", "2", "UNAVAILABLE", "no such file"),
        IndexEntry("m", "3", "LOADING", ""),
        IndexEntry("m", "4", "UNLOADING", ""),
        IndexEntry("m", "5", "READY", ""),
        IndexEntry("m", "", "READY", ""),
        IndexEntry("m", "six", "READY", ""),
        IndexEntry("n", "7", "READY", ""),
    ]
    found = {s.version: (s.state, s.reason) for s in statuses_from_index(entries, "m")}
    assert found == {
        1: (VersionState.GONE, ""),
        2: (VersionState.FAILED, "no such file"),
        3: (VersionState.LOADING, ""),
        4: (VersionState.DRAINING, ""),
        5: (READY, ""),
    }
