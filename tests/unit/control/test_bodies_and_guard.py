"""Bodies, and pages of other people."""

from __future__ import annotations

import pytest

from gateway.control.bodies import parse
from gateway.control.guard import refusal
from gateway.control.logs import MAX_LINE, lines
from gateway.control.openapi import document
from gateway.control.operations import OPERATIONS
from gateway.control.schema import DeployRequest, ScaleRequest
from gateway.domain.errors import InvalidRequest


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"labels":' + b'{"a":' * 20 + b"1" + b"}" * 21, "nested"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"replicas":null}', "replicas (--replicas) must be an integer"),
    ],
)
def test_a_body_that_cannot_be_used_says_why(body, words):
    with pytest.raises(InvalidRequest) as caught:
        parse(body, ScaleRequest)
    assert words in caught.value.message


def test_a_missing_key_is_named():
    with pytest.raises(InvalidRequest, match="replicas"):
        parse(b"{}", ScaleRequest)


def test_an_empty_deploy_is_a_body():
    assert parse(b"{}", DeployRequest) == DeployRequest()


H = "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("method", "host", "origin", "site", "known", "refused"),
    [
        ("PUT", H, None, None, (), False),
        ("PUT", H, f"http://{H}", "same-origin", (), False),
        ("PUT", H, "http://evil.example", "cross-site", (), True),
        ("PUT", H, "http://evil.example", None, (), True),
        ("POST", H, None, "same-site", (), True),
        ("POST", H, "null", None, (), True),
        ("DELETE", "localhost:8080", "http://localhost:9999", None, (), True),
        ("DELETE", "localhost:8080", "http://localhost:8080", None, (), False),
        ("GET", H, "http://evil.example", "cross-site", (), False),
        ("GET", "evil.example:8080", None, None, (), True),
        ("PUT", "evil.example:8080", "http://evil.example:8080", "same-origin", (), True),
        ("PUT", "gateway.lan:8080", None, None, ("gateway.lan",), False),
        ("PUT", "gateway.svc:8080", None, None, None, False),
        ("PUT", "gateway.svc:8080", "http://evil.example", None, None, True),
        ("GET", "[::1]:8080", None, None, (), False),
        ("GET", "LOCALHOST", None, None, (), False),
        ("GET", "[::1", None, None, (), True),
        ("GET", "", None, None, (), True),
    ],
)
def test_pages_of_others_are_kept_out(method, host, origin, site, known, refused):
    assert (refusal(method, host, origin, site, known) is not None) is refused


async def test_lines_are_cut_where_they_end_or_grow_too_long():
    async def chunks():
        for chunk in (b"a\nb", b"c\n", b"", b"\n", b"x" * (MAX_LINE + 5), b"end"):
            yield chunk

    found = [line async for line in lines(chunks())]
    assert found[:3] == [b"a\n", b"bc\n", b"\n"]
    assert [len(line) for line in found[3:]] == [MAX_LINE + 1, 5 + 3 + 1]


def test_the_openapi_document_is_valid():
    from openapi_spec_validator import validate

    validate(document())


def test_every_operation_is_documented():
    made = document()
    for operation in OPERATIONS:
        described = made["paths"][operation.path][operation.method.lower()]
        assert described["operationId"] == operation.id
        assert described["summary"]
        assert "default" in described["responses"]


def test_every_key_of_a_request_is_described():
    keys = document()["components"]["schemas"]["DeployRequest"]["properties"]
    assert [k for k, v in keys.items() if "description" not in v] == []
