"""The Open Inference Protocol's REST API as a table: Triton's flavour, and what KServe changes."""

from __future__ import annotations

import json
from typing import Any

from tests.parts.wire_models import FLOATS
from tests.parts.wire_tables import Row

_I = "POST /v2/models/"
_X = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
_SPELLED = {"inputs": [{**_X, "data": [1, 2, 3]}]}
_Y = {"name": "y", "datatype": "FP32", "shape": [1, 3]}
_HEADER = "Inference-Header-Content-Length"


def _binary(document: Any, *tensors: bytes, length: str | None = None) -> dict[str, Any]:
    head = json.dumps(document).encode()
    return {
        "send": head + b"".join(tensors),
        "headers": {_HEADER: str(len(head)) if length is None else length},
    }


def _sized(size: int, **more: Any) -> dict[str, Any]:
    return {**_X, "parameters": {"binary_data_size": size}, **more}


V2_INFER = (
    Row(
        "flat data",
        _I + "affine/infer",
        _SPELLED,
        holds={
            "model_name": "affine",
            "model_version": "2",
            "outputs": [{**_Y, "data": [4, 6, 8]}],
        },
    ),
    Row(
        "nested data",
        _I + "affine/infer",
        {"inputs": [{**_X, "data": [[1, 2, 3]]}]},
        holds={"outputs": [{**_Y, "data": [4, 6, 8]}]},
    ),
    Row("id comes back", _I + "affine/infer", {"id": "a/1", **_SPELLED}, holds={"id": "a/1"}),
    Row(
        "version",
        _I + "affine/versions/1/infer",
        _SPELLED,
        holds={"model_version": "1", "outputs": [{**_Y, "data": [3, 5, 7]}]},
    ),
    Row(
        "outputs by name",
        _I + "two/infer",
        {
            "inputs": [
                {"name": n, "datatype": "FP32", "shape": [1, 2], "data": v}
                for n, v in (("a", [[1, 2]]), ("b", [[10, 20]]))
            ],
            "outputs": [{"name": "difference"}],
        },
        holds={
            "outputs": [
                {"name": "difference", "datatype": "FP32", "shape": [1, 2], "data": [-9, -18]}
            ]
        },
    ),
    Row(
        "strings",
        _I + "texts/infer",
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["é", ""]}]},
        holds={"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1, 2], "data": ["é", ""]}]},
    ),
    Row(
        "bools",
        _I + "flags/infer",
        {"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1, 2], "data": [True, False]}]},
        text=r'"data":\s*\[\s*true,\s*false',
    ),
    Row(
        "binary in, JSON out",
        _I + "affine/infer",
        **_binary({"inputs": [_sized(12)]}, FLOATS.tobytes()),
        holds={"outputs": [{**_Y, "data": [4, 6, 8]}]},
    ),
    Row(
        "JSON in, binary out",
        _I + "affine/infer",
        {**_SPELLED, "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        text=r'"binary_data_size":\s*12',
        answer_headers={"content-type": "application/octet-stream"},
    ),
    Row(
        "all outputs binary",
        _I + "affine/infer",
        {**_SPELLED, "parameters": {"binary_data_output": True}},
        text=r'"binary_data_size":\s*12[\s\S]*' + "\x00\x00\x80@",
    ),
    Row(
        "one output over the rule for all",
        _I + "affine/infer",
        {
            **_SPELLED,
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
        },
        holds={"outputs": [{**_Y, "data": [4, 6, 8]}]},
    ),
    Row(
        "raw request",
        _I + "affine/infer",
        FLOATS.tobytes(),
        headers={_HEADER: "0"},
        text="\x00\x00\x80@\x00\x00\xc0@\x00\x00\x00A$",
    ),
    Row(
        "classification",
        _I + "affine/infer",
        {**_SPELLED, "outputs": [{"name": "y", "parameters": {"classification": 1}}]},
        holds={
            "outputs": [{"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["8.000000:2"]}]
        },
    ),
)

V2_ERRORS = (
    Row(
        "no model",
        _I + "m/infer",
        _SPELLED,
        404,
        error="Request for unknown model: 'm' is not found",
    ),
    Row("no version", _I + "affine/versions/99/infer", _SPELLED, 404, has="affine"),
    Row("no JSON", _I + "affine/infer", b"{", 400, has="failed to parse the request JSON buffer"),
    Row("no inputs", _I + "affine/infer", {}, 400, has="inputs"),
    Row("wrong verb", "GET /v2/models/affine/infer", status=405, error="Method Not Allowed"),
    Row("no such path", "GET /v2/elsewhere", status=404, error="Not Found"),
    Row("data too short", _I + "affine/infer", {"inputs": [{**_X, "data": [1, 2]}]}, 400),
    Row(
        "data of another type", _I + "affine/infer", {"inputs": [{**_X, "data": ["a", 1, 2]}]}, 400
    ),
    Row(
        "no such datatype",
        _I + "affine/infer",
        {"inputs": [{**_X, "datatype": "FP31", "data": [1, 2, 3]}]},
        400,
    ),
    Row(
        "another datatype",
        _I + "affine/infer",
        {"inputs": [{**_X, "datatype": "INT32", "data": [1, 2, 3]}]},
        400,
        has="x",
    ),
    Row(
        "another shape",
        _I + "affine/infer",
        {"inputs": [{**_X, "shape": [3], "data": [1, 2, 3]}]},
        400,
        has="x",
    ),
    Row(
        "negative shape",
        _I + "affine/infer",
        {"inputs": [{**_X, "shape": [-1, 3], "data": [1, 2, 3]}]},
        400,
    ),
    Row(
        "no such input",
        _I + "affine/infer",
        {"inputs": [{**_X, "name": "q", "data": [1, 2, 3]}]},
        400,
        has="q",
    ),
    Row(
        "no such output",
        _I + "affine/infer",
        {**_SPELLED, "outputs": [{"name": "z"}]},
        400,
        has="z",
    ),
    Row(
        "FP16 has no JSON",
        _I + "halves/infer",
        {"inputs": [{"name": "x", "datatype": "FP16", "shape": [1, 2], "data": [1, 2]}]},
        400,
        has="FP16",
    ),
    Row(
        "data and binary",
        _I + "affine/infer",
        status=400,
        **_binary({"inputs": [_sized(12, data=[1])]}, FLOATS.tobytes()),
    ),
    Row(
        "too few bytes",
        _I + "affine/infer",
        status=400,
        **_binary({"inputs": [_sized(12)]}, b"123"),
    ),
    Row(
        "another size",
        _I + "affine/infer",
        status=400,
        **_binary({"inputs": [_sized(8)]}, b"12345678"),
    ),
    *(
        Row(
            f"header {length}",
            _I + "affine/infer",
            _SPELLED,
            400,
            has=words,
            headers={_HEADER: length},
        )
        for length, words in (
            ("-1", "inference header size should be in range (0, "),
            ("99999", "inference header size should be in range (0, "),
            ("abc", "nference"),
            ("99999999999", "nference"),
        )
    ),
    Row("stats of no model", "GET /v2/models/m/stats", status=404),
    Row("metadata of no model", "GET /v2/models/m", status=404, has="m"),
    Row("ready: no model", "GET /v2/models/m/ready", status=400),
    Row("index by GET", "GET /v2/repository/index", status=405),
    Row(
        "shared memory",
        "POST /v2/systemsharedmemory/region/r/register",
        {"key": "/k", "byte_size": 8},
        501,
        has="shared memory",
    ),
    Row("shared memory of a GPU", "POST /v2/cudasharedmemory/region/r/register", status=501),
)

V2_LOOKS = (
    Row("live", "GET /v2/health/live", is_empty=True),
    Row("ready", "GET /v2/health/ready", is_empty=True),
    Row("server", "GET /v2", text=r'"extensions"'),
    Row("server with a slash", "GET /v2/", text=r'"extensions"'),
    Row(
        "metadata",
        "GET /v2/models/affine",
        holds={
            "name": "affine",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        },
        text=r'"platform"',
    ),
    Row("metadata of a version", "GET /v2/models/affine/versions/1", holds={"name": "affine"}),
    Row("model ready", "GET /v2/models/affine/ready", is_empty=True),
    Row("version ready", "GET /v2/models/affine/versions/1/ready", is_empty=True),
    Row("config", "GET /v2/models/affine/config", holds={"name": "affine"}, text="TYPE_FP32"),
    Row(
        "stats",
        "GET /v2/models/affine/versions/1/stats",
        text=r'"inference_stats"[\s\S]*"success"',
        is_own=True,
    ),
    Row("all stats", "GET /v2/models/stats", text=r'"model_stats"'),
    Row("index", "POST /v2/repository/index", text=r'"affine"[\s\S]*"READY"'),
    Row("index of the ready", "POST /v2/repository/index", {"ready": True}, text=r'"READY"'),
    Row("trace", "GET /v2/trace/setting", text="trace_level"),
    Row("trace of a model", "GET /v2/models/affine/trace/setting", text="trace_level"),
    Row("no shared memory", "GET /v2/systemsharedmemory/status", json=[]),
    Row("logging", "GET /v2/logging", text="log_verbose_level"),
)

V2 = (*V2_INFER, *V2_ERRORS, *V2_LOOKS)

KSERVE = (
    Row("live", "GET /v2/health/live", json={"live": True}),
    Row("ready", "GET /v2/health/ready", json={"ready": True}),
    Row("model ready", "GET /v2/models/affine/ready", json={"name": "affine", "ready": True}),
    Row("no model", _I + "m/infer", _SPELLED, 404, error="Model with name m does not exist."),
    Row("models", "GET /v2/models", text=r'"models"[\s\S]*"affine"'),
)
"""Where a listener of the other flavour answers otherwise."""
