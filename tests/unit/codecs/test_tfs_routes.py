from __future__ import annotations

import pytest

from gateway.codecs.tfs_routes import NotFoundPath, RestCall, RestKind, parse, predict_path
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX

RESERVED = "%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"
RESERVED_TEXT = "!#$%&'()*+,/:;=?@[]"


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", "/v1/models/m:predict", RestCall(RestKind.PREDICT, "m")),
        ("POST", "/v1/models/m/versions/7:predict", RestCall(RestKind.PREDICT, "m", 7)),
        ("POST", "/v1/models/m/versions/007:classify", RestCall(RestKind.CLASSIFY, "m", 7)),
        (
            "POST",
            "/v1/models/m/labels/stable:regress",
            RestCall(RestKind.REGRESS, "m", None, "stable"),
        ),
        ("POST", "/V1/Models/M:Predict", RestCall(RestKind.PREDICT, "M")),
        ("POST", "/v1/models/m:predict?x=1", RestCall(RestKind.PREDICT, "m")),
        (
            "POST",
            f"/v1/models/m{RESERVED}:predict",
            RestCall(RestKind.PREDICT, f"m{RESERVED_TEXT}"),
        ),
        (
            "POST",
            f"/v1/models/m/versions/{INT64_MAX}:predict",
            RestCall(RestKind.PREDICT, "m", INT64_MAX),
        ),
        ("GET", "/v1/models/m", RestCall(RestKind.STATUS, "m")),
        ("GET", "/v1/models/m/versions/0", RestCall(RestKind.STATUS, "m", 0)),
        ("GET", "/v1/models/m/labels/a", RestCall(RestKind.STATUS, "m", None, "a")),
        ("GET", "/v1/models/m/metadata", RestCall(RestKind.METADATA, "m")),
        (
            "GET",
            "/v1/models/m/labels/a%2Fb/metadata",
            RestCall(RestKind.METADATA, "m", None, "a/b"),
        ),
        ("GET", "/v1/models/m/versions/3/METADATA", RestCall(RestKind.METADATA, "m", 3)),
        ("GET", "/v1/models/a%zz%4", RestCall(RestKind.STATUS, "a%zz%4")),
        ("GET", "/v1/models/a+b", RestCall(RestKind.STATUS, "a+b")),
    ],
)
def test_a_path_means_one_call(method, path, call):
    assert parse(method, path) == call


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/foo"),
        ("POST", "/v1/models"),
        ("POST", "/v1/models/m"),
        ("GET", "/v1/models/m:predict"),
        ("PUT", "/v1/models/m:predict"),
        ("POST", "/v1/models/m/version/5:predict"),
        ("POST", "/v1/models/m/versions/five:predict"),
        ("POST", "/v1/models/m/versions/-1:predict"),
        ("POST", "/v1/models/m/versions/5/labels/a:predict"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:explain"),
        ("POST", "/v1/models/m/versions/٣:predict"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/"),
    ],
)
def test_what_does_not_parse_is_malformed_also_with_a_wrong_verb(method, path):
    with pytest.raises(InvalidRequest) as caught:
        parse(method, path)
    assert caught.value.message == f"Malformed request: {method} {path}"
    assert caught.value.reason == "malformed_request"


@pytest.mark.parametrize("path", ["/", "", "/v2/models/m/infer", "/v1", "v1/models/m", "/healthz"])
def test_outside_of_v1_there_is_nothing(path):
    with pytest.raises(NotFoundPath):
        parse("GET", path)


@pytest.mark.parametrize("path", ["/v1/models", "/V1/MODELS", "/v1/models/versions/3"])
def test_status_needs_a_model(path):
    with pytest.raises(InvalidRequest) as caught:
        parse("GET", path)
    assert caught.value.message == "Missing model name in request."


@pytest.mark.parametrize("digits", [str(INT64_MAX + 1), "9" * 5000])
def test_a_version_beyond_int64_is_refused_in_bounded_words(digits):
    with pytest.raises(InvalidRequest) as caught:
        parse("POST", f"/v1/models/m/versions/{digits}:predict")
    assert caught.value.message == f"Failed to convert version: {digits[:1024]} to numeric."


def test_a_long_path_is_not_echoed_whole():
    with pytest.raises(InvalidRequest) as caught:
        parse("POST", "/v1/" + "a" * 100_000)
    assert len(caught.value.message) < 1100


@pytest.mark.parametrize("kind", list(RestKind))
def test_a_pinned_path_parses_back_with_its_version_and_no_label(kind):
    call = RestCall(kind, f"é{RESERVED_TEXT}", None, "stable")
    method = "GET" if kind in (RestKind.STATUS, RestKind.METADATA) else "POST"
    assert parse(method, predict_path(call, 12)) == RestCall(kind, call.model, 12)
