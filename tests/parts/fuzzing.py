"""Mutated requests: case number N of a seed is always the same one, so any can be replayed.

Three kinds. `http`: a well-framed HTTP request whose path, headers or body are damaged. `raw`:
damaged bytes on a socket. `grpc`: a damaged message for a method. JSON and protobuf are mutated as
trees too, lengths put right again, because flipped bytes seldom come further than the first parser.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client. `path` is a method's path for `grpc`."""

    kind: str
    path: str
    body: bytes = b""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    is_stream: bool = False

    def raw(self) -> bytes:
        """The bytes of an HTTP request."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: fuzz"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + self.body


def case(seeds: Sequence[Request], seed: int, number: int) -> Request:
    """Case `number` of `seed`: one of `seeds` with one to three mutations."""
    rng = random.Random(f"{seed}/{number}")
    request = seeds[rng.randrange(len(seeds))]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if request.kind == "grpc":
            body = _protobuf(request.body, rng) if rng.randrange(3) else _bytes(request.body, rng)
            request = replace(request, body=body)
        else:
            request = _http(request, rng)
    if request.kind == "http" and rng.randrange(20) == 0:
        return replace(request, kind="raw", body=_bytes(request.raw(), rng))
    return request


# ---- HTTP --------------------

_HEADERS = (
    ("Content-Encoding", ("gzip", "deflate", "br", "identity", "gzip, gzip", "")),
    ("Inference-Header-Content-Length", ("0", "-1", "1", "99999999999", "7e2", "", " 12", "٣")),
    ("x-request-timeout-ms", ("1", "0", "-5", "1e9", "nan", "", "99999999999999999999")),
    ("Content-Type", ("application/octet-stream", "text/plain", "multipart/form-data", "")),
    ("Accept-Encoding", ("gzip", "deflate;q=1", "*;q=0", ",,,")),
    ("Connection", ("close", "upgrade, x", "content-type")),
    ("x-long", ("a" * 4000,)),
)
_TAILS = (
    ":predict",
    ":classify",
    "/infer",
    "/ready",
    "/metadata",
    "/versions/1",
    "/labels/x",
    "/..",
)


def _http(request: Request, rng: random.Random) -> Request:
    what = rng.randrange(10)
    if what == 0:
        return replace(request, path=_path(request.path, rng))
    if what == 1:
        name, values = rng.choice(_HEADERS)
        kept = tuple(h for h in request.headers if h[0].lower() != name.lower())
        return replace(request, headers=(*kept, (name, rng.choice(values))))
    if what == 2:
        method = rng.choice(("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X"))
        return replace(request, method=method)
    if what == 3:
        return replace(request, body=_bytes(request.body, rng))
    return replace(request, body=_json(request.body, rng))


def _path(path: str, rng: random.Random) -> str:
    at = rng.randrange(len(path) + 1)
    choice = rng.randrange(5)
    if choice == 0:
        return path + rng.choice(_TAILS)
    if choice == 1:
        return path[:at] or "/"
    if choice == 2:
        odd = ("%00", "%2F", "%", "//", "%ff", "?a=b", "é", "/versions/99999999999999999999")
        return path[:at] + rng.choice(odd) + path[at:]
    if choice == 3:
        return path.replace("1", str(rng.choice((0, 2**63, 2**64, "01", "-1"))))
    return path.swapcase()


# ---- JSON --------------------

_RAW = {
    "@nan": "NaN",
    "@inf": "-Infinity",
    "@big": "1e999",
    "@int": str(2**64),
    "@huge": "9" * 400,
    "@deep": "[" * 3000 + "]" * 3000,
    "@deepobject": '{"a":' * 500 + "1" + "}" * 500,
    "@surrogate": '"\\ud800"',
    "@control": '"\x01"',
    "@negative": "-0",
    "@twice": '{"name":"x","name":"y"}',
}
"""Texts that a JSON writer would not write, by the string that stands for them."""

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, "", "x", "\0", "FP32", "BYTES", "INT64", "FP16",
    [], {}, [[]], [1, "a"], [[1], [1, 2]], {"b64": "AAA"}, {"b64": "!!"}, {"b64": 1}, [None],
    {"binary_data_size": -1}, {"binary_data_size": 2**40}, [0], [2**40, 2**40], [-1, 3], "é" * 300,
    *_RAW,
)  # fmt: skip
_KEYS = ("inputs", "instances", "outputs", "shape", "datatype", "data", "name", "parameters", "id")


def _json(body: bytes, rng: random.Random) -> bytes:
    """Change one node of the document; what follows it (raw tensors) stays."""
    try:
        value, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    except (ValueError, RecursionError):
        return _bytes(body, rng)
    holder = {"root": value}
    places: list[tuple[Any, Any]] = [(holder, "root")]
    for container, key in places:
        inner = container[key]
        if isinstance(inner, dict):
            places += [(inner, k) for k in inner]
        elif isinstance(inner, list):
            places += [(inner, i) for i in range(min(len(inner), 8))]
    container, key = rng.choice(places)
    choice = rng.randrange(6)
    if choice == 0 and container is not holder:
        del container[key]
    elif choice == 1 and isinstance(container, list):
        container.append(container[key])
    elif choice == 2 and isinstance(container, dict) and container is not holder:
        container[rng.choice(_KEYS)] = rng.choice(_ODD)
    else:
        container[key] = rng.choice(_ODD)
    text = json.dumps(holder["root"])
    for token, meaning in _RAW.items():
        text = text.replace(f'"{token}"', meaning)
    return text.encode() + body[end:]


# ---- protobuf --------------------

_VARINTS = (0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)


def _protobuf(body: bytes, rng: random.Random, depth: int = 0) -> bytes:
    """Change one field somewhere in the tree; the lengths around it are made right."""
    fields = _fields(body)
    if not fields:
        return _bytes(body, rng)
    at = rng.randrange(len(fields))
    number, wire, value = fields[at]
    choice = rng.randrange(8)
    if choice >= 3 and wire == 2 and depth < 6 and _fields(value):
        fields[at] = (number, wire, _protobuf(value, rng, depth + 1))
    elif choice == 0:
        del fields[at]
    elif choice == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[at])
    elif choice == 2:
        fields[at] = (rng.choice((0, 1, 2, 5, 7, 19, 1000)), wire, value)
    elif wire == 0:
        fields[at] = (number, 0, _varint(rng.choice(_VARINTS)))
    elif wire == 2:
        fields[at] = (number, 2, _bytes(value, rng))
    else:
        fields[at] = (number, wire, rng.randbytes(len(value)))
    return b"".join(_field(*one) for one in fields)


def _fields(body: bytes) -> list[tuple[int, int, bytes]]:
    """(number, wire type, payload) of a message; none if it is not one."""
    found, at = [], 0
    while at < len(body):
        key, at = _read_varint(body, at)
        wire = key & 7
        if at < 0 or wire in (3, 4, 6, 7):
            return []
        if wire == 0:
            _, end = _read_varint(body, at)
        elif wire == 2:
            size, at = _read_varint(body, at)
            end = at + size if at >= 0 else -1
        else:
            end = at + (8 if wire == 1 else 4)
        if end < 0 or end > len(body):
            return []
        found.append((key >> 3, wire, body[at:end]))
        at = end
    return found


def _field(number: int, wire: int, payload: bytes) -> bytes:
    size = _varint(len(payload)) if wire == 2 else b""
    return _varint(number << 3 | wire) + size + payload


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            break
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    return 0, -1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---- bytes --------------------


def _bytes(body: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, repeat or drop some bytes anywhere."""
    if not body:
        return rng.randbytes(rng.randrange(1, 20))
    at, size = rng.randrange(len(body)), 1 + rng.randrange(16)
    choice = rng.randrange(6)
    if choice == 0:
        flipped = bytes([body[at] ^ 1 << rng.randrange(8)])
        return body[:at] + flipped + body[at + 1 :]
    if choice == 1:
        return body[:at]
    if choice == 2:
        return body[:at] + rng.randbytes(size) + body[at:]
    if choice == 3:
        return body[:at] + body[at : at + size] * rng.randrange(2, 50) + body[at + size :]
    if choice == 4:
        return body[:at] + body[at + size :]
    return body[:at] + rng.choice((b"\0", b"\xff" * 9, b'"', b"{", b"\r\n", b",")) + body[at:]
