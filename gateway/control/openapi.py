"""The OpenAPI 3.1 document, made from the operations and the shapes; nothing is written twice."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from gateway import __version__
from gateway.control import schema
from gateway.control.operations import OPERATIONS, STREAM, TEXT, Operation

_REF = "#/components/schemas/{name}"
_REASON_OF = {
    400: "The request must be changed",
    403: "Not allowed",
    404: "There is no such thing",
    405: "Another method",
    409: "The state has moved on, or contradicts",
    413: "The body is too large",
    429: "Too much at once",
    500: "A bug",
    501: "Understood, and not offered",
    503: "Not now; Retry-After says when",
}


def document() -> dict[str, Any]:
    """The whole document, JSON-able."""
    types = [t for t in vars(schema).values() if inspect.isclass(t) and _is_shape(t)]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    for shape in components.values():
        shape["description"] = " ".join(str(shape.get("description", "")).split())
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Model gateway: control API",
            "version": __version__,
            "description": "Deploy models, watch them, look into them. Predictions are made "
            "elsewhere, on the data plane's own ports.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _is_shape(kind: type) -> bool:
    return issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {
            **{str(s): _answer(operation, s) for s in operation.answers},
            **{str(s): _error(s, reasons) for s, reasons in sorted(operation.errors.items())},
            "default": _error(500, "bug"),
        },
    }
    if operation.description:
        made["description"] = operation.description
    if operation.parameters:
        made["parameters"] = [dict(p) for p in operation.parameters]
    if operation.body is not None:
        content: dict[str, Any] = {"schema": _ref(operation.body)}
        if operation.example:
            content["example"] = dict(operation.example)
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    return made


def _answer(operation: Operation, status: int) -> dict[str, Any]:
    kind = operation.answers[status]
    if isinstance(kind, str):
        wanted = "string" if kind == TEXT else "object"
        content: dict[str, Any] = {kind: {"schema": {"type": wanted}}}
    else:
        content = {"application/json": {"schema": _ref(kind)}}
    if operation.id == "list_events":
        content[STREAM] = {"schema": {"type": "string"}}
    words = {201: "It is new", 202: "Begun; the events say when it is done"}
    return {"description": words.get(status, operation.summary), "content": content}


def _error(status: int, reasons: str) -> dict[str, Any]:
    first = reasons.replace(",", " ").split()[0]
    example = {"error": {"reason": first, "message": "What is wrong and what to do next."}}
    return {
        "description": f"{_REASON_OF.get(status, 'Refused')}. Reasons: {reasons}.",
        "content": {"application/json": {"schema": _ref(schema.ErrorAnswer), "example": example}},
    }


def _ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
