"""A model's own OpenAPI document: valid, and true to its signature."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.codecs import oip_json, tfs_json
from gateway.control.model_openapi import document
from gateway.domain.tensors import CLASSIFY_METHOD, DType, Signature, TensorSpec


def spec(name: str, dtype: DType, shape: tuple[int, ...] | None) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def one(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> Signature:
    given = outputs or (spec("y", DType.FLOAT, (-1, 2)),)
    return Signature({s.name: s for s in inputs}, {s.name: s for s in given})


SIGNATURES = {
    "plain": {"serving_default": one(spec("x", DType.FLOAT, (-1, 2)))},
    "two inputs": {
        "serving_default": one(spec("a", DType.INT64, (-1,)), spec("b", DType.STRING, (-1, 1)))
    },
    "two signatures": {
        "serving_default": one(spec("x", DType.UINT8, (1, 2, 2))),
        "other": one(spec("z", DType.BOOL, ())),
        "classify": Signature({"e": spec("e", DType.STRING, (-1,))}, {}, CLASSIFY_METHOD),
    },
    "no rank": {"serving_default": one(spec("x", DType.DOUBLE, None))},
    "image": {"serving_default": one(spec("x", DType.FLOAT, (-1, 224, 224, 3)))},
    "no json": {"serving_default": one(spec("x", DType.BFLOAT16, (-1, 2)))},
    "no v2": {"serving_default": one(spec("x", DType.COMPLEX64, (-1, 2)))},
    "odd names": {"serving_default": one(spec('a/b~{c}"', DType.FLOAT, (-1,)))},
    "nothing": {},
}


@pytest.mark.parametrize("signatures", SIGNATURES.values(), ids=SIGNATURES)
def test_it_is_valid_and_small(signatures: dict[str, Signature]) -> None:
    made = document("ns.model_1", 3, signatures, "127.0.0.1:8501")
    OpenAPIV31SpecValidator(made).validate()
    assert len(json.dumps(made)) < 40_000


def body(made: dict, path: str, part: str) -> dict:
    operation = made["paths"][path]["post"]
    content = operation["requestBody"] if part == "request" else operation["responses"]["200"]
    return content["content"]["application/json"]


@pytest.mark.parametrize("which", ["plain", "two inputs", "two signatures"])
def test_its_examples_are_what_it_describes_and_what_a_server_takes(which: str) -> None:
    signatures = SIGNATURES[which]
    made = document("m", 3, signatures, None)
    asked = body(made, "/v1/models/m:predict", "request")
    assert asked["examples"]
    for example in asked["examples"].values():
        jsonschema.validate(example["value"], asked["schema"])
        call = tfs_json.decode_predict(json.dumps(example["value"]).encode(), signatures)
        wanted = signatures[call.signature_name].inputs
        for name, array in call.inputs.items():
            assert len(array.shape) == len(wanted[name].shape or ())
    v2 = body(made, "/v2/models/m/infer", "request")
    example = v2["examples"]["example"]["value"]
    jsonschema.validate(example, v2["schema"])
    call = oip_json.decode_infer(json.dumps(example).encode())
    assert set(call.inputs) == set(signatures["serving_default"].inputs)


def test_it_tells_right_from_wrong() -> None:
    made = document("m", 3, SIGNATURES["plain"], None)
    v1 = body(made, "/v1/models/m:predict", "request")["schema"]
    for good in (
        {"inputs": [[1, 2.5]]},
        {"instances": [[1, 2], [3, 4]], "signature_name": "serving_default"},
        {"instances": [{"x": [1, 2]}]},
    ):
        jsonschema.validate(good, v1)
    for bad in ({}, {"inputs": [[1]]}, {"instances": []}, {"instances": [["a", "b"]]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, v1)
    v2 = body(made, "/v2/models/m/infer", "request")["schema"]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    jsonschema.validate({"inputs": [tensor]}, v2)
    for wrong in ({"name": "z"}, {"datatype": "FP64"}, {"shape": [1, 3]}, {"shape": [1]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"inputs": [tensor | wrong]}, v2)


def test_answers_are_as_it_says() -> None:
    made = document("m", 3, SIGNATURES["plain"], None)
    outputs = {"y": np.array([[0.5, 1.0]], np.float32)}
    for row in (False, True):
        told = json.loads(tfs_json.encode_predict(outputs, row))
        jsonschema.validate(told, body(made, "/v1/models/m:predict", "answer")["schema"])
    told = json.loads(oip_json.encode_infer("m", 3, "", outputs)[1])
    jsonschema.validate(told, body(made, "/v2/models/m/infer", "answer")["schema"])
