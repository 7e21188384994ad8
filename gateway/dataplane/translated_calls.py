"""What a request asks for, whatever its dialect, and how answers and refusals go back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import orjson

from gateway.codecs import (
    oip_errors,
    oip_methods,
    oip_routes,
    oip_scan,
    tfs_errors,
    tfs_methods,
    tfs_routes,
    tfs_scan,
)
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_routes import OipKind
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_routes import RestKind
from gateway.core.dialect import Dialect
from gateway.domain.names import Version
from gateway.ports import UpstreamAnswer, UpstreamRequest

_SHOWN_CHARS = 1024


class Kind(StrEnum):
    """What there is to translate."""

    INFER = "infer"
    METADATA = "metadata"
    CONFIG = "config"
    STATS = "stats"
    OTHER = "other"
    """What only the caller's protocol has: classify, regress, generate."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as translation must know it."""

    kind: Kind
    model: str
    words: str
    """What it asks for, for errors."""
    pinned: Version | None
    """None where the request is about all versions, as statistics may be."""

    @property
    def version(self) -> Version:
        """The pinned version of what is always pinned: inference, metadata, configuration."""
        if self.pinned is None:
            raise ValueError(f"{self.words} has no version pinned")
        return self.pinned


_TFS_KINDS = {RestKind.PREDICT: Kind.INFER, RestKind.METADATA: Kind.METADATA}
_TFS_METHODS = {Method.PREDICT: Kind.INFER, Method.GET_MODEL_METADATA: Kind.METADATA}
_OIP_KINDS = {
    OipKind.INFER: Kind.INFER,
    OipKind.MODEL_METADATA: Kind.METADATA,
    OipKind.CONFIG: Kind.CONFIG,
    OipKind.STATS: Kind.STATS,
}
_OIP_METHODS = {
    OipMethod.MODEL_INFER: Kind.INFER,
    OipMethod.MODEL_METADATA: Kind.METADATA,
    OipMethod.MODEL_CONFIG: Kind.CONFIG,
    OipMethod.MODEL_STATISTICS: Kind.STATS,
}


def asked(caller: Dialect, request: UpstreamRequest) -> Asked:
    """What `request`, which the front of that dialect made, asks for."""
    match caller:
        case Dialect.TFS_REST:
            rest = tfs_routes.parse(*request.target.split(" ", 1))
            kind = _TFS_KINDS.get(rest.kind, Kind.OTHER)
            return Asked(kind, rest.model, rest.kind.value, rest.version)
        case Dialect.TFS_GRPC:
            method = tfs_methods.METHOD_OF_PATH[request.target]
            spec = tfs_scan.scan(method, request.body)
            kind = _TFS_METHODS.get(method, Kind.OTHER)
            return Asked(kind, spec.name, method.path.rpartition("/")[2], spec.version)
        case Dialect.V2_REST:
            call = oip_routes.parse(*request.target.split(" ", 1))
            kind = _OIP_KINDS.get(call.kind, Kind.OTHER)
            return Asked(kind, call.model, call.kind.value, call.version)
        case Dialect.V2_GRPC:
            oip_method = oip_methods.METHOD_OF_PATH[request.target]
            fields = oip_scan.scan(oip_method, request.body)
            kind = _OIP_METHODS.get(oip_method, Kind.OTHER)
            words = oip_method.path.rpartition("/")[2]
            return Asked(kind, fields.model, words, fields.version)


def infer_target(replica: Dialect, model: str, version: Version) -> str:
    """Where a replica takes predictions for one version."""
    path = f"models/{quote(model, safe='')}/versions/{version}"
    match replica:
        case Dialect.TFS_REST:
            return f"POST /v1/{path}:predict"
        case Dialect.TFS_GRPC:
            return Method.PREDICT.path
        case Dialect.V2_REST:
            return f"POST /v2/{path}/infer"
        case Dialect.V2_GRPC:
            return OipMethod.MODEL_INFER.path


# ---- what travels beside the body --------------------

_OF_THE_BODY = ("content-", "accept", "inference-header-", "grpc-")
_OF_THE_HOP = frozenset(("x-request-timeout-ms",))


def carried(request: UpstreamRequest, replica: Dialect) -> tuple[tuple[str, Any], ...]:
    """The headers or metadata that still make sense: none about the body, which is another now.
    Between HTTP and gRPC only plain text goes over."""
    kept = [
        (name, value)
        for name, value in request.headers
        if not name.startswith(_OF_THE_BODY)
        and (name not in _OF_THE_HOP or not replica.is_grpc)
        and isinstance(value, str)
        and value.isascii()
        and value.isprintable()
        and not name.endswith("-bin")
    ]
    return tuple(kept)


# ---- answers --------------------

_JSON = "application/json"


def answered(caller: Dialect, body: bytes, headers: Mapping[str, str]) -> UpstreamAnswer:
    """A success in the caller's dialect."""
    if caller.is_grpc:
        return UpstreamAnswer(0, body)
    named = {name.lower(): value for name, value in headers.items()}
    named.setdefault("content-type", _JSON)
    return UpstreamAnswer(200, body, tuple(named.items()))


def is_ok(replica: Dialect, answer: UpstreamAnswer) -> bool:
    """Whether the replica has done what it was asked."""
    return answer.status == (0 if replica.is_grpc else 200)


_GRPC_OF_HTTP = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    409: 10,
    413: 8,
    422: 3,
    429: 8,
    499: 1,
    501: 12,
    503: 14,
    504: 4,
}


def refused(caller: Dialect, replica: Dialect, answer: UpstreamAnswer) -> UpstreamAnswer:
    """A replica's own error in the caller's dialect: its words, the nearest code."""
    if replica.is_grpc:
        code, message = answer.status, answer.message
    else:
        code = _GRPC_OF_HTTP.get(answer.status, 13)
        message = _message(answer.body) or f"the replica answered HTTP status {answer.status}"
    if caller.is_grpc:
        return UpstreamAnswer(code, b"", (), message[:_SHOWN_CHARS])
    if caller is Dialect.TFS_REST:
        status = tfs_errors.HTTP_OF_GRPC.get(code, 500)
        body = tfs_errors.error_body(message)
    else:
        status, body = oip_errors.http_of_grpc(code), oip_errors.error_body(message)
    return UpstreamAnswer(status, body, (("content-type", _JSON),))


def words_of(answer: UpstreamAnswer) -> str:
    """A replica's own error, in its words."""
    return answer.message or _message(answer.body) or f"it answered with status {answer.status}"


def _message(body: bytes) -> str:
    """What a JSON error says under the keys that servers use; else its text."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return body[:_SHOWN_CHARS].decode("utf-8", "replace").strip()
    if isinstance(document, dict):
        for key in ("error", "detail", "message"):
            if isinstance(found := document.get(key), str):
                return found
    return body[:_SHOWN_CHARS].decode("utf-8", "replace").strip()
