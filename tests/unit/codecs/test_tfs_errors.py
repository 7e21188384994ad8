from __future__ import annotations

import json

import pytest

from gateway.codecs.tfs_errors import (
    GRPC_CODE_NAMES,
    HTTP_OF_GRPC,
    error_body,
    grpc_code,
    http_status,
    truncate_message,
)
from gateway.codecs.tfs_routes import NotFoundPath
from gateway.domain import errors

TABLE = [
    (errors.InvalidRequest, 400, "INVALID_ARGUMENT"),
    (errors.TooLarge, 413, "RESOURCE_EXHAUSTED"),
    (errors.Unauthorized, 401, "UNAUTHENTICATED"),
    (errors.Forbidden, 403, "PERMISSION_DENIED"),
    (errors.NotFound, 404, "NOT_FOUND"),
    (NotFoundPath, 404, "NOT_FOUND"),
    (errors.Conflict, 409, "ABORTED"),
    (errors.Overloaded, 429, "RESOURCE_EXHAUSTED"),
    (errors.Unavailable, 503, "UNAVAILABLE"),
    (errors.DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
    (errors.Unimplemented, 501, "UNIMPLEMENTED"),
    (errors.Internal, 500, "INTERNAL"),
]


@pytest.mark.parametrize(("kind", "http", "code"), TABLE)
def test_each_class_has_its_status_and_code(kind, http, code):
    error = kind("x", reason="y")
    assert (http_status(error), GRPC_CODE_NAMES[grpc_code(error)]) == (http, code)


def test_a_failed_upstream_is_502_and_unavailable():
    error = errors.UpstreamFailed("x", reason="reset", sent=True)
    assert (http_status(error), GRPC_CODE_NAMES[grpc_code(error)]) == (502, "UNAVAILABLE")


def test_every_class_of_the_tree_is_in_the_table():
    known = {kind for kind, _, _ in TABLE} | {errors.UpstreamFailed}
    tree = {k for k in errors.GatewayError.__subclasses__() if k.__module__ == errors.__name__}
    assert tree <= known


def test_the_http_map_is_the_original_one():
    by_name = {name: HTTP_OF_GRPC[code] for code, name in enumerate(GRPC_CODE_NAMES)}
    assert by_name == {
        "OK": 200, "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400,
        "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404, "ALREADY_EXISTS": 409,
        "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
        "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500,
        "UNAVAILABLE": 503, "DATA_LOSS": 500, "UNAUTHENTICATED": 401,
    }  # fmt: skip


def test_the_error_body_has_one_key_and_its_exact_spacing():
    assert error_body("no such model") == b'{ "error": "no such model" }'


@pytest.mark.parametrize("message", ['say "x"\n', "\x00\x1f", "größe", "back\\slash"])
def test_any_message_is_valid_json(message):
    assert json.loads(error_body(message)) == {"error": message}


def test_a_lone_surrogate_does_not_break_the_error():
    assert json.loads(error_body("a\udcffb")) == {"error": "a?b"}


def test_a_grpc_message_is_cut_at_1024_characters():
    assert truncate_message("a" * 1024) == "a" * 1024
    assert truncate_message("a" * 1025) == "a" * 1024 + "...TRUNCATED"
