"""JSON text to values, as TensorFlow Serving's parser (rapidjson) reads it.

It takes more than RFC 8259 has: `NaN`, `Infinity` and `-Infinity`; whatever follows the first value
is ignored; of a key that occurs twice the first counts; strings may hold bytes that are no UTF-8.
orjson is many times faster and takes none of that, and of two equal keys it keeps the last. So its
answer is used only where no key can have occurred twice, and everything else is read again with
the standard library, which can be taught the rest.

Bytes that are no UTF-8 travel as surrogate escapes (PEP 383) and leave again as the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from gateway.domain.errors import InvalidRequest

ECHO_BYTES = 256
"""How much of a value an error repeats (kMaxJsonDebugStringBytes in json_tensor.cc)."""

_SPACE = re.compile(r"[ \t\n\r]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_MAX_INTEGER_CHARS = 20
_UINT64_MAX = 2**64 - 1
_INT64_MIN = -(2**63)

_WORDS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}
"""The standard library's words (without `: `) and rapidjson's for the same."""


class RepeatedKeys(dict[str, Any]):
    """An object in which some key occurred more than once; it holds the first of each."""


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that a request's body is.

    Numbers without `.` and `e` are int within [-2^63, 2^64), all others float.

    Raises:
        InvalidRequest: no JSON, or no object (`bad_json`), in the original's words.
    """
    if not body:
        raise InvalidRequest("JSON Parse error: The document is empty", reason="bad_json")
    document = _quick(body)
    if document is None:
        try:
            document = read_value(body)
        except NoJsonError as error:
            raise InvalidRequest(
                f"JSON Parse error: {error.words} at offset: {error.offset}", reason="bad_json"
            ) from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"JSON Value: {echo(document)} Is not object", reason="bad_json")
    return document


def _quick(body: bytes) -> Any:
    """What orjson reads, if it is certain to be what rapidjson would; else None."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    # Every key has its colon, and a key that occurred twice has two. Colons inside strings only
    # make the count too high, which costs time and not truth.
    if len(document) == 1 and body.find(b":", body.find(b":") + 1) < 0:
        return document
    if body.count(b":") == _known_keys(document):
        return document
    return None


def has_words(body: bytes) -> bool:
    """Whether `true`, `false` or `null` may be in a document: never False where one is."""
    return b"l" in body or b"r" in body


def _known_keys(document: dict[str, Any]) -> int:
    """How many keys `document` has in the places where this protocol has keys."""
    keys = len(document)
    for value in document.values():
        if isinstance(value, dict):
            keys += _keys_of_record(value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            keys += sum(_keys_of_record(item) for item in value if isinstance(item, dict))
    return keys


def _keys_of_record(record: dict[str, Any]) -> int:
    return len(record) + sum(len(v) for v in record.values() if isinstance(v, dict))


# ---- the careful way --------------------------------------------------------------


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(reversed(pairs))


def _integer(text: str) -> int | float:
    # Beyond 64 bits rapidjson makes a double of it; and Python refuses thousands of digits.
    if len(text) <= _MAX_INTEGER_CHARS and _INT64_MIN <= (value := int(text)) <= _UINT64_MAX:
        return value
    return _decimal(text)


def _decimal(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _TooBigError
    return value


class _TooBigError(ValueError):
    """A number beyond double."""


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_decimal)


class NoJsonError(ValueError):
    """What cannot be read, in rapidjson's words, and the byte where it is noticed."""

    def __init__(self, words: str, text: str, position: int) -> None:
        super().__init__(words)
        self.words = words
        self.offset = len(text[:position].encode("utf-8", "surrogateescape"))


def read_value(body: bytes, *, whole: bool = False) -> Any:
    """The first JSON value in `body`; with `whole` it must be the only one.

    Raises:
        NoJsonError: there is none.
    """
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    begin = _SPACE.match(text)
    start = begin.end() if begin else 0
    if start == len(text):
        raise NoJsonError("The document is empty.", text, start)
    try:
        document, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise NoJsonError(_words(text, error), text, error.pos) from error
    except _TooBigError as error:
        raise NoJsonError("Number too big to be stored in double.", text, start) from error
    except RecursionError as error:
        raise NoJsonError("The document is nested too deeply.", text, start) from error
    if "\\u" in text:
        _check_surrogates(text, end)
    behind = _SPACE.match(text, end)
    if whole and behind and behind.end() < len(text):
        raise NoJsonError(
            "The document root must not be followed by other values.", text, behind.end()
        )
    return document


def _words(text: str, error: json.JSONDecodeError) -> str:
    if error.msg.startswith("Expecting ',' delimiter"):
        inside = []
        for match in _STRUCTURE.finditer(text, 0, error.pos):
            token = match[0]
            if token in "[{":
                inside.append(token)
            elif token in "]}" and inside:
                inside.pop()
        if inside and inside[-1] == "[":
            return "Missing a comma or ] after an array element."
        return "Missing a comma or } after an object member."
    return _WORDS.get(error.msg.rstrip(": "), error.msg)


def _check_surrogates(text: str, end: int) -> None:
    """Refuse `\\ud800` without its other half. Python would let it pass as a character that is
    none, and a lone low one could not be told from an escaped byte."""
    high_ends_at = -1
    for match in _ESCAPE.finditer(text, 0, end):
        code = int(match[1], 16) if match[1] else 0
        is_low = 0xDC00 <= code <= 0xDFFF
        if is_low != (high_ends_at == match.start()) or (high_ends_at >= 0 and not is_low):
            raise NoJsonError("The surrogate pair in string is invalid.", text, match.start())
        high_ends_at = match.end() if 0xD800 <= code <= 0xDBFF else -1
    if high_ends_at >= 0:
        raise NoJsonError("The surrogate pair in string is invalid.", text, high_ends_at)


# ---- values in error messages -------------------------------------------------------


def is_b64(value: object) -> bool:
    """Whether a value is base64 data: an object with exactly the one key `b64`, a string."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def type_name(value: object) -> str:
    """rapidjson's name of a value's type."""
    match value:
        case None:
            return "Null"
        case bool():
            return str(value)
        case int() | float():
            return "Number"
        case str():
            return "String"
        case list():
            return "Array"
        case _:
            return "Object"


def echo(value: object) -> str:
    """`value` as JSON for an error message, cut off at 256 bytes."""
    parts: list[str] = []
    _echo(value, parts, 0, ECHO_BYTES)
    text = "".join(parts).encode("utf-8", "surrogateescape")[:ECHO_BYTES]
    return text.decode("utf-8", "replace")


def _echo(value: object, parts: list[str], level: int, left: int) -> int:
    """Append `value` while there is room; objects over several lines, arrays on one."""
    if isinstance(value, list):
        opening, closing, items = "[", "]", [("", item) for item in value[:left]]
        separator, begin, finish = ", ", "", ""
    elif isinstance(value, dict):
        opening, closing = "{", "}"
        items = [(f"{_scalar(key)}: ", value[key]) for key in list(value)[:left]]
        separator = ",\n" + "    " * (level + 1)
        begin, finish = separator[1:], "\n" + "    " * level
    else:
        parts.append(_scalar(value))
        return left - len(parts[-1])
    parts.append(opening)
    left -= 1
    for index, (key, item) in enumerate(items):
        if left <= 0:
            return left
        parts.append((separator if index else begin) + key)
        left = _echo(item, parts, level + 1, left - len(parts[-1]))
    if items:
        parts.append(finish)
    parts.append(closing)
    return left - 1


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value[:ECHO_BYTES], ensure_ascii=False)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value).replace("e+", "e")
    return json.dumps(value)
