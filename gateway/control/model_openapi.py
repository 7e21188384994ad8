"""One model's OpenAPI 3.1 document: its routes on the data plane, made from the live signature.

TensorFlow Serving's REST and V2's, each with the names, types and shapes that this model takes and
gives, and with an example where one is short enough to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gateway import __version__
from gateway.codecs.example_values import nested
from gateway.codecs.oip_dtypes import BINARY_ONLY, DATATYPE
from gateway.control import tensor_schemas as tensors
from gateway.domain.names import INT64_MAX, Version
from gateway.domain.tensors import DEFAULT_SIGNATURE, PREDICT_METHOD, Signature

JSON = "application/json"
_ERRORS = {
    400: "The request must be changed",
    404: "No such model, version or label",
    413: "The body is too large",
    429: "Too many requests at once",
    500: "The model failed",
    501: "Understood, and not offered",
    502: "A replica broke its connection",
    503: "Nothing can answer now",
    504: "The deadline passed",
}
Object = dict[str, Any]


def document(
    name: str, version: Version, signatures: Mapping[str, Signature], http: str | None
) -> Object:
    """The whole document, JSON-able. `http` is where predictions are taken, `host:port`."""
    callable_ = {
        n: s
        for n, s in signatures.items()
        if s.method_name == PREDICT_METHOD or len(signatures) == 1
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Model {name}",
            "version": str(version),
            "summary": f"Version {version}, the live one, as gateway {__version__} serves it",
            "description": "Predictions in TensorFlow Serving's REST and in the Open Inference "
            "Protocol V2. Numbers are equal whichever is asked. Deadlines go in "
            "`x-request-timeout-ms`; a refusal's reason comes in `x-gateway-reason`.",
        },
        "servers": [{"url": f"http://{http}" if http else "/"}],
        "tags": [{"name": "TensorFlow Serving"}, {"name": "V2"}],
        "paths": {**_tfs_paths(name, callable_), **_v2_paths(name, callable_)},
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                }
            }
        },
    }


def _answers(words: str, schema: Object | None, example: Any = None) -> Object:
    fine: Object = {"description": words}
    if schema is not None:
        fine["content"] = {JSON: {"schema": schema}}
        if example is not None:
            fine["content"][JSON]["example"] = example
    refusal = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": fine,
        **{str(s): {"description": w, "content": refusal} for s, w in _ERRORS.items()},
    }


def _operation(tag: str, id_: str, summary: str, answers: Object, **more: Any) -> Object:
    return {"operationId": id_, "summary": summary, "tags": [tag], "responses": answers, **more}


def _body(schema: Object, examples: Mapping[str, Any], words: str = "") -> Object:
    content: Object = {"schema": schema}
    if examples:
        content["examples"] = {n: {"value": v} for n, v in examples.items()}
    made: Object = {"required": True, "content": {JSON: content}}
    return made | ({"description": words} if words else {})


def _parameter(name: str, words: str, schema: Object) -> Object:
    return {"name": name, "in": "path", "required": True, "description": words, "schema": schema}


_VERSION = _parameter(
    "version", "Ask this version.", {"type": "integer", "minimum": 0, "maximum": INT64_MAX}
)
_LABEL = _parameter("label", "Ask the version with this label.", {"type": "string"})


# ---- TensorFlow Serving --------------------


def _tfs_paths(name: str, signatures: Mapping[str, Signature]) -> Object:
    paths: Object = {}
    root = f"/v1/models/{quote(name, safe='')}"
    for suffix, more, part in (
        ("", "", ()),
        ("OfVersion", "/versions/{version}", (_VERSION,)),
        ("OfLabel", "/labels/{label}", (_LABEL,)),
    ):
        parameters: Object = {"parameters": list(part)} if part else {}
        predict = _tfs_predict(signatures, f"predict{suffix}")
        status = _answers("Every version and its state", tensors.TFS_STATUS)
        metadata = _answers("The signatures", tensors.TFS_METADATA)
        paths[f"{root}{more}:predict"] = {**parameters, "post": predict}
        if suffix != "OfLabel":  # a label is ignored there, and would mislead
            paths[root + more] = {
                **parameters,
                "get": _operation("TensorFlow Serving", f"status{suffix}", "Versions", status),
            }
        paths[f"{root}{more}/metadata"] = {
            **parameters,
            "get": _operation("TensorFlow Serving", f"metadata{suffix}", "Signatures", metadata),
        }
    return paths


def _tfs_predict(signatures: Mapping[str, Signature], id_: str) -> Object:
    forms, answers, examples = [], [], {}
    for name, signature in signatures.items():
        for row in (False, True):
            key, answered = ("instances", "predictions") if row else ("inputs", "outputs")
            asked = tensors.tfs_tensors(signature.inputs, row=row)
            told = tensors.tfs_tensors(signature.outputs, row=row)
            if asked is None or told is None:
                continue
            forms.append(_tfs_form(name, key, asked))
            answers.append(
                {"type": "object", "required": [answered], "properties": {answered: told}}
            )
            if tensors.is_short(signature.inputs) and not row:
                values = {n: nested(s) for n, s in signature.inputs.items()}
                value = values if len(values) > 1 else next(iter(values.values()), {})
                named = {} if name == DEFAULT_SIGNATURE else {"signature_name": name}
                examples[f"{name} {key}"] = {**named, key: value}
    return _operation(
        "TensorFlow Serving",
        id_,
        "Predict",
        _answers("The outputs, in the form that was asked", {"anyOf": answers or [{}]}),
        requestBody=_body({"anyOf": forms or [{}]}, examples),
    )


def _tfs_form(name: str, key: str, asked: Object) -> Object:
    named: Object = {"type": "string", "const": name}
    required = [key]
    if name == DEFAULT_SIGNATURE:
        named = {"type": "string", "enum": ["", name]}
    else:
        required.append("signature_name")
    return {
        "type": "object",
        "required": required,
        "properties": {"signature_name": named, key: asked},
    }


# ---- V2 --------------------


def _v2_paths(name: str, signatures: Mapping[str, Signature]) -> Object:
    signature = signatures.get(DEFAULT_SIGNATURE) or next(iter(signatures.values()), Signature())
    root = f"/v2/models/{quote(name, safe='')}"
    paths: Object = {}
    for suffix, more, part in (("", "", ()), ("OfVersion", "/versions/{version}", (_VERSION,))):
        parameters: Object = {"parameters": list(part)} if part else {}
        paths[f"{root}{more}/infer"] = {
            **parameters,
            "post": _v2_infer(signature, f"infer{suffix}"),
        }
        metadata = _answers("Names, datatypes and shapes", tensors.V2_METADATA)
        paths[root + more] = {
            **parameters,
            "get": _operation("V2", f"v2Metadata{suffix}", "Signature", metadata),
        }
        # Without content, as it is the flavour's: Triton's has none.
        ready = _answers('It answers; with the kserve flavour {"name", "ready": true}', None)
        paths[f"{root}{more}/ready"] = {
            **parameters,
            "get": _operation("V2", f"ready{suffix}", "Whether it answers", ready),
        }
    return paths


def _v2_infer(signature: Signature, id_: str) -> Object:
    words = (
        "Tensors may also go as raw bytes behind the JSON (binary tensor extension, header "
        "`Inference-Header-Content-Length`); FP16 and BF16 have no other form."
    )
    examples = {}
    in_json = not any(s.dtype in BINARY_ONLY for s in signature.inputs.values())
    if in_json and tensors.is_short(signature.inputs):
        examples["example"] = {"inputs": [tensors.v2_example(s) for s in signature.inputs.values()]}
    asked: Object = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": tensors.v2_tensors(signature.inputs),
            "outputs": tensors.v2_wanted(list(signature.outputs)),
        },
    }
    told: Object = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": tensors.v2_tensors(signature.outputs, answered=True),
        },
    }
    no_datatype = [n for n, s in signature.inputs.items() if s.dtype not in DATATYPE]
    if no_datatype:
        words = f"V2 has no datatype for input {no_datatype[0]}; ask in TensorFlow Serving's REST."
    return _operation(
        "V2",
        id_,
        "Predict",
        _answers("The outputs", told),
        requestBody=_body(asked, examples, words),
    )
