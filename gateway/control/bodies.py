"""What comes in: bodies, query parameters and headers, checked and said in words."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from gateway.control.naming import field_name
from gateway.domain.errors import InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)

MAX_DEPTH = 16
"""Nesting of a body; the deepest that the API takes is 3."""

_BODY_TIMEOUT_S = 30.0
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_MISMATCH = re.compile(
    r"Expected `(?P<want>[^`]+)`(?:, got `(?P<got>[^`]+)`)?(?: - at `\$\.?(?P<at>[^`]*)`)?"
)


async def read(request: web.Request, kind: type[T]) -> T:
    """The body as `kind`.

    Raises:
        InvalidRequest: no JSON (`bad_json`), not this shape (`bad_body`), unknown keys
            (`unknown_key`).
        Unimplemented: a key that is not offered yet.
    """
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError as error:
        raise InvalidRequest(
            f"The body did not arrive within {_BODY_TIMEOUT_S:g} s.", reason="slow_body"
        ) from error
    return parse(body, kind)


def parse(body: bytes, kind: type[T]) -> T:
    """As `read`, from bytes."""
    if not body.strip():
        raise InvalidRequest(
            "The body is empty; send a JSON object, at least {}.", reason="bad_json"
        )
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", reason="bad_json") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", reason="bad_body")
    if _too_deep(value):
        raise InvalidRequest(f"The body is nested more than {MAX_DEPTH} deep.", reason="bad_json")
    _check_keys(value, kind)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_in_words(str(error)), reason="bad_body") from error


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def _check_keys(value: Mapping[str, Any], kind: type[msgspec.Struct]) -> None:
    known = kind.__struct_fields__
    for key in value:
        if key in known:
            continue
        near = difflib.get_close_matches(key[:64], known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidRequest(
            f"There is no key {key[:64]!r}.{hint} Known are {', '.join(known)}.",
            reason="unknown_key",
        )


def _in_words(message: str) -> str:
    """msgspec's complaint, said with the key (and flag) first."""
    found = _MISMATCH.fullmatch(message)
    if found is None:
        return f"The body cannot be used: {message}."
    at = field_name(found["at"]) if found["at"] else "the body"
    kinds = [k.strip() for k in found["want"].split("|")]
    want = " or ".join(_WORDS.get(k, k) for k in kinds if k != "null" or len(kinds) == 1)
    got = f", not {_WORDS.get(found['got'], found['got'])}" if found["got"] else ""
    return f"{at} must be {want}{got}."


def integer(
    request: web.Request, name: str, low: int, high: int, otherwise: int | None
) -> int | None:
    """A query parameter; InvalidRequest (`bad_query`) if it is no integer in range."""
    text = request.query.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidRequest(
            f"{name} must be an integer from {low} to {high}; got {text[:40]!r}.",
            reason="bad_query",
        )
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """A query parameter that is on or off."""
    text = request.query.get(name, "0")
    if text not in ("", "0", "1", "true", "false"):
        raise InvalidRequest(f"{name} must be 0 or 1; got {text[:40]!r}.", reason="bad_query")
    return text in ("", "1", "true")


def expected_generation(request: web.Request) -> int | None:
    """The generation in If-Match (`"3"`, `3`); None without one, or for `*`."""
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return None
    found = re.fullmatch(r'\s*"?(\d{1,18})"?\s*', text, re.ASCII)
    if found is None:
        raise InvalidRequest(
            f'If-Match must be a model\'s generation, as "3"; got {text[:40]!r}.',
            reason="bad_if_match",
        )
    return int(found[1])
