"""A control API that answers the documented shapes and does as the test says.

A real HTTP server on port 0, in a thread of its own, so that the command line can be run as people
run it. `state` is what it shows; `script` changes it as time goes on; `asked` is what it was sent.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

Object = dict[str, Any]


def model(name: str = "resnet", **more: Any) -> Object:
    return {
        "name": name, "backend": "onnx", "source": "file:///models/resnet", "tenant": "default",
        "state": "ready", "reason": None, "replicas": 2, "ready_replicas": 2,
        "min_replicas": None, "max_replicas": None, "in_flight": None, "scale_reason": None,
        "scaled_at": None, "policy": "latest:1",
        "live_version": 3, "versions": [3], "labels": {"stable": 3}, "generation": 1,
        "created_at": "2026-11-23T09:30:00.000Z", "updated_at": "2026-11-23T09:30:00.000Z",
        "managed_by": "control", "spec": {"source": "file:///models/resnet", "batch_size": 32},
        "source_reason": None, "source_failing_since": None, "template": None,
    } | more  # fmt: skip


def version(number: int = 3, **more: Any) -> Object:
    return {
        "model": "resnet", "version": number, "state": "ready", "live": True, "labels": ["stable"],
        "reason": None, "ready_replicas": 2, "total_replicas": 2, "fetched_bytes": None,
        "total_bytes": None, "phase": None, "has_manifest": True, "in_source": True,
    } | more  # fmt: skip


def replica(identity: str = "resnet-abcde", **more: Any) -> Object:
    return {
        "id": identity, "model": "resnet", "backend": "onnx", "state": "ready", "reason": None,
        "standing": "good", "standing_reason": None, "pid": 4711,
        "endpoint": "127.0.0.1:40001", "grpc_endpoint": "127.0.0.1:40002",
        "versions": [3], "group": "stable", "template": "a0f1", "restarts": 0, "gpus": [],
        "started_at": "2026-11-23T09:30:00.000Z",
    } | more  # fmt: skip


def rollout(**more: Any) -> Object:
    side = {"requests": 0, "failed": 0, "p50_s": None, "p99_s": None}
    return {
        "model": "resnet", "version": 4, "stable_version": 3, "template": None,
        "phase": "progressing",
        "reason": "it is loaded", "steps": [5.0, 25.0, 50.0], "step": 0, "weight": 0.05,
        "verdict": "inconclusive", "verdict_reason": "the canary has answered 212 of 500",
        "canary": side | {"requests": 212, "p50_s": 0.0021, "p99_s": 0.008},
        "stable": side | {"requests": 4032, "failed": 1, "p50_s": 0.002, "p99_s": 0.009},
        "error_evidence": 0.4, "latency_evidence": 0.7, "evidence_limit": 600.0,
        "agreement": None,
        "min_samples": 500, "step_s": 60.0, "canary_replicas": 0,
        "can": ["pause", "promote", "abort"], "rejected": [],
        "started_at": "2026-11-23T09:30:00.000Z", "phase_at": "2026-11-23T09:31:00.000Z",
    } | more  # fmt: skip


def agreement(**more: Any) -> Object:
    output = {
        "name": "scores", "compared": 200, "mismatched": 0, "mismatch": None, "differing": 0.05,
        "flips": 0.43, "max_abs_error": 0.8, "max_rel_error": 1.5, "mean_cosine": 0.93,
        "min_cosine": 0.2,
    }  # fmt: skip
    labels = output | {"name": "label", "flips": None, "mean_cosine": None, "mismatched": 2}
    return {
        "compared": 200, "failed": 1, "skipped": 0, "dropped": 7, "needed": 50, "differing": 0.05,
        "flips": 0.43, "evidence": 1e12, "reason": "output scores",
        "outputs": [output, labels | {"mismatch": "is int64[1] instead of int32[1]"}],
    } | more  # fmt: skip


def event(seq: int, **more: Any) -> Object:
    return {
        "seq": seq, "at": "2026-11-23T09:30:01.000Z", "type": "version.ready", "model": "resnet",
        "version": 3, "replica": None, "message": f"happening {seq}", "fields": {},
    } | more  # fmt: skip


class FakeControlApi:
    """Use as a context manager; `url` is where it listens."""

    def __init__(self) -> None:
        self.models: dict[str, Object] = {}
        self.versions: list[Object] = []
        self.replicas: list[Object] = []
        self.events: list[Object] = []
        self.rollouts: list[Object] = []
        self.traffic: Object = {"at_s": 1.0, "bounds_s": [], "items": []}
        self.logs = b""
        self.addresses: Object = {"http": None, "grpc": None, "control": None}
        self.metadata: Object | None = None
        self.refuse: tuple[int, Object | str, dict[str, str]] | None = None
        self.asked: list[tuple[str, str, Any]] = []
        self.on_look: Callable[[FakeControlApi, int], None] = lambda api, look: None
        """Called before each GET of one model, with how many there were."""
        self.cut_stream_after = 0
        """Close the event stream after this many events; 0 keeps it open."""
        self.resumed_from: list[str | None] = []
        self._looks = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = ""

    def __enter__(self) -> FakeControlApi:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application(middlewares=[self._middle])
        route = app.router.add_route
        route("GET", "/api/v1/health", self._health)
        route("GET", "/api/v1/models", self._list_models)
        route("PUT", "/api/v1/models/{name}", self._deploy)
        route("GET", "/api/v1/models/{name}", self._get_model)
        route("DELETE", "/api/v1/models/{name}", self._delete)
        route("POST", "/api/v1/models/{name}:{verb}", self._verb)
        route("POST", "/api/v1/models/{name}/rollout", self._order)
        route("GET", "/api/v1/models/{name}/logs", self._logs)
        route("GET", "/api/v1/models/{name}/{kind}", self._items)
        route("GET", "/api/v1/events", self._events)
        route("GET", "/api/v1/traffic", self._traffic)
        route("GET", "/api/v1/{kind}", self._items)
        route("GET", "/v1/models/{name}/metadata", self._metadata)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.addresses["http"] = f"127.0.0.1:{port}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _middle(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.path_qs, json.loads(body) if body else None))
        if self.refuse is not None:
            status, answer, headers = self.refuse
            text = answer if isinstance(answer, str) else json.dumps(answer)
            return web.Response(status=status, text=text, headers=headers)
        return await handler(request)

    def _missing(self, name: str) -> web.Response:
        message = f"There is no model {name}; see: gateway get models"
        return web.json_response(
            {"error": {"reason": "model_unknown", "message": message}}, status=404
        )

    async def _health(self, _: web.Request) -> web.Response:
        from gateway import __version__

        return web.json_response(
            {"status": "ok", "version": __version__, "pid": 1, "addresses": self.addresses}
        )

    async def _list_models(self, _: web.Request) -> web.Response:
        return web.json_response({"items": list(self.models.values())})

    async def _get_model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._looks += 1
        self.on_look(self, self._looks)
        if name not in self.models:
            return self._missing(name)
        return web.json_response(self.models[name])

    async def _deploy(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await request.json()
        old = self.models.get(name)
        generation = old["generation"] + 1 if old else 1
        waiting = {"state": "deploying", "ready_replicas": 0, "live_version": None, "versions": []}
        shown = {"spec": body, "generation": generation, "replicas": body.get("replicas", 1)}
        self.models[name] = model(name, **(waiting | shown))
        return web.json_response(self.models[name], status=200 if old else 201)

    async def _delete(self, request: web.Request) -> web.Response:
        found = self.models.pop(request.match_info["name"], None)
        if found is None:
            return self._missing(request.match_info["name"])
        return web.json_response(found | {"state": "deleting"}, status=202)

    async def _verb(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.models:
            return self._missing(name)
        if request.match_info["verb"] == "scale":
            self.models[name]["replicas"] = (await request.json())["replicas"]
        return web.json_response(self.models[name])

    async def _order(self, request: web.Request) -> web.Response:
        assert request.match_info["name"] in self.models
        assert self.asked[-1][2]["action"]
        return web.json_response(self.rollouts[-1])

    async def _items(self, request: web.Request) -> web.Response:
        kind, name = request.match_info["kind"], request.match_info.get("name")
        if name is not None and name not in self.models:
            return self._missing(name)
        return web.json_response({"items": getattr(self, kind, [])})

    async def _traffic(self, _: web.Request) -> web.Response:
        return web.json_response(self.traffic)

    async def _logs(self, request: web.Request) -> web.Response:
        if request.match_info["name"] not in self.models:
            return self._missing(request.match_info["name"])
        return web.Response(body=self.logs, content_type="text/plain")

    async def _metadata(self, _: web.Request) -> web.Response:
        if self.metadata is None:
            return web.json_response({"error": "none"}, status=404)
        return web.json_response(self.metadata)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = int(request.query.get("after", "0"))
        later = [e for e in self.events if e["seq"] > after]
        if "watch" not in request.query:
            return web.json_response({"items": later[-int(request.query.get("limit", "1000")) :]})
        self.resumed_from.append(request.headers.get("Last-Event-ID"))
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b": hello\n\n")
        sent = 0
        while not self._stop.is_set():
            for e in [e for e in self.events if e["seq"] > after]:
                after = e["seq"]
                line = f"id: {after}\nevent: {e['type']}\ndata: {json.dumps(e)}\n\n"
                await answer.write(line.encode())
                sent += 1
                if self.cut_stream_after and sent >= self.cut_stream_after:
                    return answer
            await asyncio.sleep(0.02)
        return answer
