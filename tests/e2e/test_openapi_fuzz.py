"""schemathesis against the published OpenAPI documents: nothing undocumented comes back.

The control API runs in this process over fakes, so that any deploy may be accepted: over real
parts it would start the replicas and run the commands that the generator thinks of. The document of
a model's routes is put to a real gateway and its server. `default` answers are taken out of the
documents first, because they would make every status a documented one. A 5xx must be documented
too, and 500 never is right.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.control import ControlApi, EventLog, EventSettings, LookSettings, ModelsService
from gateway.domain.errors import NotFound
from gateway.domain.models import VersionState
from gateway.domain.replicas import ReplicaState
from gateway.ports import Listing
from gateway.store import open_store
from tests.parts.fakes_control import (
    FakeObserved,
    FakeScheduler,
    FakeSource,
    published,
    replica,
    view,
)
from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.need import need

try:
    import schemathesis
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )
except ImportError:
    need(False, "pip install -e '.[dev]'")

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

_CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
_BEYOND_JSON = re.compile(rb"[\[,:]\s*(NaN|-?Infinity)")
_LIST = {"Accept": "application/json"}
_ORDINARY, _LONG = 25, 500
"""Requests of each operation."""


class Agreeable(FakeSource):
    """Every other source exists."""

    async def look(self, uri: str, previous: Listing | None) -> Listing:
        if sum(uri.encode()) % 2:
            raise NotFound(f"There is no folder {uri}.", reason="source_not_found")
        self.versions.setdefault(uri, [published(1, "model.onnx"), published(2, "model.onnx")])
        return await super().look(uri, previous)


@asynccontextmanager
async def _control(tmp_path: Path):
    store = await open_store(tmp_path)
    observed, scheduler = FakeObserved(), FakeScheduler()
    for name in ("resnet", "m"):
        ready = {f"{name}-a": ReplicaState.READY}
        observed.show(view(name, versions={2: VersionState.READY}, replicas=ready, live=2))
        scheduler.known.append(replica(f"{name}-a", name))
        scheduler.written[f"{name}-a"] = [b"a line\n"]
    service = ModelsService(
        store,
        Agreeable(),
        observed,
        scheduler,
        EventLog(store, EventSettings(recent=256)),
        looking=LookSettings(timeout_s=0.2),
    )
    api = ControlApi(service, addresses=lambda: {"http": "127.0.0.1:1", "grpc": "127.0.0.1:2"})
    async with api.listening("127.0.0.1", 0) as address:
        yield f"http://{address}"
    await store.aclose()


@pytest.fixture(scope="module")
def control_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The control API on a thread of its own: schemathesis's calls block."""
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()
    address: list[str] = []
    up = threading.Event()

    async def serve() -> None:
        async with _control(tmp_path_factory.mktemp("control")) as url:
            address.append(url)
            up.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert up.wait(30)
        body = json.dumps({"source": "s3://models/resnet"}).encode()
        for name in ("resnet", "m"):
            request = urllib.request.Request(
                f"{address[0]}/api/v1/models/{name}", body, method="PUT"
            )
            urllib.request.urlopen(request, timeout=10).close()
        yield address[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()


def _document(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        document = json.load(answer)
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                operation.get("responses", {}).pop("default", None)
    assert isinstance(document, dict)
    return document


def _shoot(document: dict[str, Any], base_url: str, examples: int) -> int:
    """Put every operation of the document to the server; the number of calls made."""
    calls, wrong = 0, []
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        strategy = st.one_of(
            operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
        )

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def ask(case: schemathesis.Case) -> None:
            nonlocal calls
            _tame(case)
            # Else events would be a stream, which does not end.
            response = case.call(base_url=base_url, headers=_LIST, timeout=20)
            calls += 1
            assert response.status_code != 500, response.content
            # TensorFlow Serving's JSON has bare NaN and Infinity, which schemathesis reads as null.
            is_json = not _BEYOND_JSON.search(response.content)
            case.validate_response(response, checks=_CHECKS if is_json else _CHECKS[:2])

        try:
            ask()
        except (AssertionError, schemathesis.errors.SchemathesisError, BaseExceptionGroup) as error:
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    return calls


def _tame(case: schemathesis.Case) -> None:
    """Take out what would make an answer endless; name a model that is there, mostly."""
    path = case.path_parameters
    if isinstance(path, dict) and "name" in path and len(str(path["name"])) % 4:
        path["name"] = "resnet" if len(str(path["name"])) % 2 else "m"
    if isinstance(case.query, dict):
        case.query.pop("watch", None)
        case.query.pop("follow", None)


def test_the_control_api_answers_as_its_document_says(control_url: str) -> None:
    document = _document(f"{control_url}/api/v1/openapi.json")
    assert _shoot(document, control_url, _ORDINARY) > 15 * len(document["paths"])


@pytest.mark.long
def test_the_control_api_at_length(control_url: str) -> None:
    _shoot(_document(f"{control_url}/api/v1/openapi.json"), control_url, _LONG)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    pytest.importorskip("onnx")
    from tests.parts import tiny_onnx

    root = tmp_path_factory.mktemp("openapi")
    tiny_onnx.affine(root / "affine" / "1", 1)
    tiny_onnx.two_in_two_out(root / "two" / "1")
    with gateway_process(root / "state", "--poll-s", "1", "--settle-s", "0") as running:
        for name in ("affine", "two"):
            running.cli("deploy", "model", name, "--source", str(root / name))
        yield running


@pytest.mark.parametrize("model", ["affine", "two"])
def test_a_models_routes_answer_as_its_document_says(served: GatewayProcess, model: str) -> None:
    document = _document(f"{served.url}/api/v1/models/{model}/openapi.json")
    assert {p.split("/")[1] for p in document["paths"]} >= {"v1", "v2"}
    assert _shoot(document, f"http://{served.http}", _ORDINARY) > 0


@pytest.mark.long
@pytest.mark.parametrize("model", ["affine", "two"])
def test_a_models_routes_at_length(served: GatewayProcess, model: str) -> None:
    document = _document(f"{served.url}/api/v1/models/{model}/openapi.json")
    _shoot(document, f"http://{served.http}", _LONG)
