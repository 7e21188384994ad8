"""V2 paths, row by row of Triton's expressions, and the words of errors."""

from __future__ import annotations

import pytest

from gateway.codecs.oip_errors import (
    Flavour,
    MethodNotAllowed,
    error_body,
    grpc_code,
    http_of_grpc,
    http_status,
    reworded,
)
from gateway.codecs.oip_headers import body_headers, header_length
from gateway.codecs.oip_routes import OipCall, OipKind, infer_path, is_v2, parse
from gateway.domain import errors as e

G, P, K = "GET", "POST", OipKind

CALLS = [
    (G, "/v2", OipCall(K.SERVER_METADATA)),
    (G, "/v2/", OipCall(K.SERVER_METADATA)),
    (G, "/v2?x=1", OipCall(K.SERVER_METADATA)),
    (G, "/v2/health/live", OipCall(K.LIVE)),
    (G, "/v2/health/ready", OipCall(K.READY)),
    (G, "/v2/models", OipCall(K.MODELS)),
    (G, "/v2/models/stats", OipCall(K.STATS)),
    (G, "/v2/models/m", OipCall(K.MODEL_METADATA, "m")),
    (G, "/v2/models/m/versions/007", OipCall(K.MODEL_METADATA, "m", 7)),
    (G, "/v2/models/a%2Fb/ready", OipCall(K.MODEL_READY, "a/b")),
    (G, "/v2/models/m/versions/3/ready", OipCall(K.MODEL_READY, "m", 3)),
    (P, "/v2/models/m/infer", OipCall(K.INFER, "m", None, P)),
    (P, "/v2/models/m/versions/3/infer", OipCall(K.INFER, "m", 3, P)),
    (P, "/v2/models/m/generate", OipCall(K.GENERATE, "m", None, P)),
    (P, "/v2/models/m/generate_stream", OipCall(K.GENERATE_STREAM, "m", None, P)),
    (G, "/v2/models/m/config", OipCall(K.CONFIG, "m")),
    (G, "/v2/models/m/stats", OipCall(K.STATS, "m")),
    (G, "/v2/models/m/trace/setting", OipCall(K.TRACE_SETTING, "m")),
    (P, "/v2/trace/setting", OipCall(K.TRACE_SETTING, method=P)),
    (P, "/v2/logging", OipCall(K.LOGGING, method=P)),
    (P, "/v2/repository/index", OipCall(K.REPOSITORY_INDEX, method=P)),
    (P, "/v2/repository/r/index", OipCall(K.REPOSITORY_INDEX, method=P, repository="r")),
    (P, "/v2/repository/models/m/load", OipCall(K.REPOSITORY_LOAD, "m", method=P)),
    (P, "/v2/repository/r/models/m/unload",
     OipCall(K.REPOSITORY_UNLOAD, "m", method=P, repository="r")),
    (G, "/v2/systemsharedmemory/status", OipCall(K.SYSTEM_SHARED_MEMORY, action="status")),
    (P, "/v2/cudasharedmemory/region/a/register",
     OipCall(K.CUDA_SHARED_MEMORY, method=P, region="a", action="register")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "call"), CALLS)
def test_a_path_of_the_protocol(method, path, call):
    assert parse(method, path) == call


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/models/m", "/V2", "/v2x", "/v2/Models/m", "/v2/models/", "/v2/models/m/",
        "/v2/models/m/versions/x", "/v2/models/m/versions/3/trace/setting", "/v2/models/m/explain",
        "/v2/health", "/v2/health/", "/v2/repository/models/m/restart", "//v2",
    ],
)  # fmt: skip
def test_everything_else_is_404(path):
    with pytest.raises(e.NotFound, match=r"^Not Found$") as caught:
        parse("GET", path)
    assert (caught.value.reason, http_status(caught.value)) == ("path_unknown", 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/m/infer", ("POST",)),
        ("POST", "/v2/health/live", ("GET",)),
        ("GET", "/v2/repository/index", ("POST",)),
        ("DELETE", "/v2/logging", ("GET", "POST")),
        ("GET", "/v2/systemsharedmemory/register", ("POST",)),
    ],
)
def test_another_verb_is_405(method, path, allowed):
    with pytest.raises(MethodNotAllowed, match=r"^Method Not Allowed$") as caught:
        parse(method, path)
    assert (caught.value.allowed, http_status(caught.value)) == (allowed, 405)


def test_a_version_beyond_int64_is_refused():
    with pytest.raises(e.InvalidRequest, match="specified version string '9223372036854775808'"):
        parse("GET", f"/v2/models/m/versions/{2**63}")
    assert parse("GET", f"/v2/models/m/versions/{2**63 - 1}").version == 2**63 - 1


def test_the_upstream_path_pins_the_version():
    assert infer_path(parse("POST", "/v2/models/a%2Fb/infer"), 3) == (
        "/v2/models/a%2Fb/versions/3/infer"
    )
    assert infer_path(parse("GET", "/v2/models/m"), 3) == "/v2/models/m/versions/3"
    with pytest.raises(ValueError, match="not about one version"):
        infer_path(parse("GET", "/v2"), 3)


@pytest.mark.parametrize(("path", "ours"), [("/v2", True), ("/v2/x", True), ("/v2?", True),
                                           ("/v20", False), ("/v1", False)])  # fmt: skip
def test_whose_path_it_is(path, ours):
    assert is_v2(path) == ours


# ---- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "http", "grpc"),
    [
        (e.InvalidRequest("x", reason="r"), 400, 3),
        (e.FailedPrecondition("x", reason="r"), 400, 3),
        (e.NotFound("x", reason="r"), 404, 5),
        (e.Overloaded("x", reason="r"), 503, 14),
        (e.Unavailable("x", reason="r"), 503, 14),
        (e.DeadlineExceeded("x", reason="r"), 504, 4),
        (e.Unimplemented("x", reason="r"), 501, 12),
        (e.Internal("x", reason="r"), 500, 13),
        (e.GatewayError("x", reason="r"), 500, 13),
    ],
)
def test_statuses(error, http, grpc):
    assert (http_status(error), grpc_code(error)) == (http, grpc)


def test_triton_s_map_of_codes():
    assert [http_of_grpc(c) for c in (13, 5, 14, 12, 2, 3, 6, 1, 99)] == [
        500, 404, 503, 501, 400, 400, 400, 400, 500,
    ]  # fmt: skip


def test_the_body_has_one_key():
    assert error_body('a "b" é\ud800') == '{"error":"a \\"b\\" é?"}'.encode()


@pytest.mark.parametrize(
    ("flavour", "error", "version", "words"),
    [
        (Flavour.TRITON, e.NotFound("tfs", reason="model_unknown"), 3,
         "Request for unknown model: 'm' is not found"),
        (Flavour.TRITON, e.NotFound("tfs", reason="version_unknown"), 3,
         "Request for unknown model: 'm' version 3 is not found"),
        (Flavour.TRITON, e.Unavailable("tfs", reason="version_loading", retry_after_s=2), None,
         "Request for unknown model: 'm' has no available versions"),
        (Flavour.TRITON, e.Unavailable("tfs", reason="no_selectable_replica"), 3,
         "Request for unknown model: 'm' version 3 is not at ready state"),
        (Flavour.KSERVE, e.NotFound("tfs", reason="version_unknown"), 3,
         "Model with name m does not exist."),
        (Flavour.KSERVE, e.Unavailable("tfs", reason="version_failed"), 3,
         "Model with name m is not ready."),
    ],
)  # fmt: skip
def test_errors_of_routing_in_the_protocol_s_words(flavour, error, version, words):
    new = reworded(flavour, error, "m", version)
    assert (type(new), new.message, new.reason) == (type(error), words, error.reason)
    assert new.retry_after_s == error.retry_after_s


def test_other_errors_keep_their_words():
    error = e.Overloaded("full", reason="in_flight_limit")
    assert reworded(Flavour.TRITON, error, "m") is error


# ---- the header of binary bodies ---------------------------------------------------------


@pytest.mark.parametrize(("value", "length"), [(None, None), ("0", 0), ("10", 10), (" +7 ", 7)])
def test_a_header_length(value, length):
    assert header_length(value, 10) == length


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("11", r"^inference header size should be in range \(0, 10\), got: 11$"),
        ("-1", r"^inference header size should be in range \(0, 10\), got: -1$"),
        ("x", "^Unable to parse Inference-Header-Content-Length, got: x$"),
        ("", "^Unable to parse Inference-Header-Content-Length, got: $"),
        ("2147483648", r"value is out of range \[ -2147483648, 2147483647 \], got: 2147483648"),
        ("9" * 5000, "value is out of range"),
    ],
)
def test_a_header_length_that_is_none(value, words):
    with pytest.raises(e.InvalidRequest, match=words) as caught:
        header_length(value, 10)
    assert caught.value.reason == "bad_header_length"


def test_headers_of_a_body():
    assert body_headers(None) == {"Content-Type": "application/json"}
    assert body_headers(7) == {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": "7",
    }
