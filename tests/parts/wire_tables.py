"""TensorFlow Serving's REST API as a table: each row is one request and what must come back.

The same rows are put to the gateway, to a model server directly, and to a gateway that has to
translate them. The Open Inference Protocol's rows are in `wire_tables_v2`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One request over HTTP and its answer."""

    name: str
    line: str
    """`POST /path`."""
    send: Any = b""
    """Bytes as they are; anything else as JSON."""
    status: int = 200
    json: Any = None
    """The whole answer."""
    error: str = ""
    """The whole message of an error."""
    has: str = ""
    """A part of the message."""
    text: str = ""
    """A regular expression that the body matches somewhere."""
    holds: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the answer with their values."""
    headers: Mapping[str, str] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    is_empty: bool = False
    is_own: bool = False
    """Only for whoever speaks the protocol: translated, it is refused or answered otherwise."""

    @property
    def body(self) -> bytes:
        return self.send if isinstance(self.send, bytes) else json.dumps(self.send).encode()


_P = "POST /v1/models/"
_ROWS = {"instances": [[1, 2, 3]]}
_TWO = {"a": [[1, 2]], "b": [[10, 20]]}
_VERSIONS = {
    "model_version_status": [
        {
            "version": version,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        for version in ("2", "1")
    ]
}

TFS_PREDICT = (
    Row("rows", _P + "affine:predict", _ROWS, json={"predictions": [[4, 6, 8]]}),
    Row(
        "rows by name",
        _P + "affine:predict",
        {"instances": [{"x": [1, 2, 3]}, {"x": [0, 0, 0]}]},
        json={"predictions": [[4, 6, 8], [2, 2, 2]]},
    ),
    Row(
        "rows of two outputs",
        _P + "two:predict",
        {"instances": [{"a": [1, 2], "b": [10, 20]}]},
        json={"predictions": [{"sum": [11, 22], "difference": [-9, -18]}]},
    ),
    Row("columns", _P + "affine:predict", {"inputs": [[1, 2, 3]]}, json={"outputs": [[4, 6, 8]]}),
    Row(
        "columns by name, two outputs",
        _P + "two:predict",
        {"inputs": _TWO},
        json={"outputs": {"sum": [[11, 22]], "difference": [[-9, -18]]}},
    ),
    Row(
        "columns: extra names are ignored",
        _P + "affine:predict",
        {"inputs": {"x": [[1, 2, 3]], "z": 1}},
        json={"outputs": [[4, 6, 8]]},
    ),
    Row("version", _P + "affine/versions/1:predict", _ROWS, json={"predictions": [[3, 5, 7]]}),
    Row("label", _P + "affine/labels/prod:predict", _ROWS, json={"predictions": [[3, 5, 7]]}),
    Row("any case", "POST /V1/Models/affine:predict", _ROWS, json={"predictions": [[4, 6, 8]]}),
    Row("percent", _P + "%61ffine:predict", _ROWS, json={"predictions": [[4, 6, 8]]}),
    Row(
        "empty signature_name",
        _P + "affine:predict",
        {"signature_name": "", **_ROWS},
        json={"predictions": [[4, 6, 8]]},
    ),
    Row("unknown keys", _P + "affine:predict", {"who": 1, **_ROWS}, text=r"predictions"),
    Row(
        "bytes after the value",
        _P + "affine:predict",
        json.dumps(_ROWS).encode() + b" trailing ]",
        json={"predictions": [[4, 6, 8]]},
    ),
    Row(
        "NaN and Infinity",
        _P + "affine:predict",
        b'{"instances": [[NaN, Infinity, -Infinity]]}',
        text=r"NaN,\s*Infinity,\s*-Infinity",
    ),
    Row(
        "floats are the shortest that round-trip",
        _P + "affine:predict",
        {"inputs": [[0.1, 1, 0]]},
        text=r"2\.2,\s*4\.0,\s*2\.0",
    ),
    Row(
        "base64 in",
        _P + "texts:predict",
        {"instances": [["plain", {"b64": "aGk="}]]},
        json={"predictions": [["plain", "hi"]]},
    ),
    Row(
        "base64 out by the alias's ending",
        _P + "encoded:predict",
        {"inputs": [["hi", {"b64": "w6k="}]]},
        json={"outputs": [[{"b64": "aGk="}, {"b64": "w6k="}]]},
    ),
    Row(
        "b64 with another key",
        _P + "texts:predict",
        {"inputs": [[{"b64": "aGk=", "a": 1}, ""]]},
        400,
    ),
    Row("float in an int tensor", _P + "ints:predict", {"instances": [[1.0, 2]]}, 400, has="int32"),
    Row("bool takes true", _P + "flags:predict", {"inputs": [[True, False]]}, text="true"),
    Row("bool takes no 1", _P + "flags:predict", {"inputs": [[1, 0]]}, 400, has="bool"),
    Row("half has no JSON", _P + "halves:predict", {"inputs": [[1, 2]]}, 501, has="to type: half"),
    Row("300 in uint8", _P + "bytes:predict", {"inputs": [[300, 1]]}, 400, has="uint8"),
)

TFS_ERRORS = (
    Row(
        "no model", _P + "m:predict", _ROWS, 404, error="Servable not found for request: Latest(m)"
    ),
    Row(
        "no version",
        _P + "affine/versions/99:predict",
        _ROWS,
        404,
        error="Servable not found for request: Specific(affine, 99)",
    ),
    Row(
        "no label",
        _P + "affine/labels/x:predict",
        _ROWS,
        400,
        error="Unrecognized servable version label: x",
    ),
    Row(
        "no signature",
        _P + "affine:predict",
        {"signature_name": "s", **_ROWS},
        400,
        error='Serving signature name: "s" not found in signature def',
    ),
    Row("empty", _P + "affine:predict", b"", 400, error="JSON Parse error: The document is empty"),
    Row(
        "bad",
        _P + "affine:predict",
        b"!",
        400,
        error="JSON Parse error: Invalid value. at offset: 0",
    ),
    Row("neither", _P + "affine:predict", {}, 400, has="Missing 'inputs' or 'instances' key"),
    Row(
        "both",
        _P + "affine:predict",
        {"inputs": 1, "instances": 1},
        400,
        has="expecting only one of 'inputs' or 'instances' keys to exist",
    ),
    Row(
        "instances is no list",
        _P + "affine:predict",
        {"instances": 3},
        400,
        has="Expecting 'instances' to be an list/array",
    ),
    Row(
        "no rows",
        _P + "affine:predict",
        {"instances": []},
        400,
        has="No values in 'instances' array",
    ),
    Row(
        "signature_name is no string",
        _P + "affine:predict",
        {"signature_name": 3, **_ROWS},
        400,
        has="'signature_name' key must be a string value.",
    ),
    Row(
        "wrong dtype",
        _P + "affine:predict",
        {"inputs": [["x", 1, 2]]},
        400,
        has='JSON Value: "x" Type: String is not of expected type: float',
    ),
    Row(
        "ragged",
        _P + "affine:predict",
        {"inputs": [[1.0, 2.0], [1.0]]},
        400,
        has="Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    Row(
        "row with a key too few",
        _P + "two:predict",
        {"instances": [{"a": [1, 2]}]},
        400,
        has="keys must be equal to: a,b",
    ),
    Row(
        "row with another key",
        _P + "two:predict",
        {"instances": [{"a": [1, 2], "b": [1, 2], "c": [1, 2]}]},
        400,
        has="keys must be equal to: a,b",
    ),
    Row(
        "column is missing",
        _P + "two:predict",
        {"inputs": {"a": [[1, 2]]}},
        400,
        has="Missing named input: b in 'inputs' object.",
    ),
    Row(
        "classify without examples",
        _P + "affine:classify",
        {},
        400,
        has="key 'examples' is expected and was not found",
        is_own=True,
    ),
    Row(
        "a scalar has no rows",
        _P + "total:predict",
        {"instances": [[1, 2]]},
        400,
        has="has no shape",
    ),
    Row(
        "uneven", _P + "uneven:predict", {"instances": [[1, 2]]}, 400, has="inconsistent batch size"
    ),
    Row("a scalar is a column", _P + "total:predict", {"inputs": [[1, 2]]}, json={"outputs": 3.0}),
    Row(
        "malformed",
        _P + "affine:guess",
        _ROWS,
        400,
        error="Malformed request: POST /v1/models/affine:guess",
    ),
    Row(
        "wrong verb",
        "GET /v1/models/affine:predict",
        status=400,
        error="Malformed request: GET /v1/models/affine:predict",
    ),
    Row(
        "version and label",
        _P + "affine/versions/1/labels/x:predict",
        _ROWS,
        400,
        has="Malformed request",
    ),
    Row(
        "version over int64",
        _P + "affine/versions/99999999999999999999:predict",
        _ROWS,
        400,
        has="to numeric",
    ),
    Row("no list of models", "GET /v1/models", status=400, error="Missing model name in request."),
    Row("outside", "GET /elsewhere", status=404, is_empty=True),
    Row("preflight", "OPTIONS /v1/models/affine", headers={"Origin": "https://a.b"}, is_empty=True),
    Row("preflight without origin", "OPTIONS /v1/models/affine", status=400),
)

TFS_LOOKS = (
    Row("status", "GET /v1/models/affine", json=_VERSIONS),
    Row(
        "status of a version",
        "GET /v1/models/affine/versions/1",
        json={"model_version_status": _VERSIONS["model_version_status"][1:]},
    ),
    Row("status ignores labels", "GET /v1/models/affine/labels/prod", json=_VERSIONS),
    Row(
        "status of no model",
        "GET /v1/models/m",
        status=404,
        error="Could not find any versions of model m",
    ),
    Row(
        "status of no version",
        "GET /v1/models/affine/versions/9",
        status=404,
        error="Could not find version 9 of model affine",
    ),
    Row(
        "metadata",
        "GET /v1/models/affine/metadata",
        holds={"model_spec": {"name": "affine", "signature_name": "", "version": "2"}},
        text=r'"signature_def"[\s\S]*"signature_def"[\s\S]*"serving_default"[\s\S]*"size":\s*"-1"',
    ),
    Row("metrics", "GET /monitoring/prometheus/metrics", text="# TYPE"),
)

TFS = (*TFS_PREDICT, *TFS_ERRORS, *TFS_LOOKS)
