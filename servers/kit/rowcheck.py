"""Do the rows of a joined run answer as they would alone? Tried once, at load.

A symbolic first dimension says only that its length may vary: it may be time, or the graph may have
baked a batch of one into a reshape. So three rows are run together and each is compared with its
run alone; where the answers differ the version is served unjoined. A graph that takes exactly k
rows is run on k equal ones and on a mixture instead: its k may be the side of a matrix. What
differs by rounding only (other kernels for other sizes) passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gateway.domain.tensors import Signature
from servers.kit.runtime import Arrays, LoadedModel
from servers.kit.warmup import Sample, zeros

_TOLERANCE = 1e-2
"""Relative. float16 kernels of different batch sizes differ by 1e-3; mixed rows by far more."""


def why_not_rowwise(model: LoadedModel) -> str:
    """Why rows must not be joined, or "" when nothing speaks against it."""

    def run(sample: Sample) -> Arrays:
        return model.run(sample.signature, sample.inputs, sample.outputs)

    for name, signature in model.signatures.items():
        if model.fixed_batch is None:
            reason = _compare(name, signature, run)
        else:
            reason = _compare_fixed(name, signature, model.fixed_batch, run)
        if reason:
            return f"signature {name!r}: {reason}"
    return ""


def _compare(name: str, signature: Signature, run: Callable[[Sample], Arrays]) -> str:
    zero = zeros(name, signature, 1, 0)
    one = zeros(name, signature, 1, 1)
    if zero is None or one is None:
        return ""
    try:
        alone_zero = run(zero)
    except Exception as error:  # noqa: BLE001  a made-up size that fails alone says nothing of rows
        return "" if zero.is_guess else f"zeros fail: {error}"
    try:
        alone_one = run(one)
    except Exception:  # noqa: BLE001  ones may be invalid (an index); zeros still show the shapes
        one, alone_one = zero, alone_zero
    joint = {n: np.concatenate([one.inputs[n], zero.inputs[n], one.inputs[n]]) for n in one.inputs}
    try:
        together = run(Sample(name, joint, zero.outputs, zero.is_guess))
    except Exception as error:  # noqa: BLE001  whatever it is, joining is what it cannot do
        return f"three rows together fail: {error}"
    return _differences(together, (alone_one, alone_zero, alone_one))


def _compare_fixed(
    name: str, signature: Signature, rows: int, run: Callable[[Sample], Arrays]
) -> str:
    zero = zeros(name, signature, rows, 0)
    one = zeros(name, signature, rows, 1)
    if zero is None or one is None:
        return ""
    mixed = {n: a.copy() for n, a in one.inputs.items()}
    for array in mixed.values():
        array[1::2] = 0 if array.dtype != object else b""
    try:
        all_zero, all_one = run(zero), run(one)
        mixture = run(Sample(name, mixed, zero.outputs, zero.is_guess))
    except Exception:  # noqa: BLE001  ones may be invalid (an index); then nothing is known
        return ""
    for alias, array in mixture.items():
        same = all(
            _alike(row, (all_zero if place % 2 else all_one)[alias][place])
            for place, row in enumerate(array)
        )
        if not same:
            return f'output "{alias}" of a row depends on the rows beside it'
    return ""


def _differences(together: Arrays, alone: tuple[Mapping[str, NDArray[np.generic]], ...]) -> str:
    for alias, array in together.items():
        if array.ndim == 0 or array.shape[0] != len(alone):
            return f'output "{alias}" has shape {list(array.shape)} for {len(alone)} rows'
        for position, answer in enumerate(alone):
            expected = answer[alias]
            if expected.shape[:1] != (1,) or not _alike(array[position], expected[0]):
                return f'output "{alias}" of a row depends on the rows beside it'
    return ""


def _alike(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return False
    if one.dtype == object or one.dtype.kind in "biu":
        return bool(np.array_equal(one, other))
    if one.dtype.kind == "c":
        return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    a, b = one.astype(np.float64), other.astype(np.float64)
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return bool(np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True))
