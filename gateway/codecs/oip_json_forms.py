"""V2's requests and answers over HTTP by their forms: what comes again around other numbers is read
and written once (see `proto_forms`).

Two forms of requests are known. Of one whose tensors are bytes behind the JSON, all JSON is fixed.
Of one with a single tensor in JSON, all is fixed but the value of `data`. That this is where it
stands was shown once, by a mark put in its place and read back: JSON has no context that could make
the same text around another list mean something else. An id, which is another each time, is taken
off where it comes first, as clients write it. Pure; `oip_json` fills it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from numpy.typing import NDArray

from gateway.codecs.json_text import has_words
from gateway.codecs.json_write import numbers_text
from gateway.codecs.oip_data import has_each_key_once, plain_array
from gateway.codecs.oip_dtypes import datatype_of
from gateway.codecs.oip_infer import OipInfer
from gateway.codecs.oip_json import encode_infer
from gateway.codecs.oip_tensors import Buffer, bytes_of
from gateway.codecs.proto_forms import MAX_FIXED_BYTES, MAX_FORMS, Form, Forms, Span, Tensor, is_fit
from gateway.codecs.tfs_tensors import dtype_of
from gateway.domain.names import Version
from gateway.domain.tensors import DType

_DATA = b'"data":'
_BLANK = rb"[ \t\r\n]*"
_ID = re.compile(
    _BLANK.join([rb"\{", rb'"id"', rb":", rb'"([ !#-\[\]-~]{0,128})"', rb",", rb""]),
)
"""An object that begins with an id which is spelt as it is meant."""
_NUMBERS = re.compile(rb"[0-9+\-.eE,\[\] \t\r\n]*")
_MARK = "\x01the data of a tensor\x01"
_MARK_TEXT = orjson.dumps(_MARK)
_NO_NUMBERS = (DType.BOOL, DType.STRING)
_MAX_ENDINGS = 16
"""Different lengths of what follows the data that are told apart for one beginning; each costs a
look."""


def without_id(body: bytes, header_length: int | None) -> tuple[str, bytes, int | None]:
    """The id of a request that begins with it, and that request without: its body and what its
    header would then say. Others come back as they are, with an empty id."""
    found = _ID.match(body) if body.startswith(b"{") else None
    if found is None:
        return "", body, header_length
    bare = b"{" + body[found.end() :]
    if header_length is not None:
        header_length -= len(body) - len(bare)
    return found[1].decode("ascii"), bare, header_length


def with_id(asked: OipInfer, id: str) -> OipInfer:
    """The same request with another id."""
    return OipInfer(id, asked.inputs, asked.outputs, asked.parameters, asked.binary_output)


class TailForm:
    """Requests whose tensors are all bytes behind the JSON, at the same places."""

    __slots__ = ("form", "json_length", "said")

    def __init__(self, said: OipInfer, json_length: int) -> None:
        self.said = said
        """What such a request asks, without its inputs."""
        self.json_length = json_length
        self.form: Form[TailForm] | None = None

    def arrays(self, body: bytes) -> dict[str, NDArray[Any]] | None:
        """The inputs of a request of this form, read-only."""
        return self.form.arrays(body) if self.form is not None else None


class ListForm:
    """Requests with one tensor, whose numbers are in the JSON."""

    __slots__ = ("_after", "_at", "_count", "_dtype", "_name", "_shape", "ending", "said")

    def __init__(
        self, said: OipInfer, name: str, array: NDArray[Any], at: int, ending: bytes
    ) -> None:
        self.said = said
        """What such a request asks, without its inputs."""
        self.ending = ending
        """What follows the value of `data`."""
        self._at = at
        self._after = -len(ending)
        self._name = name
        self._dtype = dtype_of(array)
        self._shape = array.shape
        self._count = array.size

    def arrays(self, body: bytes) -> dict[str, NDArray[Any]] | None:
        """The input of a request of this form; None where its data are anything but the right
        number of plain numbers: then it has to be read in the ordinary way, if only to be
        refused."""
        text = body[self._at : self._after]
        if has_words(text):
            return None
        try:
            data = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if type(data) is not list:
            return None
        flat = plain_array(data, self._dtype, self._count)
        return None if flat is None else {self._name: flat.reshape(self._shape)}


InferForm = TailForm | ListForm


class RequestForms:
    """The forms of requests that one server has seen."""

    def __init__(self) -> None:
        self._tails: Forms[TailForm] = Forms()
        self._lists: dict[bytes, dict[int, dict[bytes, ListForm]]] = {}
        """By what is before the data, by the length of what is behind it, and by that."""
        self._count = 0
        self._found = 0
        self._is_useless = False

    def __repr__(self) -> str:
        return f"RequestForms({self._tails}, {self._count})"

    def find(self, body: bytes, header_length: int | None) -> InferForm | None:
        """The form of a request, if it has been seen. `header_length` is what its header says."""
        if header_length is None or header_length == len(body):
            return self._find_list(body)
        form = self._tails.find(body)
        if form is None or form.said.json_length != header_length:
            return None
        return form.said

    def _find_list(self, body: bytes) -> ListForm | None:
        at = _data_at(body)
        if at < 0:
            return None
        endings = self._lists.get(body[:at])
        if endings is None:
            return None
        for length, forms in endings.items():
            form = forms.get(body[-length:])
            if form is not None:
                self._found += 1
                return form
        return None

    def learn(self, body: bytes, header_length: int | None, asked: OipInfer) -> InferForm | None:
        """Remember a request that could be read as `asked`; None where its form cannot be told
        from its bytes, or will not come again (it has an id; see `without_id`)."""
        if asked.id or not asked.inputs:
            return None
        said = OipInfer("", {}, asked.outputs, asked.parameters, asked.binary_output)
        if header_length is None or header_length == len(body):
            return self._learn_list(body, asked, said)
        return self._learn_tails(body, header_length, asked, said)

    def _learn_tails(
        self, body: bytes, json_length: int, asked: OipInfer, said: OipInfer
    ) -> TailForm | None:
        if self._tails.is_useless or not 0 < json_length <= MAX_FIXED_BYTES:
            return None
        tensors: list[Tensor] = []
        end = json_length
        for name, array in asked.inputs.items():
            span: Span = (end, end := end + array.nbytes)
            dtype = dtype_of(array)
            if not is_fit(dtype, array.shape, span):
                return None
            tensors.append(Tensor(name, dtype, array.shape, span))
        if end != len(body):  # one is not behind the JSON, but in it
            return None
        known = TailForm(said, json_length)
        known.form = self._tails.learn(body, tensors, known)
        return known

    def _learn_list(self, body: bytes, asked: OipInfer, said: OipInfer) -> ListForm | None:
        at = _data_at(body)
        if self._is_useless or at < 0 or len(asked.inputs) != 1:
            return None
        [(name, array)] = asked.inputs.items()
        endings = self._lists.get(body[:at], {})
        if dtype_of(array) in _NO_NUMBERS or len(endings) >= _MAX_ENDINGS:
            return None
        ending = _ending(body, at)
        if ending is None or not _is_value(body[:at], ending):
            return None
        known = ListForm(said, name, array, at, ending)
        if known.arrays(body) is None:
            return None
        if self._count >= MAX_FORMS:
            self._is_useless = self._found < MAX_FORMS
            self._lists.clear()
            self._count = self._found = 0
        self._lists.setdefault(body[:at], {}).setdefault(len(ending), {})[ending] = known
        self._count += 1
        return known


def _data_at(body: bytes) -> int:
    """Where the value of the first `"data":` begins, or where its white space does; -1 where there
    is none near the beginning. Whether that is a tensor's is for others to know."""
    at = body.find(_DATA, 0, MAX_FIXED_BYTES)
    return at if at < 0 else at + len(_DATA)


def _ending(body: bytes, at: int) -> bytes | None:
    """What follows the list of numbers that begins at `at`; None where none does, or too much."""
    numbers = _NUMBERS.match(body, at)
    if numbers is None:
        return None
    # Behind the data's own list comes its object's end, or a comma and a name.
    end = body.rfind(b"]", at, numbers.end()) + 1
    return body[end:] if end and 0 < len(body) - end <= MAX_FIXED_BYTES else None


def _is_value(beginning: bytes, ending: bytes) -> bool:
    """Whether what is between these two is the data of the one tensor of a request."""
    text = beginning + _MARK_TEXT + ending
    try:
        document = orjson.loads(text)
        [record] = document["inputs"]
        is_there = record["data"] == _MARK
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return False
    return is_there and text.count(_MARK_TEXT) == 1 and has_each_key_once(text, document)


# ---- answers --------------------


class _Text:
    """The fixed text of answers that have the same outputs."""

    __slots__ = ("end", "is_binary", "starts")

    def __init__(self, starts: list[tuple[bytes, bool]], end: bytes, is_binary: bool) -> None:
        self.starts = starts
        """What is before each output's data, and whether those are behind the JSON."""
        self.end = end
        self.is_binary = is_binary


class InferTexts:
    """V2's answers over HTTP of one version, whose fixed text is made once per form."""

    def __init__(self, model: str, version: Version) -> None:
        self._model = model
        self._version = version
        self._known: dict[tuple[object, ...], _Text] = {}

    def encode(
        self, outputs: Mapping[str, NDArray[Any]], wanted: OipInfer
    ) -> tuple[int | None, bytes]:
        """As `oip_json.encode_infer`, with the request's id.

        Raises:
            InvalidRequest: FP16 or BF16 that is not asked for as bytes (`dtype_without_json`).
            Unimplemented: a dtype that the protocol lacks.
        """
        default = wanted.binary_output
        key: tuple[object, ...]
        if wanted.outputs:
            chosen = {one.name: one.binary for one in wanted.outputs}
            key = tuple([(n, a.dtype, a.shape, chosen.get(n, default)) for n, a in outputs.items()])
        else:
            key = tuple([(n, a.dtype, a.shape, default) for n, a in outputs.items()])
        text = self._known.get(key)
        if text is None:
            made = encode_infer(self._model, self._version, wanted.id, outputs, wanted)
            self._learn(key, outputs)
            return made
        parts: list[Buffer] = []
        tails: list[Buffer] = []
        for (start, is_binary), array in zip(text.starts, outputs.values(), strict=True):
            parts.append(start)
            if is_binary:
                tails.append(bytes_of(array, dtype_of(array)))
            else:
                parts.append(numbers_text(array.reshape(-1)))
        parts.append(text.end)
        if wanted.id:
            parts[0] = b'{"id":%b,%b' % (orjson.dumps(wanted.id), text.starts[0][0][1:])
        if not text.is_binary:
            return None, b"".join(parts)
        head = b"".join(parts)
        return len(head), b"".join((head, *tails))

    def _learn(self, key: tuple[Any, ...], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Of outputs that could be encoded."""
        if not outputs or any(dtype_of(array) is DType.STRING for array in outputs.values()):
            return
        starts: list[tuple[bytes, bool]] = []
        before = b'{"model_name":%b,"model_version":"%d","outputs":[' % (
            orjson.dumps(self._model),
            self._version,
        )
        for (name, array), (_, _, _, is_binary) in zip(outputs.items(), key, strict=True):
            start = before + b'{"name":%b,"datatype":"%b","shape":%b,' % (
                orjson.dumps(name),
                datatype_of(dtype_of(array), name).encode(),
                orjson.dumps(list(array.shape)),
            )
            if is_binary:
                start += b'"parameters":{"binary_data_size":%d}' % array.nbytes
            else:
                start += b'"data":'
            starts.append((start, is_binary))
            before = b"},"
        if len(self._known) >= MAX_FORMS:
            self._known.clear()
        self._known[key] = _Text(starts, b"}]}", any(is_binary for _, is_binary in starts))
