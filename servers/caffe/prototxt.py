"""Read protobuf's text format, as far as Caffe's network descriptions use it.

Own tokens and a recursive descent, because the message classes are in no package that can be
asked for (`caffe_pb2` comes with pycaffe) and because patterns over the raw text get comments,
strings and nesting wrong. Fields keep their order and repeat; nothing is checked against a schema
here. After "Protocol Buffers: Text Format Language Specification"; left out are extensions
(`[a.b]: …`), which no network has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 16 * 1024 * 1024
"""The largest public network (ResNet-269) describes itself in 0.3 MB."""
MAX_DEPTH = 32
"""NetParameter nests five deep; a bound keeps a hostile file from the interpreter's stack."""


class ParseError(ValueError):
    """The text is not in the format; the message begins with the line."""


@dataclass(frozen=True, slots=True)
class Word:
    """A value that is no message: number, string or enum, as it stood in the text."""

    text: str
    is_string: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fields in their order."""

    fields: tuple[tuple[str, Word | Message], ...] = ()

    def messages(self, name: str) -> list[Message]:
        """Every `name { … }`."""
        return [v for k, v in self.fields if k == name and isinstance(v, Message)]

    def texts(self, name: str) -> list[str]:
        """Every `name: value`, as text."""
        return [v.text for k, v in self.fields if k == name and isinstance(v, Word)]

    def text(self, name: str, default: str = "") -> str:
        """The last `name: value`, as protobuf reads a singular field."""
        return (self.texts(name) or [default])[-1]

    def integers(self, name: str) -> list[int]:
        """Every `name: value`, as integers. Raises ParseError."""
        try:
            return [int(text, 0) for text in self.texts(name)]
        except ValueError as error:
            raise ParseError(f"{name} must be integers: {error}") from None


def parse(data: bytes) -> Message:
    """The message that `data` describes.

    Raises:
        ParseError: it is not UTF-8, too large, nested too deeply, or not in the format.
    """
    if len(data) > MAX_BYTES:
        raise ParseError(f"the file has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParseError(f"the file is not UTF-8 text: {error}") from None
    return _Parser(text).message()


def write(message: Message) -> str:
    """The text of `message`; `parse` reads it back to an equal value."""
    lines: list[str] = []
    _write(message, lines, "")
    return "\n".join(lines) + "\n"


def _write(message: Message, lines: list[str], indent: str) -> None:
    for name, value in message.fields:
        if isinstance(value, Message):
            lines.append(f"{indent}{name} {{")
            _write(value, lines, indent + "  ")
            lines.append(f"{indent}}}")
        else:
            lines.append(
                f"{indent}{name}: {_quoted(value.text) if value.is_string else value.text}"
            )


def _quoted(text: str) -> str:
    # Octal escapes of the UTF-8 bytes: every reader of the format knows them, \u it may not.
    out = []
    for byte in text.encode("utf-8", "surrogateescape"):
        is_plain = 0x20 <= byte < 0x7F and byte not in b'"\\'
        out.append(chr(byte) if is_plain else f"\\{byte:03o}")
    return '"' + "".join(out) + '"'


# ---- tokens ------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>[-+]?\.?[A-Za-z0-9_](?:[A-Za-z0-9_.]|(?<=[eE])[-+])*)
      | (?P<mark>[{}<>:,;\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_SIMPLE_ESCAPES = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ParseError(f"line {_line(text, at)}: {text[at : at + 20]!r} is not expected here")
        kind = str(match.lastgroup)
        if kind != "space":
            yield _Token(kind, match.group(), at)
        at = match.end()
    yield _Token("end", "the end of the file", len(text))


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _unescaped(literal: str) -> str:
    def one(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, simple = match.groups()
        if octal is not None:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        return bytes([_SIMPLE_ESCAPES.get(simple[0], simple[0])])

    data = _ESCAPE.sub(one, literal[1:-1].encode("utf-8", "surrogateescape"))
    return data.decode("utf-8", "surrogateescape")


# ---- grammar -----------------------------------------------------------------------------------


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def message(self) -> Message:
        return self._fields("end", 0)

    def _fields(self, end: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise self._error(f"messages are nested more than {MAX_DEPTH} deep")
        fields: list[tuple[str, Word | Message]] = []
        while not self._is_at(end):
            name = self._take("word", "a field name").text
            fields.extend((name, value) for value in self._values(depth))
            if self._next.text in (",", ";") and self._next.kind == "mark":
                self._advance()
        if end != "end":
            self._advance()
        return Message(tuple(fields))

    def _is_at(self, end: str) -> bool:
        if end == "end":
            return self._next.kind == "end"
        return self._next.kind == "mark" and self._next.text == end

    def _values(self, depth: int) -> list[Word | Message]:
        has_colon = self._next.text == ":" and self._next.kind == "mark"
        if has_colon:
            self._advance()
        if self._next.kind == "mark" and self._next.text == "[":
            return self._list(depth)
        return [self._value(depth, has_colon)]

    def _list(self, depth: int) -> list[Word | Message]:
        self._advance()
        values: list[Word | Message] = []
        while not self._is_at("]"):
            values.append(self._value(depth, True))
            if not self._is_at("]"):
                if self._next.text != ",":
                    raise self._error(f"',' or ']' is missing before {self._next.text!r}")
                self._advance()
        self._advance()
        return values

    def _value(self, depth: int, may_be_scalar: bool) -> Word | Message:
        token = self._next
        if token.kind == "mark" and token.text in ("{", "<"):
            self._advance()
            return self._fields("}" if token.text == "{" else ">", depth + 1)
        if not may_be_scalar:
            raise self._error(f"':' or '{{' is missing before {token.text!r}")
        if token.kind == "string":
            parts = []
            while self._next.kind == "string":  # neighbours are one string, as in C
                parts.append(_unescaped(self._advance().text))
            return Word("".join(parts), is_string=True)
        return Word(self._take("word", "a value").text)

    def _take(self, kind: str, wanted: str) -> _Token:
        if self._next.kind != kind:
            raise self._error(f"{wanted} is missing before {self._next.text!r}")
        return self._advance()

    def _advance(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._tokens)
        return token

    def _error(self, words: str) -> ParseError:
        return ParseError(f"line {_line(self._text, self._next.at)}: {words}")
