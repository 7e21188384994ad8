"""The client of the control API against a server that answers the documented shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from gateway.client.control import ControlClient, ControlSettings, check_url
from gateway.domain import errors
from tests.parts.fake_control_api import FakeControlApi, event, model, replica, version


@pytest.fixture
def api() -> Iterator[FakeControlApi]:
    with FakeControlApi() as fake:
        yield fake


async def test_every_list_and_object_arrives_as_documented(api: FakeControlApi) -> None:
    api.models = {"resnet": model()}
    api.versions, api.replicas, api.events = [version()], [replica()], [event(1), event(2)]
    async with ControlClient(api.url) as control:
        assert (await control.health())["addresses"]["http"]
        assert await control.models() == [model()]
        assert await control.model("resnet") == model()
        assert await control.versions() == await control.versions("resnet") == [version()]
        assert await control.replicas("resnet") == [replica()]
        assert await control.rollouts() == []
        assert await control.events(limit=1) == [event(2)]
        assert b"".join([c async for c in control.logs("resnet")]) == b""


async def test_changes_are_sent_as_documented(api: FakeControlApi) -> None:
    async with ControlClient(api.url) as control:
        await control.deploy("resnet", {"source": "file:///m"})
        await control.scale("resnet", 4)
        await control.refresh("resnet")
        await control.delete("resnet")
    assert api.asked == [
        ("PUT", "/api/v1/models/resnet", {"source": "file:///m"}),
        ("POST", "/api/v1/models/resnet:scale", {"replicas": 4}),
        ("POST", "/api/v1/models/resnet:refresh", None),
        ("DELETE", "/api/v1/models/resnet", None),
    ]


async def test_a_name_cannot_leave_its_place_in_the_path(api: FakeControlApi) -> None:
    async with ControlClient(api.url) as control:
        with pytest.raises(errors.NotFound):
            await control.model("a/../b?c")
    assert "?" not in api.asked[0][1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest), (401, errors.Unauthorized), (403, errors.Forbidden),
        (404, errors.NotFound), (409, errors.Conflict), (413, errors.TooLarge),
        (422, errors.InvalidRequest), (429, errors.Overloaded), (500, errors.Internal),
        (501, errors.Unimplemented), (502, errors.UpstreamFailed), (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
    ],
)  # fmt: skip
async def test_a_refusal_is_the_error_that_it_was(
    api: FakeControlApi, status: int, kind: type[errors.GatewayError]
) -> None:
    told = {"error": {"reason": "some_reason", "message": "do this next"}}
    api.refuse = (status, told, {"Retry-After": "7"})
    async with ControlClient(api.url) as control:
        with pytest.raises(errors.GatewayError) as caught:
            await control.models()
    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.message) == ("some_reason", "do this next")
    if status != 502:
        assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    "answer", [(404, "<html>", {}), (200, "[]", {}), (200, "no json", {}), (302, "", {})]
)
async def test_something_that_is_no_gateway_is_named_so(api: FakeControlApi, answer: tuple) -> None:
    api.refuse = answer
    async with ControlClient(api.url) as control:
        with pytest.raises(errors.UpstreamFailed, match="not the control API of a gateway"):
            await control.models()


async def test_no_answer_names_gateway_serve() -> None:
    async with ControlClient("http://127.0.0.1:1") as control:
        with pytest.raises(
            errors.Unavailable, match=r"No answer at http://127\.0\.0\.1:1: start it"
        ):
            await control.health()


async def test_a_watch_goes_on_where_the_connection_was_cut(api: FakeControlApi) -> None:
    api.events = [event(n) for n in range(1, 6)]
    api.cut_stream_after = 2
    seen = []
    async with ControlClient(api.url) as control, aclosing(control.watch()) as events:
        async for one in events:
            seen.append(one["seq"])
            if len(seen) == 5:
                break
    assert seen == [1, 2, 3, 4, 5]
    assert api.resumed_from == [None, "2", "4"]


async def test_a_watch_gives_up_when_the_gateway_stays_away() -> None:
    settings = ControlSettings(patience_s=0.05)
    async with ControlClient("http://127.0.0.1:1", settings) as control:
        with pytest.raises(errors.Unavailable, match="has been away"):
            async for _ in control.watch():
                pass


async def test_an_answer_over_the_bound_is_refused(api: FakeControlApi) -> None:
    api.logs = b""
    api.models = {f"m{n}": model(f"m{n}") for n in range(100)}
    async with ControlClient(api.url, ControlSettings(max_answer_bytes=1000)) as control:
        with pytest.raises(errors.UpstreamFailed, match="more than 1000 bytes"):
            await control.models()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://a:1", "http://a:1"),
        ("http://a:1/", "http://a:1"),
        ("localhost:8080", "http://localhost:8080"),
        ("https://[::1]:9", "https://[::1]:9"),
    ],
)
def test_an_address_may_be_short(given: str, url: str) -> None:
    assert check_url(given) == url


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:99999", ""])
def test_no_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="no address"):
        check_url(url)


def test_importing_the_control_client_costs_neither_numpy_nor_grpc() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from gateway.client import ControlClient;"
        "print(sorted({'numpy', 'grpc', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
