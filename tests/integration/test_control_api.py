"""The control API over real HTTP: every route and every refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway import __version__
from gateway.control.operations import OPERATIONS
from gateway.domain.errors import Forbidden, Unavailable
from gateway.domain.models import VersionState
from gateway.domain.replicas import ReplicaState
from tests.parts.fakes_control import published, view
from tests.parts.running_control import Api, S, a_request, running


@pytest.fixture
async def api(tmp_path) -> AsyncIterator[Api]:
    async with running(tmp_path) as made:
        yield made


async def test_a_models_own_document_comes_from_its_live_version(api):
    path = "/api/v1/models/m/openapi.json"
    status, told, _ = await api.call("GET", path)
    assert (status, told["error"]["reason"]) == (404, "model_unknown")
    await api.call("PUT", "/api/v1/models/m", {"source": S})
    status, told, headers = await api.call("GET", path)
    assert (status, told["error"]["reason"]) == (503, "version_loading")
    assert headers["Retry-After"] == "1"
    api.observed.show(view(versions={1: VersionState.READY, 2: VersionState.READY}, live=2))
    status, told, _ = await api.call("GET", path)
    assert (status, told["info"]["title"], told["info"]["version"]) == (200, "Model m", "2")
    # It listens on every address, so it is reached where we reached the control API.
    assert told["servers"] == [{"url": "http://127.0.0.1:1"}]
    assert "/v2/models/m/infer" in told["paths"]
    api.observed.show(view(versions={1: VersionState.READY}, live=1))
    status, told, _ = await api.call("GET", path)
    assert (status, told["error"]["reason"]) == (503, "no_selectable_replica")


async def test_the_life_of_a_model_over_the_api(api):
    path = "/api/v1/models/m"
    status, model, _ = await api.call("PUT", path, {"source": S, "replicas": 2})
    assert (status, model["state"], model["replicas"]) == (201, "pending", 2)
    assert (model["reason"], model["source_reason"]) == (
        "its source has not been looked at yet",
        None,
    )
    api.observed.show(
        view(
            versions={2: VersionState.READY},
            replicas={"m-a": ReplicaState.READY, "m-b": ReplicaState.READY},
            live=2,
            converged=True,
        )
    )
    status, model, _ = await api.call("GET", path)
    assert (status, model["state"], model["live_version"]) == (200, "ready", 2)
    assert (await api.call("PUT", path, model["spec"]))[0] == 200
    status, model, _ = await api.call("POST", path + ":scale", {"replicas": 3})
    assert (status, model["replicas"], model["generation"]) == (200, 3, 2)
    status, _, _ = await api.call("POST", path + ":refresh")
    assert status == 202
    for kind in ("versions", "replicas", "rollouts"):
        one, every, filtered = [
            (await api.call("GET", p))[1]["items"]
            for p in (f"{path}/{kind}", f"/api/v1/{kind}", f"/api/v1/{kind}?model=m")
        ]
        assert one == every == filtered
        assert len(one) == {"versions": 1, "replicas": 2, "rollouts": 0}[kind]
    assert [m["name"] for m in (await api.call("GET", "/api/v1/models"))[1]["items"]] == ["m"]
    status, model, _ = await api.call("DELETE", path)
    assert (status, model["state"]) == (202, "deleting")
    api.observed.show(None, "m")
    assert (await api.call("GET", path))[0] == 404
    status, events, _ = await api.call("GET", "/api/v1/events?limit=9")
    types = [e["type"] for e in events["items"]]
    assert types == ["model.deployed", "model.scaled", "model.deleting"]
    keys = {"seq", "at", "type", "model", "version", "replica", "message", "fields"}
    assert set(events["items"][0]) == keys


P = "/api/v1/models/m"
LONG = b'{"source":"' + b"x" * 20_000 + b'"}'
ERRORS = [
    ("PUT", P, {"source": "s3://b/none"}, 404, "source_not_found"),
    ("PUT", P, {"source": "s3://b/denied"}, 403, "source_denied"),
    ("PUT", P, {"source": "s3://b/down"}, 503, "source_unreachable"),
    ("PUT", P, {"source": "s3://b/empty"}, 400, "source_empty"),
    ("PUT", P, {"source": "s3://b/odd"}, 400, "backend_unknown"),
    ("PUT", P, {"source": S, "versions": "7"}, 400, "version_not_in_source"),
    ("PUT", P, {"source": S, "require_manifest": True}, 400, "manifest_missing"),
    ("PUT", P, {"source": S, "replicas": -1}, 400, "bad_replicas"),
    ("PUT", P, {"source": S, "canary": "5", "shadow": "0%"}, 400, "bad_shadow"),
    ("PUT", P, {"source": S, "canary": "50,5"}, 400, "bad_canary"),
    ("POST", f"{P}/rollout", {"action": "explode"}, 400, "bad_action"),
    ("POST", f"{P}/rollout", {"action": "pause", "version": 3}, 400, "bad_version"),
    ("POST", f"{P}/rollout", {"action": "pause"}, 404, "model_unknown"),
    ("POST", f"{P}/rollout", {"act": "pause"}, 400, "unknown_key"),
    ("PUT", P, {"source": S, "nope": 1}, 400, "unknown_key"),
    ("PUT", P, {"source": 1}, 400, "bad_body"),
    ("PUT", P, b"{", 400, "bad_json"),
    ("PUT", P, b"", 400, "bad_json"),
    ("PUT", P, LONG, 413, "too_large"),
    ("PUT", "/api/v1/models/a%20b", {"source": S}, 400, "bad_model_name"),
    ("PUT", "/api/v1/models/old", {"source": "s3://b/tf"}, 409, "backend_conflict"),
    ("PUT", "/api/v1/models/old", {"replicas": 2, "generation": 7}, 409, "stale_generation"),
    ("GET", P, None, 404, "model_unknown"),
    ("DELETE", P, None, 404, "model_unknown"),
    ("POST", P + ":scale", {"replicas": 1}, 404, "model_unknown"),
    ("POST", P + ":scale", {}, 400, "bad_body"),
    ("POST", P + ":scale", {"replicas": 0}, 400, "bad_replicas"),
    ("POST", P + ":refresh", None, 404, "model_unknown"),
    ("GET", P + "/versions", None, 404, "model_unknown"),
    ("GET", P + "/logs", None, 404, "model_unknown"),
    ("GET", "/api/v1/models/old/logs?replica=old-zzzzz", None, 404, "replica_unknown"),
    ("GET", "/api/v1/models/old/logs?replica=else-zzzzz", None, 404, "replica_unknown"),
    ("GET", "/api/v1/models/old/logs?follow=maybe", None, 400, "bad_query"),
    ("GET", "/api/v1/replicas?model=m", None, 404, "model_unknown"),
    ("GET", "/api/v1/events?after=x", None, 400, "bad_query"),
    ("GET", "/api/v1/events?limit=0", None, 400, "bad_query"),
    ("GET", "/api/v1/nothing", None, 404, "path_unknown"),
    ("GET", "/", None, 404, "path_unknown"),
    ("PATCH", P, None, 405, "method_not_allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    ERRORS,
    ids=[f"{e[0]} {e[1]} {e[4]}" for e in ERRORS],
)
async def test_every_refusal_has_its_status_its_reason_and_words(
    api, method, path, body, status, reason
):
    await api.service.deploy("old", a_request())
    api.source.versions |= {
        "s3://b/denied": Forbidden("The key is wrong.", reason="source_denied"),
        "s3://b/down": Unavailable("No answer.", reason="source_unreachable", retry_after_s=2.5),
        "s3://b/empty": [],
        "s3://b/odd": [published(1, "x")],
        "s3://b/tf": [published(1, "saved_model.pb")],
    }
    got, value, headers = await api.call(method, path, body)
    assert (got, value["error"]["reason"]) == (status, reason)
    assert set(value) == {"error"}
    assert len(value["error"]["message"]) > 8
    assert headers["x-gateway-reason"] == reason
    if status == 503:
        assert headers["Retry-After"] == "3"
    if status == 405:
        assert headers["Allow"] == "DELETE, GET, PUT"
    assert [m.name for m in await api.service.models()] == ["old"]


async def test_if_match_names_the_generation(api):
    await api.service.deploy("m", a_request())
    for text, status in (('"1"', 200), ("1", 409), ("*", 200), ("abc", 400)):
        got, _, _ = await api.call("POST", P + ":scale", {"replicas": 2}, **{"If-Match": text})
        assert got == status


async def test_about_itself(api):
    status, health, _ = await api.call("GET", "/api/v1/health")
    assert (status, health["status"], health["version"]) == (200, "ok", __version__)
    assert health["addresses"] == {"http": "0.0.0.0:1", "grpc": "127.0.0.1:2", "control": None}
    assert (await api.call("GET", "/healthz"))[1] == b"ok"
    status, metrics, headers = await api.call("GET", "/metrics")
    assert metrics == b"gateway_up 1\n"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    _, document, _ = await api.call("GET", "/api/v1/openapi.json")
    assert document["openapi"] == "3.1.0"


async def test_every_route_is_in_the_document_and_the_other_way_round(api):
    routed = {(r.method, r.resource.canonical) for r in api.control.application().router.routes()}
    assert routed == {(o.method, o.path) for o in OPERATIONS}


async def test_a_bug_is_answered_and_not_told(api, monkeypatch, caplog):
    async def broken():
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(api.service, "models", broken)
    status, value, _ = await api.call("GET", "/api/v1/models")
    assert (status, value["error"]["reason"]) == (500, "bug")
    assert "secret" not in str(value)
    assert "ZeroDivisionError" in caplog.text


async def test_pages_of_others_can_neither_change_nor_rebind(api):
    evil = {"Origin": "http://evil.example"}
    status, value, headers = await api.call("PUT", P, {"source": S}, **evil)
    assert (status, value["error"]["reason"]) == (403, "cross_origin")
    assert not [h for h in headers if h.lower().startswith("access-control")]
    assert (await api.call("GET", "/api/v1/models", Host="evil.example"))[0] == 403
    assert (await api.call("GET", "/api/v1/models", Host="gateway.lan"))[0] == 200
    assert (await api.call("OPTIONS", P, **evil))[0] == 405
    assert list(await api.service.models()) == []


async def test_an_address_in_use_says_so(api):
    port = int(api.url.rsplit(":", 1)[1])
    with pytest.raises(Unavailable, match=r"cannot listen on 127\.0\.0\.1:") as caught:
        async with api.control.listening("127.0.0.1", port):
            pass
    assert caught.value.reason == "address_in_use"
