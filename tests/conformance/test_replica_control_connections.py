"""ReplicaControlClient's connections: replicas that die, say nothing or are too many."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc
import grpc.aio
import psutil
import pytest

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint, Told
from gateway.upstream import replica_calls
from gateway.upstream.replica_control import ControlSettings, ReplicaControlClient
from servers.kit.settings import ServerSettings
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import kit
from tests.parts.server_process import process
from tests.parts.v2_only_server import V2Only, v2_only_server
from tests.parts.waiting import until

PATIENT = ControlSettings(connect_s=20.0, report_s=20.0)
"""For who answers: a machine that stands still for a second is no silent replica."""

FIRM = replace(PATIENT, refusal_s=20.0)
"""For who refuses what he is told."""

BRISK = ControlSettings(connect_s=1.5, report_s=1.5)
"""For who answers some questions and not others."""

QUICK = ControlSettings(connect_s=0.3, report_s=0.3)
"""For who says nothing."""


@asynccontextmanager
async def controlled(settings: ControlSettings = PATIENT):
    control = ReplicaControlClient(settings)
    try:
        yield control
    finally:
        await control.aclose()


def endpoint_of(running, host: str = "127.0.0.1") -> Endpoint:
    http, at = (f"{host}:{a.rpartition(':')[2]}" for a in (running.http, running.grpc))
    return Endpoint(http, at, at, status_http=http)


def connections_to(*addresses: str) -> int:
    """Connections of this process to any of these ports."""
    ports = {int(a.rpartition(":")[2]) for a in addresses}
    found = psutil.Process().net_connections("tcp")
    return sum(c.status == "ESTABLISHED" and c.raddr.port in ports for c in found)


def own_port(address: str) -> int:
    """Where this process's one connection to an address comes from."""
    host, _, port = address.rpartition(":")
    found = psutil.Process().net_connections("tcp")
    (one,) = [c for c in found if c.status == "ESTABLISHED" and c.raddr == (host, int(port))]
    return one.laddr.port


@asynccontextmanager
async def silent():
    """A server that accepts and never says a word; yields its address and its open connections."""
    inside: set[asyncio.StreamWriter] = set()

    async def accept(reader, writer):
        inside.add(writer)
        try:
            while await reader.read(65536):
                pass
        finally:
            inside.discard(writer)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", inside
        for writer in inside:
            writer.close()
    await until(lambda: not inside)


# ---- a replica that dies and comes back --------------------


@pytest.mark.slow
@pytest.mark.parametrize("is_noticed", [True, False])
async def test_a_replica_that_was_killed_is_found_again_at_its_port_at_once(tmp_path, is_noticed):
    write(tmp_path / "m", 1)
    flags = ["--model", f"m={tmp_path / 'm'}", "--cache-dir", tmp_path / "cache"]
    ready = tmp_path / "ready"
    async with controlled() as control:
        with process("tests.parts.fake_server", *flags, ready=ready) as (first, said):
            endpoint = Endpoint(
                said["http"], said["grpc"], said["grpc"], status_http=said["status_http"]
            )
            await until_ready(control, endpoint)
            first.kill()
            first.wait()
            if is_noticed:
                assert not (await control.report(endpoint, "m")).answered
        flags += ["--http", said["http"], "--grpc", said["grpc"]]
        with process("tests.parts.fake_server", *flags, ready=ready):
            # Nothing of the loop has run since it was killed, where that was not noticed: what is
            # asked goes into a connection that is dead.
            assert (await control.report(endpoint, "m")).answered
            await until_ready(control, endpoint)


async def until_ready(control, endpoint) -> None:
    async with asyncio.timeout(20):
        while True:
            report = await control.report(endpoint, "m")
            assert report.answered
            if report.versions == {1: VersionStatus(1, VersionState.READY)}:
                return
            await asyncio.sleep(0.01)


async def test_a_server_that_drops_every_request_is_asked_twice_and_has_not_answered():
    asked = []

    async def drop(reader, writer):
        asked.append(await reader.read(1024))
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    async with server, controlled() as control:
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert not (await control.report(Endpoint(at, at, at), "m")).answered
        assert len(asked) == 2
        rest = Endpoint(at, "", "", speaks=("v2-rest",))
        assert not (await control.report(rest, "m")).answered
        assert len(asked) == 4


# ---- a replica that says nothing --------------------


async def test_a_replica_that_never_answers_costs_the_time_of_a_report_and_nothing_stays():
    before = asyncio.all_tasks()
    async with silent() as (at, inside):
        async with controlled(QUICK) as control:
            listening = asyncio.all_tasks() - before
            loop = asyncio.get_running_loop()
            took_s = []
            # The quickest: a machine that is busy makes some of them late.
            while len(took_s) < 3 or (min(took_s) >= 0.6 and len(took_s) < 30):
                began = loop.time()
                assert not (await control.report(Endpoint(at, at, at), "m")).answered
                took_s.append(loop.time() - began)
            assert 0.3 <= min(took_s) < 0.6
            # Its accepting tasks aside, nothing runs; and one connection serves every question.
            await until(lambda: len(inside) == 1)
            assert len(asyncio.all_tasks() - before - listening) == 1
        await until(lambda: not inside)
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("speaks", [(), ("v2-grpc",), ("v2-rest",)])
async def test_a_replica_that_never_answers_is_an_error_to_tell(speaks):
    async with silent() as (at, inside), controlled(QUICK) as control:
        with pytest.raises(UpstreamFailed, match="does not answer") as caught:
            await control.tell(Endpoint(at, at, at, speaks=speaks), Told("m", "/m", (1,)))
        assert not caught.value.sent
        assert len(inside) <= 1


async def test_a_silent_progress_costs_the_time_of_a_report_and_no_connection(tmp_path):
    write(tmp_path / "m", 1)
    settings = ServerSettings(cache_dir=tmp_path / "cache")
    async with (
        kit(FakeRuntime(), settings, m=str(tmp_path / "m")) as server,
        silent() as (at, inside),
        controlled(BRISK) as control,
    ):
        endpoint = replace(endpoint_of(server.running), status_http=at)
        for _ in range(2):
            report = await control.report(endpoint, "m")
            assert report.versions == {1: VersionStatus(1, VersionState.READY)}
            await until(lambda: not inside)


@pytest.mark.parametrize("speaks", [("v2-grpc",), ("v2-rest",)])
async def test_a_load_that_takes_longer_than_we_wait_goes_on_without_us(speaks):
    class Slow(V2Only):
        async def answer(self, method, request):
            if method is OipMethod.REPOSITORY_MODEL_LOAD:
                await asyncio.Event().wait()
            return await super().answer(method, request)

        async def rest(self, parts, body, headers):
            if parts[-1] == "load":
                await asyncio.Event().wait()
            return await super().rest(parts, body, headers)

    server = Slow(versions=set(), explicit=True)
    async with v2_only_server(server, speaks=speaks), controlled(BRISK) as control:
        await control.tell(server.endpoint, Told("m", "/m", (1,)))
    assert any("load" in asked.lower() for asked in server.got)


# ---- answers that are none --------------------


@asynccontextmanager
async def model_service(**handlers):
    """Some methods of ModelService, each from bytes to bytes; yields their address."""
    server = grpc.aio.server()
    named = {n: grpc.unary_unary_rpc_method_handler(h) for n, h in handlers.items()}
    service = Method.GET_MODEL_STATUS.path.split("/")[1]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, named),))
    at = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield at
    await server.stop(None)


@pytest.mark.parametrize("message", [b"\xff\xff\xff", None])
async def test_what_is_no_status_is_no_answer(message):
    async def answer(request, context):
        if message is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        return message

    async with model_service(GetModelStatus=answer) as at, controlled(FIRM) as control:
        assert not (await control.report(Endpoint("", at, at), "m")).answered
        # Somebody is there all the same: what is told reaches him, and is refused by him.
        with pytest.raises(UpstreamFailed, match="UNIMPLEMENTED") as caught:
            await control.tell(Endpoint("", at, at), Told("m", "/m", (1,)))
        assert (caught.value.reason, caught.value.sent) == ("reload_refused", True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200 OK", b"{"),
        ("200 OK", b'{"models": 3}'),
        ("200 OK", json.dumps({"models": {}, "more": "x" * 300}).encode()),
        ("503 Service Unavailable", b'{"models": {}}'),
    ],
)
async def test_a_progress_that_cannot_be_read_changes_nothing(tmp_path, status, body):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    write(tmp_path / "m", 1)
    settings = ServerSettings(cache_dir=tmp_path / "cache")
    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with (
        other,
        kit(FakeRuntime(), settings, m=str(tmp_path / "m")) as server,
        controlled(replace(PATIENT, status_bytes=200)) as control,
    ):
        at = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        report = await control.report(replace(endpoint_of(server.running), status_http=at), "m")
        assert report.versions == {1: VersionStatus(1, VersionState.READY)}


@pytest.mark.parametrize("address", ["127.0.0.1:70000", "127.0.0.1:x", "127.0.0.1", ""])
@pytest.mark.parametrize("speaks", [(), ("v2-rest",)])
async def test_an_address_that_is_none_is_no_answer(address, speaks):
    settings = replace(QUICK, report_s=60.0)
    async with asyncio.timeout(30), controlled(settings) as control:
        nowhere = Endpoint(address, address, address, speaks=speaks)
        assert not (await control.report(nowhere, "m")).answered


# ---- configurations under way --------------------


@asynccontextmanager
async def loading(tmp_path, *models: str):
    """A server of the kit that loads only when its runtime's gate is set."""
    runtime = FakeRuntime()
    runtime.gate.clear()
    for model in models:
        write(tmp_path / model, 1)
    try:
        async with kit(runtime, ServerSettings(cache_dir=tmp_path / "cache")) as server:
            try:
                yield server, runtime
            finally:
                runtime.gate.set()
    finally:
        runtime.gate.set()


def told(tmp_path, model: str) -> Told:
    return Told(model, str(tmp_path / model), (1,))


async def test_a_real_server_refuses_what_it_cannot_hold(tmp_path):
    async with loading(tmp_path) as (server, _), controlled(FIRM) as control:
        with pytest.raises(UpstreamFailed, match="INVALID_ARGUMENT") as caught:
            await control.tell(endpoint_of(server.running), Told("", "/m", (1,)))
        assert (caught.value.reason, caught.value.sent) == ("reload_refused", True)


async def test_leaving_with_a_configuration_under_way_leaves_no_task_and_no_connection(tmp_path):
    async with loading(tmp_path, "m") as (server, runtime):
        endpoint = endpoint_of(server.running)
        before = asyncio.all_tasks()
        async with controlled() as control:
            await control.tell(endpoint, told(tmp_path, "m"))
            assert (await control.report(endpoint, "m")).answered
            assert "pending=1" in repr(control)
            assert asyncio.all_tasks() > before
            assert connections_to(endpoint.http, endpoint.grpc) == 2
        assert "pending=0" in repr(control)
        assert connections_to(endpoint.http, endpoint.grpc) == 0
        left = {str(task.get_coro()) for task in asyncio.all_tasks() - before}
        assert not [name for name in left if "Control" in name or "Client" in name]
        # What it was told stays: the caller of that configuration has left, and no more.
        runtime.gate.set()
        await server.until("m", 1, VersionState.READY)
        await until(lambda: asyncio.all_tasks() <= before)  # the server's own, of its load


async def test_the_oldest_configuration_under_way_is_given_up_beyond_the_bound():
    under_way: list[str] = []

    async def load(request, context):
        (config,) = tfs_pb2.ReloadConfigRequest.FromString(request).config.model_config_list.config
        under_way.append(config.name)
        try:
            await asyncio.Event().wait()
        finally:
            under_way.remove(config.name)

    settings = replace(PATIENT, pending_tells=2, refusal_s=0.01)
    async with model_service(HandleReloadConfigRequest=load) as at, controlled(settings) as control:
        for model in "abcd":
            await control.tell(Endpoint("", at, at), Told(model, "/m", (1,)))
        assert "pending=2" in repr(control)
        await until(lambda: sorted(under_way) == ["c", "d"])
        await control.aclose()
        await until(lambda: not under_way)


async def test_who_stops_waiting_for_a_refusal_does_not_stop_the_configuration(tmp_path):
    async with loading(tmp_path, "m") as (server, runtime):
        endpoint = endpoint_of(server.running)
        async with controlled(replace(PATIENT, refusal_s=60.0)) as control:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(control.tell(endpoint, told(tmp_path, "m")))
                await until(lambda: "pending=1" in repr(control))
                telling.cancel()
            assert "pending=1" in repr(control)
            runtime.gate.set()
            await server.until("m", 1, VersionState.READY)
            await until(lambda: "pending=0" in repr(control))


# ---- how many connections stay --------------------


async def test_connections_are_bounded_by_letting_go_of_who_was_asked_longest_ago(tmp_path):
    settings = ServerSettings("0.0.0.0:0", "0.0.0.0:0", cache_dir=tmp_path / "cache")
    async with kit(FakeRuntime(), settings) as server:
        replicas = [endpoint_of(server.running, f"127.0.0.{i}") for i in range(1, 25)]
        first = replicas[0]
        async with controlled(replace(PATIENT, addresses=16)) as control:
            assert (await control.report(first, "m")).answered
            its_own = own_port(first.grpc)
            for endpoint in replicas:
                for one in (endpoint, first):
                    assert (await control.report(one, "m")).answered
            await until(lambda: connections_to(first.http, first.grpc) <= 16)
            # It was always among those that were asked last.
            assert own_port(first.grpc) == its_own
            # So were these, whose connections are used again.
            kept = connections_to(first.http, first.grpc)
            assert kept >= 14
            for endpoint in (*replicas[-6:], first):
                assert (await control.report(endpoint, "m")).answered
            assert connections_to(first.http, first.grpc) == kept


async def test_an_address_that_is_not_asked_any_more_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(replica_calls, "_GONE_AFTER_S", 0.1)
    async with loading(tmp_path, "m") as (server, runtime), controlled() as control:
        endpoint = endpoint_of(server.running)
        at = (endpoint.http, endpoint.grpc)
        await control.tell(endpoint, told(tmp_path, "m"))
        assert (await control.report(endpoint, "m")).answered
        # That of the configuration under way stays until it has its answer.
        await until(lambda: connections_to(*at) == 1)
        assert "pending=1" in repr(control)
        runtime.gate.set()
        await until(lambda: connections_to(*at) == 0)
        assert "pending=0" in repr(control)
        await until(lambda: "Http2Client(0 addresses" in repr(control))
        assert (await control.report(endpoint, "m")).versions[1].state is VersionState.READY


async def test_many_replicas_at_once_are_all_found(tmp_path):
    settings = ServerSettings("0.0.0.0:0", "0.0.0.0:0", cache_dir=tmp_path / "cache")
    async with kit(FakeRuntime(), settings) as server, AsyncExitStack() as stack:
        control = await stack.enter_async_context(controlled())
        replicas = [endpoint_of(server.running, f"127.0.1.{i}") for i in range(1, 101)]
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(control.report(r, "m")) for r in replicas]
        assert all(task.result().answered for task in asked)
