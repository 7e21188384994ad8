"""V2's classification extension: the best classes of an output instead of the output.

As Triton's classification.cc: `score:index` strings, best first, one row per row of the batch;
equal scores in the order of their indices. Labels would follow the index; no model here has any.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gateway.domain.errors import InvalidRequest

_MAX_ELEMENTS = 1_000_000
"""Triton's bound: sorting more is no classification."""


def top(
    name: str, array: NDArray[np.generic], count: int, *, has_rows: bool
) -> NDArray[np.generic]:
    """The `count` best of `array` as BYTES of shape [count], or [rows, count] where axis 0 is the
    batch.

    Raises:
        InvalidRequest: strings, booleans or half floats, or too many elements (`bad_output`).
    """
    kind = array.dtype.kind
    if kind not in "iuf" or (kind == "f" and array.itemsize < 4):
        raise InvalidRequest(
            f"class result not available for output '{name}' due to unsupported type "
            f"'{array.dtype}'",
            reason="bad_output",
        )
    if array.size > _MAX_ELEMENTS:
        raise InvalidRequest(
            f"classification output tensor '{name}' too large", reason="bad_output"
        )
    rows = array.shape[0] if has_rows and array.ndim else 1
    table = array.reshape(rows, -1) if array.size else array.reshape(rows, 0)
    width = table.shape[1]
    # Reversed before and after a stable ascending sort: descending, equal scores by index.
    order = (width - 1 - np.argsort(table[:, ::-1], axis=1, kind="stable")[:, ::-1])[:, :count]
    scores = np.take_along_axis(table, order, axis=1)
    form = "{:f}:{}" if kind == "f" else "{}:{}"
    best = np.empty(order.shape, dtype=object)
    for row, (values, places) in enumerate(zip(scores.tolist(), order.tolist(), strict=True)):
        best[row] = [form.format(v, p).encode() for v, p in zip(values, places, strict=True)]
    return best if has_rows and array.ndim else best.reshape(-1)
