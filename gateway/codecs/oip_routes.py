"""The Open Inference Protocol's REST paths: what a request line means.

Triton's regular expressions decide, case-sensitive and over the whole path (src/http_server.cc). A
path of the protocol with another verb is 405 `Method Not Allowed`, everything else 404 `Not Found`.
Beyond them: `/v2/` with its slash, as the protocol's own description has it, and KServe's list of
models at `GET /v2/models`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes

from gateway.codecs.oip_errors import MethodNotAllowed
from gateway.domain.errors import InvalidRequest, NotFound
from gateway.domain.names import INT64_MAX, Version

_MODEL = re.compile(
    r"/v2/models/([^/]+)(?:/versions/([0-9]+))?"
    r"(?:/(infer|generate|generate_stream|ready|config|stats|trace/setting))?"
)
_REPOSITORY = re.compile(r"/v2/repository(?:/([^/]+))?/(?:(index)|models/([^/]+)/(load|unload))")
_SHARED_MEMORY = re.compile(
    r"/v2/(system|cuda)sharedmemory(?:/region/([^/]+))?/(status|register|unregister)"
)
_SHOWN_CHARS = 64


class OipKind(StrEnum):
    """What a V2 REST request asks for."""

    LIVE = "live"
    READY = "ready"
    SERVER_METADATA = "server_metadata"
    MODELS = "models"
    MODEL_METADATA = "model_metadata"
    MODEL_READY = "model_ready"
    INFER = "infer"
    GENERATE = "generate"
    GENERATE_STREAM = "generate_stream"
    CONFIG = "config"
    STATS = "stats"
    TRACE_SETTING = "trace_setting"
    LOGGING = "logging"
    REPOSITORY_INDEX = "repository_index"
    REPOSITORY_LOAD = "repository_load"
    REPOSITORY_UNLOAD = "repository_unload"
    SYSTEM_SHARED_MEMORY = "system_shared_memory"
    CUDA_SHARED_MEMORY = "cuda_shared_memory"


@dataclass(frozen=True, slots=True)
class OipCall:
    """A parsed request line."""

    kind: OipKind
    model: str = ""
    """Empty where no one model is meant: the server's own routes, and the statistics of all."""
    version: Version | None = None
    method: str = "GET"
    """The verb: GET and POST of the settings mean different things."""
    repository: str = ""
    region: str = ""
    """Of shared memory; empty means all of them."""
    action: str = ""
    """Of shared memory: `status`, `register` or `unregister`."""


_FIXED: dict[str, OipKind] = {
    "/v2": OipKind.SERVER_METADATA,
    "/v2/": OipKind.SERVER_METADATA,
    "/v2/health/live": OipKind.LIVE,
    "/v2/health/ready": OipKind.READY,
    "/v2/models": OipKind.MODELS,
    "/v2/models/stats": OipKind.STATS,
    "/v2/logging": OipKind.LOGGING,
    "/v2/trace/setting": OipKind.TRACE_SETTING,
}
_OF_MODEL: dict[str | None, OipKind] = {
    None: OipKind.MODEL_METADATA,
    "infer": OipKind.INFER,
    "generate": OipKind.GENERATE,
    "generate_stream": OipKind.GENERATE_STREAM,
    "ready": OipKind.MODEL_READY,
    "config": OipKind.CONFIG,
    "stats": OipKind.STATS,
    "trace/setting": OipKind.TRACE_SETTING,
}
_POST = frozenset(
    {
        OipKind.INFER,
        OipKind.GENERATE,
        OipKind.GENERATE_STREAM,
        OipKind.REPOSITORY_INDEX,
        OipKind.REPOSITORY_LOAD,
        OipKind.REPOSITORY_UNLOAD,
    }
)
_BOTH = frozenset({OipKind.TRACE_SETTING, OipKind.LOGGING})


def is_v2(raw_path: str) -> bool:
    """Whether a path is this protocol's to answer."""
    return raw_path.startswith("/v2") and raw_path[3:4] in ("", "/", "?")


def parse(method: str, raw_path: str) -> OipCall:
    """Say what `method raw_path` asks for. `raw_path` is as sent; a query string is ignored.

    Raises:
        NotFound: no path of the protocol (`path_unknown`).
        MethodNotAllowed: one of its paths, with another verb.
        InvalidRequest: a version beyond int64 (`bad_version`).
    """
    path = raw_path.partition("?")[0]
    call = _call(method, path)
    if call is None:
        raise NotFound("Not Found", reason="path_unknown")
    allowed = _allowed(call)
    if method not in allowed:
        raise MethodNotAllowed(allowed)
    return call


def _call(method: str, path: str) -> OipCall | None:
    if fixed := _FIXED.get(path):
        return OipCall(fixed, method=method)
    if match := _MODEL.fullmatch(path):
        kind = _OF_MODEL[match[3]]
        if kind is OipKind.TRACE_SETTING and match[2] is not None:
            return None  # settings know no versions; Triton lets this fall through to 404
        version = _version(match[2]) if match[2] is not None else None
        return OipCall(kind, _decoded(match[1]), version, method)
    if match := _REPOSITORY.fullmatch(path):
        repository = _decoded(match[1] or "")
        if match[2]:
            return OipCall(OipKind.REPOSITORY_INDEX, method=method, repository=repository)
        kind = OipKind.REPOSITORY_LOAD if match[4] == "load" else OipKind.REPOSITORY_UNLOAD
        return OipCall(kind, _decoded(match[3]), method=method, repository=repository)
    if match := _SHARED_MEMORY.fullmatch(path):
        is_system = match[1] == "system"
        kind = OipKind.SYSTEM_SHARED_MEMORY if is_system else OipKind.CUDA_SHARED_MEMORY
        return OipCall(kind, method=method, region=_decoded(match[2] or ""), action=match[3])
    return None


def _allowed(call: OipCall) -> tuple[str, ...]:
    if call.kind in _BOTH:
        return ("GET", "POST")
    if call.kind in _POST or call.action in ("register", "unregister"):
        return ("POST",)
    return ("GET",)


def _version(digits: str) -> Version:
    significant = digits.lstrip("0")
    # Python refuses to convert thousands of digits; 19 are enough for int64.
    if len(significant) > 19 or int(significant or "0") > INT64_MAX:
        raise bad_version(digits)
    return int(significant or "0")


def bad_version(text: str) -> InvalidRequest:
    """The error for a version that is no version."""
    return InvalidRequest(
        f"failed to get model version from specified version string '{text[:_SHOWN_CHARS]}', "
        "version should be an integral value > 0",
        reason="bad_version",
    )


def _decoded(text: str) -> str:
    # Bytes that are not UTF-8 can name no model; replaced, they lead to a plain "not found".
    return unquote_to_bytes(text).decode("utf-8", errors="replace")


_SUFFIX = {
    OipKind.MODEL_METADATA: "",
    OipKind.INFER: "/infer",
    OipKind.GENERATE: "/generate",
    OipKind.GENERATE_STREAM: "/generate_stream",
    OipKind.MODEL_READY: "/ready",
    OipKind.CONFIG: "/config",
    OipKind.STATS: "/stats",
}


def infer_path(call: OipCall, version: Version) -> str:
    """The path that asks a replica for the same, with the version pinned.

    Raises:
        ValueError: the call is not about one model.
    """
    suffix = _SUFFIX.get(call.kind)
    if suffix is None or not call.model:
        raise ValueError(f"{call.kind} is not about one version of a model")
    return f"/v2/models/{quote(call.model, safe='')}/versions/{version}{suffix}"
