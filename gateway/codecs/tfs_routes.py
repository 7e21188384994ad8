"""TensorFlow Serving's REST paths: what a request line means.

Two regular expressions decide, case-insensitive and over the whole path (model_servers/
http_rest_api_util.cc). Name and label are percent-decoded after the match, so `%2F` may be part of
a name. Whatever starts with `/v1/` and does not parse is 400 `Malformed request`, a wrong verb too:
the protocol has no 405. Whatever does not start with it is 404 with an empty body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes

from gateway.domain.errors import InvalidRequest, NotFound
from gateway.domain.names import INT64_MAX, Version

_INSIDE = re.compile(r"/v1/.*", re.IGNORECASE | re.ASCII | re.DOTALL)
_CALL = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
_LOOK = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_SHOWN_CHARS = 1024
"""A path is echoed up to here, so that an error is not as large as the request that caused it."""


class RestKind(StrEnum):
    """What a REST request asks for."""

    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    STATUS = "status"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class RestCall:
    """A parsed request line. At most one of `version` and `label` is set."""

    kind: RestKind
    model: str
    version: Version | None = None
    label: str | None = None


class NotFoundPath(NotFound):
    """Outside `/v1/`: 404 with an empty body, as the original's HTTP server answers."""


def parse(method: str, raw_path: str) -> RestCall:
    """Say what `method raw_path` asks for. `raw_path` is as sent; a query string is ignored.

    Raises:
        NotFoundPath: the path is not under `/v1/` (`path_unknown`).
        InvalidRequest: it is, and means nothing (`malformed_request`), names no model
            (`model_missing`) or a version beyond int64 (`bad_version`); the original's words.
    """
    path = raw_path.partition("?")[0]
    if not _INSIDE.fullmatch(path):
        raise NotFoundPath("Not Found", reason="path_unknown")
    # A matched verb in capitals (`:PREDICT`) is served as well. The original lets it through its
    # case-insensitive expression and then compares case-sensitively; nobody can rely on that.
    if method == "POST" and (match := _CALL.fullmatch(path)):
        return _call(match, RestKind(match[4].lower()))
    if method == "GET" and (match := _LOOK.fullmatch(path)):
        return _call(match, RestKind.METADATA if match[4] else RestKind.STATUS)
    raise InvalidRequest(
        f"Malformed request: {method} {path[:_SHOWN_CHARS]}", reason="malformed_request"
    )


def _call(match: re.Match[str], kind: RestKind) -> RestCall:
    if not match[1]:
        raise InvalidRequest("Missing model name in request.", reason="model_missing")
    version = _version(match[2]) if match[2] is not None else None
    label = _decoded(match[3]) if match[3] is not None else None
    return RestCall(kind, _decoded(match[1]), version, label)


def _version(digits: str) -> Version:
    significant = digits.lstrip("0")
    # Python refuses to convert thousands of digits; 19 are enough for int64.
    if len(significant) > 19 or int(significant or "0") > INT64_MAX:
        raise InvalidRequest(
            f"Failed to convert version: {digits[:_SHOWN_CHARS]} to numeric.", reason="bad_version"
        )
    return int(significant or "0")


def _decoded(text: str) -> str:
    # Bytes that are not UTF-8 can name no model; replaced, they lead to a plain "not found".
    return unquote_to_bytes(text).decode("utf-8", errors="replace")


_SUFFIX = {
    RestKind.PREDICT: ":predict",
    RestKind.CLASSIFY: ":classify",
    RestKind.REGRESS: ":regress",
    RestKind.STATUS: "",
    RestKind.METADATA: "/metadata",
}


def predict_path(call: RestCall, version: Version) -> str:
    """The path that asks a replica for the same, with the version pinned and no label."""
    return f"/v1/models/{quote(call.model, safe='')}/versions/{version}{_SUFFIX[call.kind]}"
