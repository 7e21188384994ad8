"""Values to try a model with, made from its signature: what examples and ready-made code show.

Small and tame on purpose: 1 is an index that nearly every vocabulary has, and 0.1 … 1.0 is in the
range of most inputs. A dimension of any size is 1. Free of numpy.
"""

from __future__ import annotations

import math
from typing import Any

from gateway.domain.tensors import DType, Shape, TensorSpec

FLOATS = frozenset({DType.HALF, DType.BFLOAT16, DType.FLOAT, DType.DOUBLE})


def concrete(shape: Shape | None) -> Shape:
    """`shape` with every open dimension 1; one element where not even the rank is known."""
    return (1,) if shape is None else tuple(1 if size < 0 else size for size in shape)


def count(spec: TensorSpec) -> int:
    """Elements of the example."""
    return math.prod(concrete(spec.shape))


def element(dtype: DType, at: int = 0) -> float | int | bool | str:
    """The example's element at a flat index; JSON-able."""
    if dtype in FLOATS:
        return (at % 10 + 1) / 10
    if dtype is DType.BOOL:
        return at % 2 == 0
    return "text" if dtype is DType.STRING else 1


def flat(spec: TensorSpec) -> list[Any]:
    """All elements, row-major."""
    return [element(spec.dtype, at) for at in range(count(spec))]


def nested(spec: TensorSpec) -> Any:
    """All elements, as lists in lists; a bare value where the rank is 0."""
    values: list[Any] = flat(spec)
    shape = concrete(spec.shape)
    for size in reversed(shape[1:]):
        if not size:
            return _hollow(shape)
        values = [values[at : at + size] for at in range(0, len(values), size)]
    return values if shape else values[0]


def _hollow(shape: Shape) -> list[Any]:
    return [_hollow(shape[1:]) for _ in range(shape[0])] if shape[1:] else []
