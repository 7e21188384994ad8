"""Messages that differ in their tensors' bytes only, read once.

Callers send the same form again and again: the same model, names, datatypes and shapes, around
other numbers. A message whose bytes outside of its tensors are those of one that was read before,
at the same places, says the same: protobuf has no checksum and no state. So of such a message only
the fixed bytes are compared, and the tensors are cut out. Pure; the general decoders fill it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.tfs_tensors import numpy_dtype
from gateway.domain.tensors import DType

T = TypeVar("T")

Span = tuple[int, int]
"""Where a tensor's bytes begin and end in a message."""

MAX_FORMS = 256
"""Forms that are remembered; beyond, all are forgotten. Callers choose them."""
MAX_FIXED_BYTES = 4096
"""Bytes outside of the tensors of a form that is remembered: names, as a rule well below 200."""

_UNFIT = (DType.STRING, DType.BOOL)
"""Strings have lengths inside; of bools every byte has to be looked at."""


class Tensor:
    """One tensor's place in a form."""

    __slots__ = ("_at", "_count", "_dtype", "_end", "_is_aligned", "_shape", "name")

    def __init__(self, name: str, dtype: DType, shape: tuple[int, ...], span: Span) -> None:
        self.name = name
        self._dtype = numpy_dtype(dtype)
        self._shape = shape
        self._at, self._end = span
        self._count = (self._end - self._at) // dtype.itemsize
        self._is_aligned = self._at % dtype.itemsize == 0

    def array(self, message: bytes) -> NDArray[Any]:
        """The tensor, read-only: a view of the message where that is aligned, else a copy."""
        if self._is_aligned:
            flat = np.frombuffer(message, self._dtype, self._count, self._at)
        else:
            flat = np.frombuffer(message[self._at : self._end], self._dtype)
        return flat.reshape(self._shape)


class Form(Generic[T]):
    """What all messages with the same fixed bytes say."""

    __slots__ = ("_pieces", "said", "tensors")

    def __init__(self, message: bytes, tensors: Sequence[Tensor], said: T) -> None:
        self.tensors = tensors
        self.said = said
        self._pieces: list[tuple[int, bytes]] = []
        at = 0
        for start, end in sorted((one._at, one._end) for one in tensors):
            self._pieces.append((at, message[at:start]))
            at = end
        self._pieces.append((at, message[at:]))

    def fits(self, message: bytes) -> bool:
        """Whether a message of the same length is of this form."""
        for at, piece in self._pieces:  # noqa: SIM110  a generator would cost more than the loop
            if not message.startswith(piece, at):
                return False
        return True

    def arrays(self, message: bytes) -> dict[str, NDArray[Any]]:
        """The tensors by name, in the order of the first message."""
        return {one.name: one.array(message) for one in self.tensors}


class Forms(Generic[T]):
    """The forms that one server has seen."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[Form[T]]] = {}
        self._count = 0
        self._found = 0
        self._is_useless = False

    def __repr__(self) -> str:
        return f"Forms({self._count})"

    def find(self, message: bytes) -> Form[T] | None:
        """The form of a message, if it has been seen."""
        for form in self._by_size.get(len(message), ()):
            if form.fits(message):
                self._found += 1
                return form
        return None

    @property
    def is_useless(self) -> bool:
        """Whether so many forms came and so few of them again that no more are remembered: callers
        put something into each request that is its own."""
        return self._is_useless

    def learn(self, message: bytes, tensors: Sequence[Tensor], said: T) -> Form[T]:
        """Remember a message that has been read; the spans of its tensors must not overlap."""
        if self._count >= MAX_FORMS:
            self._is_useless = self._found < MAX_FORMS
            self._by_size.clear()
            self._count = self._found = 0
        form = Form(message, tensors, said)
        self._by_size.setdefault(len(message), []).append(form)
        self._count += 1
        return form


def is_fit(dtype: DType, shape: tuple[int, ...], span: Span) -> bool:
    """Whether a tensor's bytes alone are its elements."""
    start, end = span
    if dtype in _UNFIT or end == start:
        return False
    count = 1
    for size in shape:
        count *= size
    return count * dtype.itemsize == end - start
